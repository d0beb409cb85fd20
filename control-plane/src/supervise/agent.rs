//! The agent's process: how it is called, and the task that holds it from its start to its end.

use std::ffi::OsString;
use std::time::Duration;

use agentbus_runtime::leftovers;
use agentbus_runtime::logs::{LogFile, Stream};
use agentbus_runtime::process::{Exit, Output, Spec};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::child::{Place, Said, is_harmless};
use crate::spec::{AgentSpec, Runner};

/// How long the exec runner lets a running command finish when it is stopped, in milliseconds: less than it has itself.
const RUNNER_GRACE_MS: u64 = 5_000;

/// What the kernel kills with when memory runs out.
const SIGKILL: i32 = 9;

/// Between the word to the sidecar that its agent is stopped and the signal to the agent: its connection may break at once,
/// and the sidecar shall know by then.
const HEAD_START: Duration = Duration::from_millis(50);

/// Where an agent finds its sidecar and who it is.
#[derive(Debug, Clone)]
pub(super) struct Identity<'a> {
    pub instance: &'a str,
    pub namespace: &'a str,
    pub url: &'a str,
    pub token: &'a str,
}

/// The call that starts an agent.
pub(super) fn call(agent: &AgentSpec, place: &Place, identity: &Identity<'_>, log: &LogFile) -> Spec {
    Spec {
        argv: argv(agent, place),
        env: env(agent, place, identity),
        cwd: Some(place.project_dir.clone()),
        stdout: Output::Log(log.clone()),
        stderr: Output::Log(log.clone()),
        launcher: place.launcher(),
        ..Spec::default()
    }
}

/// A `process` is the command itself; an `exec` command is run once per event by our own runner.
fn argv(agent: &AgentSpec, place: &Place) -> Vec<OsString> {
    if agent.runner == Runner::Process {
        return agent.command.iter().map(Into::into).collect();
    }
    let command = serde_json::Value::from(agent.command.clone()).to_string();
    let mut argv: Vec<OsString> = vec![place.executable.clone().into_os_string(), "run-exec".into()];
    let mut option = |name: &str, value: String| argv.extend([name.into(), value.into()]);
    option("--command-json", command);
    option("--output", agent.output.as_str().to_owned());
    if let Some(timeout) = agent.timeout {
        option("--timeout-ms", timeout.as_millis().to_string());
    }
    option("--concurrency", "1".to_owned());
    option("--grace-ms", RUNNER_GRACE_MS.to_string());
    argv
}

/// Later entries win: what the bus sets cannot be overwritten.
fn env(agent: &AgentSpec, place: &Place, identity: &Identity<'_>) -> Vec<(String, String)> {
    let mut env = place.env_where(|key| is_harmless(key) || agent.env.pass.iter().any(|pass| pass == key));
    env.extend(agent.env.set.iter().map(|(key, value)| (key.clone(), value.clone())));
    let own = [
        ("AGENTBUS_URL", identity.url),
        ("AGENTBUS_TOKEN", identity.token),
        ("AGENTBUS_AGENT", agent.name.as_str()),
        ("AGENTBUS_NAMESPACE", identity.namespace),
        ("AGENTBUS_INSTANCE", identity.instance),
    ];
    env.extend(own.map(|(key, value)| (key.to_owned(), value.to_owned())));
    // By this mark the next bus finds what a killed one left behind. Whoever made none does not look for it either.
    env.extend(leftovers::existing(&place.state_dir).map(|mark| (leftovers::MARK.to_owned(), mark)));
    env
}

/// Holds one run of the agent's process; `stop` asks it to end. Dropping the future kills the process.
pub(super) async fn hold(call: Spec, place: Place, log: LogFile, said: mpsc::Sender<Said>, stop: CancellationToken) {
    let (success, killed, cause) = match run(&call, &place, &log, &said, &stop).await {
        Ok(exit) => {
            (exit.success(), exit.signal == Some(SIGKILL) || exit.code == Some(128 + SIGKILL), exit.to_string())
        }
        Err(cause) => (false, false, cause),
    };
    log.line(Stream::Supervisor, &format!("agent ended: {cause}"));
    // Fails only when the instance is gone, and then nobody wants to know.
    let _ = said.send(Said::AgentExited { success, killed, cause }).await;
}

async fn run(
    call: &Spec,
    place: &Place,
    log: &LogFile,
    said: &mpsc::Sender<Said>,
    stop: &CancellationToken,
) -> Result<Exit, String> {
    let mut child = call.spawn().await.map_err(|error| with_source(&error))?;
    log.line(Stream::Supervisor, &format!("agent started, process {}", child.pid()));
    let _ = said.send(Said::AgentStarted { pid: child.pid() }).await;
    // `wait` is cancel-safe: the next one finds the end just as well.
    let ended = tokio::select! {
        ended = child.wait() => Some(ended),
        () = async { stop.cancelled().await; tokio::time::sleep(HEAD_START).await } => None,
        () = place.kill.cancelled() => Some(child.kill().await),
    };
    let ended = match ended {
        Some(ended) => ended,
        None => tokio::select! {
            ended = child.terminate(place.agent_grace) => ended,
            () = place.kill.cancelled() => child.kill().await,
        },
    };
    ended.map_err(|error| error.to_string())
}

/// An error and its cause in one line.
pub(super) fn with_source(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Project;

    fn place() -> Place {
        let env = [("PATH", "/bin"), ("LC_ALL", "C"), ("SECRET", "x"), ("WANTED", "y"), ("AGENTBUS_TOKEN", "other")];
        Place {
            executable: "/opt/agentbus".into(),
            host: None,
            project_dir: "/project".into(),
            state_dir: "/state".into(),
            otlp: None,
            env: env.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec(),
            agent_grace: Duration::from_secs(1),
            drain: Duration::from_secs(1),
            kill: CancellationToken::new(),
        }
    }

    fn agent(keys: &str) -> AgentSpec {
        let text = format!("version: 1\nagents:\n  a: {{{keys}}}\n");
        Project::parse(&text, "t").unwrap().agents.remove(0)
    }

    #[test]
    fn a_process_gets_its_command_and_nothing_secret() {
        let agent = agent("runner: process, command: [x, y], env: {pass: [WANTED], set: {PATH: /own}}");
        assert_eq!(argv(&agent, &place()), ["x", "y"]);
        let identity = Identity { instance: "a", namespace: "default", url: "http://u", token: "t" };
        let env: std::collections::HashMap<_, _> = env(&agent, &place(), &identity).into_iter().collect();
        assert_eq!(env["PATH"], "/own");
        assert_eq!((env["LC_ALL"].as_str(), env["WANTED"].as_str()), ("C", "y"));
        assert_eq!((env["AGENTBUS_TOKEN"].as_str(), env["AGENTBUS_URL"].as_str()), ("t", "http://u"));
        assert!(!env.contains_key("SECRET"));
        assert!(!env.contains_key(leftovers::MARK));
    }

    #[test]
    fn an_agent_carries_the_mark_of_its_bus() {
        let state = tempfile::tempdir().unwrap();
        let place = Place { state_dir: state.path().to_owned(), ..place() };
        let mark = leftovers::mark(state.path()).unwrap();
        let identity = Identity { instance: "a", namespace: "default", url: "http://u", token: "t" };
        let env = env(&agent("runner: process, command: [x]"), &place, &identity);
        assert!(env.contains(&(leftovers::MARK.to_owned(), mark)));
    }

    #[test]
    fn an_exec_command_goes_through_the_runner() {
        let agent = agent("runner: exec, command: [python3, a b.py], subscribe: [t], output: events, timeout: 30s");
        let expected = [
            "/opt/agentbus",
            "run-exec",
            "--command-json",
            r#"["python3","a b.py"]"#,
            "--output",
            "events",
            "--timeout-ms",
            "30000",
            "--concurrency",
            "1",
            "--grace-ms",
            "5000",
        ];
        assert_eq!(argv(&agent, &place()), expected);
    }
}
