//! Subjects as types: built and parsed here, never by `format!` elsewhere.
//!
//! ```text
//! ab.<ns>.<h|n|l>.<sender>.topic.<part>.<topic…>             an event
//! ab.<ns>.<lane>.<sender>.agent.<part>.<agent>.<type…>
//! ab.<ns>.<lane>.<sender>.channel.<part>.<name>.<type…>
//! ab.<ns>.n.<sender>.reply.-.<asker>.<request>                a reply
//! abr.<ns>.<group>.<sidecar's agent>                          a retry
//! abd.<ns>.<group>.<sidecar's agent>.<class>                  a dead letter
//! aba.<ns>.<fact…>                                            an audit fact
//! abt.<ns>.<group>.<sidecar's agent>.<seq>                    a receipt of the event of this number
//! abs.<ns>.s.<agent>.<id>                                     a schedule
//! abs.<ns>.due.<id>.<lane>.<sender>.…                         what it fired, on its way to `ab.<ns>.<lane>.<sender>.…`
//! abc.<ns>.<agent>.<verb>                                     a sidecar's request to the control plane
//! abq.<ns>.<agent>                                            a question of the control plane to an agent's sidecars
//! ```
//! `part` is the hash of the ordering key modulo 16, or `-` without one: it is there from the first day because
//! per-key order in a pool needs consumers by part. The sender token is authenticated by the broker.

use agentbus_proto::{Address, Code, Fault, event::v1::Priority};

/// Most tokens of a subject.
const TOKENS_MAX: usize = 16;
/// Longest subject, in bytes.
const BYTES_MAX: usize = 255;

/// Priority lane, the third token of an event's subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// `h`
    High,
    /// `n`
    Normal,
    /// `l`
    Low,
}

impl Lane {
    /// The token on the wire.
    pub fn token(self) -> &'static str {
        match self {
            Self::High => "h",
            Self::Normal => "n",
            Self::Low => "l",
        }
    }

    fn parse(token: &str) -> Option<Self> {
        match token {
            "h" => Some(Self::High),
            "n" => Some(Self::Normal),
            "l" => Some(Self::Low),
            _ => None,
        }
    }
}

impl From<Priority> for Lane {
    fn from(priority: Priority) -> Self {
        match priority {
            Priority::High => Self::High,
            Priority::Low => Self::Low,
            Priority::Normal | Priority::Unspecified => Self::Normal,
        }
    }
}

/// The subject of an event on the events stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventSubject {
    /// Namespace.
    pub namespace: String,
    /// Priority lane.
    pub lane: Lane,
    /// Authenticated name of the sending agent.
    pub sender: String,
    /// Where it goes.
    pub to: Address,
    /// Type tokens behind an agent or channel name; empty for topics.
    pub event_type: String,
    /// Ordering part, `0`–`f`, or `-`.
    pub part: char,
}

impl EventSubject {
    /// The subject text.
    pub fn render(&self) -> String {
        let (class, rest) = match &self.to {
            Address::Topic(topic) => return topic_event(&self.namespace, self.lane, &self.sender, self.part, topic),
            Address::Agent(name) => ("agent", typed(name, &self.event_type)),
            Address::Channel(name) => ("channel", typed(name, &self.event_type)),
        };
        format!("ab.{}.{}.{}.{class}.{}.{rest}", self.namespace, self.lane.token(), self.sender, self.part)
    }

    /// Reads a subject of the events stream back; `None` for anything else.
    pub fn parse(subject: &str) -> Option<Self> {
        let mut tokens = subject.splitn(7, '.');
        if tokens.next()? != "ab" {
            return None;
        }
        let namespace = tokens.next()?.to_owned();
        let lane = Lane::parse(tokens.next()?)?;
        let sender = tokens.next()?.to_owned();
        let class = tokens.next()?;
        let part = tokens.next()?.chars().next()?;
        let rest = tokens.next()?;
        let (to, event_type) = match class {
            "topic" => (Address::Topic(rest.to_owned()), String::new()),
            "agent" | "channel" => {
                let (name, event_type) = rest.split_once('.').unwrap_or((rest, ""));
                let name = name.to_owned();
                let to = if class == "agent" { Address::Agent(name) } else { Address::Channel(name) };
                (to, event_type.to_owned())
            }
            _ => return None,
        };
        Some(Self { namespace, lane, sender, to, event_type, part })
    }
}

/// The subject of an event to any address: what [`EventSubject::render`] gives, without owning the parts. Refuses with
/// `INVALID_ADDRESS` what is longer than a subject may be: names and type are within their own bounds, together they may
/// be too much.
pub fn event(
    namespace: &str,
    lane: Lane,
    sender: &str,
    part: char,
    to: &Address,
    event_type: &str,
) -> Result<String, Fault> {
    let subject = match to {
        Address::Topic(topic) => topic_event(namespace, lane, sender, part, topic),
        Address::Agent(name) | Address::Channel(name) => {
            let (lane, class, rest) = (lane.token(), to.class(), typed(name, event_type));
            format!("ab.{namespace}.{lane}.{sender}.{class}.{part}.{rest}")
        }
    };
    let tokens = subject.split('.').count();
    if subject.len() > BYTES_MAX || tokens > TOKENS_MAX {
        let length = subject.len();
        let why = format!(
            "the subject of an event to `{to}` has {tokens} tokens and {length} bytes; at most {TOKENS_MAX} and \
             {BYTES_MAX} are allowed: shorten the topic or the type"
        );
        return Err(Fault::new(Code::InvalidAddress, why));
    }
    Ok(subject)
}

/// The subject of an event to a topic: what [`EventSubject::render`] gives, without owning the parts.
pub fn topic_event(namespace: &str, lane: Lane, sender: &str, part: char, topic: &str) -> String {
    let mut part_text = [0; 4];
    let part: &str = part.encode_utf8(&mut part_text);
    ["ab.", namespace, ".", lane.token(), ".", sender, ".topic.", part, ".", topic].concat()
}

fn typed(name: &str, event_type: &str) -> String {
    if event_type.is_empty() { name.to_owned() } else { format!("{name}.{event_type}") }
}

/// The ordering part of a key: FNV-1a of the key modulo 16 as one hex digit; `-` without a key.
///
/// FNV-1a because nats-server's own `partition()` transform uses it: the same key could be mapped there too.
pub fn part(ordering_key: &str) -> char {
    if ordering_key.is_empty() {
        return '-';
    }
    let hash =
        ordering_key.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(16_777_619));
    char::from_digit(hash % 16, 16).unwrap_or('-')
}

/// The sender token of any subject under `ab.`, without parsing the rest.
pub fn sender(subject: &str) -> Option<&str> {
    let mut tokens = subject.split('.');
    (tokens.next() == Some("ab")).then(|| tokens.nth(2)).flatten()
}

/// Where an agent's reply to the ask `request_id` of `asker` goes.
pub fn reply(namespace: &str, sender: &str, asker: &str, request_id: &str) -> String {
    format!("ab.{namespace}.n.{sender}.reply.-.{asker}.{}", request(request_id))
}

/// All replies to asks of an agent, whoever wrote them.
pub fn replies(namespace: &str, asker: &str) -> String {
    format!("ab.{namespace}.*.*.reply.-.{asker}.>")
}

/// All replies to one ask.
pub fn replies_to(namespace: &str, asker: &str, request_id: &str) -> String {
    format!("ab.{namespace}.*.*.reply.-.{asker}.{}", request(request_id))
}

/// The token that stands for an ask: its event id, or a digest of an id that is no token.
fn request(request_id: &str) -> String {
    if agentbus_proto::name::token(request_id).is_ok() {
        return request_id.to_owned();
    }
    // Half of it: 128 bits.
    let mut digest = crate::msg_id::derive("", request_id);
    digest.truncate(32);
    digest
}

/// All events of a namespace.
pub fn events(namespace: &str) -> String {
    format!("ab.{namespace}.>")
}

/// Where a group's failed events wait.
pub fn retry(namespace: &str, group: &str, agent: &str) -> String {
    format!("abr.{namespace}.{group}.{agent}")
}

/// All retries of a group, whoever wrote them.
pub fn retry_filter(namespace: &str, group: &str) -> String {
    format!("abr.{namespace}.{group}.*")
}

/// All retries of all groups.
pub fn retries(namespace: &str) -> String {
    format!("abr.{namespace}.>")
}

/// Where a group's dead letters of a class go.
pub fn dead_letter(namespace: &str, group: &str, agent: &str, class: &str) -> String {
    format!("abd.{namespace}.{group}.{agent}.{class}")
}

/// Where the control plane writes a fact such as `agent.exited.v1`.
pub fn audit(namespace: &str, fact: &str) -> String {
    format!("aba.{namespace}.{fact}")
}

/// Where a schedule of an agent is stored. `id` is a token.
pub fn schedule(namespace: &str, agent: &str, id: &str) -> String {
    format!("abs.{namespace}.s.{agent}.{id}")
}

/// All schedules of an agent, or of everybody.
pub fn schedules(namespace: &str, agent: Option<&str>) -> String {
    format!("abs.{namespace}.s.{}.*", agent.unwrap_or("*"))
}

/// Agent and id of a schedule's subject.
pub fn parse_schedule<'a>(namespace: &str, subject: &'a str) -> Option<(&'a str, &'a str)> {
    let rest = subject.strip_prefix("abs.")?.strip_prefix(namespace)?.strip_prefix(".s.")?;
    rest.split_once('.').filter(|(agent, id)| !agent.is_empty() && !id.is_empty() && !id.contains('.'))
}

/// Where a schedule fires to, for an event with this subject on the events stream. With the schedule's id in it: of each
/// schedule the broker keeps one occurrence at most while the events stream takes nothing.
pub fn due(namespace: &str, id: &str, event: &str) -> Option<String> {
    let rest = event.strip_prefix("ab.")?.strip_prefix(namespace)?.strip_prefix('.')?;
    Some(format!("abs.{namespace}.due.{id}.{rest}"))
}

/// How the events stream renames what it takes from the stream of schedules: (from, to).
pub fn due_transform(namespace: &str) -> (String, String) {
    (format!("abs.{namespace}.due.*.>"), format!("ab.{namespace}.>"))
}

/// Where a sidecar asks the control plane something.
pub fn control(namespace: &str, agent: &str, verb: &str) -> String {
    format!("abc.{namespace}.{agent}.{verb}")
}

/// Where a member of a group writes that it is through with an attempt at the event of this number.
pub fn receipt(namespace: &str, group: &str, agent: &str, seq: u64) -> String {
    format!("abt.{namespace}.{group}.{agent}.{seq}")
}

/// All receipts of the event of this number; of every event without one.
pub fn receipts(namespace: &str, seq: Option<u64>) -> String {
    seq.map_or_else(|| format!("abt.{namespace}.>"), |seq| format!("abt.{namespace}.*.*.{seq}"))
}

/// Where all instances of an agent hear questions of the control plane.
pub fn questions(namespace: &str, agent: &str) -> String {
    format!("abq.{namespace}.{agent}")
}

/// A new inbox prefix for one connection. The agent's name is what the broker's permission names; the rest are 128 random
/// bits, because whoever can guess an inbox can have the broker speak there (it does not check reply subjects).
pub fn inbox(agent: &str) -> String {
    format!("_INBOX.{agent}.{:032x}", rand::random::<u128>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_read_back_as_written() {
        let cases = [
            (Address::Topic("notes.created".into()), "", "ab.default.n.list.topic.-.notes.created"),
            (
                Address::Agent("reviewer".into()),
                "review.asked.v1",
                "ab.default.n.list.agent.-.reviewer.review.asked.v1",
            ),
            (Address::Channel("engineering".into()), "", "ab.default.n.list.channel.-.engineering"),
        ];
        for (to, event_type, text) in cases {
            let subject = EventSubject {
                namespace: "default".into(),
                lane: Lane::Normal,
                sender: "list".into(),
                to,
                event_type: event_type.into(),
                part: '-',
            };
            assert_eq!(subject.render(), text);
            assert_eq!(EventSubject::parse(text), Some(subject));
            assert_eq!(sender(text), Some("list"));
        }
    }

    #[test]
    fn foreign_subjects_do_not_parse() {
        for text in [
            "",
            "ab",
            "ab.default.x.a.topic.-.b",
            "abr.default.g.a",
            "ab.default.n.a.other.-.b",
            "ab.default.n.a.topic.-",
        ] {
            assert_eq!(EventSubject::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_reply_has_one_token_for_its_ask_and_is_no_event_to_an_address() {
        let subject = reply("default", "b", "a", "0198-x");
        assert_eq!(subject, "ab.default.n.b.reply.-.a.0198-x");
        assert_eq!((sender(&subject), EventSubject::parse(&subject)), (Some("b"), None));
        for odd in ["a.b", "AB_default_EVENTS/7/g/0", "*", ">", &"x".repeat(64)] {
            let subject = reply("default", "b", "a", odd);
            assert_eq!(subject.split('.').count(), 8, "{subject}");
            assert!(!subject.contains(['*', '>', '/']), "{subject}");
            assert_eq!(replies_to("default", "a", odd).rsplit('.').next(), subject.rsplit('.').next());
        }
        assert_ne!(reply("default", "b", "a", "x.1"), reply("default", "b", "a", "x.2"));
    }

    #[test]
    fn an_inbox_is_the_agents_and_cannot_be_guessed() {
        let (one, other) = (inbox("a"), inbox("a"));
        assert!(one != other && one.starts_with("_INBOX.a.") && one.len() == "_INBOX.a.".len() + 32, "{one}");
    }

    #[test]
    fn a_key_has_one_part_and_no_key_has_none() {
        assert_eq!(part(""), '-');
        assert_eq!(part("order-17"), part("order-17"));
        assert!(part("order-17").is_ascii_hexdigit());
    }

    #[test]
    fn a_subject_that_is_too_long_is_refused_with_its_length() {
        let subject =
            |to: &str, event_type: &str| event("default", Lane::Normal, "list", '-', &to.parse().unwrap(), event_type);
        assert_eq!(subject("@b", "t.v1").unwrap(), "ab.default.n.list.agent.-.b.t.v1");
        assert_eq!(subject("#all", "").unwrap(), "ab.default.n.list.channel.-.all");
        assert_eq!(subject("a.b", "t.v1").unwrap(), "ab.default.n.list.topic.-.a.b");
        assert!(subject("@b", "1.2.3.4.5.6.7.8.9").is_ok());
        let fault = subject("@b", "1.2.3.4.5.6.7.8.9.10").unwrap_err();
        assert!(fault.code == Code::InvalidAddress && fault.message.contains("17 tokens"), "{fault}");
        let long = ["x".repeat(63), "y".repeat(63), "z".repeat(22)].join(".");
        assert!(subject(&long, "").is_ok());
        let fault = event(&"n".repeat(63), Lane::Low, &"s".repeat(63), '-', &Address::Topic(long), "").unwrap_err();
        assert!(fault.message.contains("291 bytes"), "{fault}");
    }
}
