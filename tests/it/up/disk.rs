//! A full disk: publishing is refused with a stable code, nothing accepted is lost, and it goes on when there is room again.
//!
//! Needs a small disk, and the only one a test can make is a tmpfs: `mount` is for root on Linux. Elsewhere these tests fail by saying so,
//! they do not pass. Set `AGENTBUS_TEST_NO_MOUNT=1` to leave them out knowingly.

use std::path::{Path, PathBuf};
use std::time::Duration;

use agentbus_tests::Installation;
use agentbus_tests::wait::until_within;
use serde_json::{Value, json};

/// A small disk that goes away with the test.
struct SmallDisk {
    place: PathBuf,
}

impl SmallDisk {
    /// Mounts it below the installation; `None` only where the person said so.
    fn mount(here: &Installation, mib: u32) -> Option<Self> {
        if std::env::var_os("AGENTBUS_TEST_NO_MOUNT").is_some() {
            eprintln!("left out because AGENTBUS_TEST_NO_MOUNT is set: a full disk is not tested");
            return None;
        }
        let place = here.home().join("disk");
        std::fs::create_dir(&place).expect("made");
        let size = format!("size={mib}m");
        let mounted =
            std::process::Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&place).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self { place }),
            Ok(output) => panic!("{HELP}: {}", String::from_utf8_lossy(&output.stderr)),
            Err(error) => panic!("{HELP}: {error}"),
        }
    }

    /// Takes all that is free.
    fn fill(&self) -> PathBuf {
        use std::io::Write;
        let ballast = self.place.join("ballast");
        let mut file = std::fs::File::create(&ballast).expect("made");
        let mut size = 1 << 20;
        while size > 0 {
            if file.write_all(&vec![0; size]).is_err() {
                size /= 2;
            }
        }
        ballast
    }
}

const HELP: &str =
    "a small tmpfs cannot be mounted (needs root on Linux; AGENTBUS_TEST_NO_MOUNT=1 leaves these tests out)";

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: processes of a failed test may still be on it; they end with the installation.
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.place).status();
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Nothing unread is parked, or the group here would find a part of it among the dead letters: what the stream cannot take
/// must be refused.
const BLOCK: &str = "version: 1\nretention: {on_lag: block}\n";

/// Publishes 100 KiB with a number until refused; gives back how many were accepted, and the refusal.
async fn publish_until_refused(agent: &agentbus_tests::http::HttpAgent, from: u64, most: u64) -> (u64, Option<Value>) {
    let filler = "x".repeat(100 << 10);
    for number in from..from + most {
        let event = json!({"id": format!("n-{number}"), "to": "note.made", "data": {"n": number, "filler": filler}});
        let answer = agent.post("/v1/publish", &event).await;
        if answer.status != 200 {
            let mut body = answer.body;
            body["http"] = answer.status.into();
            return (number, Some(body));
        }
    }
    (from + most, None)
}

/// Takes everything a group has left; gives back the numbers, sorted.
async fn take_all(agent: &agentbus_tests::http::HttpAgent, wanted: usize) -> Vec<u64> {
    let mut numbers = Vec::new();
    let end = std::time::Instant::now() + Duration::from_secs(60);
    while numbers.len() < wanted && std::time::Instant::now() < end {
        for delivery in agent.receive(16, "3s").await {
            numbers.push(delivery["event"]["data"]["n"].as_u64().expect("a number"));
            agent.ack(&delivery).await;
        }
        numbers.sort_unstable();
        numbers.dedup();
    }
    numbers
}

#[tokio::test]
async fn streams_are_full_before_the_disk_is_and_nothing_accepted_is_lost() {
    let here = Installation::new().await;
    let Some(disk) = SmallDisk::mount(&here, 48) else { return };
    here.write("agentbus.yaml", BLOCK);
    let state = disk.place.join("state");
    let up = here.up_in(&state, &[]).await;
    let me = up.me();
    let joined = me.post("/v1/subscriptions", &json!({"patterns": ["note.>"], "group": "readers"})).await;
    assert_eq!(joined.status, 200, "{}", joined.body);
    let (accepted, refusal) = publish_until_refused(&me, 0, 2000).await;
    let refusal = refusal.expect("a limit");
    assert_eq!((&refusal["code"], &refusal["http"]), (&json!("STREAM_FULL"), &json!(429)), "{refusal}");
    let said = here.run(&["--dir", text(&state), "publish", "note.made", &"x".repeat(100 << 10)]).await;
    assert!(said.code == 75 && said.stderr.contains("STREAM_FULL"), "{said:?}");
    let free = rustix::fs::statvfs(&disk.place).expect("free space");
    assert!(free.f_bavail * free.f_frsize > 2 << 20, "the disk itself is not full");
    assert!(accepted > 50, "{accepted}");
    let taken = take_all(&me, usize::try_from(accepted).expect("small")).await;
    assert_eq!(taken, (0..accepted).collect::<Vec<_>>());
    assert_eq!(up.stop().await, 0);
    here.nothing_runs().await;
}

#[tokio::test]
async fn a_disk_that_others_fill_refuses_and_goes_on_when_there_is_room_again() {
    let here = Installation::new().await;
    let Some(disk) = SmallDisk::mount(&here, 64) else { return };
    here.write("agentbus.yaml", BLOCK);
    let state = disk.place.join("state");
    let up = here.up_in(&state, &[]).await;
    let me = up.me();
    let joined = me.post("/v1/subscriptions", &json!({"patterns": ["note.>"], "group": "readers"})).await;
    assert_eq!(joined.status, 200, "{}", joined.body);
    let (accepted, none) = publish_until_refused(&me, 0, 20).await;
    assert_eq!((accepted, none), (20, None));
    let ballast = disk.fill();
    let (accepted, refusal) = publish_until_refused(&me, accepted, 400).await;
    let refusal = refusal.expect("a refusal");
    let (code, status) = (refusal["code"].as_str().unwrap_or_default(), refusal["http"].as_u64().unwrap_or_default());
    assert!(["STREAM_FULL", "BROKER_DOWN", "OUTCOME_UNKNOWN", "CAPACITY_EXCEEDED"].contains(&code), "{refusal}");
    assert!(status == 429 || status >= 500, "{refusal}");
    // An unknown outcome may have been stored; what was accepted must have been.
    std::fs::remove_file(ballast).expect("removed");
    let (last, _) = until_within("room again", Duration::from_secs(60), || async {
        let event = json!({"id": format!("n-{accepted}"), "to": "note.made", "data": {"n": accepted}});
        let answer = me.post("/v1/publish", &event).await;
        if answer.status == 200 { Ok((accepted, answer.body)) } else { Err((answer.body, up.stderr())) }
    })
    .await;
    let taken = take_all(&me, usize::try_from(last + 1).expect("small")).await;
    assert_eq!(taken, (0..=last).collect::<Vec<_>>());
    assert_eq!(up.stop().await, 0);
    here.nothing_runs().await;
}

#[tokio::test]
async fn a_disk_without_room_for_the_streams_is_told_at_the_start() {
    let here = Installation::new().await;
    let Some(disk) = SmallDisk::mount(&here, 8) else { return };
    let state = disk.place.join("state");
    let said = here.run(&["--dir", text(&state), "up"]).await;
    assert!(said.code == 75 && said.stderr.contains("CAPACITY_EXCEEDED") && said.stderr.contains("--dir"), "{said:?}");
    disk.fill();
    let said = here.run(&["--dir", text(&disk.place.join("other")), "up"]).await;
    assert!(said.code == 75 && said.stderr.contains("CAPACITY_EXCEEDED"), "{said:?}");
    here.nothing_runs().await;
}
