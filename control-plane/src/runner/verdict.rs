//! From the end of a command to what becomes of its event. Pure.
//!
//! The exit codes are those of sysexits.h that shells and mail systems know: 0 done, 75 (EX_TEMPFAIL) try again,
//! 65 (EX_DATAERR) this input will never do. Anything else may be an accident, so the event is tried again too.

use std::time::Duration;

use agentbus_nats::headers;
use agentbus_proto::{Code, Fault, duration};
use agentbus_runtime::process::Exit;
use bytes::Bytes;

/// Longest reason, in bytes: it is a line for people, and it is cut there anyway.
const REASON_BYTES_MAX: usize = headers::CAUSE_BYTES_MAX;

/// What becomes of the event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Done.
    Ack,
    /// Try again, and why.
    Nack(String),
    /// Never again, and why.
    Reject(String),
    /// Done, and this is the answer to its ask.
    Reply(Reply),
}

/// The answer to an ask.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Reply {
    pub data: Bytes,
    pub content_type: String,
    /// Set when it could not be done.
    pub error_code: String,
    pub error_message: String,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ending {
    /// By itself.
    Exited(Exit),
    /// It was killed: too slow.
    TimedOut(Duration),
    /// It was killed: more output than allowed, in bytes.
    Flooded(usize),
    /// It was killed: the runner stops, or the delivery was lost.
    Stopped,
    /// It never began, and why.
    NotStarted(String),
}

/// What follows from the end of a command. `said` is its last line on stderr.
pub(super) fn of_ending(ending: &Ending, said: &str) -> Verdict {
    let with = |what: String| if said.is_empty() { what } else { format!("{what}: {said}") };
    match ending {
        Ending::Exited(Exit { code: Some(0), .. }) => Verdict::Ack,
        Ending::Exited(Exit { code: Some(65), .. }) => reject(with("exit 65".to_owned())),
        Ending::Exited(Exit { code: Some(code), .. }) => nack(with(format!("exit {code}"))),
        // By a signal: told by its name.
        Ending::Exited(exit) => nack(with(exit.to_string())),
        Ending::TimedOut(after) => nack(with(format!("timed out after {}", duration::format(*after)))),
        Ending::Flooded(max) => reject(format!("the command wrote more than {} MiB to stdout", max >> 20)),
        Ending::Stopped => nack("the runner was stopped before the command had finished".to_owned()),
        Ending::NotStarted(why) => nack(format!("the command cannot be started: {why}")),
    }
}

/// What follows when an output could not be published: a fault of the event is for good, everything else may pass.
pub(super) fn of_fault(index: usize, fault: &Fault) -> Verdict {
    let reason = format!("output {}: {fault}", index + 1);
    match fault.code {
        Code::InvalidEvent
        | Code::InvalidAddress
        | Code::TooLarge
        | Code::ScopeDenied
        | Code::HopLimit
        | Code::Expired => reject(reason),
        _ => nack(reason),
    }
}

/// A nack with a clean reason.
pub(super) fn nack(reason: String) -> Verdict {
    Verdict::Nack(line(&reason))
}

/// A reject with a clean reason.
pub(super) fn reject(reason: String) -> Verdict {
    Verdict::Reject(line(&reason))
}

fn line(text: &str) -> String {
    headers::clean(text, REASON_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_settle_the_event() {
        let check = |code: Option<i32>, signal: Option<i32>, said: &str, wanted: Verdict| {
            assert_eq!(of_ending(&Ending::Exited(Exit { code, signal }), said), wanted);
        };
        let (nack, reject) = (|text: &str| Verdict::Nack(text.into()), |text: &str| Verdict::Reject(text.into()));
        check(Some(0), None, "warning", Verdict::Ack);
        check(Some(75), None, "busy", nack("exit 75: busy"));
        check(Some(75), None, "", nack("exit 75"));
        check(Some(65), None, "bad input", reject("exit 65: bad input"));
        check(Some(65), None, "", reject("exit 65"));
        check(Some(1), None, "boom", nack("exit 1: boom"));
        check(Some(127), None, "", nack("exit 127"));
        check(None, Some(9), "x", nack("killed by SIGKILL: x"));
    }

    #[test]
    fn what_the_runner_did_to_it_is_said() {
        assert_eq!(
            of_ending(&Ending::TimedOut(Duration::from_millis(1500)), ""),
            Verdict::Nack("timed out after 1s500ms".into())
        );
        let flooded = Verdict::Reject("the command wrote more than 64 MiB to stdout".into());
        assert_eq!(of_ending(&Ending::Flooded(64 << 20), ""), flooded);
        assert!(matches!(of_ending(&Ending::NotStarted("no such file".into()), ""), Verdict::Nack(_)));
    }

    #[test]
    fn only_faults_of_the_event_are_for_good() {
        for code in Code::ALL {
            let verdict = of_fault(0, &Fault::new(code, "x"));
            let fault = matches!(verdict, Verdict::Reject(_));
            assert!(!(fault && code.retryable()), "{code}");
        }
        assert_eq!(
            of_fault(2, &Fault::new(Code::ScopeDenied, "no")),
            Verdict::Reject("output 3: SCOPE_DENIED: no".into())
        );
        assert!(matches!(of_fault(0, &Fault::new(Code::BrokerDown, "x")), Verdict::Nack(_)));
        assert!(matches!(of_fault(0, &Fault::new(Code::Unauthenticated, "x")), Verdict::Nack(_)));
    }

    #[test]
    fn a_reason_is_one_line() {
        let Verdict::Nack(reason) = nack("a\nb\u{1b}[0m".repeat(200)) else { panic!() };
        assert!(reason.len() <= REASON_BYTES_MAX && !reason.contains('\n'));
    }
}
