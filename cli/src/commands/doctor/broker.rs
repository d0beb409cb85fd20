//! Checks of the running bus: control plane, broker, streams, groups, agents.

use agentbus_control_plane::api::{Agents, Streams};
use agentbus_control_plane::status::{InstanceState, InstanceStatus, SystemStatus};
use agentbus_nats::budget::CONSUMERS_MAX;
use agentbus_nats::identity::Layout;

use super::{Finding, LIMIT, Report, memory};
use crate::broker::Access;
use crate::control::Api;
use crate::instance::{self, Global, Instance};
use crate::{output, probe, size};

/// `up` notices a broker that ended, not one that hangs.
const HUNG: &str = "end the nats-server process, `up` starts it again by itself; or stop and start the bus";

pub(super) async fn check(global: &Global, report: &mut Report) -> anyhow::Result<()> {
    let instance = match global.instance() {
        Ok(instance) => instance,
        Err(error) => return report.add(Finding::ok("bus", format!("not checked: {error}"))),
    };
    let api = instance.control().with_limit(LIMIT);
    let agents = match api.get::<Agents>("/v1/agents").await {
        Ok(Agents { agents }) => agents,
        Err(fault) => {
            let advice = "`agentbus down --kill`, then `agentbus up -d`";
            return report.add(Finding::fail("control plane", fault.message, advice));
        }
    };
    report.add(Finding::ok("control plane", instance.control.url.clone()))?;
    // Asked first, because everything below would wait for it one after the other.
    if let Err(why) = probe::greets(&instance.broker.url).await {
        report.add(Finding::fail("broker", why, HUNG))?;
        report.add(processes(&agents))?;
        return report.add(Finding::warn("streams", "not checked: the broker does not answer", ""));
    }
    match api.get::<SystemStatus>("/v1/status").await {
        Ok(status) => {
            let findings = [
                Some(connected(&status)),
                full(&status),
                Some(processes(&status.agents)),
                unheard(&status),
                stalled(&status),
            ];
            findings.into_iter().flatten().try_for_each(|finding| report.add(finding))?;
        }
        Err(fault) => report.add(Finding::fail("broker", fault.message, HUNG))?,
    }
    report.add(streams(&api).await)?;
    if instance.broker.in_memory() {
        let found = "none: the bus is in the memory of `agentbus up` and gone with it";
        return report.add(Finding::warn(
            "durability",
            found,
            "for a bus that keeps its events start it without --memory",
        ));
    }
    report.add(layout(instance.broker.layout))?;
    let keys = match &instance.broker.keys {
        Some(other) => other.clone(),
        None => instance::state_dir(global)?,
    };
    report.add(memory::check(&instance, &keys).await)?;
    limits(&instance).await.into_iter().try_for_each(|finding| report.add(finding))?;
    report.add(Finding::warn(
        "durability",
        "nats-server syncs to disk every 2 minutes (its default): a killed process loses nothing, a power cut may lose the last events",
        "for stronger promises run your own cluster with 3 replicas, or `sync_interval: always` (some thirty times slower)",
    ))
}

fn connected(status: &SystemStatus) -> Finding {
    let broker = &status.broker;
    let found = if broker.url == agentbus_nats::bus::memory::URL {
        "none: the bus is in the memory of `agentbus up`".to_owned()
    } else {
        format!("{} (nats-server {})", broker.url, broker.version)
    };
    match &broker.problem {
        None => Finding::ok("broker", found),
        Some(problem) => Finding::fail(
            "broker",
            format!("{found}: {problem}"),
            "`up` restarts it by itself; see its log with `agentbus logs` or up.log",
        ),
    }
}

/// What stands between the sidecars of the namespace.
fn layout(layout: Layout) -> Finding {
    match layout {
        Layout::Wall => {
            Finding::ok("layout", "wall: the broker refuses sidecars all but their own work, reply subjects included")
        }
        Layout::Plain => Finding::warn(
            "layout",
            "plain: the boundary between agents is each sidecar's process",
            "credentials stolen from one could purge and delete streams, delete consumers, overwrite the registry, store \
             fixed text under another sender and speak on inboxes they know; `broker: {wall: true}` has the broker refuse it \
             (docs/guide/wall.md)",
        ),
    }
}

/// Streams that refuse soon.
fn full(status: &SystemStatus) -> Option<Finding> {
    let crowded = status.streams.iter().filter(|stream| {
        let most = u64::try_from(stream.max_bytes).unwrap_or(u64::MAX);
        stream.bytes > most / 10 * 8
    });
    let list: Vec<String> =
        crowded.map(|stream| format!("{} holds {}", stream.name, size::human(stream.bytes))).collect();
    let advice = "publishers get STREAM_FULL at 100 %: redrive or give more space (another disk with --dir)";
    (!list.is_empty()).then(|| Finding::warn("space", list.join(", "), advice))
}

fn processes(agents: &[InstanceStatus]) -> Finding {
    let bad = |state: InstanceState| {
        matches!(state, InstanceState::Backoff | InstanceState::Crashlooping | InstanceState::Exited)
    };
    let list: Vec<String> = agents
        .iter()
        .filter(|agent| bad(agent.state))
        .map(|agent| {
            let exit = agent.last_exit.as_deref().unwrap_or("no exit seen");
            format!("{} {} ({exit})", agent.instance, agent.state.as_str())
        })
        .collect();
    if list.is_empty() {
        return Finding::ok("agents", format!("{} running", agents.len()));
    }
    Finding::fail("agents", list.join(", "), "`agentbus logs AGENT` shows what they said")
}

/// Groups with work and nobody there.
fn unheard(status: &SystemStatus) -> Option<Finding> {
    let idle = status.groups.iter().filter(|group| group.waiting == 0 && group.in_flight == 0 && group.lag > 0);
    let list: Vec<String> =
        idle.map(|group| format!("{} ({})", group.group, output::count(group.lag, "event", "events"))).collect();
    (!list.is_empty())
        .then(|| Finding::warn("unheard groups", list.join(", "), "nobody of the group is connected; its events wait"))
}

/// Groups that can give up no more.
fn stalled(status: &SystemStatus) -> Option<Finding> {
    let list: Vec<&str> =
        status.groups.iter().filter(|group| group.stalled).map(|group| group.group.as_str()).collect();
    let advice = "their dead letters have used up their share: `agentbus dlq redrive`, or set `retention.dead_letters`";
    (!list.is_empty()).then(|| Finding::warn("stalled groups", list.join(", "), advice))
}

async fn streams(api: &Api) -> Finding {
    match api.get::<Streams>("/v1/streams/plan").await {
        Err(fault) => Finding::fail("streams", fault.message, "see `agentbus streams plan`"),
        Ok(plan) => {
            let differ: Vec<&str> =
                plan.steps.iter().filter(|step| step.changes_something()).map(|step| step.name.as_str()).collect();
            if differ.is_empty() {
                return Finding::ok("streams", format!("{} as planned", plan.steps.len()));
            }
            Finding::warn(
                "streams",
                format!("{} differ from the plan", differ.join(", ")),
                "`agentbus streams plan` shows how, `apply` repairs it",
            )
        }
    }
}

/// What the broker lets the account have.
async fn limits(instance: &Instance) -> Vec<Finding> {
    let access = Access {
        url: instance.broker.url.clone(),
        creds: instance.broker.creds.clone(),
        namespace: instance.namespace.clone(),
    };
    let ask = async {
        let broker = access.connect("doctor").await.map_err(|error| error.to_string())?;
        broker.jetstream.query_account().await.map_err(|error| error.to_string())
    };
    let late = || Err(format!("no answer within {} s", LIMIT.as_secs()));
    let account = tokio::time::timeout(LIMIT, ask).await.unwrap_or_else(|_| late());
    match account {
        Err(why) => {
            vec![Finding::fail("your credentials", format!("cannot ask the broker: {why}"), "stop and start the bus")]
        }
        Ok(account) => {
            let limit = account.limits.max_storage.and_then(|bytes| u64::try_from(bytes).ok());
            let most = limit.map_or_else(|| "no limit of its own".to_owned(), size::human);
            vec![
                Finding::ok("your credentials", instance.broker.creds.display().to_string()),
                Finding::ok(
                    "JetStream",
                    format!(
                        "{}, {} of at most {CONSUMERS_MAX}, {} stored; account: {most}",
                        output::count(account.streams as u64, "stream", "streams"),
                        output::count(account.consumers as u64, "consumer", "consumers"),
                        size::human(account.storage)
                    ),
                ),
            ]
        }
    }
}
