//! What only shows when all agents are seen together: names that collide, groups and pools that two agents define
//! differently, fallbacks in a circle.

use std::collections::HashMap;

use agentbus_nats::names::Names;

use super::agent::AgentSpec;
use super::read::Reader;
use super::yaml::Mark;

/// Checks instance names and shared groups.
pub(super) fn together(reader: &mut Reader, agents: &[(Mark, AgentSpec)]) {
    instances(reader, agents);
    groups(reader, agents);
    pools(reader, agents);
    own_groups(reader, agents);
    super::addresses::circles(reader, agents);
}

/// `check` with replicas has an instance `check-1`, which is also a good name for an agent.
fn instances(reader: &mut Reader, agents: &[(Mark, AgentSpec)]) {
    let mut owners: HashMap<String, &str> = HashMap::new();
    for (at, agent) in agents {
        for instance in agent.instances() {
            if instance.len() > agentbus_proto::name::TOKEN_BYTES_MAX {
                reader.error(*at, format!("the instance name `{instance}` is too long; shorten the agent's name"));
                break;
            }
            // The same agent twice is a duplicate key, which has been said.
            let other = owners.insert(instance.clone(), &agent.name).filter(|other| *other != agent.name);
            if let Some(other) = other {
                let message =
                    format!("agents `{other}` and `{}` both have an instance `{instance}`; rename one", agent.name);
                reader.error(*at, message);
            }
        }
    }
}

/// A group is one set of consumers on the broker, so all its members must describe it alike.
fn groups(reader: &mut Reader, agents: &[(Mark, AgentSpec)]) {
    let mut known: HashMap<&str, (&AgentSpec, &super::Subscription)> = HashMap::new();
    for (at, agent) in agents {
        for subscription in &agent.subscribe {
            let Some((owner, other)) = known.get(subscription.group.as_str()) else {
                known.insert(&subscription.group, (agent, subscription));
                continue;
            };
            let alike = *other == subscription && owner.policy == agent.policy;
            if !alike && owner.name != agent.name {
                let group = &subscription.group;
                let message = format!(
                    "agents `{}` and `{}` share group `{group}` but describe it differently (patterns, types, attributes, order, lanes, retry, ack_deadline, receipts)",
                    owner.name, agent.name
                );
                reader.error(*at, message);
            }
        }
    }
}

/// A pool is a group too.
fn pools(reader: &mut Reader, agents: &[(Mark, AgentSpec)]) {
    let mut known: HashMap<&str, &AgentSpec> = HashMap::new();
    for (at, agent) in agents {
        for pool in &agent.pools {
            let first = *known.entry(pool).or_insert(agent);
            if first.policy != agent.policy {
                let (one, other) = (&first.name, &agent.name);
                let message =
                    format!("agents `{one}` and `{other}` share pool `{pool}` but differ in retry or ack_deadline");
                reader.error(*at, message);
            }
        }
    }
}

/// The bus names the groups of addresses itself: those of an agent `pool` and of a pool `inbox` would be one.
fn own_groups(reader: &mut Reader, agents: &[(Mark, AgentSpec)]) {
    let of_agent = |agent: &str| [Names::inbox_group(agent), Names::channels_group(agent)];
    let owners: HashMap<String, &str> =
        agents.iter().flat_map(|(_, agent)| of_agent(&agent.name).map(|group| (group, agent.name.as_str()))).collect();
    for (at, agent) in agents {
        for pool in &agent.pools {
            if let Some(owner) = owners.get(&Names::pool_group(pool)) {
                let message = format!(
                    "agent `{owner}` and pool `{pool}` would share the group `{}`; rename one",
                    Names::pool_group(pool)
                );
                reader.error(*at, message);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::spec::Project;

    #[test]
    fn a_pool_and_an_agent_never_share_a_group() {
        let said = |agent: &str, pool: &str| {
            let text = format!(
                "version: 1\nagents:\n  {agent}: {{runner: process, command: [x]}}\n  \
                 other: {{runner: process, command: [x], pools: [{pool}]}}\n"
            );
            Project::parse(&text, "f").map(|_| ()).map_err(|errors| errors.to_string())
        };
        for (agent, pool) in [("pool", "inbox"), ("pool", "channels"), ("pool-", "-inbox")] {
            let why = said(agent, pool).unwrap_err();
            assert!(why.contains(&format!("agent `{agent}` and pool `{pool}` would share the group")), "{why}");
        }
        for (agent, pool) in [("pool", "crew"), ("a", "inbox"), ("a", "channels"), ("inbox", "pool")] {
            assert_eq!(said(agent, pool), Ok(()), "{agent} {pool}");
        }
    }
}
