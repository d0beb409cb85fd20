//! Deaths of the agent: how they count, and how the event that causes them is found.

use agentbus_nats::grant::{BreakerPolicy, Grant};

use super::*;
use crate::breaker;
use crate::inbound::admit::Suspect;

const CLOCK: SystemTime = SystemTime::UNIX_EPOCH;

fn watched() -> Fixture {
    let mut f = fixture();
    f.table.bounds = Bounds::new(&Grant { breaker: Some(BreakerPolicy::default()), ..Grant::default() });
    f
}

impl Fixture {
    /// One that comes again after a death.
    fn put_suspect(&mut self, seq: u64, suspect: Suspect) -> String {
        let id = self.put(seq);
        let mut held = self.table.remove(&id).unwrap();
        held.fresh.suspect = Some(suspect);
        self.table.hold(id.as_str().into(), held);
        id
    }

    fn exit(&mut self) -> Vec<Command> {
        self.table.agent_exited(&[], (self.start, CLOCK))
    }
}

fn suspect(death_ms: u64) -> Suspect {
    Suspect { crashes: 0, death_ms, stays: false }
}

/// The numbers of those that are suspects from now on, and of those to blame.
fn found(commands: &[Command]) -> (Vec<u64>, Vec<u64>) {
    let (mut suspects, mut blamed) = (Vec::new(), Vec::new());
    for command in commands {
        match command {
            Command::Suspect(held) => suspects.push(held.key.seq),
            Command::Crash(held) => blamed.push(held.key.seq),
            _ => {}
        }
    }
    (suspects, blamed)
}

#[test]
fn with_several_in_hand_none_is_blamed_and_with_one_that_one() {
    let mut f = fixture();
    let (_id, _rx) = f.subscribe(3);
    (1..=4).for_each(|seq| drop(f.put(seq)));
    f.dispatch();
    let commands = f.exit();
    assert_eq!(found(&commands), (vec![1, 2, 3], vec![]));
    assert!(commands.iter().any(|command| matches!(command, Command::GiveBack(held) if held.key.seq == 4)));
    assert!(f.table.is_empty());
    let (_id, _rx) = f.subscribe(1);
    f.put(5);
    f.dispatch();
    assert_eq!(found(&f.exit()), (vec![], vec![5]));
}

#[test]
fn a_death_is_one_failure_however_much_was_in_hand_and_however_often_it_is_told() {
    let mut f = watched();
    let group: Arc<str> = "readers".into();
    for death in 1..=5 {
        let (id, _rx) = f.subscribe(3);
        (1..=3).for_each(|seq| drop(f.put(10 * death + seq)));
        f.dispatch();
        let now = (f.start, CLOCK);
        let mut commands = f.table.detach(id, Gone::Broken, now);
        commands.extend(f.table.agent_exited(std::slice::from_ref(&group), now));
        f.table.agent_started();
        assert_eq!(f.table.bounds.state("readers"), breaker::State::Closed, "after {death}: not known which event");
        assert!(!commands.iter().any(|command| matches!(command, Command::LeaveAlone(_))));
    }
    // One more that is known to be to blame, and another one.
    for (seq, opens) in [(100, false), (101, true)] {
        let (_id, _rx) = f.subscribe(1);
        let id = f.put(seq);
        f.table.held.get_mut(&*id).unwrap().fresh.head.id = id.clone();
        f.dispatch();
        let opened = f.exit().iter().any(|command| matches!(command, Command::LeaveAlone(_)));
        assert_eq!(opened, opens);
    }
}

#[test]
fn a_kill_counts_with_nothing_in_hand_and_not_twice_with_something() {
    let mut f = watched();
    let (idle, group): (Arc<str>, Arc<str>) = ("idle".into(), "readers".into());
    let (_id, _rx) = f.subscribe(1);
    for kill in 1..=5_u64 {
        f.put(kill);
        f.dispatch();
        let now = (f.start, CLOCK + Duration::from_secs(kill));
        let commands = f.table.agent_exited(&[idle.clone(), group.clone()], now);
        let opened = |name: &str| commands.iter().any(|c| matches!(c, Command::LeaveAlone(group) if **group == *name));
        assert_eq!((opened("idle"), opened("readers")), (kill == 5, false), "kill {kill}: one event, five times");
        f.table.attach(vec![group.clone()], 1, mpsc::channel(1).0);
    }
}

#[test]
fn a_suspect_is_handed_out_before_all_others_and_alone() {
    let mut f = fixture();
    let (_id, mut rx) = f.subscribe(5);
    let busy = f.put(1);
    f.dispatch();
    assert_eq!(received(&mut rx), std::slice::from_ref(&busy));
    let (one, other) = (f.put_suspect(2, suspect(7)), f.put_suspect(3, suspect(7)));
    let plain = f.put(4);
    f.dispatch();
    assert!(received(&mut rx).is_empty(), "something is out");
    assert_eq!(f.table.demand("readers"), 0, "nor is more asked for");
    f.table.end(&busy, Verdict::Acked).ok().unwrap();
    for suspect in [other, one] {
        f.dispatch();
        assert_eq!(received(&mut rx), std::slice::from_ref(&suspect), "one at a time");
        f.dispatch();
        assert!(received(&mut rx).is_empty());
        f.table.end(&suspect, Verdict::Acked).ok().unwrap();
    }
    f.dispatch();
    assert_eq!(received(&mut rx), [plain]);
}

#[test]
fn those_that_died_with_the_one_to_blame_are_free_again() {
    let mut f = fixture();
    let (_id, mut rx) = f.subscribe(5);
    for (seq, death) in [(1, 7), (2, 8), (3, 7)] {
        f.put_suspect(seq, suspect(death));
    }
    f.dispatch();
    assert_eq!(received(&mut rx), ["id3"]);
    let commands = f.exit();
    assert_eq!(found(&commands), (vec![], vec![3]));
    let mut waiting: Vec<_> = commands
        .iter()
        .filter_map(|command| if let Command::GiveBack(held) = command { Some(held) } else { None })
        .map(|held| (held.key.seq, held.fresh.suspect.is_some()))
        .collect();
    waiting.sort_unstable();
    assert_eq!(waiting, [(1, false), (2, true)], "that of another death is not");
}

#[test]
fn where_order_is_kept_suspects_wait_here_for_the_agent_that_is_started_again() {
    let mut f = fixture_of(|group| group.by_key = true);
    let (id, mut rx) = f.subscribe(2);
    (1..=2).for_each(|seq| drop(f.put(seq)));
    f.dispatch();
    received(&mut rx);
    assert!(f.exit().is_empty() && f.table.len() == 2, "nothing is said to the broker, so no attempt is lost");
    f.table.detach(id, Gone::Closed, (f.start, CLOCK));
    let (_id, mut rx) = f.subscribe(2);
    f.dispatch();
    assert_eq!(received(&mut rx).len(), 1, "alone");
    assert_eq!(found(&f.exit()).1.len(), 1, "and this one is it");
}

#[test]
fn a_suspect_behind_a_busy_agent_goes_on_until_it_is_old() {
    let gone = |stays: bool| {
        let mut f = fixture();
        let (_id, _rx) = f.subscribe(5);
        f.put(1);
        f.dispatch();
        f.put_suspect(2, Suspect { stays, ..suspect(7) });
        let commands = f.table.tick(f.start + super::super::held::SUSPECT_LINGER, Extend::Nothing);
        commands.iter().any(|command| matches!(command, Command::GiveBack(held) if held.fresh.suspect.is_some()))
    };
    assert!(gone(false) && !gone(true));
}

#[test]
fn a_suspect_that_expires_in_the_queue_holds_nobody_up() {
    let mut f = fixture();
    let (late, _next) = (f.put_suspect(1, suspect(1)), f.put_suspect(2, suspect(1)));
    let expires = SystemTime::UNIX_EPOCH + Duration::from_secs(5);
    let queue = f.table.ready.get_mut("readers").unwrap();
    queue.make_contiguous().sort();
    f.table.held.get_mut(&*late).unwrap().fresh.head.expires = Some(expires.into());
    let (_id, mut rx) = f.subscribe(3);
    let frame = |id: &str, _: &mut Held, _| wire::Delivery { delivery_id: id.to_owned(), ..Default::default() };
    f.table.take_freed();
    assert_eq!(f.table.dispatch("readers", (f.start, expires), frame).len(), 1);
    assert_eq!(received(&mut rx), ["id2"]);
    assert!(f.table.take_freed() && !f.table.take_freed(), "the groups that waited for it are woken, once");
}

#[test]
fn two_connections_of_one_process_are_one_death() {
    let mut f = watched();
    let (one, _rx) = f.subscribe(1);
    let (two, _other) = f.subscribe(1);
    f.put(1);
    f.put(2);
    f.dispatch();
    let mut commands = f.table.detach(one, Gone::Broken, (f.start, CLOCK));
    let later = (f.start + Duration::from_millis(5), CLOCK + Duration::from_millis(5));
    commands.extend(f.table.detach(two, Gone::Broken, later));
    assert_eq!(found(&commands), (vec![1, 2], vec![]));
    let deaths: Vec<_> = commands
        .iter()
        .filter_map(|command| match command {
            Command::Suspect(held) => held.fresh.suspect.as_ref().map(|suspect| suspect.death_ms),
            _ => None,
        })
        .collect();
    assert_eq!(deaths, [0, 0], "whoever is found frees the other one");
    f.table.agent_started();
    let (id, _rx) = f.subscribe(1);
    f.put(3);
    f.dispatch();
    assert_eq!(found(&f.table.detach(id, Gone::Broken, later)), (vec![], vec![3]), "another process, another death");
}

#[test]
fn a_suspect_that_can_go_nowhere_keeps_nobody_back() {
    let mut f = watched();
    let (tx, _rx) = mpsc::channel(64);
    f.table.attach(vec!["readers".into(), "others".into()], 5, tx);
    f.put_suspect(1, suspect(1));
    assert_eq!(f.table.demand("others"), 0, "it goes first, and alone");
    let group: Arc<str> = "readers".into();
    for event in ["a", "b", "c", "d", "e"] {
        f.table.bounds.failed(&group, Some(event), f.start);
    }
    assert!(f.table.demand("others") > 0, "its breaker is open");
}

#[test]
fn what_comes_back_from_an_answer_that_never_left_stays_behind_suspects() {
    let mut f = fixture();
    let (_id, mut rx) = f.subscribe(1);
    let id = f.put(1);
    f.dispatch();
    assert_eq!(received(&mut rx), ["id1"]);
    f.put_suspect(2, suspect(1));
    f.table.unhand(&[id]);
    f.dispatch();
    assert_eq!(received(&mut rx), ["id2"]);
}
