use std::sync::Arc;

use async_nats::HeaderMap;
use tokio::sync::Semaphore;

use super::*;

const ANSWER_WAIT: Duration = Duration::from_secs(2);

struct Line {
    queue: Queue,
    now: Instant,
    answers: BTreeMap<u64, oneshot::Receiver<Outcome>>,
}

fn absent() -> Fault {
    Fault::new(Code::BrokerDown, "no stream")
}

fn stored() -> Outcome {
    Ok(Stored { stream: "S".into(), seq: 1, duplicate: false })
}

impl Line {
    fn new() -> Self {
        Self { queue: Queue::default(), now: Instant::now(), answers: BTreeMap::new() }
    }

    /// A new message; whether it was taken.
    fn give(&mut self, subject: &str) -> bool {
        let message = Message { subject: subject.into(), headers: HeaderMap::new(), payload: Bytes::new() };
        let (tx, answer) = oneshot::channel();
        let room = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let mut slot = Some(Slot::new(&message, tx, room, self.now + ANSWER_WAIT, self.now + Duration::from_secs(10)));
        let taken = self.queue.insert(&mut slot);
        taken.is_some_and(|number| self.answers.insert(number, answer).is_none())
    }

    /// Sends what is due and tells which.
    fn send(&mut self) -> Vec<u64> {
        let due: Vec<u64> = self.queue.due(self.now).into_iter().map(|(number, _)| number).collect();
        due.iter().for_each(|number| self.queue.sent(*number, self.now + ANSWER_WAIT));
        self.queue.release();
        due
    }

    fn stored(&mut self, number: u64) {
        self.queue.answered(number).unwrap().end(stored());
    }

    fn absent(&mut self, number: u64) {
        self.queue.absent(number, absent(), self.now).into_iter().for_each(Slot::give_up);
    }

    fn pass(&mut self, ms: u64) {
        self.now += Duration::from_millis(ms);
    }

    /// The code that was told at the deadline.
    fn code_at_the_end(&mut self, number: u64) -> Code {
        self.pass(10_000);
        self.queue.expired(self.now).into_iter().for_each(Slot::give_up);
        self.answers.get_mut(&number).unwrap().try_recv().unwrap().unwrap_err().code
    }
}

#[test]
fn after_a_lost_connection_the_oldest_goes_alone_then_the_rest_then_new_ones() {
    let mut line = Line::new();
    assert!((0..3).all(|_| line.give("ab.x")));
    line.queue.connected(line.now);
    assert!(!line.give("ab.x"));
    assert_eq!(line.send(), [0]);
    assert!(line.send().is_empty() && !line.give("ab.x"));
    line.stored(0);
    assert!(line.queue.may_go() && !line.give("ab.x"));
    assert_eq!(line.send(), [1, 2]);
    assert!(line.give("ab.x"));
}

#[test]
fn nothing_passes_a_message_that_no_stream_took_and_other_streams_go_on() {
    let mut line = Line::new();
    assert!((0..3).all(|_| line.give("ab.x")));
    line.absent(0);
    line.absent(1);
    assert!(!line.give("ab.x") && line.give("abd.x"));
    assert!(line.send().is_empty());
    line.pass(100);
    assert_eq!(line.send(), [0]);
    line.absent(0);
    line.pass(100);
    assert_eq!(line.send(), [0]);
    line.stored(2);
    line.stored(0);
    assert_eq!(line.send(), [1]);
    assert!(line.give("ab.x"));
}

#[test]
fn one_that_is_refused_given_up_or_let_go_blocks_nobody() {
    for (ends, opens) in [
        (&(|line: &mut Line| line.stored(0)) as &dyn Fn(&mut Line), true),
        (&|line| drop(line.queue.remove(0)), false),
        (&|line| line.queue.refused("ab.no").into_iter().for_each(Slot::give_up), false),
    ] {
        let mut line = Line::new();
        assert!(line.give("ab.no") && line.give("ab.x") && line.give("ab.x"));
        line.queue.connected(line.now);
        assert_eq!(line.send(), [0]);
        ends(&mut line);
        let next: &[u64] = if opens { &[1, 2] } else { &[1] };
        assert_eq!(line.send(), next);
    }
    let mut line = Line::new();
    assert!(line.give("ab.x"));
    line.absent(0);
    assert_eq!(line.code_at_the_end(0), Code::BrokerDown);
    line.send();
    assert!(line.give("ab.x"));
}

#[test]
fn an_unanswered_send_stays_unknown_whatever_is_said_of_later_ones() {
    let mut line = Line::new();
    assert!(line.give("ab.x"));
    line.pass(2000);
    assert_eq!(line.send(), [0]);
    line.absent(0);
    assert_eq!(line.code_at_the_end(0), Code::OutcomeUnknown);
    let mut line = Line::new();
    assert!(line.give("ab.x"));
    line.queue.connected(line.now);
    line.send();
    line.absent(0);
    assert_eq!(line.code_at_the_end(0), Code::OutcomeUnknown);
    let mut line = Line::new();
    assert!(line.give("ab.x"));
    assert_eq!(line.code_at_the_end(0), Code::OutcomeUnknown);
}

#[test]
fn a_refusal_is_certain_only_when_every_send_was_answered() {
    for (again, told) in [(false, Code::StreamFull), (true, Code::OutcomeUnknown)] {
        let mut line = Line::new();
        assert!(line.give("ab.x"));
        if again {
            line.pass(2000);
            assert_eq!(line.send(), [0]);
        }
        line.queue.answered(0).unwrap().end(Err(Fault::new(Code::StreamFull, "full")));
        assert_eq!(line.answers.get_mut(&0).unwrap().try_recv().unwrap().unwrap_err().code, told);
    }
}

#[test]
fn what_was_given_before_a_mark_is_open_until_it_is_answered_in_its_own_stream() {
    let mut line = Line::new();
    assert!(!line.queue.open_before(line.queue.mark(), "ab.y"));
    assert!(line.give("ab.x") && line.give("abd.x"));
    let mark = line.queue.mark();
    assert!(line.give("ab.x"));
    assert!(line.queue.open_before(mark, "ab.y") && !line.queue.open_before(mark, "abr.y"));
    line.stored(0);
    assert!(!line.queue.open_before(mark, "ab.y") && line.queue.open_before(mark, "abd.y"));
}
