//! A lease that lapsed while its delivery was being settled.

use super::*;

/// The event with this number is handed out and being settled.
fn settling(change: impl FnOnce(&mut GroupGrant)) -> (Fixture, String, Held) {
    let mut f = fixture_of(change);
    let (_id, _rx) = f.subscribe(1);
    let id = f.put(1);
    f.dispatch();
    let held = f.table.settling(&id).ok().unwrap().copy();
    (f, id, held)
}

#[test]
fn what_lapsed_while_it_was_settled_is_not_renewed_any_more_and_stays_lapsed() {
    let (mut f, id, held) = settling(|group| group.by_key = true);
    let late = f.start + Duration::from_secs(7);
    let commands = f.table.tick(late, Extend::Everything);
    assert!(commands.is_empty(), "no word to the broker about it");
    assert!(f.table.has_lapsed(&held, late));
    // The broker says yes to whoever had it once, and the connection is new.
    f.table.renewed(&id, late, late);
    assert!(f.table.tick(late, Extend::Everything).is_empty());
    assert!(f.table.has_lapsed(&held, late));
    // The settle fails, so it is the agent's again for a moment.
    f.table.settled(&id, None);
    f.table.take_lapsed(&id, late);
    assert_eq!(f.table.settling(&id).err(), Some(Missing::Unknown));
}

#[test]
fn a_renewal_that_was_confirmed_too_late_renews_nothing() {
    let (mut f, id, held) = settling(|group| group.by_key = true);
    let (sent, late) = (f.start + Duration::from_secs(6), f.start + Duration::from_secs(7));
    f.table.renewed(&id, sent, late);
    assert!(f.table.has_lapsed(&held, late), "by then the broker may have given it to somebody else");
}

#[test]
fn another_broker_takes_what_is_being_settled_too() {
    let (mut f, _, held) = settling(|group| group.ordered = true);
    assert!(!f.table.has_lapsed(&held, f.start));
    f.table.take_ordered();
    assert!(f.table.has_lapsed(&held, f.start));
    let (mut plain, _, held) = settling(|_| ());
    plain.table.take_ordered();
    assert!(!plain.table.has_lapsed(&held, plain.start + Duration::from_secs(60)), "no order, no harm");
}

#[test]
fn what_the_broker_delivers_here_anew_is_ours_again() {
    let (mut f, _, held) = settling(|group| group.ordered = true);
    let late = f.start + Duration::from_secs(9);
    f.table.tick(late, Extend::Due);
    f.start = late;
    f.put(1);
    assert!(!f.table.has_lapsed(&held, late));
}

#[test]
fn a_later_delivery_of_the_same_event_vouches_for_nothing_of_an_earlier_one() {
    let mut f = fixture_of(|group| group.ordered = true);
    let (_id, _rx) = f.subscribe(1);
    let id = f.put(1);
    f.dispatch();
    let late = f.start + Duration::from_secs(7);
    let earlier = f.table.lose(&id).unwrap();
    f.start = late;
    f.put(1);
    assert!(f.table.has_lapsed(&earlier, late));
}
