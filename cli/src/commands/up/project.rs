//! What `up` starts: a project file, the demo, or nothing but the bus.

use std::path::{Path, PathBuf};

use agentbus_control_plane::spec::{BrokerMode, NAMESPACE_DEFAULT, Project};
use agentbus_proto::{Code, Fault};
use agentbus_runtime::state;

use crate::exit::fault;
use crate::instance::{self, Global, PROJECT_FILE};

use super::Args;
use super::demo;

/// A project and its places.
#[derive(Debug)]
pub(super) struct Plan {
    /// What is declared.
    pub project: Project,
    /// Where agents are started.
    pub folder: PathBuf,
    /// State folder.
    pub state: PathBuf,
}

impl Plan {
    /// The places only; nothing is read or made.
    pub(super) fn state_dir(global: &Global, args: &Args) -> anyhow::Result<PathBuf> {
        match (&global.dir, &args.config) {
            (Some(_), _) | (None, None) => instance::state_dir(global),
            (None, Some(config)) => instance::default_state(&folder_of(config)?),
        }
    }

    /// Reads the project; for the demo, writes its files into the state folder first.
    pub(super) fn load(args: &Args, state: &Path) -> anyhow::Result<Self> {
        let mut plan = Self::find(args, state)?;
        plan.project.wall |= args.wall;
        Ok(plan)
    }

    fn find(args: &Args, state: &Path) -> anyhow::Result<Self> {
        let state = state.to_owned();
        if args.demo {
            let folder = demo::write(&state)?;
            return Self::read(folder.join(PROJECT_FILE), folder, state);
        }
        if let Some(config) = &args.config {
            return Self::read(config.clone(), folder_of(config)?, state);
        }
        let folder = instance::project_dir(&instance::current_dir()?);
        let file = folder.join(PROJECT_FILE);
        if file.exists() {
            return Self::read(file, folder, state);
        }
        Ok(Self { project: Project::empty(NAMESPACE_DEFAULT), folder, state })
    }

    /// Whether the bus is inside `up`. Refuses a wall that would have nothing to stand on, and a broker shared by a project that wants none.
    pub(super) fn in_memory(&self, args: &Args) -> anyhow::Result<bool> {
        let memory = args.memory || self.project.broker == BrokerMode::Memory;
        if memory && args.beside.is_some() {
            return Err(fault(
                Code::BadConfig,
                "--beside works on another bus's broker, and this project wants none: leave out --beside, or \
                 `broker: {mode: memory}` in agentbus.yaml",
            ));
        }
        if memory && self.project.wall {
            return Err(fault(
                Code::BadConfig,
                "a wall needs a broker: leave out --memory, or `wall` in agentbus.yaml",
            ));
        }
        Ok(memory)
    }

    fn read(file: PathBuf, folder: PathBuf, state: PathBuf) -> anyhow::Result<Self> {
        let project = Project::load(&file).map_err(Fault::from)?;
        Ok(Self { project, folder, state })
    }
}

fn folder_of(config: &Path) -> anyhow::Result<PathBuf> {
    let file = std::path::absolute(config)?;
    file.parent()
        .map(Path::to_owned)
        .ok_or_else(|| fault(Code::BadConfig, format!("`{}` is no file", config.display())))
}

/// Makes the state folder.
pub(super) fn make_state(state: &Path) -> anyhow::Result<()> {
    // The kind of the cause decides between a full disk and bad settings.
    Ok(state::create_private(state)?)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn no_broker_and_that_of_another_bus_do_not_go_together() {
        let args = |line: &str| Only::try_parse_from(line.split(' ')).unwrap().args;
        let mut project = Project::empty("sandbox");
        project.broker = BrokerMode::Memory;
        let mut plan = Plan { project, folder: PathBuf::new(), state: PathBuf::new() };
        assert!(plan.in_memory(&args("up -d")).unwrap());
        let error = plan.in_memory(&args("up --beside ../first")).unwrap_err();
        let fault = error.downcast_ref::<Fault>().unwrap();
        assert_eq!(fault.code, Code::BadConfig);
        assert!(fault.message.contains("mode: memory"), "{fault}");
        plan.project.broker = BrokerMode::Managed;
        assert!(!plan.in_memory(&args("up --beside ../first")).unwrap());
    }
}
