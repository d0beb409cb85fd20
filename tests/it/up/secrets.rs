//! What holds secrets keeps them: from other processes of the same user, from command lines, and from the disk.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use agentbus::instance::{self, Instance};
use agentbus_tests::Installation;
use agentbus_tests::installation::{Said, finish};
use agentbus_tests::wait::until;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::process::Command;

const TALKER: &str = "
version: 1
agents:
  talker: {runner: process, command: [sleep, '1000'], subscribe: [note.>]}
";

/// A user who is not root, whoever runs the tests: root may read everything.
#[cfg(target_os = "linux")]
struct Somebody {
    here: Installation,
    program: PathBuf,
}

#[cfg(target_os = "linux")]
impl Somebody {
    const NOBODY: u32 = 65534;

    async fn new() -> Self {
        let here = Installation::new().await;
        here.write("agentbus.yaml", TALKER);
        // Where the program lies, that user may not go.
        let program = here.home().join("agentbus");
        std::fs::copy(agentbus_tests::binary::agentbus(), &program).expect("copied");
        if Self::changes() {
            let owned = [here.home(), &here.project, &here.project.join("agentbus.yaml")].map(Path::to_owned);
            for path in owned {
                std::os::unix::fs::chown(path, Some(Self::NOBODY), Some(Self::NOBODY)).expect("given away");
            }
        }
        Self { here, program }
    }

    fn changes() -> bool {
        rustix::process::geteuid().is_root()
    }

    fn command(&self, program: &Path, args: &[&str]) -> Command {
        let mut command = self.here.plain(program);
        command.args(args);
        if Self::changes() {
            command.uid(Self::NOBODY).gid(Self::NOBODY);
        }
        command
    }

    /// Reads what the kernel tells of a process.
    async fn read(&self, pid: u32, file: &str) -> Said {
        let path = format!("/proc/{pid}/{file}");
        finish(self.command(Path::new("head"), &["-c", "1", &path]), None).await
    }

    async fn cannot_read(&self, pid: u32) {
        for file in ["environ", "mem", "auxv"] {
            until("refusal to read", || async {
                let said = self.read(pid, file).await;
                if said.stderr.contains("Permission denied") { Ok(()) } else { Err((file, said)) }
            })
            .await;
        }
        let open = finish(self.command(Path::new("ls"), &[&format!("/proc/{pid}/fd")]), None).await;
        assert!(open.stderr.contains("Permission denied"), "{open:?}");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn no_other_process_of_the_user_reads_up_the_control_plane_or_a_sidecar() {
    use std::process::Stdio;
    use tokio::io::{AsyncBufReadExt, BufReader};

    let somebody = Somebody::new().await;
    let state = somebody.here.home().join("bus");
    let state_arg = state.to_str().expect("UTF-8");
    let mut up = somebody.command(&somebody.program, &["up", "--memory", "--dir", state_arg]);
    let up = up.stdout(Stdio::null()).spawn().expect("started");
    let talker = until("a running agent", || async {
        instance::running(&state).map_err(|fault| fault.to_string())?;
        let found = somebody.here.processes().into_iter().find(|process| process.command == "sleep 1000");
        found.ok_or_else(|| "no agent".to_owned())
    })
    .await;
    somebody.cannot_read(up.id().expect("runs")).await;
    let said = somebody.read(talker.pid, "environ").await;
    assert_eq!(said.code, 0, "an agent is a program like any other: {said:?}");

    let mut sidecar = somebody.command(&somebody.program, &["sidecar", "--stdio"]);
    let mut sidecar = sidecar.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("started");
    // It has said hello and waits for its grant.
    let mut said = BufReader::new(sidecar.stdout.take().expect("piped")).lines();
    assert!(said.next_line().await.expect("read").is_some_and(|line| line.contains("public_key")));
    somebody.cannot_read(sidecar.id().expect("runs")).await;

    // Takes connections and says nothing: it waits for the broker for some seconds.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let server = format!("nats://{}", silent.local_addr().expect("address"));
    let other = somebody.here.home().join("other");
    let args = ["control-plane", "--server", &server, "--listen", "127.0.0.1:0", "--dir"];
    let args = [&args[..], &[other.to_str().expect("UTF-8")]].concat();
    let mut control = somebody.command(&somebody.program, &args);
    let mut control = control.env("AGENTBUS_API_TOKEN", "t").stderr(Stdio::null()).spawn().expect("started");
    somebody.cannot_read(control.id().expect("runs")).await;
    control.start_kill().expect("killed");
}

#[tokio::test]
async fn no_secret_is_on_a_command_line_or_handed_to_children() {
    let here = Installation::new().await;
    here.write("agentbus.yaml", TALKER);
    let mut up = here.agentbus(&["up", "-d"]);
    up.env("AGENTBUS_OTLP", "http://user:hunter2@127.0.0.1:1").env("API_KEY", "of the person alone");
    let said = finish(up, None).await;
    assert_eq!(said.code, 0, "{}", said.stderr);
    let Instance { pid, control, me, .. } = instance::running(&here.state()).expect("runs");
    let processes = here.processes();
    assert!(processes.iter().filter(|process| process.command.contains("sidecar")).count() >= 2, "{processes:?}");
    for process in &processes {
        for secret in ["hunter2", &control.token, &me.token] {
            assert!(!process.command.contains(secret), "{process:?}");
        }
        let environment = read(Path::new(&format!("/proc/{}/environ", process.pid)));
        assert!(process.pid == pid || !String::from_utf8_lossy(&environment).contains("of the person"), "{process:?}");
    }
    let said = here.run(&["control-plane", "--server", "nats://127.0.0.1:1", "--api-token", "t"]).await;
    assert!(said.code == 64 && said.stderr.contains("--api-token-file"), "{said:?}");
    assert_eq!(here.run(&["down"]).await.code, 0);
}

#[tokio::test]
async fn credentials_of_sidecars_are_nowhere_but_in_their_memory() {
    let here = Installation::new().await;
    here.write("agentbus.yaml", TALKER);
    let up = here.up(&[]).await;
    up.all_running().await;
    let found: BTreeSet<PathBuf> = files(here.home()).into_iter().filter(|file| has_credentials(&read(file))).collect();
    let wanted = up.state.join("creds/me.creds");
    assert_eq!(found, BTreeSet::from([wanted]), "the person's, for the nats CLI");
    for process in here.processes() {
        assert!(!has_credentials(&read(Path::new(&format!("/proc/{}/environ", process.pid)))), "{process:?}");
    }
    assert_eq!(up.stop().await, 0);
}

fn read(file: &Path) -> Vec<u8> {
    std::fs::read(file).unwrap_or_default()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let below = entries.flat_map(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => files(&entry.path()),
        Ok(kind) if kind.is_file() => vec![entry.path()],
        _ => Vec::new(),
    });
    below.collect()
}

/// Whether there is the seed of a user's key, or a user's token, anywhere in it.
fn has_credentials(bytes: &[u8]) -> bool {
    let words = bytes.split(|byte| !byte.is_ascii_alphanumeric() && !b"-_.".contains(byte));
    words.into_iter().any(|word| (word.len() == 58 && word.starts_with(b"SU")) || is_user_token(word))
}

fn is_user_token(word: &[u8]) -> bool {
    let claims = word.split(|byte| *byte == b'.').nth(1).and_then(|claims| URL_SAFE_NO_PAD.decode(claims).ok());
    claims.is_some_and(|claims| String::from_utf8_lossy(&claims).contains(r#""type":"user""#))
}
