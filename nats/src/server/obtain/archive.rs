//! The release archive of the nats-server project, fetched with the system's curl and unpacked with the system's tar.
//!
//! Promises: the archive's SHA-256 is compared with a number written here before anything is unpacked. A platform without a number here is
//! not served. No TLS stack of our own is carried for this one download.
//!
//! Where the numbers come from. Linux: the Dockerfiles of the project's own image repository, nats-io/nats-docker, at commit
//! 629985321b0b (`2.15.x/alpine3.22/Dockerfile`). macOS: several unrelated public projects that copied them from the release's SHA256SUMS; their
//! Linux numbers agree with the first source. The archive version trails [`super::GO_VERSION`] because it is the newest one with numbers
//! from two sources; raise both together when newer numbers are known.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::server::child::run;
use crate::server::find::Options;
use crate::server::{Progress, obtain};

const VERSION: &str = "2.15.0";
const CONNECT_LIMIT_S: &str = "5";
const FETCH_LIMIT: Duration = Duration::from_secs(120);
const UNPACK_LIMIT: Duration = Duration::from_secs(30);
/// The archive has about 7 MB; something much larger is not it.
const ARCHIVE_BYTES_MAX: &str = "67108864";

/// `(os, arch)` as Rust names them, the same as the release names them, SHA-256 of that archive.
const PINS: [(&str, &str, &str, &str); 4] = [
    ("linux", "x86_64", "linux-amd64", "5d2c51caca950333aba84911df7d377f826f3a59ec36061c6539105084f65c92"),
    ("linux", "aarch64", "linux-arm64", "cdc208f5a3f42963a52b6ab06ef65626bb870315dc936e26ba571780c6351112"),
    ("macos", "x86_64", "darwin-amd64", "5bd8b59ca5bf93fab3da2c5843cf564cd6e2e291e22ae3b861746e7ebe259b95"),
    ("macos", "aarch64", "darwin-arm64", "e1c4e22d70bd44abfa0bcb3c16f7cf0c66f648c2e728c58924e8a1ce88913cc8"),
];

pub(super) async fn fetch(options: &Options, folder: &Path, progress: &Progress<'_>) -> Result<PathBuf, String> {
    let (platform, pin) =
        pin(std::env::consts::OS, std::env::consts::ARCH).ok_or("no pinned checksum for this platform")?;
    let name = format!("nats-server-v{VERSION}-{platform}");
    let archive = folder.join("archive.tar.gz");
    progress(&format!("fetching the release archive {name}.tar.gz from GitHub"));
    download(
        options,
        &format!("https://github.com/nats-io/nats-server/releases/download/v{VERSION}/{name}.tar.gz"),
        &archive,
    )
    .await?;
    verify(&archive, pin).await?;
    let mut tar = obtain::tool(options, "tar")?;
    tar.arg("-xzf").arg(&archive).arg("-C").arg(folder).arg(format!("{name}/nats-server"));
    run("tar", tar, UNPACK_LIMIT).await?;
    Ok(folder.join(name).join("nats-server"))
}

fn pin(os: &str, arch: &str) -> Option<(&'static str, &'static str)> {
    PINS.iter().find(|row| (row.0, row.1) == (os, arch)).map(|row| (row.2, row.3))
}

async fn download(options: &Options, url: &str, to: &Path) -> Result<(), String> {
    let mut curl = obtain::tool(options, "curl")?;
    curl.args(["--fail", "--location", "--silent", "--show-error", "--proto", "=https", "--proto-redir", "=https"])
        .args(["--connect-timeout", CONNECT_LIMIT_S, "--max-filesize", ARCHIVE_BYTES_MAX])
        .args(["--max-time", &FETCH_LIMIT.as_secs().to_string(), "--output"])
        .arg(to)
        .arg(url);
    // curl keeps its own limit; ours, a little later, is for a curl that does not.
    run("curl", curl, FETCH_LIMIT + Duration::from_secs(5)).await
}

async fn verify(archive: &Path, pin: &str) -> Result<(), String> {
    let actual = obtain::sha256(archive).await?;
    if actual == pin {
        Ok(())
    } else {
        Err(format!("wrong checksum: expected SHA-256 {pin}, got {actual}; not unpacked"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pin_is_a_sha256_and_other_platforms_have_none() {
        assert!(PINS.iter().all(|row| row.3.len() == 64 && row.3.bytes().all(|b| b.is_ascii_hexdigit())));
        assert_eq!(pin("linux", "x86_64").unwrap().0, "linux-amd64");
        assert_eq!(pin("linux", "riscv64"), None);
    }

    #[tokio::test]
    async fn an_archive_with_another_checksum_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a");
        std::fs::write(&file, b"abc").unwrap();
        verify(&file, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad").await.unwrap();
        let reason = verify(&file, PINS[0].3).await.unwrap_err();
        assert!(reason.contains("wrong checksum") && reason.contains("ba7816bf"), "{reason}");
    }
}
