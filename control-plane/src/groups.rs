//! Which groups each agent takes part in, and what it may publish. Pure: nothing here talks to a broker.
//!
//! *Declared* groups come from the project file: an agent's own group has its name, those of its addresses are in
//! `addresses`. *Joined* groups were asked for by a running agent (`POST /v1/subscriptions`); they are kept in the registry
//! so that a restart knows them. Within a namespace any agent may read any topic and any channel, nobody another's inbox: the namespace is the trust zone, and only publishing is scoped. A group means
//! the same to all its members, for as long as it is known: who asks for a known name with other patterns is refused, even
//! where it is the only member. Another definition would move the filter under whoever reads, and skip what is published
//! meanwhile.
//!
//! Reading is free, taking part is not: a member acks and gives up what the whole group is owed, and writes retries and
//! dead letters in its name. So a declared group is open to the agents that declare it, and to the person; all others are
//! refused with `SCOPE_DENIED`. So is a group with the name of another agent, which is that agent's when it names none. Any
//! other group that was only joined is open to whoever asks for it as it is.

use std::collections::BTreeMap;

use agentbus_nats::budget;
use agentbus_nats::grant::{Directory, GroupGrant, GroupKind, Policy};
use agentbus_nats::names::Names;
use agentbus_nats::pattern::{self, Pattern};
use agentbus_proto::{Address, Code, Fault, name};

use crate::addresses;
use crate::spec::{AgentSpec, Project, Subscription};

/// Agent name of the person at the keyboard: may publish everywhere.
pub const PERSON: &str = "me";

/// Most joined groups of one agent: each is a tag in its token and twelve permissions on the broker.
pub const JOINED_GROUPS_MAX: usize = 64;
/// Most consumers of one agent's joined groups together. Each is a tag in its token, which must fit into one line to the
/// broker, and all agents share the namespace's budget.
pub const JOINED_CONSUMERS_MAX: usize = 256;
/// Most patterns, types or attributes of a joined group: they become filters on the broker, or checks per event.
pub const GROUP_PARTS_MAX: usize = 64;
/// Longest type, attribute name or attribute value, in bytes.
const PART_BYTES_MAX: usize = 256;

/// What one agent takes part in.
#[derive(Debug, Clone, Default, PartialEq)]
struct Member {
    declared: Vec<GroupGrant>,
    /// In the order of joining, the latest last.
    joined: Vec<GroupGrant>,
    publish: Vec<String>,
    /// For groups it joins.
    policy: Policy,
}

/// All agents of a namespace with their groups.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Groups {
    members: BTreeMap<String, Member>,
    directory: Directory,
}

impl Groups {
    /// What a project declares; `person` adds the agent `me`.
    pub fn declared(project: &Project, person: bool) -> Self {
        let mut members: BTreeMap<String, Member> =
            project.agents.iter().map(|agent| (agent.name.clone(), member(project, agent))).collect();
        if person {
            let publish = [">", "@*", "#*"].map(str::to_owned).into();
            let (policy, declared) = (project.policy.clone(), addresses::person_groups(&project.policy));
            members.insert(PERSON.to_owned(), Member { declared, publish, policy, ..Member::default() });
        }
        Self { members, directory: addresses::directory(project, person) }
    }

    /// Whether the agent exists here.
    pub fn knows(&self, agent: &str) -> bool {
        self.members.contains_key(agent)
    }

    /// The groups of an agent, declared ones first.
    pub fn of(&self, agent: &str) -> Vec<GroupGrant> {
        let member = self.members.get(agent);
        member.map(|member| member.declared.iter().chain(&member.joined).cloned().collect()).unwrap_or_default()
    }

    /// The groups that read an address, each with its members.
    pub fn readers(&self, to: &Address) -> Vec<(String, Vec<String>)> {
        let reads = |group: &GroupGrant| {
            group.patterns.iter().any(|text| Pattern::parse(text).is_ok_and(|pattern| pattern.matches_address(to)))
        };
        let mut readers: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (agent, member) in &self.members {
            for group in member.declared.iter().chain(&member.joined).filter(|group| reads(group)) {
                readers.entry(&group.name).or_default().push(agent.clone());
            }
        }
        readers.into_iter().map(|(group, members)| (group.to_owned(), members)).collect()
    }

    /// All declared addresses.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Address patterns an agent may publish to.
    pub fn publish(&self, agent: &str) -> &[String] {
        self.members.get(agent).map_or(&[], |member| &member.publish)
    }

    /// The joined groups of an agent: what the registry keeps.
    pub fn joined(&self, agent: &str) -> &[GroupGrant] {
        self.members.get(agent).map_or(&[], |member| &member.joined)
    }

    /// Every group once, by name; those of agents' own addresses behind all others.
    pub fn all(&self) -> Vec<GroupGrant> {
        let members = self.members.values();
        let groups =
            members.clone().flat_map(|member| &member.joined).chain(members.flat_map(|member| &member.declared));
        // Declared ones come last and win.
        let place = |group: &'_ GroupGrant| (Names::is_reserved(&group.name), group.name.clone());
        let named: BTreeMap<(bool, String), &GroupGrant> = groups.map(|group| (place(group), group)).collect();
        named.into_values().cloned().collect()
    }

    /// Decides about a wish to join; the answer is the group as it shall be. Changes nothing: see [`Self::joined_now`].
    pub fn decide(&self, agent: &str, wish: GroupGrant) -> Result<GroupGrant, Fault> {
        let member = self.members.get(agent).ok_or_else(|| unknown(agent))?;
        check(&wish, &self.directory)?;
        let named = |group: &&GroupGrant| group.name == wish.name;
        let declared = self.members.values().flat_map(|member| &member.declared).find(named);
        if let Some(known) = declared {
            if agent != PERSON && !member.declared.iter().any(|own| named(&own)) {
                return Err(closed(agent, known));
            }
            return if alike(known, &wish) {
                Ok(known.clone())
            } else {
                Err(taken(known, &wish, "is declared in the project file"))
            };
        }
        if agent != PERSON && wish.name != agent && self.knows(&wish.name) {
            let why = format!("group `{}` belongs to the agent of that name: name another group", wish.name);
            return Err(Fault::new(Code::ScopeDenied, why));
        }
        let joined = self.members.values().flat_map(|member| &member.joined).find(named);
        if let Some(known) = joined.filter(|known| !alike(known, &wish)) {
            return Err(taken(known, &wish, "was joined before"));
        }
        let mine = member.joined.iter().any(|group| group.name == wish.name);
        if !mine && member.joined.len() >= JOINED_GROUPS_MAX && agent != PERSON {
            let why = format!(
                "agent `{agent}` has joined {JOINED_GROUPS_MAX} groups already; declare groups, or reuse names"
            );
            return Err(Fault::new(Code::CapacityExceeded, why));
        }
        let others = member.joined.iter().filter(|group| group.name != wish.name);
        let consumers = others.map(budget::of_group).sum::<usize>() + budget::of_group(&wish);
        if consumers > JOINED_CONSUMERS_MAX {
            let why = format!(
                "the groups that agent `{agent}` joined would need {consumers} consumers, at most {JOINED_CONSUMERS_MAX} are \
                 allowed: declare groups, or join fewer with split lanes or order by key"
            );
            return Err(Fault::new(Code::CapacityExceeded, why));
        }
        // The bus's own kinds begin with all that was ever sent, and are nobody's to ask for.
        let kind = GroupKind::Patterns;
        Ok(GroupGrant { declared: false, kind, policy: member.policy.clone(), ..wish })
    }

    /// Takes a decided group in. The person's oldest one is forgotten beyond the bound (its consumers stay).
    pub fn joined_now(&mut self, agent: &str, group: GroupGrant) {
        let Some(member) = self.members.get_mut(agent) else { return };
        if member.declared.iter().any(|known| known.name == group.name) {
            return;
        }
        member.joined.retain(|known| known.name != group.name);
        member.joined.push(group);
        if member.joined.len() > JOINED_GROUPS_MAX {
            let forgotten = member.joined.remove(0);
            tracing::info!(agent, group = forgotten.name, "oldest joined group forgotten");
        }
    }

    /// Takes in what an earlier run kept. Groups that are declared by now, or no longer allowed, are left out.
    pub fn restore(&mut self, agent: &str, kept: Vec<GroupGrant>) {
        for group in kept {
            match self.decide(agent, group) {
                Ok(group) => self.joined_now(agent, group),
                Err(fault) => tracing::warn!(agent, error = %fault, "joined group not taken over"),
            }
        }
    }
}

fn member(project: &Project, agent: &AgentSpec) -> Member {
    // The group of its channels is made together with its share of `#all`.
    let channels = Names::channels_group(&agent.name);
    let subscribed = agent.subscribe.iter().filter(|subscription| subscription.group != channels);
    let own = addresses::own_groups(project, agent);
    let declared = subscribed.map(|subscription| grant(agent, subscription)).chain(own).collect();
    Member { declared, joined: Vec::new(), publish: agent.publish.clone(), policy: agent.policy.clone() }
}

fn grant(agent: &AgentSpec, subscription: &Subscription) -> GroupGrant {
    GroupGrant {
        name: subscription.group.clone(),
        patterns: subscription.patterns.clone(),
        types: subscription.types.clone(),
        attributes: subscription.attributes.clone(),
        ordered: subscription.ordered,
        by_key: subscription.by_key,
        split_lanes: subscription.split_lanes,
        declared: true,
        policy: agent.policy.clone(),
        ..GroupGrant::default()
    }
}

fn check(wish: &GroupGrant, directory: &Directory) -> Result<(), Fault> {
    name::lower_name("group", &wish.name)?;
    wish.check_layout()?;
    if Names::is_reserved(&wish.name) {
        let why = format!("group `{}`: names with `--` are the bus's own; name another group", wish.name);
        return Err(Fault::new(Code::InvalidAddress, why));
    }
    let parts = wish.patterns.len().max(wish.types.len()).max(wish.attributes.len());
    let texts = wish.types.iter().chain(wish.attributes.keys()).chain(wish.attributes.values());
    if parts > GROUP_PARTS_MAX || texts.map(String::len).max().unwrap_or(0) > PART_BYTES_MAX {
        let why =
            format!("a group has at most {GROUP_PARTS_MAX} patterns, types and attributes of {PART_BYTES_MAX} bytes");
        return Err(Fault::new(Code::InvalidAddress, why));
    }
    for pattern in pattern::simplify(&wish.patterns)? {
        if pattern.is_agent() {
            let why =
                format!("`{pattern}` cannot be subscribed: what is sent to an agent or a pool is read by it alone");
            return Err(Fault::new(Code::ScopeDenied, why));
        }
        if let Some(name) = pattern.channel() {
            readable(directory, Address::Channel(name.to_owned()))?;
        }
    }
    Ok(())
}

fn readable(directory: &Directory, channel: Address) -> Result<(), Fault> {
    if directory.knows(&channel) {
        return Ok(());
    }
    let hint = directory.hint(&channel);
    Err(Fault::new(Code::InvalidAddress, format!("no channel `{channel}` is declared: {hint} add it to agentbus.yaml")))
}

/// Whether two descriptions of a group mean the same, in whatever order they name things and however often.
fn alike(one: &GroupGrant, other: &GroupGrant) -> bool {
    let sorted = |texts: &[String]| {
        let mut texts = texts.to_vec();
        texts.sort();
        texts.dedup();
        texts
    };
    let simple = |patterns: &[String]| {
        let kept = pattern::simplify(patterns).unwrap_or_default();
        sorted(&kept.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    simple(&one.patterns) == simple(&other.patterns)
        && sorted(&one.types) == sorted(&other.types)
        && one.attributes == other.attributes
        && (one.ordered, one.by_key, one.split_lanes) == (other.ordered, other.by_key, other.split_lanes)
}

fn taken(known: &GroupGrant, wish: &GroupGrant, why: &str) -> Fault {
    let (name, patterns) = (&known.name, known.patterns.join(", "));
    let mut more = String::new();
    if !known.types.is_empty() {
        more.push_str(&format!("; of type {}", known.types.join(", ")));
    }
    if !known.attributes.is_empty() {
        let pairs: Vec<String> = known.attributes.iter().map(|(key, value)| format!("{key}={value}")).collect();
        more.push_str(&format!("; with {}", pairs.join(", ")));
    }
    more.push_str(if known.ordered { "; ordered" } else { "" });
    more.push_str(if known.by_key { "; in order by key" } else { "" });
    more.push_str(if known.split_lanes { "; with split lanes" } else { "" });
    let special = |group: &GroupGrant| group.ordered || group.by_key || group.split_lanes;
    more.push_str(if special(wish) && !special(known) { "; neither in order nor with split lanes" } else { "" });
    let message =
        format!("group `{name}` {why} and reads {patterns}{more}: ask for exactly these, or name another group");
    Fault::new(Code::InvalidAddress, message)
}

fn closed(agent: &str, known: &GroupGrant) -> Fault {
    let name = &known.name;
    let message = format!(
        "group `{name}` is declared in the project file and agent `{agent}` is not in it: declare it there too, or name \
         another group"
    );
    Fault::new(Code::ScopeDenied, message)
}

pub(crate) fn unknown(agent: &str) -> Fault {
    Fault::new(Code::ScopeDenied, format!("agent `{agent}` is not declared here"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: [&str; 3] = ["report", "report--inbox", "report--channels"];

    fn groups() -> Groups {
        let text = "version: 1\ndefaults: {retry: {max_attempts: 7}}\nagents:\n  \
             report: {runner: process, command: [r], subscribe: [file.checked, audit.>], ordered: true, publish: [done]}\n  \
             other: {runner: process, command: [o], retry: {max_attempts: 2}}\n";
        Groups::declared(&Project::parse(text, "t").unwrap(), true)
    }

    fn wish(name: &str, patterns: &[&str]) -> GroupGrant {
        let patterns = patterns.iter().map(|text| (*text).to_owned()).collect();
        GroupGrant {
            name: name.into(),
            patterns,
            types: vec![],
            attributes: BTreeMap::new(),
            ordered: false,
            declared: true,
            policy: Policy { max_attempts: 99, ..Policy::default() },
            ..GroupGrant::default()
        }
    }

    #[test]
    fn the_default_group_has_the_agents_name_and_its_policy() {
        let groups = groups();
        let report = groups.of("report");
        assert_eq!(report.iter().map(|group| group.name.as_str()).collect::<Vec<_>>(), OWN);
        let report = &report[0];
        assert_eq!((report.name.as_str(), report.ordered, report.declared), ("report", true, true));
        assert_eq!(report.policy.max_attempts, 7);
        assert_eq!(groups.publish("report"), ["done"]);
        assert_eq!(groups.publish(PERSON), [">", "@*", "#*"]);
        assert_eq!(groups.publish("nobody"), [] as [&str; 0]);
    }

    #[test]
    fn a_joined_group_gets_the_policy_of_who_asks_and_not_its_wish() {
        let mut groups = groups();
        let group = groups.decide("other", wish("readers", &["a.b"])).unwrap();
        assert_eq!((group.declared, group.policy.max_attempts), (false, 2));
        groups.joined_now("other", group);
        assert_eq!(groups.joined("other").len(), 1);
        assert_eq!(groups.of("other").last().unwrap().name, "readers");
        // Two of its own for each agent and the person, the declared one, and this.
        assert_eq!(groups.all().len(), 8);
    }

    #[test]
    fn a_known_group_must_be_asked_for_as_it_is() {
        let mut groups = groups();
        let check = |groups: &Groups, agent: &str, wish: GroupGrant, expected: Option<Code>| {
            assert_eq!(groups.decide(agent, wish).err().map(|fault| fault.code), expected);
        };
        let ordered = GroupGrant { ordered: true, ..wish("report", &["audit.>", "file.checked"]) };
        check(&groups, "report", ordered.clone(), None);
        check(&groups, PERSON, ordered.clone(), None);
        let wordy = GroupGrant { ordered: true, ..wish("report", &["audit.>", "audit.started", "file.checked"]) };
        check(&groups, "report", wordy, None);
        check(&groups, "report", wish("report", &["audit.>", "file.checked"]), Some(Code::InvalidAddress));
        // Whoever is not declared a member stays outside, however well it knows the definition.
        check(&groups, "other", ordered, Some(Code::ScopeDenied));
        check(&groups, "other", wish("report", &["more"]), Some(Code::ScopeDenied));
        check(&groups, "report", wish("other", &["a"]), Some(Code::ScopeDenied));
        check(&groups, "other", wish("other", &["a"]), None);
        check(&groups, "report", wish("report", &["more"]), Some(Code::InvalidAddress));
        check(&groups, "stranger", wish("readers", &["a"]), Some(Code::ScopeDenied));
        check(&groups, "other", wish("Readers", &["a"]), Some(Code::InvalidAddress));
        check(&groups, "other", wish("readers", &[]), Some(Code::InvalidAddress));
        check(&groups, "other", wish("readers", &["a.*", "*.b"]), Some(Code::InvalidAddress));
        let group = groups.decide("other", wish("readers", &["a"])).unwrap();
        groups.joined_now("other", group);
        for agent in ["other", "report", PERSON] {
            check(&groups, agent, wish("readers", &["a"]), None);
            check(&groups, agent, wish("readers", &["b"]), Some(Code::InvalidAddress));
            let typed = GroupGrant { types: vec!["t.v1".into()], ..wish("readers", &["a"]) };
            check(&groups, agent, typed, Some(Code::InvalidAddress));
        }
    }

    #[test]
    fn channels_can_be_joined_and_addresses_cannot() {
        let mut groups = groups();
        let said = |groups: &Groups, agent: &str, wish: GroupGrant| groups.decide(agent, wish).unwrap_err().to_string();
        let wanted = "SCOPE_DENIED: `@report` cannot be subscribed";
        for agent in ["report", "other", PERSON] {
            assert!(said(&groups, agent, wish("spies", &["a", "@report"])).starts_with(wanted));
            assert!(said(&groups, agent, wish("spies", &["@*"])).starts_with("SCOPE_DENIED"));
            assert!(said(&groups, agent, wish("report--inbox", &["a"])).contains("names with `--` are the bus's own"));
        }
        let wanted = "INVALID_ADDRESS: no channel `#al` is declared: did you mean `#all`?";
        assert!(said(&groups, "other", wish("readers", &["#al"])).starts_with(wanted));
        let group = groups.decide("other", wish("readers", &["#all", "a"])).unwrap();
        groups.joined_now("other", group);
        assert_eq!(groups.joined("other").len(), 1);
    }

    #[test]
    fn a_refusal_names_what_is_in_force() {
        let mut groups = groups();
        let attributes = [("k".to_owned(), "v".to_owned())].into();
        let narrow = GroupGrant { types: vec!["t.v1".into()], attributes, ..wish("readers", &["a.>", "b"]) };
        let narrow = groups.decide("other", narrow).unwrap();
        groups.joined_now("other", narrow);
        let said =
            |groups: &Groups, name: &str, agent: &str| groups.decide(agent, wish(name, &["c"])).unwrap_err().message;
        let wanted = "group `readers` was joined before and reads a.>, b; of type t.v1; with k=v: ask for exactly these, or \
                      name another group";
        assert_eq!(said(&groups, "readers", "other"), wanted);
        let by_key = GroupGrant { by_key: true, ..wish("readers", &["a.>", "b"]) };
        let refused = groups.decide("other", by_key).unwrap_err().message;
        assert!(refused.contains("; with k=v; neither in order nor with split lanes: ask for"), "{refused}");
        let wanted = "group `report` is declared in the project file and reads file.checked, audit.>; ordered: ask for \
                      exactly these, or name another group";
        assert_eq!(said(&groups, "report", "report"), wanted);
    }

    #[test]
    fn joining_is_bounded_and_the_person_forgets() {
        let mut groups = groups();
        for number in 0..JOINED_GROUPS_MAX {
            for agent in ["other", PERSON] {
                let group = groups.decide(agent, wish(&format!("{agent}-{number}"), &["a"])).unwrap();
                groups.joined_now(agent, group);
            }
        }
        let full = groups.decide("other", wish("one-more", &["a"])).unwrap_err();
        assert_eq!(full.code, Code::CapacityExceeded);
        let group = groups.decide(PERSON, wish("one-more", &["a"])).unwrap();
        groups.joined_now(PERSON, group);
        assert_eq!(groups.joined(PERSON).len(), JOINED_GROUPS_MAX);
        assert_eq!(groups.joined(PERSON)[0].name, "me-1");
    }

    #[test]
    fn one_agent_cannot_take_all_consumers() {
        let mut groups = groups();
        let by_key = |number: usize| GroupGrant { by_key: true, ..wish(&format!("k{number}"), &["a"]) };
        for number in 0..JOINED_CONSUMERS_MAX / 18 {
            let group = groups.decide("other", by_key(number)).unwrap();
            groups.joined_now("other", group);
        }
        assert_eq!(groups.decide("other", by_key(99)).unwrap_err().code, Code::CapacityExceeded);
        assert!(groups.decide("other", by_key(0)).is_ok(), "what it has, it keeps");
        assert!(groups.decide("report", by_key(99)).is_ok());
        assert!(groups.decide("other", wish("small", &["a"])).is_ok());
    }

    #[test]
    fn nobody_joins_a_group_of_the_bus_own_kind() {
        for kind in [GroupKind::Inbox, GroupKind::Pool] {
            let group = groups().decide("other", GroupGrant { kind, ..wish("readers", &["a"]) }).unwrap();
            assert_eq!(group.kind, GroupKind::Patterns);
        }
    }

    #[test]
    fn a_restart_knows_what_was_joined_and_the_file_wins() {
        let mut groups = groups();
        groups.restore("other", vec![wish("readers", &["a"]), wish("report", &["x"])]);
        assert_eq!(groups.joined("other").len(), 1);
        groups.restore("stranger", vec![wish("readers", &["a"])]);
        assert!(!groups.knows("stranger"));
    }
}
