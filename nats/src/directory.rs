//! Which addresses are declared in a namespace, and what to say about one that is not.

use agentbus_proto::{Address, Code, Fault, did_you_mean};

use crate::grant::Directory;

/// The channel of every agent, declared or not.
pub const ALL: &str = "all";
/// Most names told in a refusal.
const NAMED_MAX: usize = 8;

impl Directory {
    /// Refuses with `INVALID_ADDRESS` what nobody has declared, naming what was probably meant. Topics need no declaration.
    pub fn check(&self, to: &Address) -> Result<(), Fault> {
        if self.knows(to) {
            return Ok(());
        }
        let (kind, or) = match to {
            // Who reads it later does not get what was sent before.
            Address::Channel(_) => ("channel", ""),
            _ => ("agent or pool", ", or have the event wait for it (`park`)"),
        };
        let why = format!("no {kind} `{to}` is declared: {} add it to agentbus.yaml{or}", self.hint(to));
        Err(Fault::new(Code::InvalidAddress, why))
    }

    /// Whether it is declared, or a topic.
    pub fn knows(&self, to: &Address) -> bool {
        match to {
            Address::Topic(_) => true,
            Address::Agent(name) => self.agents.contains_key(name) || self.pools.contains_key(name),
            Address::Channel(name) => name == ALL || self.channels.contains(name),
        }
    }

    /// What was probably meant, or what there is: a part of a sentence, with its end.
    pub fn hint(&self, to: &Address) -> String {
        let (sign, names): (_, Vec<&str>) = match to {
            Address::Channel(_) => {
                let declared = self.channels.iter().map(String::as_str).filter(|name| *name != ALL);
                ('#', declared.chain([ALL]).collect())
            }
            _ => ('@', self.agents.keys().chain(self.pools.keys()).map(String::as_str).collect()),
        };
        if let Some(near) = did_you_mean(to.name(), &names) {
            return format!("did you mean `{sign}{near}`?");
        }
        let shown: Vec<String> = names.iter().take(NAMED_MAX).map(|name| format!("{sign}{name}")).collect();
        let more = if names.len() > NAMED_MAX { ", …" } else { "" };
        format!("declared are {}{more};", if shown.is_empty() { "none".to_owned() } else { shown.join(", ") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> Directory {
        Directory {
            agents: [("reviewer".to_owned(), String::new())].into(),
            pools: [("reviewers-eu".to_owned(), vec!["reviewer".to_owned()])].into(),
            channels: ["engineering".to_owned(), ALL.to_owned()].into(),
        }
    }

    #[test]
    fn declared_addresses_and_all_topics_are_fine() {
        for to in ["@reviewer", "@reviewers-eu", "#engineering", "#all", "any.topic"] {
            assert_eq!(directory().check(&to.parse().unwrap()), Ok(()), "{to}");
        }
    }

    #[test]
    fn others_are_refused_with_what_was_probably_meant() {
        let check = |to: &str, wanted: &str| {
            let fault = directory().check(&to.parse().unwrap()).unwrap_err();
            assert_eq!(fault.code, Code::InvalidAddress);
            assert!(fault.message.starts_with(wanted), "{fault}");
        };
        check("@reviwer", "no agent or pool `@reviwer` is declared: did you mean `@reviewer`? add it to agentbus.yaml");
        check("@other", "no agent or pool `@other` is declared: declared are @reviewer, @reviewers-eu; add it");
        check("#enginering", "no channel `#enginering` is declared: did you mean `#engineering`?");
        check("#sales", "no channel `#sales` is declared: declared are #engineering, #all; add it");
    }
}
