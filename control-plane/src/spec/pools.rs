//! How pools are read: `pools: {reviewers: {order: key}}`. Who is in them, agents say; a pool without an entry has no order
//! and one lane.

use std::collections::BTreeMap;

use agentbus_nats::grant::{Directory, GroupGrant};

use super::read::Reader;
use super::subscribe::{self, Order};
use super::yaml::Node;

const ALLOWED: &[&str] = &["order", "lanes"];

/// How one pool is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pool {
    /// One delivery at a time, in order.
    pub ordered: bool,
    /// In order within each ordering key.
    pub by_key: bool,
    /// High, normal and low priority weighed against each other.
    pub split_lanes: bool,
}

/// Reads the mapping; every pool in it must have members.
pub(super) fn read(reader: &mut Reader, node: &Node, known: &Directory) -> BTreeMap<String, Pool> {
    let mut pools = BTreeMap::new();
    let Some(map) = reader.map(node, "pools") else { return pools };
    for entry in map.entries {
        if !known.pools.contains_key(&entry.key) {
            let pool = entry.key.escape_debug();
            reader.error(entry.at, format!("no agent is in pool `{pool}`: add `pools: [{pool}]` to its members"));
        }
        if entry.value.is_nothing() {
            continue;
        }
        let Some(map) = reader.table(&entry.value, &map.name(&entry.key), ALLOWED, &[]) else { continue };
        let order = subscribe::order(reader, &map);
        let pool = Pool {
            ordered: order == Some(Order::Strict),
            by_key: order == Some(Order::Key),
            split_lanes: subscribe::split_lanes(reader, &map),
        };
        let Pool { ordered, by_key, split_lanes } = pool;
        let layout = GroupGrant { name: entry.key.clone(), ordered, by_key, split_lanes, ..GroupGrant::default() };
        if let Err(fault) = layout.check_layout() {
            reader.error(entry.at, fault.message);
        }
        pools.insert(entry.key.clone(), pool);
    }
    pools
}

#[cfg(test)]
mod tests {
    use crate::spec::Project;

    use super::*;

    fn project(pools: &str) -> Result<BTreeMap<String, Pool>, String> {
        let text = format!(
            "version: 1\npools: {pools}\nagents:\n  a: {{runner: process, command: [x], pools: [crew, night]}}\n"
        );
        Project::parse(&text, "f").map(|project| project.pools).map_err(|errors| errors.to_string())
    }

    #[test]
    fn a_pool_can_keep_the_order_of_keys() {
        let pools = project("{crew: {order: key}, night: }").unwrap();
        assert_eq!(pools["crew"], Pool { by_key: true, ..Pool::default() });
        assert!(!pools.contains_key("night"));
        assert!(project("{crew: {lanes: split}}").unwrap()["crew"].split_lanes);
    }

    #[test]
    fn mistakes_are_told() {
        let check = |pools: &str, wanted: &str| {
            let said = project(pools).unwrap_err();
            assert!(said.contains(wanted), "{said}");
        };
        check("{others: {order: key}}", "no agent is in pool `others`: add `pools: [others]` to its members");
        check("{crew: {order: key, lanes: split}}", "order by key and split lanes");
        check("{crew: {members: [a]}}", "unknown key `members` in pools.crew");
        check("[crew]", "pools must be a mapping");
    }
}
