//! Good and bad project files, as data.

use std::time::Duration;

use agentbus_runtime::restart;

use super::*;

const GOOD: &str = "version: 1\nagents:\n  a: {runner: process, command: [x]}\n";

/// The messages of a bad file, one per line, without the file's name.
fn mistakes(text: &str) -> Vec<String> {
    let errors = Project::parse(text, "f").expect_err(text);
    assert_eq!(errors.code(), agentbus_proto::Code::BadConfig);
    errors.to_string().lines().map(|line| line.strip_prefix("f:").unwrap_or(line).to_owned()).collect()
}

/// An agent with these keys has exactly one mistake, at this place, with these words.
fn check(keys: &str, expected: &str) {
    let found = mistakes(&format!("version: 1\nagents:\n  a: {{{keys}}}\n"));
    assert_eq!(found.len(), 1, "{keys}: {found:#?}");
    assert!(found[0].contains(expected), "{keys}\nfound    {}\nexpected {expected}", found[0]);
}

#[test]
fn the_demo_is_read_with_its_defaults() {
    let text = include_str!("../../../examples/demo/agentbus.yaml");
    let project = Project::parse(text, "agentbus.yaml").unwrap();
    assert_eq!(project.namespace, "default");
    let check = project.agent("check").unwrap();
    assert_eq!(check.instances(), ["check-1", "check-2", "check-3"]);
    assert_eq!((check.runner, check.output), (Runner::Exec, Output::Events));
    assert_eq!(check.timeout, Some(Duration::from_secs(30)));
    assert_eq!(check.policy, Policy { receipts: true, ..Policy::default() });
    assert_eq!(check.env.pass, ["HOME", "PATH"]);
    let report = project.agent("report").unwrap();
    assert!(report.ordered);
    assert_eq!(report.instances(), ["report"]);
    assert_eq!(report.subscribe.len(), 1);
    assert_eq!(report.subscribe[0].group, "report");
    assert_eq!(report.subscribe[0].patterns, ["file.checked", "audit.started"]);
}

#[test]
fn every_key_is_read() {
    let text = r#"
version: 1
namespace: lab
defaults:
  retry: {max_attempts: 2, initial: 100ms, factor: 1.5, max: 1s}
  ack_deadline: 90
  receipts: true
agents:
  worker:
    runner: exec
    command: [sh, -c, "exit 0", 7]
    subscribe:
      - jobs.created
      - {patterns: [jobs.*.urgent, "ops.>"], group: urgent, types: [job.v1], attributes: {region: eu, level: 3}}
    publish: [jobs.done, jobs.done, "logs.>"]
    replicas: 2
    output: none
    timeout: 1m30s
    retry: {max_attempts: 9}
    restart: {policy: on-failure, max: 3, per: 1m}
    env: {pass: [TERM], set: {DEBUG: 1, EMPTY: }}
"#;
    let project = Project::parse(text, "f").unwrap();
    assert_eq!(project.namespace, "lab");
    let worker = project.agent("worker").unwrap();
    assert_eq!(worker.command, ["sh", "-c", "exit 0", "7"]);
    assert_eq!(worker.publish, ["jobs.done", "logs.>"]);
    let policy = &worker.policy;
    assert_eq!((policy.max_attempts, policy.initial_ms, policy.factor, policy.max_ms), (9, 100, 1.5, 1000));
    assert_eq!((policy.ack_deadline_ms, policy.receipts), (90_000, true));
    assert_eq!(worker.restart.policy, restart::Policy::OnFailure);
    assert_eq!(worker.restart.budget, restart::Budget { max: 3, per: Duration::from_secs(60) });
    assert_eq!(worker.env.set["DEBUG"], "1");
    assert_eq!(worker.env.set["EMPTY"], "");
    let urgent = &worker.subscribe[1];
    assert_eq!((urgent.group.as_str(), urgent.types.as_slice()), ("urgent", &["job.v1".to_owned()][..]));
    assert_eq!(urgent.attributes["level"], "3");
}

#[test]
fn a_project_without_agents_is_fine() {
    assert_eq!(Project::parse("version: 1\n", "f").unwrap(), Project::empty("default"));
    assert_eq!(Project::parse("version: 1\nagents:\n", "f").unwrap().agents, []);
    assert!(Project::parse(GOOD, "f").is_ok());
}

#[test]
fn all_mistakes_are_reported_together_with_their_places() {
    let text = "version: 2\nnamespce: x\nagents:\n  Bad:\n    runer: process\n    command: sleep 5\n  b:\n    \
                runner: claude\n    command: []\n    replicas: 0\n  b: {runner: process, command: [x]}\n";
    let places: Vec<String> =
        mistakes(text).iter().map(|line| line.splitn(3, ':').take(2).collect::<Vec<_>>().join(":")).collect();
    assert_eq!(places, ["1:10", "2:1", "4:3", "5:5", "5:5", "6:14", "8:13", "9:14", "10:15", "11:3"]);
}

#[test]
fn unknown_keys_say_what_is_allowed_and_what_was_meant() {
    check(
        "runner: process, command: [x], publsh: [a]",
        "3:38: unknown key `publsh` in agents.a; did you mean `publish`?",
    );
    check(
        "runner: process, command: [x], colour: red",
        "unknown key `colour` in agents.a; allowed here: runner, command,",
    );
    check("runner: process, command: [x], model: sonnet", "`model` in agents.a is not supported in this version");
    check(
        "runner: process, command: [x], retry: {tries: 3}",
        "unknown key `tries` in agents.a.retry; allowed here: max_attempts",
    );
    check("runner: process, command: [x], env: {get: [A]}", "did you mean `set`?");
    let found = mistakes(&format!("{GOOD}broker: {{url: x}}\n"));
    assert_eq!(
        found,
        [
            "4:9: broker says nothing; write `mode: managed`, `mode: memory` or `wall: true`",
            "4:10: `url` in broker is not supported in this version; allowed here: mode, wall"
        ]
    );
}

#[test]
fn the_bus_is_a_managed_broker_or_in_memory() {
    let mode = |line: &str| Project::parse(&format!("{GOOD}{line}"), "f").unwrap().broker;
    assert_eq!(mode(""), BrokerMode::Managed);
    assert_eq!(mode("broker: {mode: managed}\n"), BrokerMode::Managed);
    assert_eq!(mode("broker: {mode: memory}\n"), BrokerMode::Memory);
    let found = mistakes(&format!("{GOOD}broker: {{mode: cloud}}\n"));
    assert_eq!(found, ["4:16: broker.mode must be managed or memory, not `cloud`"]);
}

#[test]
fn a_wall_is_asked_for_and_needs_a_broker() {
    let wall = |line: &str| Project::parse(&format!("{GOOD}{line}"), "f").unwrap().wall;
    assert!(!wall("") && !wall("broker: {mode: managed}\n") && !wall("broker: {wall: false}\n"));
    assert!(wall("broker: {wall: true}\n") && wall("broker: {mode: managed, wall: true}\n"));
    let found = mistakes(&format!("{GOOD}broker: {{mode: memory, wall: true}}\n"));
    assert_eq!(found, ["4:30: `wall` in broker needs a broker: the wall is between two of its accounts"]);
    assert_eq!(mistakes(&format!("{GOOD}broker: {{wall: maybe}}\n")).len(), 1);
}

#[test]
fn values_of_the_wrong_kind_are_refused() {
    let cases = [
        (
            "runner: process, command: python3 x.py",
            "must be a list, never a string (no shell splits it): [python3, x.py]",
        ),
        ("runner: process, command: []", "agents.a.command names no program"),
        ("runner: process", "agents.a has no `command`"),
        ("command: [x]", "agents.a has no `runner`"),
        ("runner: codex, command: [x]", "`codex` is not supported in this version"),
        ("runner: proces, command: [x]", "did you mean `process`?"),
        (
            "runner: process, command: [x], replicas: 65",
            "agents.a.replicas must be a whole number from 1 to 64, not `65`",
        ),
        ("runner: process, command: [x], replicas: '2'", "must be a whole number"),
        ("runner: process, command: [x], ordered: yes", "agents.a.ordered must be true or false, not `yes`"),
        ("runner: process, command: [x], ordered: true, replicas: 2", "agents.a.ordered needs replicas: 1"),
        ("runner: process, command: [x], timeout: 3s", "agents.a.timeout is for runner exec"),
        ("runner: process, command: [x], output: events", "agents.a.output is for runner exec"),
        ("runner: exec, command: [x], subscribe: [a], timeout: fast", "`fast` is not a duration"),
        ("runner: exec, command: [x], subscribe: [a], timeout: 0s", "must be from 100ms to 1d"),
        (
            "runner: process, command: [x], ack_deadline: 10ms",
            "agents.a.ack_deadline must be from 1s to 1d, not `10ms`",
        ),
        ("runner: process, command: [x], retry: {factor: 0.5}", "agents.a.retry.factor must be a number from 1 to 100"),
        (
            "runner: process, command: [x], retry: {initial: 5s, max: 1s}",
            "agents.a.retry.initial is longer than max (1s)",
        ),
        ("runner: process, command: [x], restart: {policy: sometimes}", "must be one of: always, on-failure, never"),
        ("runner: process, command: [x], restart: often", "agents.a.restart must be a mapping"),
        ("runner: process, command: [x], env: {set: {A-B: 1}}", "`A-B` is no variable name"),
        ("runner: process, command: [x], env: {pass: [AGENTBUS_TOKEN]}", "`AGENTBUS_TOKEN` is set by the bus itself"),
        ("runner: process, command: [x], env: {set: {A: [1]}}", "agents.a.env.set.A must be text, not a list"),
    ];
    for (keys, expected) in cases {
        check(keys, expected);
    }
}

#[test]
fn addresses_and_groups_are_checked() {
    let cases = [
        ("publish: ['@reviewer']", "`@reviewer` is not declared: declared are @a, @me; declare it under `agents`"),
        ("publish: ['@ma']", "`@ma` is not declared: did you mean `@a`?"),
        ("publish: ['#eng']", "`#eng` is not declared: declared are #all; write `channels: {eng: {}}`"),
        ("publish: ['@a.b']", "pattern `@a.b`: agent `a.b` contains '.'"),
        ("subscribe: ['#al']", "`#al` is not declared: did you mean `#all`?"),
        ("subscribe: ['@me']", "`@me`: what is sent to an agent or a pool is read by it alone"),
        ("subscribe: [a, {patterns: [b], ordered: true}]", "group `a` already has other order"),
        ("subscribe: [{patterns: [b], group: a--inbox}]", "group `a--inbox` contains `--`"),
        ("pools: [a]", "agents.a.pools: `a` is an agent; `@a` cannot be both"),
        ("pools: [me]", "`me` is an agent"),
        ("pools: [Big]", "pool `Big` contains 'B'"),
        ("pools: [a--b]", "pool `a--b` contains `--`"),
        ("fallback: a", "agents.a.fallback must be the name of another agent, not `a`"),
        ("fallback: nobody", "agents.a.fallback must be the name of another agent, not `nobody`"),
        ("subscribe: [a..b]", "3:50: agents.a.subscribe[0]: pattern `a..b`"),
        ("subscribe: notes", "agents.a.subscribe must be a list"),
        ("subscribe: [a.*, '*.b']", "overlaps"),
        ("subscribe: [{group: g}]", "agents.a.subscribe[0] has no `patterns`"),
        ("subscribe: [{patterns: []}]", "at least one pattern"),
        ("subscribe: [{patterns: [a], group: Big}]", "group `Big` contains 'B'"),
        (
            "subscribe: [{patterns: [a], concurrency: 2}]",
            "`concurrency` in agents.a.subscribe[0] is not supported in this version",
        ),
        ("subscribe: [{patterns: [a], types: ['x y']}]", "type `x y`"),
        ("subscribe: [a, {patterns: [b], types: [t]}]", "already has other types or attributes"),
        ("publish: [a.>.b]", "`>` may only stand at the end"),
    ];
    for (keys, expected) in cases {
        check(&format!("runner: process, command: [x], {keys}"), expected);
    }
}

#[test]
fn names_that_collide_are_refused() {
    let check = |agents: &str, expected: &str| {
        let found = mistakes(&format!("version: 1\nagents:\n{agents}"));
        assert!(found.len() == 1 && found[0].contains(expected), "{found:#?}");
    };
    let plain = "{runner: process, command: [x]}";
    check(&format!("  me: {plain}\n"), "the agent name `me` is taken");
    check(&format!("  A: {plain}\n"), "agent `A` contains 'A'");
    check(&format!("  a: {plain}\n  a: {plain}\n"), "4:3: duplicate key `a` in agents");
    check(
        &format!("  a: {{runner: process, command: [x], replicas: 2}}\n  a-1: {plain}\n"),
        "agents `a` and `a-1` both have an instance `a-1`",
    );
    let member = |patterns: &str| {
        format!("{{runner: process, command: [x], subscribe: [{{patterns: [{patterns}], group: g}}]}}")
    };
    check(&format!("  a: {}\n  b: {}\n", member("t"), member("u")), "agents `a` and `b` share group `g`");
    check(&format!("  a--b: {plain}\n"), "agent `a--b` contains `--`");
    let pooled = |retry: &str| format!("{{runner: process, command: [x], pools: [p]{retry}}}");
    check(&format!("  a: {}\n  b: {}\n", pooled(""), pooled(", ack_deadline: 5s")), "share pool `p` but differ");
    let behind = |other: &str| format!("{{runner: process, command: [x], fallback: {other}}}");
    let circle = format!("  a: {}\n  b: {}\n  c: {}\n", behind("b"), behind("a"), behind("b"));
    check(&circle, "3:3: the fallbacks a -> b -> a form a circle");
    let shared = format!("version: 1\nagents:\n  a: {}\n  b: {}\n", member("t"), member("t"));
    assert!(Project::parse(&shared, "f").is_ok());
}

#[test]
fn what_is_no_project_file_is_refused() {
    let check = |text: &str, expected: &str| {
        let found = mistakes(text);
        assert!(found[0].contains(expected), "{text}: {found:#?}");
    };
    check("", "1:1: the file is empty; begin with `version: 1`");
    check("# only a comment\n", "the file is empty");
    check("- a\n", "the file must be a mapping (`key: value`), not a list");
    check("agents: {}\n", "`version` is missing");
    check("version: 1\nagents: [\n", "not YAML");
    check("version: 1\n---\nversion: 1\n", "a second document");
    check("version: &v 1\nnamespace: *v\n", "1:");
    check("version: !int 1\n", "tags");
    check(&format!("version: 1\nx: {}{}\n", "[".repeat(40), "]".repeat(40)), "nested too deep");
    assert!(Project::load(std::path::Path::new("/nonexistent.yaml")).unwrap_err().to_string().contains("cannot read"));
}

#[test]
fn channels_pools_and_fallbacks_are_read() {
    let text = "version: 1\nchannels: {eng: {}, ops: }\nagents:\n  \
         a: {runner: exec, command: [x], pools: [p, q, p], fallback: b, subscribe: [t, '#eng', '#all', {patterns: ['#ops', u], ordered: false}, {patterns: ['#eng'], group: g, types: [x.v1]}], publish: ['@p', '@me', '#all', '#*', '@*']}\n  \
         b: {runner: process, command: [x], ordered: true, subscribe: [t]}\n";
    let project = Project::parse(text, "f").unwrap();
    assert_eq!(project.channels.iter().collect::<Vec<_>>(), ["eng", "ops"]);
    let a = project.agent("a").unwrap();
    assert_eq!((a.pools.as_slice(), a.fallback.as_deref()), (&["p".to_owned(), "q".to_owned()][..], Some("b")));
    let groups: Vec<(&str, String, bool)> =
        a.subscribe.iter().map(|one| (one.group.as_str(), one.patterns.join(" "), one.ordered)).collect();
    let wanted = [("a", "t #ops u", false), ("a--channels", "#eng #all", true), ("g", "#eng", false)];
    assert_eq!(groups, wanted.map(|(group, patterns, ordered)| (group, patterns.to_owned(), ordered)));
    assert!(project.agent("b").unwrap().subscribe[0].ordered);
    let list = Project::parse("version: 1\nchannels: [eng, ops]\n", "f").unwrap();
    assert_eq!(list.channels, project.channels);
    let wrong = |channels: &str| mistakes(&format!("version: 1\nchannels: {channels}\n")).join("\n");
    assert!(wrong("{Eng: {}}").contains("channel `Eng` contains 'E'"));
    assert!(wrong("{a--b: {}}").contains("contains `--`"));
    assert!(wrong("{eng: {colour: red}}").contains("unknown key `colour` in channels.eng"));
    assert!(wrong("eng").contains("channels must be a mapping"));
}
