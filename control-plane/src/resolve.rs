//! Answers sidecars about asks: the verb `resolve`, whether anybody serves an address, and the verb `replies`, what was
//! stored for an asker that was away.
//!
//! An address is served while an agent of a group that reads it lives or is about to start again. Of agents that are not
//! run from here, the person among them, nothing is known: there the broker tells whether anybody listens or works.
//! Replies are read from the events stream by the asker's own subjects only; its name is the broker's word.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, UNIX_EPOCH};

use agentbus_nats::asks::{
    ANSWER_BYTES_MAX, Cursor, Found, Part, REPLIES, REQUESTS_MAX, RESOLVE, Replies, Resolve, Resolved,
};
use agentbus_nats::bus::Shared;
use agentbus_nats::names::Names;
use agentbus_nats::read::{From, Query, Record};
use agentbus_nats::{consumers, headers, subject};
use agentbus_proto::{Address, Code, Fault};
use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::watch;

use crate::control::{Verb, Verbs};
use crate::grants::Grants;
use crate::groups::PERSON;
use crate::status::{InstanceState, InstanceStatus};

/// Most replies of one answer.
const PARTS_MAX: usize = 256;
/// Most groups whose consumers are looked at for one address.
const GROUPS_MAX: usize = 16;

/// The verb `resolve`.
pub struct Resolver {
    bus: Shared,
    names: Names,
    grants: Arc<Grants>,
    instances: OnceLock<watch::Receiver<Vec<InstanceStatus>>>,
}

impl Resolver {
    /// For the groups of `grants`. Until [`Self::follow`] no agent is known to live.
    pub fn new(bus: Shared, names: Names, grants: Arc<Grants>) -> Arc<Self> {
        Arc::new(Self { bus, names, grants, instances: OnceLock::new() })
    }

    /// Learns from here who runs; only the first call counts.
    pub fn follow(&self, instances: watch::Receiver<Vec<InstanceStatus>>) {
        let _ = self.instances.set(instances);
    }

    async fn resolve(&self, to: &Address) -> Result<Resolved, Fault> {
        let readers = self.grants.groups().readers(to);
        let instances = self.instances.get().map(|all| all.borrow().clone()).unwrap_or_default();
        let (groups, why) = match judge(to, &readers, &instances) {
            Judged::Served => return Ok(served()),
            Judged::Nobody(why) => return Ok(Resolved { served: false, why }),
            Judged::AskTheBroker { groups, otherwise } => (groups, otherwise),
        };
        for group in groups.iter().take(GROUPS_MAX) {
            let states = consumers::of_group(&*self.bus, &self.names, group).await?;
            if states.iter().any(|state| state.waiting > 0 || state.ack_pending > 0) {
                return Ok(served());
            }
        }
        if groups.len() > GROUPS_MAX { Ok(served()) } else { Ok(Resolved { served: false, why }) }
    }
}

/// Both verbs.
pub fn verbs(resolver: &Arc<Resolver>) -> Verbs {
    let missed = Missed { bus: Arc::clone(&resolver.bus), names: resolver.names.clone() };
    Verbs::from([(RESOLVE, Arc::clone(resolver) as _), (REPLIES, Arc::new(missed) as Arc<dyn Verb>)])
}

fn served() -> Resolved {
    Resolved { served: true, why: String::new() }
}

/// What is known about an address without a look at the broker.
#[derive(Debug, PartialEq, Eq)]
enum Judged {
    Served,
    Nobody(String),
    /// Members of these groups are not run from here.
    AskTheBroker {
        groups: Vec<String>,
        otherwise: String,
    },
}

/// `readers`: the groups that read the address, with their members.
fn judge(to: &Address, readers: &[(String, Vec<String>)], instances: &[InstanceStatus]) -> Judged {
    let of = |agent: &str| instances.iter().filter(|one| one.agent == agent && agent != PERSON).collect::<Vec<_>>();
    let mut away = BTreeSet::new();
    let mut groups = Vec::new();
    for (group, members) in readers {
        let mut foreign = false;
        for member in members {
            let own = of(member);
            if own.iter().any(|one| lives(one.state)) {
                return Judged::Served;
            }
            foreign |= own.is_empty();
            away.extend(own.iter().map(|one| format!("{} is {}", one.instance, one.state.as_str())));
        }
        if foreign {
            groups.push(group.clone());
        }
    }
    let away: Vec<String> = away.into_iter().take(GROUPS_MAX).collect();
    let why = match away.is_empty() {
        true if readers.is_empty() => format!("nobody reads `{to}`: no group subscribes to it"),
        true => format!("nobody serves `{to}` now: no agent listens there"),
        false => format!("nobody serves `{to}` now: {}; see `agentbus agents list`", away.join(", ")),
    };
    if groups.is_empty() { Judged::Nobody(why) } else { Judged::AskTheBroker { groups, otherwise: why } }
}

/// Works, or will in a moment without anybody's help.
fn lives(state: InstanceState) -> bool {
    matches!(state, InstanceState::Running | InstanceState::Spawning | InstanceState::Backoff)
}

#[async_trait]
impl Verb for Resolver {
    async fn answer(&self, _agent: &str, request: &[u8]) -> Result<serde_json::Value, Fault> {
        let Resolve { to } = read(request)?;
        json(&self.resolve(&to.parse()?).await?)
    }
}

/// The verb `replies`.
struct Missed {
    bus: Shared,
    names: Names,
}

#[async_trait]
impl Verb for Missed {
    async fn answer(&self, agent: &str, request: &[u8]) -> Result<serde_json::Value, Fault> {
        let request: Replies = read(request)?;
        if request.requests.is_empty() || request.requests.len() > REQUESTS_MAX {
            let why = format!("name 1 to {REQUESTS_MAX} asks");
            return Err(Fault::new(Code::InvalidEvent, why));
        }
        let namespace = self.names.namespace();
        let filters: BTreeSet<String> =
            request.requests.iter().map(|id| subject::replies_to(namespace, agent, id)).collect();
        let since = UNIX_EPOCH.checked_add(Duration::from_millis(request.since_ms)).unwrap_or(UNIX_EPOCH);
        let query = Query {
            filters: filters.into_iter().collect(),
            from: request.from.map_or(From::Time(since), |cursor| From::Seq(cursor.seq)),
            limit: PARTS_MAX,
            ..Query::all()
        };
        let page = self.bus.read(&self.names.events(), &query).await?;
        json(&found(&page.records, page.next, request.from))
    }
}

/// As much of the records as fits into one answer, and where the next one begins.
fn found(records: &[Record], next: Option<u64>, from: Option<Cursor>) -> Found {
    let mut found = Found { parts: Vec::new(), next: next.map(|seq| Cursor { seq, offset: 0 }) };
    let mut room = ANSWER_BYTES_MAX;
    for record in records {
        let begun = from.filter(|cursor| cursor.seq == record.seq).map_or(0, |cursor| cursor.offset);
        let offset = begun.min(record.payload.len());
        let take = (record.payload.len() - offset).min(room);
        if take == 0 && !record.payload.is_empty() {
            found.next = Some(Cursor { seq: record.seq, offset });
            break;
        }
        let traceparent = headers::get(Some(&record.headers), headers::TRACEPARENT).unwrap_or_default();
        found.parts.push(Part {
            seq: record.seq,
            subject: record.subject.clone(),
            traceparent: traceparent.to_owned(),
            offset,
            bytes: record.payload.len(),
            data: STANDARD.encode(&record.payload[offset..offset + take]),
        });
        room -= take;
        if offset + take < record.payload.len() {
            found.next = Some(Cursor { seq: record.seq, offset: offset + take });
            break;
        }
    }
    found
}

fn read<T: DeserializeOwned>(request: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(request)
        .map_err(|error| Fault::new(Code::InvalidEvent, format!("unreadable request: {error}")))
}

fn json(answer: &impl Serialize) -> Result<serde_json::Value, Fault> {
    serde_json::to_value(answer).map_err(|error| Fault::new(Code::ControlPlaneDown, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(readers: &[(&str, &[&str])], states: &[(&str, InstanceState)]) -> Judged {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let readers: Vec<_> = readers.iter().map(|(group, members)| ((*group).to_owned(), names(members))).collect();
        let instance = |(agent, state): &(&str, InstanceState)| InstanceStatus {
            agent: (*agent).to_owned(),
            instance: (*agent).to_owned(),
            state: *state,
            ..InstanceStatus::default()
        };
        judge(&"@a".parse().unwrap(), &readers, &states.iter().map(instance).collect::<Vec<_>>())
    }

    #[test]
    fn an_address_is_served_while_a_member_of_a_group_lives_or_comes_back() {
        use InstanceState::*;
        let readers: &[(&str, &[&str])] = &[("a--inbox", &["a", "spare"])];
        for state in [Running, Spawning, Backoff] {
            assert_eq!(judged(readers, &[("a", state), ("spare", Stopped)]), Judged::Served, "{state:?}");
            assert_eq!(judged(readers, &[("a", Stopped), ("spare", state)]), Judged::Served, "{state:?}");
        }
        for state in [Crashlooping, Exited, Stopped] {
            let Judged::Nobody(why) = judged(readers, &[("a", state), ("spare", Stopped)]) else { panic!("{state:?}") };
            assert!(why.contains(&format!("a is {}", state.as_str())) && why.contains("spare is stopped"), "{why}");
        }
    }

    #[test]
    fn of_who_is_not_run_from_here_the_broker_knows() {
        let running = &[("me", InstanceState::Running)];
        for readers in [&[("me--inbox", &["me"][..])], &[("g", &["elsewhere"][..])]] {
            let Judged::AskTheBroker { groups, .. } = judged(readers, running) else { panic!("{readers:?}") };
            assert_eq!(groups, [readers[0].0]);
        }
        assert!(matches!(judged(&[], running), Judged::Nobody(why) if why.contains("no group subscribes")));
    }

    fn record(seq: u64, bytes: usize) -> Record {
        Record {
            seq,
            subject: "s".into(),
            headers: Default::default(),
            payload: vec![b'x'; bytes].into(),
            stored_at: UNIX_EPOCH,
        }
    }

    #[test]
    fn large_replies_are_told_in_parts_that_make_the_whole() {
        let records = [record(3, 10), record(7, ANSWER_BYTES_MAX * 5 / 2), record(9, 0), record(10, 5)];
        let (mut from, mut bytes) = (None, Vec::new());
        for _ in 0..10 {
            let left: Vec<Record> =
                records.iter().filter(|one| from.is_none_or(|at: Cursor| one.seq >= at.seq)).cloned().collect();
            let found = found(&left, None, from);
            assert!(found.parts.iter().map(|part| part.data.len()).sum::<usize>() <= ANSWER_BYTES_MAX * 4 / 3 + 8);
            bytes.extend(found.parts.iter().map(|part| (part.seq, STANDARD.decode(&part.data).unwrap().len())));
            from = found.next;
            if from.is_none() {
                break;
            }
        }
        let of = |seq: u64| bytes.iter().filter(|(at, _)| *at == seq).map(|(_, bytes)| bytes).sum::<usize>();
        assert_eq!((of(3), of(7), of(9), of(10)), (10, ANSWER_BYTES_MAX * 5 / 2, 0, 5));
        assert_eq!(from, None);
    }
}
