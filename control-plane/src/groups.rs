//! Which groups each agent takes part in, and what it may publish. Pure: nothing here talks to a broker.
//!
//! *Declared* groups come from the project file: an agent's own group has its name, those of its addresses are in
//! `addresses`. *Joined* groups were asked for by a running agent (`POST /v1/subscriptions`); they are kept in the registry
//! so that a restart knows them.
//!
//! Within a namespace any agent may read any topic and any channel, nobody another's inbox: the namespace is the trust
//! zone, and only publishing is scoped. A group means the same to all its members, for as long as it is known: who asks for
//! a known name with other patterns is refused, even where it is the only member. Another definition would move the filter
//! under whoever reads, and skip what is published meanwhile.
//!
//! Reading is free, taking part is not: a member acks and gives up what the whole group is owed, and writes retries and
//! dead letters in its name. So a declared group is open to the agents that declare it, and to the person; all others are
//! refused with `SCOPE_DENIED`. So is a group with the name of another agent, which is that agent's when it names none. Any
//! other group that was only joined is open to whoever asks for it as it is.

use std::collections::BTreeMap;

use agentbus_nats::budget;
use agentbus_nats::grant::{Directory, GroupGrant, GroupKind, Policy};
use agentbus_nats::names::Names;
use agentbus_nats::pattern::Pattern;
use agentbus_proto::{Address, Code, Fault};

use self::wish::{alike, check, taken};
use crate::addresses;
use crate::spec::{AgentSpec, Project, Subscription};

#[cfg(test)]
mod tests;
mod wish;

pub use wish::GROUP_PARTS_MAX;

/// Agent name of the person at the keyboard: may publish everywhere.
pub const PERSON: &str = "me";

/// Most joined groups of one agent: each is a tag in its token and twelve permissions on the broker.
pub const JOINED_GROUPS_MAX: usize = 64;
/// Most consumers of one agent's joined groups together. Each is a tag in its token, which must fit into one line to the
/// broker, and all agents share the namespace's budget.
pub const JOINED_CONSUMERS_MAX: usize = 256;
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
