//! Decides whether a dead letter may be sent again. Pure: everything known comes in, a plan or a refusal comes out.
//!
//! The guard against loops: an event that was redriven three times and failed again needs a repair, not a fourth try.
//! What `force` may override and what nothing can is said by each refusal.

use agentbus_nats::msg_id;
use agentbus_nats::subject::EventSubject;
use serde::{Deserialize, Serialize};

use super::facts::Target;
use super::letter::DeadLetter;

/// An event redriven this often is not redriven again without force.
pub const REDRIVES_MAX: u32 = 3;

/// Why a dead letter is not redriven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// The event was redriven `REDRIVES_MAX` times already.
    LoopGuard,
    /// This dead letter was redriven before.
    AlreadyRedriven,
    /// A redrive of it was begun before, and it is not known whether it was sent.
    Unfinished,
    /// The group reads no retries here: the copy would wait for a group that may never come.
    NoGroup,
    /// The payload is no event, so it cannot go to an address, only to the group.
    Undecodable,
    /// It does not say from which address of this namespace it came.
    NoOrigin,
    /// The event it names as its origin is no longer there, so nothing proves where it came from.
    OriginGone,
    /// The event it names as its origin is another one.
    OriginDiffers,
}

impl Refusal {
    /// Whether `force` would send it all the same.
    pub fn force_helps(self) -> bool {
        matches!(self, Self::LoopGuard | Self::AlreadyRedriven | Self::Unfinished | Self::NoGroup)
    }

    /// For people.
    pub fn message(self, letter: &DeadLetter) -> String {
        match self {
            Self::LoopGuard => {
                let times = letter.redrives;
                format!("the event was redriven {times} times and failed again; repair the cause, then use --force")
            }
            Self::AlreadyRedriven => {
                let at = letter.redriven.as_ref().map_or("before", |last| &last.at);
                format!("it was redriven already ({at}); use --force to send it once more")
            }
            Self::Unfinished => {
                let at = letter.unfinished.as_deref().unwrap_or("before");
                format!("a redrive was begun ({at}), and it is not known whether it was sent; look, then use --force")
            }
            Self::NoGroup => {
                format!("group `{}` has no consumer; start an agent of the group first, or use --force", letter.group)
            }
            Self::Undecodable => "the payload is no event: it can only go to its group".to_owned(),
            Self::NoOrigin => {
                "it names no address of this namespace as its origin: it can only go to its group".to_owned()
            }
            Self::OriginGone => {
                "the original event was removed, so its address cannot be checked: it can only go to its group"
                    .to_owned()
            }
            Self::OriginDiffers => {
                "the event it names as its origin has another address or content: it can only go to its group"
                    .to_owned()
            }
        }
    }
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// Header `Ab-Redrive` of the copy.
    pub redrive: u32,
    /// Message id of the copy: names this decision. The same decision made twice (an unfinished one, forced) is stored once
    /// within the broker's window; a later decision about the same letter has another id.
    pub id: String,
}

/// What the events stream has at the place that a letter names as its origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Original {
    /// The same event: same subject, same payload.
    Same,
    /// Another one. Whoever may write dead letters of the group may write any origin into the header.
    Differs,
    /// Nothing any more.
    Gone,
}

/// What is asked, and what is known beside the letter.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    /// Dead-letter stream.
    pub stream: &'a str,
    /// When the letter was stored: a stream made again gives the same number to another one.
    pub stored_at: &'a str,
    pub namespace: &'a str,
    pub to: Target,
    pub force: bool,
    /// The group has a retry consumer.
    pub group_reads: bool,
    /// Looked up where it matters.
    pub original: Original,
    /// Seals the ids of redrives: no agent can claim one before it is used.
    pub secret: &'a str,
}

/// Decides about one letter with `redriven` filled in.
pub(super) fn decide(letter: &DeadLetter, asked: Asked<'_>) -> Result<Plan, Refusal> {
    let Asked { stream, stored_at, to, force, .. } = asked;
    match to {
        Target::Origin => may_go_back(letter, asked)?,
        Target::Group if !asked.group_reads && !force => return Err(Refusal::NoGroup),
        Target::Group => {}
    }
    if letter.redrives >= REDRIVES_MAX && !force {
        return Err(Refusal::LoopGuard);
    }
    if letter.redriven.is_some() && !force {
        return Err(Refusal::AlreadyRedriven);
    }
    if letter.unfinished.is_some() && !force {
        return Err(Refusal::Unfinished);
    }
    let nth = letter.redriven.as_ref().map_or(0, |last| last.count) + 1;
    let (seq, to) = (letter.seq, to.as_str());
    let id = msg_id::sealed(&format!("{stream}/{seq}@{stored_at}/redrive/{to}/{nth}"), asked.secret);
    Ok(Plan { redrive: letter.redrives.saturating_add(1), id })
}

/// The control plane may write to any address; a member of the group wrote the header that names this one. So it is
/// believed only where the broker has the very event there, under its authenticated subject. Force changes nothing.
fn may_go_back(letter: &DeadLetter, asked: Asked<'_>) -> Result<(), Refusal> {
    if letter.undecodable {
        return Err(Refusal::Undecodable);
    }
    if !comes_from(letter, asked.namespace) {
        return Err(Refusal::NoOrigin);
    }
    match asked.original {
        Original::Same => Ok(()),
        Original::Differs => Err(Refusal::OriginDiffers),
        Original::Gone => Err(Refusal::OriginGone),
    }
}

fn comes_from(letter: &DeadLetter, namespace: &str) -> bool {
    let subject = letter.origin.as_ref().and_then(|origin| EventSubject::parse(&origin.subject));
    subject.is_some_and(|subject| subject.namespace == namespace)
}

#[cfg(test)]
mod tests {
    use agentbus_nats::moves::Class;

    use super::super::facts::Redriven;
    use super::super::letter::tests::{event, stored};
    use super::*;

    fn letter() -> DeadLetter {
        stored(5, Class::Exhausted, event()).letter()
    }

    fn redriven(count: u32) -> Option<Redriven> {
        let at = "2026-11-20T10:00:00Z".to_owned();
        Some(Redriven { count, at, to: Target::Group, redrive: 1, new_stream: "S".into(), new_seq: 1 })
    }

    fn asked(to: Target, force: bool) -> Asked<'static> {
        let (stream, namespace, original) = ("AB_default_DLQ", "default", Original::Same);
        Asked { stream, stored_at: "T", namespace, to, force, group_reads: true, original, secret: "s" }
    }

    fn run(letter: &DeadLetter, to: Target, force: bool) -> Result<Plan, Refusal> {
        decide(letter, asked(to, force))
    }

    fn id(text: &str) -> String {
        msg_id::sealed(text, "s")
    }

    #[test]
    fn a_first_redrive_is_allowed_both_ways() {
        let plan = run(&letter(), Target::Group, false).unwrap();
        assert_eq!((plan.redrive, plan.id), (1, id("AB_default_DLQ/5@T/redrive/group/1")));
        assert_eq!(run(&letter(), Target::Origin, false).unwrap().id, id("AB_default_DLQ/5@T/redrive/origin/1"));
    }

    #[test]
    fn the_fourth_redrive_needs_force() {
        for (redrives, allowed) in [(0, true), (2, true), (3, false), (7, false), (u32::MAX, false)] {
            let letter = DeadLetter { redrives, ..letter() };
            assert_eq!(
                run(&letter, Target::Group, false).err(),
                (!allowed).then_some(Refusal::LoopGuard),
                "{redrives}"
            );
            assert!(run(&letter, Target::Group, true).is_ok());
        }
    }

    #[test]
    fn a_second_redrive_of_one_letter_needs_force_and_has_its_own_id() {
        let letter = DeadLetter { redriven: redriven(1), ..letter() };
        assert_eq!(run(&letter, Target::Group, false), Err(Refusal::AlreadyRedriven));
        assert_eq!(run(&letter, Target::Group, true).unwrap().id, id("AB_default_DLQ/5@T/redrive/group/2"));
    }

    #[test]
    fn an_unfinished_redrive_needs_force_and_keeps_its_id() {
        let letter = DeadLetter { unfinished: Some("2026-11-20T10:00:00Z".into()), ..letter() };
        assert_eq!(run(&letter, Target::Group, false), Err(Refusal::Unfinished));
        assert!(Refusal::Unfinished.force_helps());
        assert_eq!(run(&letter, Target::Group, true).unwrap().id, id("AB_default_DLQ/5@T/redrive/group/1"));
    }

    #[test]
    fn what_is_no_event_goes_to_its_group_only() {
        let letter = stored(5, Class::Undecodable, b"\xff".to_vec()).letter();
        assert!(run(&letter, Target::Group, false).is_ok());
        assert_eq!(run(&letter, Target::Origin, true), Err(Refusal::Undecodable));
    }

    #[test]
    fn an_address_outside_the_namespace_is_no_origin() {
        for origin in [None, Some("AB_other_EVENTS/1/ab.other.n.list.topic.-.a"), Some("S/1/$JS.API.x")] {
            let mut stored = stored(5, Class::Exhausted, event());
            stored.headers.insert(agentbus_nats::headers::ORIGIN, origin.unwrap_or("junk"));
            assert_eq!(run(&stored.letter(), Target::Origin, true), Err(Refusal::NoOrigin), "{origin:?}");
        }
    }

    #[test]
    fn an_origin_that_cannot_be_proven_is_never_believed() {
        for (original, wanted) in [(Original::Differs, Refusal::OriginDiffers), (Original::Gone, Refusal::OriginGone)] {
            for force in [false, true] {
                let to_origin = Asked { original, ..asked(Target::Origin, force) };
                assert_eq!(decide(&letter(), to_origin), Err(wanted));
                assert!(!wanted.force_helps());
                let to_group = Asked { original, ..asked(Target::Group, force) };
                assert!(decide(&letter(), to_group).is_ok());
            }
        }
    }

    #[test]
    fn a_group_nobody_declared_needs_force() {
        let run = |force| decide(&letter(), Asked { group_reads: false, ..asked(Target::Group, force) });
        assert_eq!(run(false), Err(Refusal::NoGroup));
        assert!(run(true).is_ok());
    }
}
