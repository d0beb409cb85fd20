//! The table alone, with hand-made deliveries and times.

use std::time::{Duration, SystemTime};

use agentbus_nats::grant::GroupKind;
use agentbus_nats::moves;
use agentbus_proto::EventHead;
use agentbus_proto::sidecar::wire;
use tokio::sync::mpsc;

use super::held::{BUSY_LINGER, LINGER, PART_LINGER, POOL_LINGER};
use super::*;
use crate::memory::Source;

mod crash;
mod credit;
mod order;

struct Fixture {
    table: Table,
    group: Arc<GroupGrant>,
    start: Instant,
}

fn fixture() -> Fixture {
    let group = serde_json::from_str(r#"{"name":"readers","patterns":["notes.>"]}"#).unwrap();
    Fixture { table: Table::new(16, Bounds::default()), group: Arc::new(group), start: Instant::now() }
}

impl Fixture {
    fn put(&mut self, seq: u64) -> String {
        self.put_as(seq, false)
    }

    fn put_as(&mut self, seq: u64, at_most_once: bool) -> String {
        let id = format!("id{seq}");
        let incoming = moves::example("AB_default_EVENTS", seq, "ab.default.n.a.topic.-.notes.x", b"data");
        let fresh = Fresh {
            head: EventHead::default(),
            attempt: 1,
            attempts_max: 4,
            ack_deadline: Duration::from_secs(60),
            at_most_once,
            suspect: None,
        };
        let key =
            Key { group: "readers".into(), source: Source::Events, seq, stored_at: std::time::SystemTime::UNIX_EPOCH };
        self.table.insert(id.clone(), incoming, Box::new(fresh), key, self.group.clone(), self.start);
        id
    }

    fn subscribe(&mut self, credit: usize) -> (u64, mpsc::Receiver<Outgoing>) {
        let (tx, rx) = mpsc::channel(64);
        (self.table.attach(vec!["readers".into()], credit, tx), rx)
    }

    fn dispatch(&mut self) {
        let frame = |id: &str, _: &mut Held, _| wire::Delivery { delivery_id: id.to_owned(), ..Default::default() };
        let late = self.table.dispatch("readers", (self.start, SystemTime::UNIX_EPOCH), frame);
        assert!(late.is_empty());
    }
}

fn received(rx: &mut mpsc::Receiver<Outgoing>) -> Vec<String> {
    let mut ids = Vec::new();
    while let Ok(outgoing) = rx.try_recv() {
        if let Outgoing::Delivery(delivery) = outgoing {
            ids.push(delivery.delivery_id);
        }
    }
    ids
}

#[test]
fn what_expired_in_the_queue_is_not_handed_out() {
    let mut f = fixture();
    let (first, second) = (f.put(1), f.put(2));
    let expires = SystemTime::UNIX_EPOCH + Duration::from_secs(5);
    f.table.held.get_mut(&*first).unwrap().fresh.head.expires = Some(expires.into());
    let (_, mut rx) = f.subscribe(1);
    let frame = |id: &str, _: &mut Held, _| wire::Delivery { delivery_id: id.to_owned(), ..Default::default() };
    let late = f.table.dispatch("readers", (f.start, expires), frame);
    assert_eq!(late.iter().map(|held| held.key.seq).collect::<Vec<_>>(), [1]);
    assert_eq!(received(&mut rx), [second], "it took no credit");
    assert!(!f.table.held.contains_key(&*first));
}

#[test]
fn never_more_is_out_than_the_credit() {
    let mut f = fixture();
    let (id, mut rx) = f.subscribe(2);
    assert_eq!(f.table.demand("readers"), 2);
    for seq in 1..=3 {
        f.put(seq);
    }
    f.dispatch();
    assert_eq!(received(&mut rx), ["id1", "id2"]);
    assert_eq!(f.table.demand("readers"), 0);
    f.table.end("id1", Verdict::Acked).unwrap();
    f.dispatch();
    assert_eq!(received(&mut rx), ["id3"]);
    f.table.credit(id, 0);
    assert_eq!(f.table.demand("readers"), 0);
}

#[test]
fn two_subscribers_share_by_how_busy_they_are() {
    let mut f = fixture();
    let (_, mut one) = f.subscribe(4);
    let (_, mut two) = f.subscribe(4);
    for seq in 1..=4 {
        f.put(seq);
    }
    f.dispatch();
    assert_eq!((received(&mut one).len(), received(&mut two).len()), (2, 2));
}

#[test]
fn a_broken_subscriber_crashes_what_it_had_and_a_closed_one_gives_it_back() {
    for (how, crash) in [(Gone::Broken, true), (Gone::Closed, false)] {
        let mut f = fixture();
        let (id, _rx) = f.subscribe(1);
        f.put(1);
        f.put(2);
        f.dispatch();
        let commands = f.table.detach(id, how, (f.start, SystemTime::UNIX_EPOCH));
        assert_eq!(commands.len(), 1);
        assert_eq!(matches!(commands[0], Command::Crash(_)), crash);
        assert_eq!(f.table.len(), 1, "the waiting one stays for the next subscriber");
        assert_eq!(f.table.end("id1", Verdict::Acked).err(), Some(Missing::Unknown));
    }
}

#[test]
fn a_deadline_passed_is_a_failure_and_an_extension_moves_it() {
    let mut f = fixture();
    let (_id, mut rx) = f.subscribe(1);
    f.put(1);
    f.dispatch();
    let later = f.start + Duration::from_secs(59);
    f.table.extend("id1", Duration::from_secs(30), later).unwrap();
    let commands = f.table.tick(f.start + Duration::from_secs(61), Extend::Due);
    assert!(commands.iter().all(|command| matches!(command, Command::Answer(_, Answer::Progress))));
    let commands = f.table.tick(f.start + Duration::from_secs(90), Extend::Due);
    assert!(
        commands.iter().any(|command| matches!(command, Command::Fail(_, cause) if cause.contains("ack deadline")))
    );
    assert!(f.table.is_empty());
    let lost = std::iter::from_fn(|| rx.try_recv().ok()).any(|out| matches!(out, Outgoing::Lost(..)));
    assert!(lost, "the subscriber is told");
}

#[test]
fn a_lease_is_extended_well_before_the_broker_loses_patience() {
    let mut f = fixture();
    let (_id, _rx) = f.subscribe(1);
    f.put(1);
    f.dispatch();
    assert_eq!(f.table.tick(f.start + Duration::from_secs(2), Extend::Due).len(), 0);
    assert_eq!(f.table.tick(f.start + Duration::from_secs(3), Extend::Due).len(), 1);
    assert_eq!(f.table.tick(f.start + Duration::from_secs(4), Extend::Due).len(), 0);
}

#[test]
fn what_nobody_asks_for_goes_back_soon() {
    let mut f = fixture();
    f.put(1);
    assert!(f.table.tick(f.start + Duration::from_secs(1), Extend::Due).is_empty());
    let commands = f.table.tick(f.start + LINGER, Extend::Due);
    assert!(matches!(commands.as_slice(), [Command::GiveBack(_)]));
}

#[test]
fn a_redelivery_of_a_held_message_renews_it_and_is_not_handed_out_twice() {
    let mut f = fixture();
    let (_id, mut rx) = f.subscribe(5);
    f.put(1);
    f.dispatch();
    f.put(1);
    f.dispatch();
    assert_eq!(received(&mut rx), ["id1"]);
    assert_eq!(f.table.len(), 1);
}

#[test]
fn a_drain_hands_out_nothing_more() {
    let mut f = fixture();
    let (_id, mut rx) = f.subscribe(1);
    f.put(1);
    f.put(2);
    f.dispatch();
    f.table.start_draining();
    assert_eq!(f.table.give_waiting_back().len(), 1);
    f.put(3);
    f.table.end("id1", Verdict::Acked).unwrap();
    f.dispatch();
    assert_eq!(received(&mut rx), ["id1"]);
}

#[test]
fn bytes_held_bound_what_is_asked_for() {
    let mut f = fixture();
    let (_id, _rx) = f.subscribe(10);
    f.table.bytes = BYTES_MAX;
    assert_eq!(f.table.demand("readers"), 1, "one, so that no group stands still");
    f.put(1);
    assert_eq!(f.table.demand("readers"), 0);
    f.dispatch();
    assert_eq!(f.table.demand("readers"), 0, "nor while it is out");
    f.table.end("id1", Verdict::Acked).unwrap();
    assert_eq!(f.table.bytes(), BYTES_MAX);
}

#[test]
fn what_was_acked_under_an_older_id_is_not_handed_out() {
    let mut f = fixture();
    f.put(1);
    f.table.acked_elsewhere(Key {
        group: "readers".into(),
        source: Source::Events,
        seq: 1,
        stored_at: std::time::SystemTime::UNIX_EPOCH,
    });
    let (_id, mut rx) = f.subscribe(1);
    f.dispatch();
    assert!(received(&mut rx).is_empty() && f.table.is_empty());
}

#[test]
fn a_failed_settle_leaves_the_delivery_out() {
    let mut f = fixture();
    let (_id, mut rx) = f.subscribe(1);
    f.put(1);
    f.dispatch();
    received(&mut rx);
    f.table.settling("id1").unwrap();
    assert_eq!(f.table.settling("id1").err(), Some(Missing::Settling));
    assert!(f.table.settled("id1", None).is_none());
    assert!(f.table.settling("id1").is_ok());
    assert!(f.table.settled("id1", Some(Verdict::Nacked)).is_some());
    assert!(f.table.is_empty());
}

#[test]
fn an_answer_that_never_left_puts_its_deliveries_back_in_order() {
    let mut f = fixture();
    let (_id, mut rx) = f.subscribe(5);
    f.put(1);
    f.put(2);
    f.dispatch();
    let ids = received(&mut rx);
    f.table.unhand(&ids);
    f.dispatch();
    assert_eq!(received(&mut rx), ["id1", "id2"]);
}

#[test]
fn after_an_outage_everything_is_extended_and_during_one_nothing() {
    let mut f = fixture();
    let (_id, _rx) = f.subscribe(1);
    f.put(1);
    f.dispatch();
    assert_eq!(f.table.tick(f.start + Duration::from_secs(9), Extend::Nothing).len(), 0);
    assert_eq!(f.table.tick(f.start + Duration::from_secs(9), Extend::Everything).len(), 1);
    assert_eq!(f.table.tick(f.start + Duration::from_secs(10), Extend::Everything).len(), 1);
}

#[test]
fn what_waits_behind_a_busy_agent_goes_to_others_soon() {
    let mut f = fixture();
    let (_id, _rx) = f.subscribe(1);
    f.put(1);
    f.put(2);
    f.dispatch();
    let gone =
        |commands: &[Command]| commands.iter().any(|c| matches!(c, Command::GiveBack(held) if held.key.seq == 2));
    assert!(!gone(&f.table.tick(f.start + LINGER, Extend::Due)));
    assert!(gone(&f.table.tick(f.start + BUSY_LINGER, Extend::Due)));
}

fn fixture_of(change: impl FnOnce(&mut GroupGrant)) -> Fixture {
    let mut f = fixture();
    change(Arc::make_mut(&mut f.group));
    f
}

#[test]
fn where_order_is_kept_a_lease_counts_from_the_brokers_word_and_lapses_before_the_ack_wait() {
    let mut f = fixture_of(|group| group.by_key = true);
    let (_id, mut rx) = f.subscribe(1);
    let id = f.put(1);
    f.dispatch();
    received(&mut rx);
    let at = |seconds: f64| f.start + Duration::from_secs_f64(seconds);
    assert!(matches!(f.table.tick(at(3.0), Extend::Due).as_slice(), [Command::Renew(renewed, _)] if *renewed == id));
    f.table.renewed(&id, at(3.0), at(3.1));
    assert_eq!(f.table.tick(at(6.0), Extend::Due).len(), 1, "asked for, no answer");
    assert!(f.table.extend(&id, Duration::from_secs(60), at(7.0)).is_ok(), "the agent's wish is not the broker's word");
    f.table.take_lapsed(&id, at(9.0));
    assert!(f.table.settling(&id).is_ok(), "good for 6.4 s from the broker's last word");
    f.table.settled(&id, None);
    f.table.take_lapsed(&id, at(9.5));
    assert_eq!(f.table.end(&id, Verdict::Acked).err(), Some(Missing::Unknown));
    assert!(matches!(rx.try_recv(), Ok(Outgoing::Lost(lost, _)) if lost == id), "and the agent is told");
}

#[test]
fn a_lapsed_delivery_is_not_handed_out_and_another_broker_takes_all_ordered_ones() {
    let mut f = fixture_of(|group| group.ordered = true);
    let id = f.put(1);
    f.start += Duration::from_secs(7);
    let (_id, mut rx) = f.subscribe(1);
    f.dispatch();
    assert!(received(&mut rx).is_empty() && f.table.is_empty());
    f.put(1);
    f.dispatch();
    assert_eq!(received(&mut rx), [id]);
    f.table.take_ordered();
    assert!(f.table.is_empty() && matches!(rx.try_recv(), Ok(Outgoing::Lost(..))));
    let mut plain = fixture();
    plain.put(1);
    plain.table.take_ordered();
    assert_eq!(plain.table.len(), 1);
}

#[test]
fn what_a_busy_agent_cannot_take_goes_back_as_its_group_allows() {
    let waits = |change: fn(&mut GroupGrant), delivered: u64| {
        let mut f = fixture_of(change);
        let (_id, _rx) = f.subscribe(1);
        f.put(1);
        f.dispatch();
        let id = f.put(2);
        let held = f.table.held.get_mut(&*id).unwrap();
        (held.incoming.receipt.delivered, held.fresh.attempt) = (delivered, delivered as u32);
        let back = |f: &mut Fixture, at| {
            let commands = f.table.tick(f.start + at, Extend::Nothing);
            commands.iter().any(|command| matches!(command, Command::GiveBack(held) if held.key.seq == 2))
        };
        [POOL_LINGER, PART_LINGER, LINGER].into_iter().find(|at| back(&mut f, *at))
    };
    assert_eq!(waits(|group| group.kind = GroupKind::Pool, 1), Some(POOL_LINGER));
    assert_eq!(waits(|group| group.by_key = true, 1), Some(PART_LINGER));
    assert_eq!(waits(|group| group.by_key = true, 2), None, "once only: it counts as an attempt");
    assert_eq!(waits(|group| group.ordered = true, 1), Some(PART_LINGER));
    assert_eq!(waits(|group| group.ordered = true, 4), None, "it was the last attempt");
    assert_eq!(waits(|_| (), 1), None, "not so soon");
}

#[test]
fn what_is_held_and_what_is_remembered_is_told() {
    use agentbus_nats::held::{Wanted, What};
    let mut f = fixture();
    let id = f.put(1);
    f.put(2);
    let (wall, later) = (SystemTime::UNIX_EPOCH + Duration::from_secs(100), f.start + Duration::from_secs(3));
    let look = |f: &Fixture, seq| {
        let wanted = Wanted { group: "readers".into(), seq, stored_at: 0 };
        f.table.look(&wanted, "AB_default_EVENTS", (later, wall)).map(|held| (held.what, held.attempt, held.since_ms))
    };
    assert_eq!(look(&f, 1), Some((What::Waiting, 1, None)));
    let (_, _rx) = f.subscribe(1);
    f.dispatch();
    assert_eq!(look(&f, 1), Some((What::Out, 1, Some(97_000))));
    assert_eq!((look(&f, 2), look(&f, 3)), (Some((What::Waiting, 1, None)), None));
    f.table.end(&id, Verdict::Acked).ok().unwrap();
    assert_eq!(look(&f, 1), Some((What::Acked, 0, None)));
    let stranger = Wanted { group: "others".into(), seq: 2, stored_at: 0 };
    assert!(f.table.look(&stranger, "AB_default_EVENTS", (later, wall)).is_none());
}

#[test]
fn what_is_delivered_at_most_once_counts_before_it_is_held_and_is_never_taken_away() {
    let mut f = fixture();
    let name: Arc<str> = "readers".into();
    let (_, mut rx) = f.subscribe(5);
    f.table.coming(&name, false);
    assert_eq!(f.table.demand("readers"), 4);
    f.table.came("readers", false, 1);
    assert_eq!(f.table.demand("readers"), 5);

    f.group = Arc::new(GroupGrant { ordered: true, ..(*f.group).clone() });
    f.table.coming(&name, true);
    assert_eq!(f.table.demand("readers"), 0, "the broker would not hold the next one back");
    f.table.came("readers", true, 1);
    let id = f.put_as(1, true);
    assert_eq!(f.table.demand("readers"), 0);
    let later = f.start + Duration::from_secs(30);
    assert!(f.table.tick(later, Extend::Nothing).is_empty());
    f.table.take_ordered();
    f.dispatch();
    assert_eq!(received(&mut rx), std::slice::from_ref(&id), "it would not come again");
    assert!(f.table.end(&id, Verdict::Acked).is_ok());
    assert_eq!(f.table.demand("readers"), 5);
}
