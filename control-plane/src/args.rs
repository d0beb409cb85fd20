//! The control plane as a program of its own, for images: flags and their environment twins, and its run until a signal.
//!
//! It runs beside a broker that somebody else runs and that trusts the keys in `<state folder>/keys`. `agentbus up` does
//! not come through here: it starts the same [`ControlPlane`] inside its own process.

use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agentbus_nats::topology::Sizes;
use agentbus_proto::{Code, Fault};
use agentbus_runtime::bytesize::ByteSize;
use agentbus_runtime::{drain, files, state, telemetry};

use crate::app::{ControlPlane, Options};
use crate::authority;
use crate::spec::{NAMESPACE_DEFAULT, Project};

/// Below the 30 s that Kubernetes gives.
const STOP_GRACE: Duration = Duration::from_secs(25);
/// The variable with the token that callers of the API must show.
const API_TOKEN: &str = "AGENTBUS_API_TOKEN";
/// More is no token, in bytes.
const API_TOKEN_BYTES_MAX: u64 = 4096;

/// How the control plane runs.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Broker; several with commas
    #[arg(long, value_name = "URL", env = "NATS_URL", value_delimiter = ',', required = true)]
    pub server: Vec<String>,
    /// Project file; without one nothing is declared
    #[arg(long, alias = "project", value_name = "FILE", env = "AGENTBUS_CONFIG")]
    pub config: Option<PathBuf>,
    /// State folder: keys, logs, sockets
    #[arg(long, alias = "state-dir", value_name = "DIR", env = "AGENTBUS_DIR")]
    pub dir: PathBuf,
    /// Where the API listens
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:4200", env = "AGENTBUS_LISTEN")]
    pub listen: SocketAddr,
    /// Where the token is that callers of the API must show
    #[command(flatten)]
    pub api_token: ApiToken,
    /// Space for all streams together
    #[arg(long, value_name = "SIZE", default_value = "2GiB", env = "AGENTBUS_QUOTA")]
    pub quota: ByteSize,
    /// Copies of each stream
    #[arg(long, value_name = "N", default_value_t = 1, env = "AGENTBUS_REPLICAS")]
    pub replicas: usize,
    /// Largest event, in bytes; never more than the broker takes
    #[arg(long, value_name = "SIZE", default_value = "1MiB", env = "AGENTBUS_EVENT_BYTES_MAX")]
    pub event_bytes_max: ByteSize,
    /// Start the declared agents on this machine, too
    #[arg(long, env = "AGENTBUS_SPAWN")]
    pub spawn: bool,
    /// Send traces to this OTLP endpoint
    #[arg(long, value_name = "URL", env = "AGENTBUS_OTLP")]
    pub otlp: Option<String>,
}

/// Where the token is that callers of the API must show. Not on the command line: `ps` shows that to everybody.
#[derive(Debug, Clone, clap::Args)]
pub struct ApiToken {
    /// File with the token that callers of the API must show, - for stdin [default: what AGENTBUS_API_TOKEN holds]
    #[arg(long, value_name = "FILE", env = "AGENTBUS_API_TOKEN_FILE")]
    pub api_token_file: Option<PathBuf>,
}

impl ApiToken {
    /// The token: of the file, else of the environment.
    pub fn read(&self) -> Result<String, Fault> {
        let (place, text) = match &self.api_token_file {
            None => (format!("the variable {API_TOKEN}"), std::env::var(API_TOKEN).unwrap_or_default()),
            Some(file) => (format!("`{}`", file.display()), read_token(file)?),
        };
        let token = text.trim();
        if !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Ok(token.to_owned());
        }
        let what = if token.is_empty() { "is empty" } else { "holds more than one word of ASCII" };
        let help = format!("set {API_TOKEN}, or name a file with --api-token-file (- for stdin)");
        Err(bad(format!("no token for callers of the API: {place} {what}; {help}")))
    }
}

fn read_token(file: &Path) -> Result<String, Fault> {
    let mut text = String::new();
    let read = if file == Path::new("-") {
        std::io::stdin().lock().take(API_TOKEN_BYTES_MAX).read_to_string(&mut text)
    } else {
        File::open(file).and_then(|file| file.take(API_TOKEN_BYTES_MAX).read_to_string(&mut text))
    };
    read.map(|_| text).map_err(|error| bad(format!("cannot read the token in `{}`: {error}", file.display())))
}

fn bad(what: String) -> Fault {
    Fault::new(Code::BadConfig, what)
}

/// Runs until a signal. `executable` is the `agentbus` program, needed for `--spawn` only.
pub async fn run(args: Args, executable: PathBuf) -> anyhow::Result<()> {
    files::raise_open_max();
    let signal = drain::signals()?;
    state::create_private(&args.dir)?;
    let service_name = "agentbus-control-plane".to_owned();
    let telemetry =
        telemetry::init(telemetry::Options { service_name, otlp: args.otlp.clone(), ..Default::default() })?;
    let control = Box::pin(ControlPlane::start(options(args, executable)?)).await?;
    tracing::info!(api = control.api_url(), "control plane serves");
    let name = signal.await;
    tracing::info!(signal = name, "stopping");
    control.stop(STOP_GRACE).await;
    telemetry.shutdown().await;
    Ok(())
}

fn options(args: Args, executable: PathBuf) -> Result<Options, Fault> {
    let project = match &args.config {
        Some(file) => Project::load(file)?,
        None => Project::empty(NAMESPACE_DEFAULT),
    };
    let absolute = |path: &Path| {
        std::path::absolute(path).map_err(|error| bad(format!("cannot use the path `{}`: {error}", path.display())))
    };
    let project_dir = match args.config.as_deref().and_then(Path::parent) {
        Some(folder) if !folder.as_os_str().is_empty() => absolute(folder)?,
        _ => absolute(Path::new("."))?,
    };
    let authority = authority::load_or_create(&args.dir, &project.namespace)?.laid_out(project.layout());
    let quota = i64::try_from(args.quota.0).map_err(|_| bad(format!("--quota {} is too large", args.quota)))?;
    Ok(Options {
        project,
        project_dir,
        state_dir: absolute(&args.dir)?,
        servers: args.server,
        authority: Arc::new(authority),
        sizes: Sizes { replicas: args.replicas, ..Sizes::within(quota) },
        event_bytes_max: usize::try_from(args.event_bytes_max.0).unwrap_or(usize::MAX),
        listen: args.listen,
        api_token: args.api_token.read()?,
        executable,
        otlp: args.otlp,
        person: false,
        spawn: args.spawn,
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn flags_become_options() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("agentbus.yaml");
        std::fs::write(&file, "version: 1\nnamespace: lab\n").unwrap();
        let token = folder.path().join("token");
        std::fs::write(&token, "t0ken\n").unwrap();
        let words = ["x", "--server", "nats://a:1,nats://b:2", "--project", file.to_str().unwrap(), "--api-token-file"];
        let words = words.into_iter().chain([token.to_str().unwrap()]);
        let cli = Cli::parse_from(words.chain(["--state-dir", folder.path().to_str().unwrap()]));
        let options = options(cli.args, "/bin/agentbus".into()).unwrap();
        assert_eq!(options.servers, ["nats://a:1", "nats://b:2"]);
        assert_eq!((options.project.namespace.as_str(), options.spawn, options.person), ("lab", false, false));
        assert_eq!(options.project_dir, folder.path());
        assert_eq!(options.authority.namespace(), "lab");
        assert_eq!(options.event_bytes_max, 1 << 20);
        assert_eq!(options.api_token, "t0ken");
    }

    #[test]
    fn a_token_is_one_word_and_never_on_the_command_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        let read = || ApiToken { api_token_file: Some(file.clone()) }.read();
        assert!(read().unwrap_err().message.contains("cannot read"), "not there");
        for (text, wrong) in
            [("", "empty"), (" \n", "empty"), ("a b", "one word"), ("a\nb", "one word"), ("ä", "one word")]
        {
            std::fs::write(&file, text).unwrap();
            let fault = read().unwrap_err();
            assert_eq!(fault.code, Code::BadConfig);
            assert!(fault.message.contains(wrong) && fault.message.contains("--api-token-file"), "{fault}");
        }
        let words = ["x", "--server", "nats://a:1", "--dir", "/nowhere", "--api-token", "t"];
        assert!(Cli::try_parse_from(words).is_err());
    }
}
