//! `agentbus init`: a first project that works: one shell agent that answers every note with a summary.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use agentbus_proto::Code;
use anyhow::Context;
use serde_json::json;

use crate::exit::fault;
use crate::instance::{Global, PROJECT_FILE};
use crate::output;

const PROJECT: &str = include_str!("init/agentbus.yaml");
const AGENT: &str = include_str!("init/shout.sh");
const AGENT_FILE: &str = "shout.sh";

/// Write a small agentbus.yaml and a sample agent
///
/// Never overwrites a file.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  agentbus init\n  agentbus init hello && cd hello && agentbus up -d")]
pub struct Args {
    /// Folder to write to
    #[arg(default_value = ".")]
    pub folder: PathBuf,
}

/// Writes both files, or none.
pub fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    let (project, agent) = (args.folder.join(PROJECT_FILE), args.folder.join(AGENT_FILE));
    if let Some(there) = [&project, &agent].into_iter().find(|file| file.symlink_metadata().is_ok()) {
        let message = format!("`{}` is there already; nothing was written", there.display());
        return Err(fault(Code::BadConfig, message));
    }
    std::fs::create_dir_all(&args.folder).with_context(|| format!("cannot make `{}`", args.folder.display()))?;
    write(&agent, AGENT, 0o755)?;
    write(&project, PROJECT, 0o644)?;
    if global.json {
        return output::json(&json!({"written": [project, agent]}));
    }
    output::line(format!("wrote {} and {}", project.display(), agent.display()))?;
    output::say(
        "next: `agentbus up -d`, then `agentbus subscribe notes.shouted` here and `agentbus publish notes.created hello` elsewhere",
    );
    Ok(())
}

fn write(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let open = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    open.and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write `{}`", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_is_a_valid_project() {
        let project = agentbus_control_plane::spec::Project::parse(PROJECT, PROJECT_FILE).unwrap();
        assert_eq!(project.agents.len(), 1);
    }

    #[test]
    fn nothing_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let args = Args { folder: folder.path().join("new") };
        run(&Global::default(), &args).unwrap();
        std::fs::remove_file(args.folder.join(PROJECT_FILE)).unwrap();
        std::fs::write(args.folder.join(AGENT_FILE), "mine").unwrap();
        assert!(run(&Global::default(), &args).is_err());
        assert!(!args.folder.join(PROJECT_FILE).exists());
        assert_eq!(std::fs::read_to_string(args.folder.join(AGENT_FILE)).unwrap(), "mine");
    }
}
