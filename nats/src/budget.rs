//! How many consumers a namespace may have. Each costs the broker some 35 KiB of memory and a little of every publish; nine
//! hundred cost a tenth of its speed (facts: verified.md §5). A project or a join that needs more is refused, not slow.

use agentbus_proto::{Code, Fault};

use crate::bus::Bus;
use crate::grant::GroupGrant;
use crate::names::Names;

/// Most consumers of a namespace, on the events and the retry stream together.
pub const CONSUMERS_MAX: usize = 1000;

/// Consumers a group needs: those it reads the events stream with, and one for its retries.
pub fn of_group(group: &GroupGrant) -> usize {
    group.consumers().len() + 1
}

/// Whether all these groups together may be made. `CAPACITY_EXCEEDED` says what needs how many.
pub fn project(groups: &[GroupGrant]) -> Result<(), Fault> {
    let needed: usize = groups.iter().map(of_group).sum();
    if needed <= CONSUMERS_MAX {
        return Ok(());
    }
    let largest = groups.iter().max_by_key(|group| of_group(group));
    let largest =
        largest.map(|group| format!("; `{}` alone needs {}", group.name, of_group(group))).unwrap_or_default();
    let why = format!(
        "the project's {} groups need {needed} consumers on the broker, the budget is {CONSUMERS_MAX}{largest}: share \
         groups, split no lanes, order by key in fewer of them, or use another namespace",
        groups.len()
    );
    Err(Fault::new(Code::CapacityExceeded, why))
}

/// Whether one more group may be made, beside what the broker has.
pub async fn join(bus: &dyn Bus, names: &Names, group: &GroupGrant) -> Result<(), Fault> {
    let first = group.consumers().into_iter().next().unwrap_or_default();
    if bus.consumer(&names.events(), &first).await?.is_some() {
        return Ok(());
    }
    let mut have = 0;
    for stream in [names.events(), names.retry()] {
        have += bus.stream(&stream).await?.map_or(0, |info| info.consumers);
    }
    room(have, of_group(group), &group.name)
}

fn room(have: usize, more: usize, group: &str) -> Result<(), Fault> {
    if have + more <= CONSUMERS_MAX {
        return Ok(());
    }
    let why = format!(
        "group `{group}` needs {more} more consumers on the broker, which has {have} of at most {CONSUMERS_MAX}: join an \
         existing group, or use another namespace"
    );
    Err(Fault::new(Code::CapacityExceeded, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_counts_by_how_it_reads() {
        let group = |split_lanes, by_key| GroupGrant { name: "g".into(), split_lanes, by_key, ..GroupGrant::default() };
        let needed = [group(false, false), group(true, false), group(false, true)].map(|group| of_group(&group));
        assert_eq!(needed, [2, 4, 18]);
    }

    #[test]
    fn more_than_the_budget_is_refused_and_says_what_to_do() {
        let group = |number| GroupGrant { name: format!("g{number}"), by_key: true, ..GroupGrant::default() };
        let groups: Vec<GroupGrant> = (0..56).map(group).collect();
        assert!(project(&groups[..55]).is_ok(), "990");
        let fault = project(&groups).unwrap_err();
        assert_eq!(fault.code, Code::CapacityExceeded);
        assert!(fault.message.contains("need 1008 consumers"), "{fault}");
        assert!(room(998, 2, "g").is_ok());
        assert_eq!(room(998, 4, "g").unwrap_err().code, Code::CapacityExceeded);
    }
}
