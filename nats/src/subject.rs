//! Subjects as types: built and parsed here, never by `format!` elsewhere.
//!
//! ```text
//! ab.<ns>.<h|n|l>.<sender>.topic.<part>.<topic…>             an event
//! ab.<ns>.<lane>.<sender>.agent.<part>.<agent>.<type…>
//! ab.<ns>.<lane>.<sender>.channel.<part>.<name>.<type…>
//! abr.<ns>.<group>.<sidecar's agent>                          a retry
//! abd.<ns>.<group>.<sidecar's agent>.<class>                  a dead letter
//! aba.<ns>.<fact…>                                            an audit fact
//! abc.<ns>.<agent>.<verb>                                     a sidecar's request to the control plane
//! ```
//! `part` is the hash of the ordering key modulo 16, or `-` without one: it is there from the first day because
//! per-key order in a pool needs consumers by part. The sender token is authenticated by the broker.

use agentbus_proto::{Address, event::v1::Priority};

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

/// Where a group's failed events wait.
pub fn retry(namespace: &str, group: &str, agent: &str) -> String {
    format!("abr.{namespace}.{group}.{agent}")
}

/// All retries of a group, whoever wrote them.
pub fn retry_filter(namespace: &str, group: &str) -> String {
    format!("abr.{namespace}.{group}.*")
}

/// Where a group's dead letters of a class go.
pub fn dead_letter(namespace: &str, group: &str, agent: &str, class: &str) -> String {
    format!("abd.{namespace}.{group}.{agent}.{class}")
}

/// Where the control plane writes a fact such as `agent.exited.v1`.
pub fn audit(namespace: &str, fact: &str) -> String {
    format!("aba.{namespace}.{fact}")
}

/// Where a sidecar asks the control plane something.
pub fn control(namespace: &str, agent: &str, verb: &str) -> String {
    format!("abc.{namespace}.{agent}.{verb}")
}

/// Inbox prefix of one instance. Replicas share the agent's part, which is what the broker's permission names.
pub fn inbox(agent: &str, instance: &str) -> String {
    format!("_INBOX.{agent}.{instance}")
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
    fn a_key_has_one_part_and_no_key_has_none() {
        assert_eq!(part(""), '-');
        assert_eq!(part("order-17"), part("order-17"));
        assert!(part("order-17").is_ascii_hexdigit());
    }
}
