//! What can be asked of a redrive, and what it answers. The command line uses the same types.

use agentbus_proto::{Code, Fault};
use serde::{Deserialize, Serialize};

use super::facts::Target;
use super::filter::Filter;
use super::guard::Refusal;

/// Redriven per second unless told otherwise: a repaired group should not drown at once.
pub const RATE_DEFAULT: u32 = 100;
const RATE_MAX: u32 = 10_000;
/// Letters handled by one request; it answers with where to go on.
pub(super) const BATCH_MAX: usize = 1000;

/// Which letters, and how. Exactly one of `seqs`, `filter` and `all` must be given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Request {
    /// These letters, at most 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seqs: Option<Vec<u64>>,
    /// All letters that match.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "agentbus_proto::json::optional")]
    pub filter: Option<Filter>,
    /// All letters that have not been redriven.
    pub all: bool,
    /// Where to. Default: the group that failed.
    pub to: Target,
    /// Override what can be overridden: the loop guard, redriven already, no consumer.
    pub force: bool,
    /// Decide and tell, but send nothing.
    pub dry_run: bool,
    /// Most letters per second, 1 to 10 000. Default 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<u32>,
    /// With `filter` and `all`: go on behind this letter, from `next` of the answer before.
    pub after: u64,
    /// With `filter` and `all`: up to this letter, from `until` of the answer before. Default: the last one there is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Nothing was sent.
    pub dry_run: bool,
    /// One per letter, in order.
    pub letters: Vec<LetterResult>,
    /// Set when there are more: repeat the request with this as `after` and with `until`.
    pub next: Option<u64>,
    /// Letters up to this one were meant, so that what comes back dead meanwhile is not sent round.
    pub until: Option<u64>,
    /// Of `seqs`, those not handled: ask again with these.
    pub left: Vec<u64>,
    /// Why it ended early: the broker took no more.
    pub stopped: Option<String>,
}

/// What became of one letter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LetterResult {
    /// The letter.
    pub seq: u64,
    /// Its group; empty when there is no such letter.
    pub group: String,
    /// Its event.
    pub event_id: String,
    /// Its event's type.
    pub event_type: String,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What became of a letter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// Stored again.
    Redriven {
        /// How often the event has now been redriven.
        redrive: u32,
        /// Stream of the new message.
        new_stream: String,
        /// Its number there.
        new_seq: u64,
        /// That it was sent is in the audit stream. False: lists will show it as unfinished.
        recorded: bool,
    },
    /// Would be sent, without `dry_run`.
    WouldRedrive {
        /// How often the event would then have been redriven.
        redrive: u32,
    },
    /// Not sent, by decision.
    Refused {
        /// Why.
        reason: Refusal,
        /// The same for people.
        message: String,
        /// `force` would send it.
        force_helps: bool,
    },
    /// Could not be sent; it is as it was.
    Failed {
        /// Stable code.
        code: String,
        /// For people.
        message: String,
    },
}

impl Request {
    /// Refuses with `INVALID_EVENT` what is out of bounds or not clear.
    pub(super) fn check(&self) -> Result<(), Fault> {
        let invalid = |why: &str| Err(Fault::new(Code::InvalidEvent, format!("redrive: {why}")));
        match (&self.seqs, &self.filter, self.all) {
            (Some(seqs), None, false) if seqs.is_empty() => return invalid("`seqs` is empty"),
            (Some(seqs), None, false) if seqs.len() > BATCH_MAX => return invalid("`seqs` has more than 1000 entries"),
            (Some(_), None, false) | (None, Some(_), false) | (None, None, true) => {}
            _ => return invalid("say which: exactly one of `seqs`, `filter` and `all`"),
        }
        match self.rate {
            Some(rate) if !(1..=RATE_MAX).contains(&rate) => invalid("`rate` is 1 to 10000 per second"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_its_letters_in_one_way() {
        let check = |request: Request, good: bool| assert_eq!(request.check().is_ok(), good, "{request:?}");
        let all = Request { all: true, ..Request::default() };
        check(Request::default(), false);
        check(all.clone(), true);
        check(Request { seqs: Some(vec![1]), ..all.clone() }, false);
        check(Request { seqs: Some(vec![]), ..Request::default() }, false);
        check(Request { seqs: Some(vec![1; 1001]), ..Request::default() }, false);
        check(Request { filter: Some(Filter::default()), ..Request::default() }, true);
        check(Request { rate: Some(0), ..all.clone() }, false);
        check(Request { rate: Some(10_000), ..all }, true);
    }

    #[test]
    fn outcomes_are_told_by_name() {
        let reason = Refusal::LoopGuard;
        let outcome = Outcome::Refused { reason, message: "m".into(), force_helps: true };
        let result = LetterResult { seq: 1, group: "g".into(), event_id: "e".into(), event_type: "t".into(), outcome };
        let json = serde_json::to_value(&result).unwrap();
        assert_eq!((json["outcome"].as_str(), json["reason"].as_str()), (Some("refused"), Some("loop_guard")));
        assert_eq!(serde_json::from_value::<LetterResult>(json).unwrap(), result);
    }
}
