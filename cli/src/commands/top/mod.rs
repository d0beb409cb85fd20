//! `agentbus top`: the bus as a table that keeps up with it.
//!
//! Each look is one request to the control plane; rates are what changed between two looks. On a terminal the screen is
//! drawn anew until Ctrl-C; anywhere else, and with `--once`, it is printed once, from two looks.

mod view;

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use agentbus_control_plane::status::SystemStatus;
use agentbus_proto::{Code, duration};

use crate::exit::fault;
use crate::instance::Global;
use crate::output;

/// A control plane that does not answer within this is one that is stuck.
const LIMIT: Duration = Duration::from_secs(10);
/// Shortest time between two looks: a look asks the broker about every group.
const INTERVAL_MIN: Duration = Duration::from_millis(200);
/// Home, and everything below it erased.
const REDRAW: &str = "\x1b[H\x1b[J";
/// Another screen and no cursor; and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// Watch agents, groups and streams
///
/// /S is the change per second between two looks: events stored in a stream, and by how many a group's lag grows (or, with a minus,
/// shrinks). Without a terminal it prints once.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  agentbus top\n  agentbus top --once\n  agentbus top --json --interval 5s >> looks.ndjson"
)]
pub struct Args {
    /// Print once and end; rates are those of one interval
    #[arg(long)]
    pub once: bool,
    /// Time between two looks
    #[arg(long, default_value = "1s", value_name = "DURATION", allow_hyphen_values = true)]
    pub interval: String,
}

/// One look.
struct Look {
    at: Instant,
    status: SystemStatus,
}

/// Looks and draws. With `--json` every look is one object on one line.
pub async fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    let interval =
        duration::parse(&args.interval).map_err(|error| fault(Code::InvalidEvent, format!("--interval: {error}")))?;
    let interval = interval.max(INTERVAL_MIN);
    let terminal = io::stdout().is_terminal();
    let once = args.once || !terminal;
    let mut before = look(global).await?;
    let _screen = (terminal && !once && !global.json).then(Screen::enter).transpose()?;
    loop {
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            // The screen is given back on the way out.
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
        let now = look(global).await?;
        let rates = view::Rates::between(&before.status, &now.status, now.at - before.at);
        if global.json {
            output::json_line(&view::json(&now.status, &rates)?)?;
        } else {
            let lines = view::lines(&now.status, &rates, output::Paint::stdout());
            draw(lines, _screen.is_some())?;
        }
        if once {
            return Ok(());
        }
        before = now;
    }
}

async fn look(global: &Global) -> anyhow::Result<Look> {
    let status = global.control()?.with_limit(LIMIT).get("/v1/status").await?;
    Ok(Look { at: Instant::now(), status })
}

fn draw(mut lines: Vec<String>, on_screen: bool) -> io::Result<()> {
    let before = if on_screen { REDRAW } else { "" };
    if on_screen {
        // What does not fit would scroll the top away.
        let rows = rustix::termios::tcgetwinsize(io::stdout()).map_or(usize::MAX, |size| usize::from(size.ws_row));
        lines.truncate(rows.saturating_sub(1).max(1));
    }
    output::bytes(format!("{before}{}\n", lines.join("\n")).as_bytes())
}

/// The screen as it is while `top` draws; as it was when dropped.
struct Screen;

impl Screen {
    fn enter() -> io::Result<Self> {
        output::bytes(ENTER.as_bytes())?;
        Ok(Self)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Nobody there any more is fine.
        let _ = output::bytes(LEAVE.as_bytes());
    }
}
