//! Events for later: stores, lists and ends schedules for sidecars (verbs `schedule`, `schedules`, `cancel`).
//!
//! Only this writes to the stream of schedules. An agent has schedules in its own name only, to where it may publish, and
//! sees and ends no others; the person sees and ends all. Firing is the broker's business: nothing here is needed for it.

mod decide;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use agentbus_nats::bus::Bus;
use agentbus_nats::identity::Authority;
use agentbus_nats::names::Names;
use agentbus_nats::read::Record;
use agentbus_nats::schedule::{Accepted, Cancel, Cancelled, Cron, CronWords, List, Listed, Request, Scheduled};
use agentbus_nats::{headers, subject};
use agentbus_proto::{Code, Fault, name};
use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::DeserializeOwned;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::Mutex;

use crate::control::{Verb, Verbs};
use crate::grants::Grants;
use crate::groups::PERSON;
use decide::{Asker, decide};

/// Most schedules of one agent.
pub const SCHEDULES_MAX: usize = 256;
/// Most schedules of one page.
const PAGE_MAX: usize = 100;
/// Most bytes of events in one page: base64 and all, the answer stays below the smallest `max_payload`.
const PAGE_BYTES_MAX: usize = 256 * 1024;
/// What the broker says of a zone that its machine has no data for.
const ZONE_UNKNOWN: &str = "time zone is invalid";

/// What seals the ids of schedules: known to control planes only, the same over restarts.
pub fn secret(authority: &Authority) -> Result<String, Fault> {
    let bad = |error| Fault::new(Code::BadConfig, format!("cannot derive the secret for schedules: {error}"));
    authority.secret("control-plane", "schedules").map_err(bad)
}

/// The desk for schedules. Cheap to clone.
#[derive(Clone)]
pub struct Schedules {
    inner: Arc<Inner>,
}

struct Inner {
    bus: Arc<dyn Bus>,
    names: Names,
    grants: Arc<Grants>,
    secret: String,
    /// Held while one is stored: two that fit singly might not fit together.
    storing: Mutex<()>,
}

/// One of the verbs.
struct Asked {
    schedules: Schedules,
    what: What,
}

enum What {
    Schedule,
    List,
    Cancel,
}

impl Schedules {
    /// `secret` seals the ids of what is stored.
    pub fn new(bus: Arc<dyn Bus>, names: Names, grants: Arc<Grants>, secret: String) -> Self {
        Self { inner: Arc::new(Inner { bus, names, grants, secret, storing: Mutex::default() }) }
    }

    /// What sidecars may ask of it.
    pub fn verbs(&self) -> Verbs {
        let verb = |what| Arc::new(Asked { schedules: self.clone(), what }) as Arc<dyn Verb>;
        [("schedule", verb(What::Schedule)), ("schedules", verb(What::List)), ("cancel", verb(What::Cancel))].into()
    }

    async fn schedule(&self, agent: &str, request: Request, now: SystemTime) -> Result<Accepted, Fault> {
        let Inner { bus, names, grants, secret, storing } = &*self.inner;
        let publish = grants.groups().publish(agent).to_vec();
        let asker = Asker { namespace: names.namespace(), agent, publish: &publish, secret, nonce: rand::random() };
        let plan = decide(asker, &request, now)?;
        let _alone = storing.lock().await;
        self.room(agent, &plan.message.subject, plan.message.payload.len()).await?;
        bus.store(plan.message).await.map_err(|fault| zone(fault, &request))?;
        Ok(Accepted { id: plan.id, next_ms: millis(plan.next) })
    }

    /// Refuses before the broker would push out the oldest. Everything that is stored may fire once before anything of it
    /// goes, so half of the stream is left free.
    async fn room(&self, agent: &str, subject: &str, event_bytes: usize) -> Result<(), Fault> {
        let Inner { bus, names, .. } = &*self.inner;
        let own = bus.subjects(&names.schedules(), &subject::schedules(names.namespace(), Some(agent))).await?;
        if own.len() >= SCHEDULES_MAX && !own.iter().any(|(known, _)| known == subject) {
            let why = format!("agent `{agent}` has {SCHEDULES_MAX} schedules, the most it may have: cancel some");
            return Err(Fault::new(Code::CapacityExceeded, why));
        }
        let Some(info) = bus.stream(&names.schedules()).await? else {
            return Err(Fault::new(Code::BrokerDown, "the stream of schedules does not exist yet; try again"));
        };
        // Headers come on top of the event: less than 2 KiB.
        let wanted = info.bytes + event_bytes as u64 + 2048;
        if info.config.max_bytes > 0 && wanted * 2 > info.config.max_bytes.unsigned_abs() {
            let why = "the stream of schedules is full: cancel some, or give the broker more storage";
            return Err(Fault::new(Code::StreamFull, why).with_retry_after(Duration::from_secs(60)));
        }
        Ok(())
    }

    async fn list(&self, agent: &str, request: List, now: SystemTime) -> Result<Listed, Fault> {
        let Inner { bus, names, .. } = &*self.inner;
        let filter = subject::schedules(names.namespace(), (agent != PERSON).then_some(agent));
        let limit = request.limit.clamp(1, PAGE_MAX);
        let (mut page, mut from, mut bytes) = (Listed::default(), request.from.max(1), 0);
        while let Some(record) = bus.find(&names.schedules(), &filter, from).await? {
            if page.schedules.len() >= limit || bytes >= PAGE_BYTES_MAX {
                page.next = Some(record.seq);
                break;
            }
            from = record.seq + 1;
            bytes += record.payload.len();
            page.schedules.extend(scheduled(names.namespace(), &record, now));
        }
        Ok(page)
    }

    async fn cancel(&self, agent: &str, request: &Cancel) -> Result<Cancelled, Fault> {
        let Inner { bus, names, .. } = &*self.inner;
        let (owner, id) = match request.id.split_once('/').filter(|_| agent == PERSON) {
            Some((owner, id)) => (Some(owner), id),
            None => ((agent != PERSON).then_some(agent), request.id.as_str()),
        };
        name::token(id)?;
        owner.map_or(Ok(()), |owner| name::lower_name("agent", owner))?;
        let filter = match owner {
            Some(owner) => subject::schedule(names.namespace(), owner, id),
            None => subject::schedule(names.namespace(), "*", id),
        };
        let found = bus.subjects(&names.schedules(), &filter).await?;
        let (subject, others) = match found.split_first() {
            None => return Ok(Cancelled { cancelled: false }),
            Some(((subject, _), others)) => (subject, others),
        };
        if !others.is_empty() {
            let why = format!("{} agents have a schedule `{id}`: name the agent, as in `AGENT/{id}`", found.len());
            return Err(Fault::new(Code::InvalidAddress, why));
        }
        let Some(record) = bus.find(&names.schedules(), subject, 1).await? else {
            return Ok(Cancelled { cancelled: false });
        };
        let purged = bus.purge(&names.schedules(), record.seq + 1, Some(subject)).await?;
        tracing::info!(agent, schedule = subject, "schedule cancelled");
        Ok(Cancelled { cancelled: purged > 0 })
    }
}

#[async_trait]
impl Verb for Asked {
    async fn answer(&self, agent: &str, request: &[u8]) -> Result<Value, Fault> {
        let (schedules, now) = (&self.schedules, SystemTime::now());
        match self.what {
            What::Schedule => json(&schedules.schedule(agent, read(request)?, now).await?),
            What::List => json(&schedules.list(agent, read(request)?, now).await?),
            What::Cancel => json(&schedules.cancel(agent, &read(request)?).await?),
        }
    }
}

fn read<T: DeserializeOwned>(request: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(request)
        .map_err(|error| Fault::new(Code::InvalidEvent, format!("unreadable request: {error}")))
}

fn json(answer: &impl serde::Serialize) -> Result<Value, Fault> {
    serde_json::to_value(answer).map_err(|error| Fault::new(Code::InvalidEvent, format!("no JSON: {error}")))
}

/// The broker looks a zone up on its own machine, which may have no data.
fn zone(fault: Fault, request: &Request) -> Fault {
    let zone = request.cron.as_ref().map(|cron| cron.time_zone.as_str()).filter(|zone| !zone.is_empty());
    match zone {
        Some(zone) if fault.message.contains(ZONE_UNKNOWN) => {
            let why = format!("the broker's machine has no time zone `{zone}`: install its tzdata, or use UTC");
            Fault::new(Code::InvalidEvent, why)
        }
        _ => fault,
    }
}

/// A stored schedule as lists show it; none for what is no schedule of ours.
fn scheduled(namespace: &str, record: &Record, now: SystemTime) -> Option<Scheduled> {
    let (agent, id) = subject::parse_schedule(namespace, &record.subject)?;
    let header = |name| headers::get(Some(&record.headers), name);
    let cron = header(headers::CRON).map(|expression| CronWords {
        expression: expression.to_owned(),
        time_zone: header(headers::SCHEDULE_TIME_ZONE).unwrap_or_default().to_owned(),
    });
    let next = match &cron {
        Some(words) => Cron::parse(&words.expression, &words.time_zone).ok()?.next(now),
        None => header(headers::SCHEDULE).and_then(|text| moment(text.strip_prefix("@at ")?)),
    };
    Some(Scheduled {
        id: id.to_owned(),
        agent: agent.to_owned(),
        cron,
        next_ms: next.map(millis),
        ttl_ms: header(headers::TTL).and_then(|text| text.parse().ok()),
        event: STANDARD.encode(&record.payload),
    })
}

fn moment(text: &str) -> Option<SystemTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok().map(SystemTime::from)
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
