//! A wish to join a group: whether it can be granted at all, and whether it means what is known by that name.

use agentbus_nats::grant::{Directory, GroupGrant};
use agentbus_nats::names::Names;
use agentbus_nats::pattern;
use agentbus_proto::{Address, Code, Fault, name};

/// Most patterns, types or attributes of a joined group: they become filters on the broker, or checks per event.
pub const GROUP_PARTS_MAX: usize = 64;
/// Longest type, attribute name or attribute value, in bytes.
const PART_BYTES_MAX: usize = 256;

/// Refuses what no group may be.
pub(super) fn check(wish: &GroupGrant, directory: &Directory) -> Result<(), Fault> {
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
pub(super) fn alike(one: &GroupGrant, other: &GroupGrant) -> bool {
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

/// The refusal that names what is in force; `why`: since when.
pub(super) fn taken(known: &GroupGrant, wish: &GroupGrant, why: &str) -> Fault {
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
