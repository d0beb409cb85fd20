//! Who may join what, with a small project.

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
    let said = |groups: &Groups, name: &str, agent: &str| groups.decide(agent, wish(name, &["c"])).unwrap_err().message;
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
