//! The permission lists of a namespace, proven refusal by refusal in `tests/it/scope.rs`.
//!
//! A sidecar publishes under its own name only, and pulls from and acks to its own groups' consumers only. Never granted:
//! `CONSUMER.CREATE` (filters are not in its subject), `STREAM.*`, `DIRECT.GET` (it reads around filters). In the plain layout
//! none of this covers the *reply* subjects that the holder of a token names: see [`Layout`].

use serde_json::{Value, json};

use super::Layout;
use crate::names::Names;
use crate::subject;

/// The end of an ack subject: deliveries, two sequences, time, pending.
const POSITION: &str = "*.*.*.*.*";

/// Template of the scoped signing key for sidecars. Tags a token may carry:
/// `pub:<class>.*.<pattern>` what the agent may publish to, `grp:<group>` the groups it belongs to, `con:<consumer>` their
/// consumers on the events stream. With these it may also let go of a pin: whoever waits next to it is asked then.
pub(super) fn sidecar_template(namespace: &str, layout: Layout) -> Value {
    let names = Names::new(namespace);
    let (events, retry) = (names.events(), names.retry());
    let (name, group) = ("{{name()}}", "{{tag(grp)}}");
    let mut publish = vec![
        format!("ab.{namespace}.*.{{{{name()}}}}.{{{{tag(pub)}}}}"),
        format!("abr.{namespace}.{group}.{{{{name()}}}}"),
        format!("abd.{namespace}.{group}.{{{{name()}}}}.*"),
        format!("abt.{namespace}.{group}.{{{{name()}}}}.*"),
        format!("abc.{namespace}.{{{{name()}}}}.*"),
        // Replies need no grant: who was asked may answer, in its own name. The asker's sidecar looks at who it is.
        format!("ab.{namespace}.*.{{{{name()}}}}.reply.-.*.*"),
    ];
    let own = "{{tag(con)}}";
    publish.push(format!("$JS.API.CONSUMER.UNPIN.{events}.{own}"));
    for (stream, consumer) in [(events, own.to_owned()), (retry, format!("{group}-retry"))] {
        publish.push(format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"));
        publish.push(format!("$JS.API.CONSUMER.INFO.{stream}.{consumer}"));
        // Each form with exactly as many tokens as it has: with an open end, the second one would match the first form of
        // anybody's consumer, where the stream stands in place of the domain, and settle what others hold.
        publish.push(format!("$JS.ACK.{stream}.{consumer}.{POSITION}"));
        if layout == Layout::Plain {
            // Servers with `js_ack_fc_v2` name domain and account first, and may add one token. No import takes these.
            publish.push(format!("$JS.ACK.*.*.{stream}.{consumer}.{POSITION}"));
            publish.push(format!("$JS.ACK.*.*.{stream}.{consumer}.{POSITION}.*"));
        }
    }
    let listen = [format!("_INBOX.{name}.>"), subject::replies(namespace, name), subject::questions(namespace, name)];
    let spelled =
        |subjects: &[String]| subjects.iter().map(|subject| layout.spell(subject).into()).collect::<Vec<String>>();
    json!({
        "pub": {"allow": spelled(&publish)},
        "sub": {"allow": spelled(&listen)},
        "subs": -1, "data": -1, "payload": -1,
        // Not as a leaf node: the broker does not check the replies that come over one.
        "allowed_connection_types": ["STANDARD", "WEBSOCKET"],
    })
}

/// Permissions of the person at the keyboard: sees and replays everything with the plain `nats` CLI, changes no stream,
/// publishes no event around a sidecar, writes no registry entry and answers nobody's request. A guard rail, no wall: it lies in
/// the account of the streams, where no reply subject is checked.
pub(super) fn person() -> Value {
    let changes = ["STREAM.CREATE", "STREAM.UPDATE", "STREAM.DELETE", "STREAM.PURGE", "STREAM.MSG.DELETE"];
    let more = ["STREAM.SNAPSHOT", "STREAM.RESTORE", "STREAM.LEADER.STEPDOWN", "STREAM.PEER.REMOVE", "CONSUMER.RESET"];
    let deny: Vec<String> = changes.iter().chain(&more).map(|verb| format!("$JS.API.{verb}.>")).collect();
    json!({
        "pub": {"allow": ["$JS.API.>", "$JS.ACK.>"], "deny": deny},
        "sub": {"allow": ["_INBOX.>", "$JS.EVENT.ADVISORY.>", "ab.>", "abr.>", "abd.>", "aba.>", "abt.>"]},
        "subs": -1, "data": -1, "payload": -1,
    })
}
