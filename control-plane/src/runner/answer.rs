//! What a command's end means for an ask: an ask is always answered, whatever the agent's `output` is.
//!
//! Exit 0: stdout is the reply (with `output: events` its lines are published as always, and the reply is empty). Exit 65:
//! a reply that says it cannot be done. Anything else is tried again, and the asker waits. Pure.

use agentbus_proto::Fault;
use agentbus_proto::json::content;
use bytes::Bytes;

use super::verdict::{Reply, Verdict};

/// Content type of text that is not JSON.
const TEXT: &str = "text/plain; charset=utf-8";
/// Code of a reply that says no.
const REFUSED: &str = "REJECTED";

/// The verdict on an ask whose command ended with `verdict` and wrote `stdout`, if that is wanted as its reply.
pub(super) fn of(verdict: Verdict, stdout: Option<Vec<u8>>) -> Verdict {
    match verdict {
        Verdict::Ack => Verdict::Reply(said(stdout.unwrap_or_default())),
        Verdict::Reject(why) => Verdict::Reply(failed(REFUSED, why)),
        later @ (Verdict::Nack(_) | Verdict::Reply(_)) => later,
    }
}

/// What to tell the sidecar instead of a reply that it does not take; none when nothing would help.
pub(super) fn instead(reply: &Reply, fault: &Fault) -> Option<Verdict> {
    use agentbus_proto::Code;
    match fault.code {
        // Nobody waits any more, and the work is done.
        Code::Expired => Some(Verdict::Ack),
        Code::InvalidEvent | Code::TooLarge if reply.error_code.is_empty() => {
            Some(Verdict::Reply(failed(fault.code.as_str(), fault.message.clone())))
        }
        _ => None,
    }
}

/// Without the line end that `echo` writes.
fn said(mut stdout: Vec<u8>) -> Reply {
    if stdout.last() == Some(&b'\n') && std::str::from_utf8(&stdout).is_ok() {
        stdout.pop();
    }
    let content_type = guess(&stdout).to_owned();
    Reply { data: Bytes::from(stdout), content_type, ..Reply::default() }
}

fn failed(code: &str, why: String) -> Reply {
    Reply { error_code: code.to_owned(), error_message: why, ..Reply::default() }
}

fn guess(data: &[u8]) -> &'static str {
    if data.is_empty() {
        ""
    } else if serde_json::from_slice::<serde::de::IgnoredAny>(data).is_ok() {
        content::JSON
    } else if std::str::from_utf8(data).is_ok() {
        TEXT
    } else {
        content::OCTETS
    }
}

#[cfg(test)]
mod tests {
    use agentbus_proto::Code;

    use super::*;

    #[test]
    fn an_ask_is_answered_with_what_the_command_wrote_or_why_not() {
        let check = |stdout: &[u8], data: &str, content_type: &str| {
            let Verdict::Reply(reply) = of(Verdict::Ack, Some(stdout.to_vec())) else { panic!() };
            assert_eq!((&*reply.data, &*reply.content_type, &*reply.error_code), (data.as_bytes(), content_type, ""));
        };
        check(b"{\"n\":1}\n", "{\"n\":1}", "application/json");
        check(b"yes\n", "yes", TEXT);
        check(b"two\nlines\n", "two\nlines", TEXT);
        check(b"", "", "");
        let Verdict::Reply(binary) = of(Verdict::Ack, Some(vec![0xff, b'\n'])) else { panic!() };
        assert_eq!((&*binary.data, &*binary.content_type), (&[0xff, b'\n'][..], "application/octet-stream"));
        let Verdict::Reply(no) = of(Verdict::Reject("exit 65: no such file".into()), None) else { panic!() };
        assert_eq!((&*no.error_code, &*no.error_message), ("REJECTED", "exit 65: no such file"));
        assert!(matches!(of(Verdict::Nack("exit 75".into()), Some(vec![])), Verdict::Nack(_)));
    }

    #[test]
    fn a_reply_that_is_not_taken_becomes_one_that_is() {
        let large = said(vec![b'x'; 9]);
        let fault = |code| Fault::new(code, "9 bytes");
        assert_eq!(instead(&large, &fault(Code::Expired)), Some(Verdict::Ack));
        let Some(Verdict::Reply(failed)) = instead(&large, &fault(Code::TooLarge)) else { panic!() };
        assert_eq!((&*failed.error_code, &*failed.error_message), ("TOO_LARGE", "9 bytes"));
        assert_eq!(instead(&failed, &fault(Code::InvalidEvent)), None);
        assert_eq!(instead(&large, &fault(Code::LeaseLost)), None);
    }
}
