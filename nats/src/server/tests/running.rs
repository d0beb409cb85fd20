//! Running the real nats-server: the one `find_or_obtain` gives on this machine, fetched at most once, then from the cache.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::server::*;

/// The server the tests run: the machine's own, or one obtained once into the user's cache.
async fn real() -> PathBuf {
    let say = |words: &str| eprintln!("{words}");
    find_or_obtain(&Options::from_env(None), &say).await.unwrap().path
}

fn in_folder(folder: &Path) -> ConfigOptions {
    ConfigOptions { store_dir: folder.join("a \"quoted\" store"), http_port: Some(0), ..Default::default() }
}

#[tokio::test]
async fn a_killed_server_comes_back_on_its_port_with_its_streams() {
    let folder = tempfile::tempdir().unwrap();
    // `env` execs what follows it, as a launcher does.
    let launcher = vec![OsString::from("env"), OsString::from("A=1")];
    let mut server =
        Server::start(&real().await, folder.path(), in_folder(folder.path()), Some(launcher)).await.unwrap();
    let (url, port, pid) = (server.url(), server.port(), server.pid().unwrap());
    assert_ne!(server.http_port(), None);
    assert_eq!(fs::metadata(folder.path().join("nats-server.conf")).unwrap().permissions().mode() & 0o777, 0o600);
    let jetstream = async_nats::jetstream::new(async_nats::connect(&url).await.unwrap());
    jetstream
        .create_stream(async_nats::jetstream::stream::Config { name: "S".into(), ..Default::default() })
        .await
        .unwrap();
    jetstream.publish("S", "kept".into()).await.unwrap().await.unwrap();

    rustix::process::kill_process(rustix::process::Pid::from_raw(pid as i32).unwrap(), rustix::process::Signal::KILL)
        .unwrap();
    assert!(!server.exited().await.unwrap().success());
    assert_eq!(server.pid(), None);
    server.restart().await.unwrap();
    assert_eq!((server.url(), server.port()), (url.clone(), port));
    assert_ne!(server.pid(), Some(pid));
    let jetstream = async_nats::jetstream::new(async_nats::connect(&url).await.unwrap());
    assert_eq!(jetstream.get_stream("S").await.unwrap().cached_info().state.messages, 1);

    server.stop(Duration::from_secs(10)).await.unwrap();
    assert!(tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err());
}

#[tokio::test]
async fn servers_start_side_by_side_and_die_when_dropped() {
    let (one, two, program) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), real().await);
    let start = |folder: &Path| {
        let (program, folder) = (program.clone(), folder.to_owned());
        async move { Server::start(&program, &folder, in_folder(&folder), None).await.unwrap() }
    };
    let (first, second) = tokio::join!(start(one.path()), start(two.path()));
    assert_ne!(first.port(), second.port());
    let port = first.port();
    drop(first);
    for _ in 0..500 {
        if tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            return second.stop(Duration::from_secs(10)).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("port {port} still answers 5 s after the server was dropped");
}

#[tokio::test]
async fn in_operator_mode_only_holders_of_a_token_get_in() {
    let folder = tempfile::tempdir().unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let authority = crate::identity::Authority::generate("default");
    let operator = OperatorMode::of(&authority, now).unwrap();
    let config = ConfigOptions { operator: Some(operator), sync_always: true, ..in_folder(folder.path()) };
    let server = Server::start(&real().await, folder.path(), config, None).await.unwrap();
    async_nats::connect(server.url()).await.expect_err("nobody gets in without a token");
    let token = authority.control_plane(now).unwrap().file();
    let holder = async_nats::ConnectOptions::with_credentials(&token).unwrap().connect(server.url()).await.unwrap();
    let jetstream = async_nats::jetstream::new(holder);
    jetstream.query_account().await.expect("JetStream is on for the account");
    server.stop(Duration::from_secs(10)).await.unwrap();
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port();
    let config = ConfigOptions { port: Some(port), ..in_folder(folder.path()) };
    let error = Server::start(&real().await, folder.path(), config, None).await.unwrap_err();
    assert!(matches!(error, StartError::PortTaken { .. }) && error.to_string().contains(&port.to_string()), "{error}");
}

#[tokio::test]
async fn an_unwritable_store_is_named() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    let config = ConfigOptions { store_dir: folder.path().join("file/store"), ..Default::default() };
    let error = Server::start(&real().await, folder.path(), config, None).await.unwrap_err();
    assert!(matches!(error, StartError::Store { .. }) && error.to_string().contains("file/store"), "{error}");
}

#[tokio::test]
async fn an_early_end_is_told_with_the_last_words() {
    let folder = tempfile::tempdir().unwrap();
    let operator =
        OperatorMode { operator_jwt: "not.a.jwt".into(), system_account: "ASYS".into(), accounts: Vec::new() };
    let config = ConfigOptions { operator: Some(operator), ..in_folder(folder.path()) };
    let error = Server::start(&real().await, folder.path(), config, None).await.unwrap_err();
    assert!(matches!(&error, StartError::Exited { said, .. } if said.contains("operator")), "{error}");
}

#[test]
fn a_free_port_can_be_bound() {
    std::net::TcpListener::bind(("127.0.0.1", free_port().unwrap())).unwrap();
}
