//! Whether the programs of a project's agents are there, told before an agent fails for want of one.
//!
//! Looks where the agent's own process will look. Only a warning: the program may come later, and then the agent goes on.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use agentbus_control_plane::spec::Project;

/// One sentence for each agent whose program cannot be found or run. `folder` is where agents are started.
pub fn missing(project: &Project, folder: &Path) -> Vec<String> {
    let own = std::env::var_os("PATH").unwrap_or_default();
    let agents = project.agents.iter().filter_map(|agent| {
        let program = agent.command.first()?;
        let path = agent.env.set.get("PATH").map_or_else(|| own.clone(), OsString::from);
        let found = places(program, folder, &path).iter().any(|place| runs(place));
        let place = if program.contains('/') { "there" } else { "on PATH" };
        (!found).then(|| format!("agent `{}`: its program `{program}` is not {place}", agent.name))
    });
    agents.collect()
}

/// Where the program may lie: a path is taken from the agent's folder, a name is looked for on PATH.
fn places(program: &str, folder: &Path, path: &OsString) -> Vec<PathBuf> {
    if program.contains('/') {
        return vec![folder.join(program)];
    }
    // An empty or relative entry means the agent's folder.
    std::env::split_paths(path).map(|entry| folder.join(entry).join(program)).collect()
}

fn runs(file: &Path) -> bool {
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_looked_for_where_the_agent_would() {
        let folder = tempfile::tempdir().unwrap();
        let text = "version: 1\nagents:\n  good: {runner: process, command: [sh, -c, x]}\n  \
                    bad: {runner: process, command: [no-such-program]}\n  \
                    here: {runner: process, command: [./tool]}\n  \
                    there: {runner: process, command: [tool], env: {set: {PATH: bin}}}\n";
        let project = Project::parse(text, "agentbus.yaml").unwrap();
        let tool = folder.path().join("tool");
        std::fs::write(&tool, "").unwrap();
        let said = missing(&project, folder.path());
        assert_eq!(said.len(), 3, "what cannot be run is not there: {said:?}");
        std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o700)).unwrap();
        std::fs::create_dir(folder.path().join("bin")).unwrap();
        std::fs::copy(&tool, folder.path().join("bin/tool")).unwrap();
        let wanted = "agent `bad`: its program `no-such-program` is not on PATH";
        assert_eq!(missing(&project, folder.path()), [wanted]);
    }
}
