//! What comes with declared addresses: the directory of all of them, and the groups in which an agent reads what is sent
//! to it, to its pools and to its channels. Pure.
//!
//! | address | group | who is in it |
//! |---|---|---|
//! | `@a` | `a--inbox` | agent `a`, and whoever stands in for it |
//! | `@p`, a pool | `pool--p` | the members: each event goes to one of them |
//! | `#all` and the channels of `a` | `a--channels` | agent `a`, in order |
//!
//! These groups exist from the moment their address is declared, so nothing that is sent there is left out. An inbox and a
//! pool begin with all that was ever sent there: events that were parked until somebody declares them.

use agentbus_nats::directory::ALL;
use agentbus_nats::grant::{Directory, GroupGrant, GroupKind, Policy};
use agentbus_nats::names::Names;
use agentbus_nats::pattern::Pattern;

use crate::groups::PERSON;
use crate::spec::{AgentSpec, Pool, Project};

/// All declared addresses.
pub fn directory(project: &Project, person: bool) -> Directory {
    let mut directory = Directory { channels: project.channels.iter().cloned().collect(), ..Directory::default() };
    directory.channels.insert(ALL.to_owned());
    if person {
        directory.agents.insert(PERSON.to_owned(), String::new());
    }
    for agent in &project.agents {
        directory.agents.insert(agent.name.clone(), agent.fallback.clone().unwrap_or_default());
        for pool in &agent.pools {
            directory.pools.entry(pool.clone()).or_default().push(agent.name.clone());
        }
    }
    directory
}

/// The groups of an agent beside those it subscribes to.
pub fn own_groups(project: &Project, agent: &AgentSpec) -> Vec<GroupGrant> {
    let mut groups = vec![inbox(&agent.name, agent.ordered, &agent.policy)];
    groups.extend(channels(agent));
    groups.extend(agent.pools.iter().map(|pool| pool_group(project, pool, &agent.policy)));
    let others = project.agents.iter().filter(|other| stands_in(project, other).contains(&agent.name.as_str()));
    groups.extend(others.map(|other| inbox(&other.name, other.ordered, &other.policy)));
    groups
}

/// The groups of the person.
pub fn person_groups(policy: &Policy) -> Vec<GroupGrant> {
    vec![inbox(PERSON, false, policy), in_order(PERSON, vec![format!("#{ALL}")], policy)]
}

/// Who takes an agent's own events while it is away, the first choice first. Ends where it would come back.
pub fn stands_in<'a>(project: &'a Project, agent: &'a AgentSpec) -> Vec<&'a str> {
    let mut way: Vec<&str> = Vec::new();
    let mut next = agent.fallback.as_deref();
    while let Some(name) = next.filter(|name| *name != agent.name && !way.contains(name)) {
        way.push(name);
        next = project.agent(name).and_then(|other| other.fallback.as_deref());
    }
    way
}

fn pool_group(project: &Project, pool: &str, policy: &Policy) -> GroupGrant {
    let Pool { ordered, by_key, split_lanes } = project.pools.get(pool).copied().unwrap_or_default();
    GroupGrant {
        name: Names::pool_group(pool),
        patterns: vec![format!("@{pool}")],
        kind: GroupKind::Pool,
        ordered,
        by_key,
        split_lanes,
        declared: true,
        policy: policy.clone(),
        ..GroupGrant::default()
    }
}

fn inbox(agent: &str, ordered: bool, policy: &Policy) -> GroupGrant {
    GroupGrant {
        name: Names::inbox_group(agent),
        patterns: vec![format!("@{agent}")],
        kind: GroupKind::Inbox,
        ordered,
        declared: true,
        policy: policy.clone(),
        ..GroupGrant::default()
    }
}

/// Every agent hears `#all`, unless it says itself in which group.
fn channels(agent: &AgentSpec) -> Option<GroupGrant> {
    let name = Names::channels_group(&agent.name);
    let own = agent.subscribe.iter().find(|subscription| subscription.group == name);
    let mut patterns = own.map_or_else(Vec::new, |own| own.patterns.clone());
    let mut others = agent.subscribe.iter().filter(|subscription| subscription.group != name);
    if !others.any(|other| hears_all(&other.patterns)) && !hears_all(&patterns) {
        patterns.push(format!("#{ALL}"));
    }
    (!patterns.is_empty()).then(|| in_order(&agent.name, patterns, &agent.policy))
}

fn hears_all(patterns: &[String]) -> bool {
    let all = agentbus_proto::Address::Channel(ALL.to_owned());
    patterns.iter().any(|text| Pattern::parse(text).is_ok_and(|pattern| pattern.matches_address(&all)))
}

fn in_order(agent: &str, patterns: Vec<String>, policy: &Policy) -> GroupGrant {
    GroupGrant {
        name: Names::channels_group(agent),
        patterns,
        ordered: true,
        declared: true,
        policy: policy.clone(),
        ..GroupGrant::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(agents: &str) -> Project {
        Project::parse(&format!("version: 1\nchannels: [eng]\nagents:\n{agents}"), "t").unwrap()
    }

    fn groups(project: &Project, agent: &str) -> Vec<String> {
        let groups = own_groups(project, project.agent(agent).unwrap());
        groups.iter().map(|group| format!("{} {}", group.name, group.patterns.join(","))).collect()
    }

    #[test]
    fn an_agent_reads_its_own_address_its_pools_and_its_channels() {
        let project = project(
            "  a: {runner: process, command: [x], pools: [p], subscribe: [t, '#eng']}\n  \
             b: {runner: process, command: [x], ordered: true, fallback: a, subscribe: [{patterns: ['#all'], ordered: false}]}\n  \
             c: {runner: process, command: [x], fallback: b, subscribe: ['#*']}\n",
        );
        let wanted = ["a--inbox @a", "a--channels #eng,#all", "pool--p @p", "b--inbox @b", "c--inbox @c"];
        assert_eq!(groups(&project, "a"), wanted);
        assert_eq!(groups(&project, "b"), ["b--inbox @b", "c--inbox @c"]);
        assert_eq!(groups(&project, "c"), ["c--inbox @c", "c--channels #*"]);
        assert_eq!(stands_in(&project, project.agent("c").unwrap()), ["b", "a"]);
        let own = own_groups(&project, project.agent("b").unwrap());
        assert!(own[0].ordered && own[0].kind == GroupKind::Inbox && own[0].declared);
    }

    #[test]
    fn the_directory_has_every_address() {
        let project = project(
            "  a: {runner: process, command: [x], pools: [p]}\n  \
             b: {runner: process, command: [x], pools: [p, q], fallback: a}\n",
        );
        let known = directory(&project, true);
        assert_eq!((known.agents["a"].as_str(), known.agents["b"].as_str()), ("", "a"));
        assert!(known.agents.contains_key("me") && !directory(&project, false).agents.contains_key("me"));
        assert_eq!((known.pools["p"].join(" "), known.pools["q"].join(" ")), ("a b".to_owned(), "b".to_owned()));
        assert_eq!(known.channels.iter().map(String::as_str).collect::<Vec<_>>(), ["all", "eng"]);
    }
}
