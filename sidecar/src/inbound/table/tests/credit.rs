//! Credit that is not used: by one who does not read, behind an open breaker.

use agentbus_nats::grant::{BreakerPolicy, Grant};

use super::*;

#[test]
fn one_who_did_not_read_for_a_while_gets_more_when_it_reads_again() {
    let mut f = fixture();
    let (tx, mut rx) = mpsc::channel(1);
    f.table.attach(vec!["readers".into()], 3, tx);
    f.put(1);
    f.put(2);
    f.dispatch();
    assert_eq!((f.table.demand("readers"), f.table.reads_again()), (0, false), "its channel is full");
    assert_eq!(received(&mut rx), ["id1"]);
    assert!(f.table.reads_again() && !f.table.reads_again(), "told once");
    f.dispatch();
    assert_eq!(received(&mut rx), ["id2"]);
}

#[test]
fn what_waits_for_one_who_does_not_read_goes_to_others() {
    let mut f = fixture();
    let (tx, _rx) = mpsc::channel(1);
    f.table.attach(vec!["readers".into()], 3, tx);
    f.put(1);
    f.put(2);
    f.dispatch();
    let commands = f.table.tick(f.start + BUSY_LINGER, Extend::Nothing);
    assert!(matches!(commands.as_slice(), [Command::GiveBack(held)] if held.key.seq == 2));
}

/// What is on its way when a breaker opens comes in afterwards.
#[test]
fn what_comes_in_behind_an_open_breaker_goes_back_at_once() {
    for keeps_order in [false, true] {
        let mut f = fixture_of(|group| group.by_key = keeps_order);
        f.table.bounds = Bounds::new(&Grant { breaker: Some(BreakerPolicy::default()), ..Grant::default() });
        let (_id, _rx) = f.subscribe(5);
        let group: Arc<str> = "readers".into();
        for event in ["a", "b", "c", "d", "e"] {
            f.table.bounds.failed(&group, Some(event), f.start);
        }
        f.put(1);
        let id = f.put(2);
        f.table.held.get_mut(&*id).unwrap().fresh.attempt = 4;
        f.dispatch();
        let commands = f.table.tick(f.start + POOL_LINGER, Extend::Nothing);
        let back: Vec<_> = commands.iter().filter(|command| matches!(command, Command::GiveBack(_))).collect();
        assert_eq!(back.len(), if keeps_order { 1 } else { 2 }, "never at the price of the last attempt");
    }
}

/// Each keeps one place for the group that keeps an order, but not each for all of it.
#[test]
fn a_promise_is_kept_by_all_its_readers_together() {
    let mut f = fixture();
    let both = || -> Vec<Arc<str>> { vec!["readers".into(), "ordered".into()] };
    let mut inboxes = Vec::new();
    for _ in 0..2 {
        let (tx, rx) = mpsc::channel(8);
        f.table.attach(both(), 1, tx);
        inboxes.push(rx);
    }
    f.table.promise("ordered", 1);
    f.put(1);
    f.put(2);
    f.dispatch();
    let handed: usize = inboxes.iter_mut().map(|rx| received(rx).len()).sum();
    assert_eq!(handed, 1, "one place of two is promised");
    let (_id, mut free) = f.subscribe(1);
    f.dispatch();
    assert_eq!(received(&mut free), ["id2"], "who reads nothing that is promised is free");
}
