//! The table of what exists on the broker for a namespace: streams, the registry bucket, consumers of groups.
//!
//! Values only. `plan` compares them with a broker and applies differences; nothing here talks to one. Limits
//! retention without an age: history is for replay, and only what no group still needs may be removed.

use std::time::Duration;

use agentbus_proto::Fault;
use async_nats::jetstream::{consumer, kv, stream};

use crate::grant::GroupGrant;
use crate::layout::Slice;
use crate::{names::Names, pattern, subject};

/// How much each stream may hold, in bytes, and how many copies the cluster keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Events stream.
    pub events_bytes_max: i64,
    /// Retry stream.
    pub retry_bytes_max: i64,
    /// Dead-letter stream.
    pub dead_letter_bytes_max: i64,
    /// Stream of events for later.
    pub schedules_bytes_max: i64,
    /// Audit stream.
    pub audit_bytes_max: i64,
    /// Registry bucket.
    pub registry_bytes_max: i64,
    /// Replicas of every asset.
    pub replicas: usize,
}

const MIB: i64 = 1024 * 1024;

impl Default for Sizes {
    fn default() -> Self {
        Self::within(2048 * MIB)
    }
}

impl Sizes {
    /// The shares of the quota of which this is the events stream's.
    pub fn with_events(events_bytes_max: i64) -> Self {
        Self { events_bytes_max, ..Self::within(events_bytes_max / 55 * 100) }
    }

    /// Shares a storage quota out, so that the broker refuses (`STREAM_FULL`) before the file system does.
    /// The broker reserves these sizes at creation, hence fixed shares that add up to less than the quota.
    pub fn within(quota_bytes: i64) -> Self {
        let share = |percent: i64, most: i64| (quota_bytes / 100 * percent).min(most).max(64 * 1024);
        Self {
            events_bytes_max: share(55, 1024 * MIB),
            retry_bytes_max: share(12, 256 * MIB),
            dead_letter_bytes_max: share(20, 512 * MIB),
            schedules_bytes_max: share(2, 16 * MIB),
            audit_bytes_max: share(5, 64 * MIB),
            registry_bytes_max: share(3, 32 * MIB),
            replicas: 1,
        }
    }
}

/// Ids are remembered this long. Each costs the broker about 240 bytes (facts: verified.md §3).
pub const DUPLICATE_WINDOW: Duration = Duration::from_secs(60);

/// How long the broker waits for an ack before it delivers again. Sidecars extend what they hold every 3 s, so this is
/// also how long work waits after a sidecar was killed.
pub const ACK_WAIT: Duration = Duration::from_secs(10);

/// Most unsettled deliveries of one group, all members together: a bound on what a group can hold, above the
/// largest credit of a busy sidecar.
pub const ACK_PENDING_MAX: i64 = 20_000;

/// Largest message of a nats-server that was not told otherwise, in bytes.
pub const BROKER_BYTES_MAX: usize = MIB as usize;

/// Room for what a move to the next stream adds in headers, in bytes: events → retry → dead letters. A copy adds less than
/// 2 KiB (where it came from, why it failed, when), so whatever the broker took into one stream fits into the next.
/// Agents are held to 8 KiB less than the first, which is for the headers of the event itself.
const ROOM: [i32; 2] = [8 * 1024, 4 * 1024];

/// All streams of a namespace, in the order in which they are made. `broker_bytes_max` is the broker's `max_payload`.
pub fn streams(names: &Names, sizes: &Sizes, broker_bytes_max: usize) -> Vec<stream::Config> {
    let within = |room: i32| i32::try_from(broker_bytes_max).unwrap_or(i32::MAX).saturating_sub(room).max(1);
    let [events_bytes_max, retry_bytes_max] = ROOM.map(within);
    let ns = names.namespace();
    let base = |name: String, subjects: &str, bytes: i64, description: &str| stream::Config {
        name,
        subjects: vec![subjects.to_owned()],
        max_bytes: bytes,
        max_messages: -1,
        max_messages_per_subject: -1,
        max_message_size: -1,
        max_consumers: -1,
        discard: stream::DiscardPolicy::New,
        storage: stream::StorageType::File,
        num_replicas: sizes.replicas,
        duplicate_window: DUPLICATE_WINDOW,
        allow_direct: true,
        description: Some(description.to_owned()),
        ..Default::default()
    };
    vec![
        stream::Config {
            allow_atomic_publish: true,
            allow_batch_publish: true,
            max_message_size: events_bytes_max,
            // What is due comes by itself, whether anybody of us runs or not.
            sources: Some(vec![due(names)]),
            ..base(names.events(), &format!("ab.{ns}.>"), sizes.events_bytes_max, "agentbus events, the history")
        },
        stream::Config {
            retention: stream::RetentionPolicy::WorkQueue,
            max_message_size: retry_bytes_max,
            ..base(names.retry(), &format!("abr.{ns}.>"), sizes.retry_bytes_max, "agentbus events waiting for a retry")
        },
        base(names.dead_letters(), &format!("abd.{ns}.>"), sizes.dead_letter_bytes_max, "agentbus dead letters"),
        schedules(base(
            names.schedules(),
            &format!("abs.{ns}.>"),
            sizes.schedules_bytes_max,
            "agentbus events for later, written by the control plane",
        )),
        base(names.audit(), &format!("aba.{ns}.>"), sizes.audit_bytes_max, "agentbus control-plane facts"),
    ]
}

/// Largest message of the stream of schedules: an event of the largest size there, with all headers.
const SCHEDULE_BYTES_MAX: i32 = 64 * 1024;

/// Message schedules force two things on a stream that no other has here. It pushes out the oldest when it is full: so the
/// control plane, its only writer, stores no more than half of it, and of what a schedule fired it holds one message
/// until the events stream has it. And it allows rollups: a second reason why nobody else may write there. What the events
/// stream has taken goes; until then it stays.
fn schedules(base: stream::Config) -> stream::Config {
    stream::Config {
        retention: stream::RetentionPolicy::WorkQueue,
        discard: stream::DiscardPolicy::Old,
        allow_rollup: true,
        allow_message_schedules: true,
        max_messages_per_subject: 1,
        max_message_size: SCHEDULE_BYTES_MAX,
        ..base
    }
}

fn due(names: &Names) -> stream::Source {
    let (source, destination) = subject::due_transform(names.namespace());
    stream::Source {
        name: names.schedules(),
        subject_transforms: vec![stream::SubjectTransform { source, destination }],
        ..Default::default()
    }
}

/// Receipts are for looking at what happened lately.
pub const RECEIPTS_AGE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// The stream of receipts, made on first use. The one stream that forgets: a receipt is a remark on an event, never an
/// event, and nothing is decided by it.
pub fn receipts(names: &Names, sizes: &Sizes) -> stream::Config {
    stream::Config {
        name: names.receipts(),
        subjects: vec![subject::receipts(names.namespace(), None)],
        max_bytes: sizes.registry_bytes_max / 2,
        max_messages: -1,
        max_messages_per_subject: 64,
        max_message_size: 4096,
        max_consumers: -1,
        max_age: RECEIPTS_AGE_MAX,
        discard: stream::DiscardPolicy::Old,
        storage: stream::StorageType::File,
        num_replicas: sizes.replicas,
        allow_direct: true,
        description: Some("agentbus receipts: who was through with an event, and when".to_owned()),
        ..Default::default()
    }
}

/// The bucket of declared and live agents.
pub fn registry(names: &Names, sizes: &Sizes) -> kv::Config {
    kv::Config {
        bucket: names.registry(),
        description: "agentbus agents, declared and live".to_owned(),
        history: 1,
        max_bytes: sizes.registry_bytes_max,
        num_replicas: sizes.replicas,
        ..Default::default()
    }
}

/// Key of consumer metadata that says a consumer is ours.
pub const METADATA_GROUP: &str = "agentbus.group";

/// The durable consumers of a group on the events stream, one per slice. They start at the end of the stream unless they
/// are made again, see [`crate::consumers::Start`]. `BAD_CONFIG` for a group that asks for what cannot be had together.
pub fn events_consumers(names: &Names, group: &GroupGrant) -> Result<Vec<consumer::pull::Config>, Fault> {
    group.check_layout()?;
    let filters = pattern::typed_filters(names.namespace(), &group.patterns, &group.types)?;
    let slices = group.slices().into_iter();
    Ok(slices.map(|slice| events_consumer(group, slice, &filters)).collect())
}

fn events_consumer(group: &GroupGrant, slice: Slice, filters: &[String]) -> consumer::pull::Config {
    let mut config = consumer::pull::Config {
        filter_subjects: filters.iter().map(|filter| slice.narrow(filter)).collect(),
        max_ack_pending: if group.keeps_order() { 1 } else { ACK_PENDING_MAX },
        ..durable(Names::slice_consumer(&group.name, slice), group)
    };
    if let Some(timeout) = group.pin_timeout() {
        config.priority_policy = consumer::PriorityPolicy::PinnedClient;
        config.priority_groups = vec![PIN_GROUP.to_owned()];
        config.priority_timeout = timeout;
    }
    config
}

/// The one priority group of a consumer whose sidecar is pinned; requests name it.
pub const PIN_GROUP: &str = "one";

/// The durable consumer of a group on the retry stream. Made together with the group, not on its first retry as first
/// planned: a retry must not wait for the control plane. `max_ack_pending` has no bound because waiting retries are
/// held by the broker as delayed NAKs and must not block each other.
pub fn retry_consumer(names: &Names, group: &GroupGrant) -> consumer::pull::Config {
    consumer::pull::Config {
        filter_subject: subject::retry_filter(names.namespace(), &group.name),
        max_ack_pending: -1,
        deliver_policy: consumer::DeliverPolicy::All,
        ..durable(Names::retry_consumer(&group.name), group)
    }
}

fn durable(name: String, group: &GroupGrant) -> consumer::pull::Config {
    consumer::pull::Config {
        durable_name: Some(name.clone()),
        name: Some(name),
        deliver_policy: consumer::DeliverPolicy::New,
        ack_policy: consumer::AckPolicy::Explicit,
        ack_wait: group.ack_wait(),
        max_deliver: -1,
        max_waiting: 512,
        metadata: [(METADATA_GROUP.to_owned(), group.name.clone())].into(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_expires_and_nothing_is_pushed_out() {
        for stream in streams(&Names::new("default"), &Sizes::default(), BROKER_BYTES_MAX) {
            assert_eq!(stream.max_age, Duration::ZERO, "{}", stream.name);
            // The broker insists, for schedules; see there how it is kept from happening.
            let forced = stream.name == "AB_default_SCHEDULES";
            assert_eq!(stream.discard == stream::DiscardPolicy::New, !forced, "{}", stream.name);
            assert_eq!(stream.allow_rollup, forced, "{}", stream.name);
            assert!(!stream.allow_message_ttl, "{}", stream.name);
        }
    }

    #[test]
    fn what_one_stream_takes_fits_into_the_next() {
        let limits = |broker| {
            let streams = streams(&Names::new("default"), &Sizes::default(), broker);
            streams.iter().map(|stream| stream.max_message_size).collect::<Vec<_>>()
        };
        assert_eq!(limits(BROKER_BYTES_MAX), [1_040_384, 1_044_480, -1, 65_536, -1]);
        assert_eq!(limits(8 << 20)[0], 8_380_416);
        assert_eq!(limits(0)[0], 1, "never without a limit");
    }

    #[test]
    fn shares_stay_within_the_quota() {
        for quota in [8 * MIB, 100 * MIB, 10_000 * MIB] {
            let sizes = Sizes::within(quota);
            let sum = sizes.events_bytes_max
                + sizes.retry_bytes_max
                + sizes.dead_letter_bytes_max
                + sizes.schedules_bytes_max
                + sizes.audit_bytes_max
                + sizes.registry_bytes_max;
            assert!(sum < quota, "{quota}: {sum}");
        }
    }

    #[test]
    fn an_ordered_group_has_one_in_flight_and_its_sidecar_pinned() {
        let group = GroupGrant {
            name: "report".into(),
            patterns: vec!["file.checked".into()],
            types: vec![],
            attributes: Default::default(),
            ordered: true,
            declared: true,
            policy: Default::default(),
            ..GroupGrant::default()
        };
        let names = Names::new("default");
        let consumers = events_consumers(&names, &group).unwrap();
        assert_eq!((consumers.len(), consumers[0].max_ack_pending), (1, 1));
        assert_eq!(consumers[0].priority_policy, consumer::PriorityPolicy::PinnedClient);
        let plain = events_consumers(&names, &GroupGrant { ordered: false, ..group.clone() }).unwrap();
        assert_eq!((plain[0].max_ack_pending, plain[0].priority_groups.len()), (ACK_PENDING_MAX, 0));
        assert_eq!(retry_consumer(&names, &group).filter_subject, "abr.default.report.*");
    }
}
