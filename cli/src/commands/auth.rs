//! `agentbus auth`: what a broker that somebody else runs must know of us.

use std::path::{Path, PathBuf};

use agentbus_control_plane::authority;
use agentbus_control_plane::spec::{NAMESPACE_DEFAULT, Project};
use agentbus_nats::identity::{self, Authority};
use agentbus_nats::server::OperatorMode;
use agentbus_proto::{Code, Fault, name};
use agentbus_runtime::state;
use serde_json::json;

use super::up::unix_now;
use crate::exit::fault;
use crate::instance::Global;
use crate::output;

/// What the operator of a broker installs, so that it lets this bus in
#[derive(Debug, clap::Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    Bootstrap(Bootstrap),
}

/// Print the operator and the accounts of a namespace as a nats-server configuration
///
/// The keys are those in the state folder (--dir), made when missing: for the namespace of --config, else for --namespace, else for
/// `default`. Nothing that is printed is secret; the keys stay where they are. A namespace has one account, or two with the wall: one for
/// the streams and the control plane, one for the sidecars. With --json each account comes with its claims, for an operator who signs them
/// with a key of their own.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  agentbus auth bootstrap --dir /var/lib/agentbus > accounts.conf\n  agentbus auth bootstrap --dir /var/lib/agentbus --namespace sandbox --wall --json"
)]
struct Bootstrap {
    /// Project file, for its namespace and its `broker.wall`; keys of another namespace are refused
    #[arg(long, value_name = "FILE", env = "AGENTBUS_CONFIG")]
    config: Option<PathBuf>,
    /// Namespace to print: where there are keys, a further one of that installation, as sandboxes are
    #[arg(long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// With the wall, whatever the project file says
    #[arg(long)]
    wall: bool,
}

/// Prints it.
pub fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    let Verb::Bootstrap(args) = &args.verb;
    let Some(state_dir) = &global.dir else {
        return Err(fault(Code::BadConfig, "name the state folder with --dir: the keys lie there"));
    };
    let mut project = match &args.config {
        Some(file) => Project::load(file).map_err(Fault::from)?,
        None => Project::empty(NAMESPACE_DEFAULT),
    };
    project.wall |= args.wall;
    let namespace = args.namespace.as_deref();
    if let Some(namespace) = namespace {
        // Before keys are made for it.
        name::lower_name("namespace", namespace)?;
    }
    state::create_private(state_dir)?;
    let named = args.config.as_ref().map(|_| project.namespace.as_str());
    let mut authority = keys(state_dir, named, namespace).map_err(Fault::from)?;
    if let Some(namespace) = namespace {
        authority = authority.of_namespace(namespace)?;
    }
    let authority = authority.laid_out(project.layout());
    if global.json {
        return output::json(&described(&authority)?);
    }
    for line in lines(&authority)? {
        output::line(line)?;
    }
    Ok(())
}

/// The keys of the folder, made when missing. With a project file they are its namespace's, as its control plane wants them: it would serve
/// no accounts that follow from the keys of another. Without one, those that are there are good for every namespace.
fn keys(state_dir: &Path, project: Option<&str>, namespace: Option<&str>) -> Result<Authority, authority::Error> {
    match (project, authority::load(state_dir)) {
        (None, Ok(authority)) => Ok(authority),
        _ => authority::load_or_create(state_dir, project.or(namespace).unwrap_or(NAMESPACE_DEFAULT)),
    }
}

/// What each account is for, in their order.
const ROLES: [&str; 2] = [
    "streams and control plane; without a wall the sidecars, too",
    "sidecars: imports what they may do, and nothing else",
];

fn described(authority: &Authority) -> anyhow::Result<serde_json::Value> {
    let now = unix_now();
    let accounts = authority.accounts(now)?.into_iter().zip(ROLES).map(
        |((key, jwt), role)| json!({"role": role, "public_key": key, "jwt": jwt, "claims": identity::claims(&jwt)}),
    );
    let (key, jwt) = authority.system(now)?;
    Ok(json!({
        "namespace": authority.namespace(),
        "layout": authority.layout(),
        "operator": authority.operator_jwt(now)?,
        "system_account": {"public_key": key, "jwt": jwt},
        "accounts": accounts.collect::<Vec<_>>(),
    }))
}

fn lines(authority: &Authority) -> anyhow::Result<Vec<String>> {
    let operator = OperatorMode::of(authority, unix_now())?;
    let mut lines = vec![
        format!("# namespace {}, layout {}: for the configuration of nats-server", authority.namespace(), authority.layout().as_str()),
        "# wants JetStream (`jetstream {}`), a folder of its own for the accounts, and the lines below; no line is secret".to_owned(),
        "max_control_line: 64KB".to_owned(),
        format!("operator: {}", operator.operator_jwt),
        format!("system_account: {}", operator.system_account),
        "resolver { type: full, dir: \"./accounts\" }   # `full` lets `replay --into` make namespaces".to_owned(),
        "resolver_preload {".to_owned(),
    ];
    let roles = ROLES.into_iter().take(operator.accounts.len() - 1).chain(["the broker's own"]);
    for ((key, jwt), role) in operator.accounts.iter().zip(roles) {
        lines.push(format!("  # {role}"));
        lines.push(format!("  {key}: {jwt}"));
    }
    lines.push("}".to_owned());
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_made_for_the_namespace_that_a_control_plane_will_serve() {
        let folder = tempfile::tempdir().unwrap();
        let of = |name: &str, project: Option<&str>, namespace: Option<&str>| {
            keys(&folder.path().join(name), project, namespace).map(|keys| keys.namespace().to_owned())
        };
        assert_eq!(of("a", None, None).unwrap(), NAMESPACE_DEFAULT);
        assert_eq!(of("b", None, Some("prod")).unwrap(), "prod");
        assert_eq!(of("c", Some("prod"), Some("sandbox")).unwrap(), "prod");
        // They are there now: a sandbox follows from them, the project of another namespace does not fit.
        assert_eq!(of("b", None, Some("sandbox")).unwrap(), "prod");
        assert_eq!(of("b", Some("prod"), None).unwrap(), "prod");
        assert!(matches!(of("b", Some("other"), None), Err(authority::Error::Namespace { .. })));
    }
}
