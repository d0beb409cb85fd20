//! Answers the verb `standby`: whose own events the asking agent is to take now, because that agent is away.
//!
//! An agent is away when none of its instances serves: at once when it was stopped or has given up, otherwise after
//! `AWAY_AFTER`, so that a quick restart moves nothing. Its events go to the first of its fallbacks that is not away
//! itself. What both take while the news travels is shared between them like between replicas.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use agentbus_nats::grant::StandbyAnswer;
use agentbus_proto::{Code, Fault};
use async_trait::async_trait;
use tokio::sync::watch;

use crate::addresses;
use crate::control::Verb;
use crate::spec::Project;
use crate::status::{InstanceState, InstanceStatus};

/// How long an agent that is expected back may be missing.
const AWAY_AFTER: Duration = Duration::from_secs(3);
/// Who was missing is back when it has served this long: a program that dies right after each start is not.
const BACK_AFTER: Duration = Duration::from_secs(1);

/// The verb.
pub struct Standby {
    /// For each agent that has one: who stands in, the first choice first.
    chains: BTreeMap<String, Vec<String>>,
    instances: OnceLock<watch::Receiver<Vec<InstanceStatus>>>,
    presence: Mutex<Presence>,
}

impl Standby {
    /// For the fallbacks of a project. Until [`Self::follow`] nobody is away.
    pub fn new(project: &Project) -> Arc<Self> {
        let chain = |agent| addresses::stands_in(project, agent).into_iter().map(str::to_owned).collect::<Vec<_>>();
        let chains = project.agents.iter().map(|agent| (agent.name.clone(), chain(agent)));
        let chains = chains.filter(|(_, chain)| !chain.is_empty()).collect();
        Arc::new(Self { chains, instances: OnceLock::new(), presence: Mutex::default() })
    }

    /// Learns from here who runs; only the first call counts.
    pub fn follow(&self, instances: watch::Receiver<Vec<InstanceStatus>>) {
        let _ = self.instances.set(instances);
    }

    fn take(&self, agent: &str, now: Instant) -> Vec<String> {
        let Some(instances) = self.instances.get() else { return Vec::new() };
        let mut presence = self.presence.lock().unwrap_or_else(PoisonError::into_inner);
        presence.observe(&instances.borrow(), now);
        let first =
            |chain: &[String]| chain.iter().find(|one| !presence.is_away(one, now)).is_some_and(|one| one == agent);
        let away = self.chains.iter().filter(|(primary, chain)| presence.is_away(primary, now) && first(chain));
        away.map(|(primary, _)| primary.clone()).collect()
    }
}

#[async_trait]
impl Verb for Standby {
    async fn answer(&self, agent: &str, _request: &[u8]) -> Result<serde_json::Value, Fault> {
        let answer = StandbyAnswer { take: self.take(agent, Instant::now()) };
        serde_json::to_value(answer).map_err(|error| Fault::new(Code::ControlPlaneDown, error.to_string()))
    }
}

/// Who is missing since when. Agents of which nothing is known are present: something else may run them.
#[derive(Debug, Default)]
struct Presence {
    missing: BTreeMap<String, Missing>,
}

#[derive(Debug, Clone, Copy)]
struct Missing {
    since: Instant,
    /// Serves again since.
    back: Option<Instant>,
    /// Nobody starts it again by itself.
    for_good: bool,
}

impl Presence {
    fn observe(&mut self, instances: &[InstanceStatus], now: Instant) {
        let mut agents: BTreeMap<&str, Vec<&InstanceStatus>> = BTreeMap::new();
        for instance in instances {
            agents.entry(&instance.agent).or_default().push(instance);
        }
        self.missing.retain(|agent, _| agents.contains_key(agent.as_str()));
        for (agent, instances) in agents {
            if instances.iter().any(|one| serves(one)) {
                self.serves(agent, now);
                continue;
            }
            let for_good = instances.iter().all(|one| {
                matches!(one.state, InstanceState::Crashlooping | InstanceState::Exited | InstanceState::Stopped)
            });
            let entry = self.missing.entry(agent.to_owned()).or_insert(Missing { since: now, back: None, for_good });
            (entry.back, entry.for_good) = (None, for_good);
        }
    }

    fn serves(&mut self, agent: &str, now: Instant) {
        let Some(entry) = self.missing.get_mut(agent) else { return };
        let back = *entry.back.get_or_insert(now);
        if now.saturating_duration_since(back) >= BACK_AFTER {
            self.missing.remove(agent);
        }
    }

    fn is_away(&self, agent: &str, now: Instant) -> bool {
        let missing = self.missing.get(agent);
        missing.is_some_and(|one| one.for_good || now.saturating_duration_since(one.since) >= AWAY_AFTER)
    }
}

fn serves(instance: &InstanceStatus) -> bool {
    instance.state == InstanceState::Running && instance.url.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(agent: &str, state: InstanceState) -> InstanceStatus {
        let url = Some("http://127.0.0.1:1".to_owned());
        InstanceStatus { agent: agent.into(), instance: agent.into(), state, url, ..InstanceStatus::default() }
    }

    fn standby(states: &[(&str, InstanceState)]) -> (Arc<Standby>, watch::Sender<Vec<InstanceStatus>>) {
        let text = "version: 1\nagents:\n  a: {runner: process, command: [x], fallback: b}\n  \
             b: {runner: process, command: [x], fallback: c}\n  c: {runner: process, command: [x]}\n";
        let project = Project::parse(text, "t").unwrap();
        let (tx, rx) = watch::channel(states.iter().map(|(agent, state)| instance(agent, *state)).collect());
        let standby = Standby::new(&project);
        standby.follow(rx);
        (standby, tx)
    }

    #[test]
    fn a_stopped_agent_is_taken_over_at_once_and_given_back() {
        use InstanceState::{Running, Stopped};
        let (standby, tx) = standby(&[("a", Stopped), ("b", Running), ("c", Running)]);
        let now = Instant::now();
        assert_eq!(standby.take("b", now), ["a"]);
        assert!(standby.take("c", now).is_empty() && standby.take("a", now).is_empty());
        tx.send_replace(vec![instance("a", Running), instance("b", Running)]);
        assert_eq!(standby.take("b", now), ["a"], "it may die at once");
        assert!(standby.take("b", now + BACK_AFTER).is_empty());
    }

    #[test]
    fn a_restart_has_three_seconds() {
        use InstanceState::{Backoff, Running, Spawning};
        let (standby, tx) = standby(&[("a", Backoff), ("b", Running)]);
        let now = Instant::now();
        assert!(standby.take("b", now).is_empty());
        tx.send_replace(vec![instance("a", Spawning), instance("b", Running)]);
        assert!(standby.take("b", now + AWAY_AFTER - Duration::from_millis(1)).is_empty());
        assert_eq!(standby.take("b", now + AWAY_AFTER), ["a"]);
        // Back for a moment only: still away.
        tx.send_replace(vec![instance("a", Running), instance("b", Running)]);
        assert_eq!(standby.take("b", now + AWAY_AFTER), ["a"]);
        tx.send_replace(vec![instance("a", Backoff), instance("b", Running)]);
        assert_eq!(standby.take("b", now + AWAY_AFTER), ["a"]);
        // Back, and gone again: the time begins anew.
        tx.send_replace(vec![instance("a", Running), instance("b", Running)]);
        assert_eq!(standby.take("b", now + AWAY_AFTER), ["a"]);
        assert!(standby.take("b", now + AWAY_AFTER + BACK_AFTER).is_empty());
        tx.send_replace(vec![instance("a", Backoff), instance("b", Running)]);
        assert!(standby.take("b", now + AWAY_AFTER * 2).is_empty());
    }

    #[test]
    fn the_next_in_line_takes_what_an_absent_fallback_cannot() {
        use InstanceState::{Crashlooping, Running, Stopped};
        let (standby, tx) = standby(&[("a", Stopped), ("b", Crashlooping), ("c", Running)]);
        let now = Instant::now();
        assert_eq!(standby.take("c", now), ["a", "b"]);
        assert!(standby.take("b", now).is_empty());
        tx.send_replace(Vec::new());
        assert!(standby.take("c", now).is_empty(), "nothing is known of anybody");
    }
}
