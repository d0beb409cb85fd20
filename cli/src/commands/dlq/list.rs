//! `agentbus dlq list`: one line per dead letter, or one per cause.

use agentbus_control_plane::dead_letters::{Causes, DeadLetter, Page};
use clap::ValueEnum;

use super::Which;
use crate::control::{Api, encode};
use crate::instance::Global;
use crate::output::{self, printable};
use crate::{show, table};

/// List dead letters
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  agentbus dlq list\n  agentbus dlq list --group check --cause timeout\n  agentbus dlq list --by cause"
)]
pub struct Args {
    #[command(flatten)]
    which: Which,
    /// Also those that have been redriven
    #[arg(long)]
    all: bool,
    /// Most letters listed
    #[arg(long, default_value_t = 100, value_name = "N")]
    limit: usize,
    /// Count them by cause instead
    #[arg(long, value_enum, conflicts_with_all = ["group", "class", "event_type", "cause", "all", "limit"])]
    by: Option<By>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum By {
    /// One line for each group, class and cause
    Cause,
}

pub(super) async fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    let api = global.control()?;
    if args.by == Some(By::Cause) {
        return causes(global, &api).await;
    }
    let (letters, more) = letters(&api, args).await?;
    if global.json {
        return output::json(&letters);
    }
    if letters.is_empty() {
        output::say(if args.all {
            "no dead letters"
        } else {
            "no dead letters that wait for a decision (--all shows those redriven, too)"
        });
        return Ok(());
    }
    let rows: Vec<Vec<String>> = letters.iter().map(row).collect();
    for line in table::render(&["SEQ", "GROUP", "CLASS", "ATTEMPTS", "TO", "EVENT", "LAST FAILURE", "CAUSE"], &rows) {
        output::line(line)?;
    }
    if more {
        output::say(format!("there are more than {}; --limit N shows more, --by cause counts them", letters.len()));
    }
    Ok(())
}

/// Up to the limit, page by page; and whether there are more.
async fn letters(api: &Api, args: &Args) -> anyhow::Result<(Vec<DeadLetter>, bool)> {
    let (mut letters, mut after) = (Vec::new(), 0);
    loop {
        let page: Page = api.get(&path(args, args.limit - letters.len(), after)).await?;
        letters.extend(page.letters);
        match page.next {
            Some(next) if letters.len() < args.limit => after = next,
            next => return Ok((letters, next.is_some())),
        }
    }
}

fn path(args: &Args, limit: usize, after: u64) -> String {
    let mut path = format!("/v1/dead-letters?all={}&limit={}&after={after}", args.all, limit.clamp(1, 1000));
    let Which { group, class, event_type, cause } = &args.which;
    for (key, value) in [("group", group), ("class", class), ("type", event_type), ("cause", cause)] {
        if let Some(value) = value {
            path.push_str(&format!("&{key}={}", encode(value)));
        }
    }
    path
}

fn row(letter: &DeadLetter) -> Vec<String> {
    let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { printable(text) };
    let cause = match (&letter.unfinished, &letter.redriven) {
        (Some(at), _) => format!("[redrive of {} unfinished] {}", show::moment(at), printable(&letter.cause)),
        (None, Some(last)) => format!("[redriven {}] {}", show::moment(&last.at), printable(&letter.cause)),
        (None, None) => or_dash(&letter.cause),
    };
    vec![
        letter.seq.to_string(),
        letter.group.clone(),
        letter.class.clone(),
        letter.attempts.to_string(),
        or_dash(&letter.to),
        or_dash(&letter.event_id),
        or_dash(&show::moment(&letter.last_failure)),
        cause,
    ]
}

async fn causes(global: &Global, api: &Api) -> anyhow::Result<()> {
    let causes: Causes = api.get("/v1/dead-letters/groups").await?;
    if global.json {
        return output::json(&causes);
    }
    let rows: Vec<Vec<String>> = causes
        .causes
        .iter()
        .map(|row| {
            let counts = [row.open.to_string(), row.redriven.to_string(), row.last_seq.to_string()];
            [row.group.clone(), row.class.clone()].into_iter().chain(counts).chain([printable(&row.cause)]).collect()
        })
        .collect();
    for line in table::render(&["GROUP", "CLASS", "OPEN", "REDRIVEN", "NEWEST", "CAUSE"], &rows) {
        output::line(line)?;
    }
    if causes.truncated {
        output::say("not all were counted: there are too many");
    }
    Ok(())
}
