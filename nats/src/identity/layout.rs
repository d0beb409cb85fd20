//! The two ways in which a namespace lies on the broker, and the one place that tells how their subjects differ.
//!
//! **Plain**: one account. The broker checks on which subjects a sidecar publishes and listens, but not the *reply* subjects it
//! names, and it answers its own API on any of them. So what the holder of a sidecar's credentials can reach is not only what
//! its permissions say: the boundary is the sidecar's process, which keeps them to itself.
//!
//! **Wall**: two accounts. `BUS` has the streams and the control plane, `AGENTS` has the sidecars and nothing else; it imports
//! the subjects that sidecars work with, each renamed to lie below `$JS.ACK.bus.`, where the broker lets no client name a reply.
//! Whatever a sidecar names as a reply becomes `_R_.…` on its way into `BUS`, so nothing but answers comes back to it.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// Below it, a sidecar behind the wall finds the subjects of the bus.
const PREFIX: &str = "$JS.ACK.bus.";
/// What lies there under its own name: acks, which go to the subjects that deliveries carry, and inboxes.
const OWN_NAMES: [&str; 2] = ["$JS.ACK.", "_INBOX."];
/// Begins the reply subject of whatever came through an import. No client can name it.
const IMPORTED_REPLY: &str = "_R_.";

/// How a namespace lies on the broker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// One account for the streams, the control plane and the sidecars.
    #[default]
    Plain,
    /// One for the streams and the control plane, another for the sidecars.
    Wall,
}

impl Layout {
    /// `plain` or `wall`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Wall => "wall",
        }
    }

    /// With the wall or without it.
    pub fn walled(wall: bool) -> Self {
        if wall { Self::Wall } else { Self::Plain }
    }

    /// A subject of the bus as a sidecar's connection spells it.
    pub fn spell(self, subject: &str) -> Cow<'_, str> {
        let same = self == Self::Plain || OWN_NAMES.iter().any(|own| subject.starts_with(own));
        if same { subject.into() } else { [PREFIX, subject].concat().into() }
    }

    /// The subject of the bus that a sidecar's connection spells so: the other way round.
    pub fn read(self, spelled: &str) -> &str {
        match self {
            Self::Plain => spelled,
            Self::Wall => spelled.strip_prefix(PREFIX).unwrap_or(spelled),
        }
    }

    /// Whether whoever may publish everywhere may answer on the reply subject of a request of `agent`. The broker has not
    /// checked it, so without the wall it must be the agent's own inbox; through the wall it is the broker's own.
    pub fn may_answer(self, agent: &str, reply: &str) -> bool {
        let rest = match self {
            Self::Plain => reply
                .strip_prefix("_INBOX.")
                .and_then(|rest| rest.strip_prefix(agent))
                .and_then(|rest| rest.strip_prefix('.')),
            Self::Wall => reply.strip_prefix(IMPORTED_REPLY),
        };
        rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(['*', '>', ' ']))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_but_acks_and_inboxes_is_renamed_behind_the_wall() {
        for (subject, walled) in [
            ("ab.default.n.a.topic.-.x", "$JS.ACK.bus.ab.default.n.a.topic.-.x"),
            ("$JS.API.CONSUMER.MSG.NEXT.S.C", "$JS.ACK.bus.$JS.API.CONSUMER.MSG.NEXT.S.C"),
            ("$JS.ACK.S.C.1.1.1.1.0", "$JS.ACK.S.C.1.1.1.1.0"),
            ("_INBOX.a.x.1", "_INBOX.a.x.1"),
        ] {
            assert_eq!(Layout::Wall.spell(subject), walled);
            assert_eq!(Layout::Wall.read(walled), subject);
            assert_eq!((Layout::Plain.spell(subject).as_ref(), Layout::Plain.read(subject)), (subject, subject));
        }
    }

    #[test]
    fn only_the_requesters_inbox_or_what_the_broker_made_of_it_is_answered() {
        let cases = [
            ("_INBOX.check.check-1.5", true, false),
            ("_INBOX.check.x", true, false),
            ("_INBOX.checker.x", false, false),
            ("_INBOX.check", false, false),
            ("_INBOX.check.", false, false),
            ("_INBOX.check.>", false, false),
            ("_INBOX.other.check.x", false, false),
            ("_R_.aBc.dEf", false, true),
            ("_R_.", false, false),
            ("ab.default.n.other.topic.-.t", false, false),
            ("$JS.API.STREAM.DELETE.AB_default_EVENTS", false, false),
        ];
        for (reply, plain, wall) in cases {
            assert_eq!(Layout::Plain.may_answer("check", reply), plain, "{reply}");
            assert_eq!(Layout::Wall.may_answer("check", reply), wall, "{reply}");
        }
    }
}
