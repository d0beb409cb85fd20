//! Twenty agents with split lanes on one machine: what they cost, as `doctor` tells it; and the budget that holds.

use agentbus_nats::budget::CONSUMERS_MAX;
use agentbus_nats::bus::{Bus as _, JetStream};
use agentbus_nats::connect::{Identity, Options};
use agentbus_nats::identity::Layout;
use agentbus_tests::{Installation, http::HttpAgent};
use async_nats::jetstream::consumer::pull;
use serde_json::{Value, json};

/// Agents that only stand there; each reads its own topic in three lanes, and all of them the same one as a pool.
fn project(agents: usize) -> String {
    let agent = |number| {
        format!(
            "  a{number}:\n    runner: process\n    command: [sleep, \"1000\"]\n    pools: [crew]\n    subscribe: \
             [{{patterns: [work.a{number}.>], lanes: split}}]\n    publish: [work.>]\n"
        )
    };
    format!("version: 1\npools: {{crew: {{lanes: split}}}}\nagents:\n{}", (1..=agents).map(agent).collect::<String>())
}

fn finding<'a>(findings: &'a Value, check: &str) -> &'a Value {
    let found = findings.as_array().expect("a list").iter().find(|finding| finding["check"] == json!(check));
    found.unwrap_or_else(|| panic!("no `{check}` in {findings}"))
}

/// The number before a word: `84 consumers`.
fn number(text: &str, word: &str) -> usize {
    let mut words = text.split([' ', ',']).filter(|word| !word.is_empty());
    let mut last = "";
    let found = words.find_map(|next| std::mem::replace(&mut last, next).parse().ok().filter(|_| next == word));
    found.unwrap_or_else(|| panic!("no number of {word} in `{text}`"))
}

#[tokio::test]
async fn twenty_agents_with_split_lanes_fit_on_this_machine() {
    let here = Installation::new().await;
    here.write("agentbus.yaml", project(20));
    let up = here.up(&[]).await;
    up.all_running().await;
    let doctor = here.run(&["doctor"]).await;
    assert_eq!(doctor.code, 0, "{}{}", doctor.stdout, doctor.stderr);
    println!("{}", doctor.stdout);
    let findings = here.json(&["doctor"]).await;
    assert_eq!(finding(&findings, "agents")["found"], "21 running");
    let memory = finding(&findings, "broker memory")["found"].as_str().expect("text").to_owned();
    assert_eq!(finding(&findings, "broker memory")["level"], "ok", "{memory}");
    // Every sidecar, the control plane, and doctor itself.
    assert!(number(&memory, "connections") >= 22, "{memory}");
    let assets = finding(&findings, "JetStream")["found"].as_str().expect("text").to_owned();
    // Three lanes and the retries of each agent's own group alone.
    let consumers = number(&assets, "consumers");
    assert!((80..=CONSUMERS_MAX).contains(&consumers), "{assets}");
    assert!(assets.contains(&format!("of at most {CONSUMERS_MAX}")), "{assets}");
    assert!(finding(&findings, "disk")["found"].as_str().expect("text").contains("free"));

    // It is a bus, not only a number: the last one in the row is given its work, urgent things first.
    let me = up.me();
    for (priority, data) in [("low", "later"), ("high", "now")] {
        me.publish(json!({"to": "work.a20.x", "data": data, "priority": priority})).await;
    }
    let a20 = agent(&here, "a20").await;
    let first = a20.receive_one("20s").await;
    assert_eq!(first["event"]["data"], "now", "{first}");
    up.stop().await;
}

/// The agent's own door; its program is only asleep.
async fn agent(here: &Installation, name: &str) -> HttpAgent {
    let listed = here.json(&["agents", "list"]).await;
    let list = listed["agents"].as_array().or(listed.as_array()).expect("a list");
    let found = list.iter().find(|one| one["instance"] == json!(name)).unwrap_or_else(|| panic!("{listed}"));
    let url = found["url"].as_str().expect("a URL").trim_start_matches("http://").to_owned();
    let process = std::fs::read_dir("/proc").expect("Linux").flatten();
    let token = process
        .filter_map(|entry| std::fs::read(entry.path().join("environ")).ok())
        .map(|environ| String::from_utf8_lossy(&environ).into_owned())
        .find(|environ| environ.split('\0').any(|one| one == format!("AGENTBUS_URL=http://{url}")))
        .and_then(|environ| environ.split('\0').find_map(|one| one.strip_prefix("AGENTBUS_TOKEN=").map(str::to_owned)));
    HttpAgent { address: url, token: token.expect("a token") }
}

#[tokio::test]
async fn a_project_beyond_the_budget_is_refused_and_says_what_to_do() {
    let here = Installation::new().await;
    here.write("agentbus.yaml", project(200));
    let said = here.run(&["up", "-d"]).await;
    assert_eq!(said.code, 75, "{}", said.stderr);
    assert!(said.stderr.contains("CAPACITY_EXCEEDED"), "{}", said.stderr);
    assert!(said.stderr.contains("the budget is 1000"), "{}", said.stderr);
    here.nothing_runs().await;
}

#[tokio::test]
async fn a_group_beyond_the_budget_is_not_joined() {
    let here = Installation::new().await;
    here.write("agentbus.yaml", project(1));
    let up = here.up(&[]).await;
    up.all_running().await;
    let me = up.me();
    let join = async |group: &str| me.post("/v1/subscriptions", &json!({"patterns": ["x.>"], "group": group})).await;
    assert_eq!(join("first").await.status, 200);

    // Somebody else's consumers count as well: it is the broker that has to bear them.
    let keys = agentbus_control_plane::authority::load_or_create(&here.state(), "default").expect("keys");
    let credentials = keys.control_plane(agentbus_tests::broker::now()).expect("credentials");
    let options = Options {
        servers: vec![up.instance.broker.url.clone()],
        name: "crowd".to_owned(),
        inbox: "_INBOX.crowd".to_owned(),
        layout: Layout::Plain,
        identity: Identity::from_credentials(&credentials).expect("credentials"),
    };
    let bus = JetStream::connect(options).await.expect("connected");
    // nats-server itself takes no more than a thousand on one stream; ours are on two.
    for number in 0..CONSUMERS_MAX - 15 {
        let name = format!("other-{number}");
        let config = pull::Config { durable_name: Some(name.clone()), name: Some(name), ..Default::default() };
        bus.put_consumer("AB_default_EVENTS", config).await.expect("made");
    }
    let refused = join("second").await;
    assert_eq!((refused.status, &refused.body["code"]), (429, &json!("CAPACITY_EXCEEDED")), "{}", refused.body);
    // Whoever is in already may come back.
    assert_eq!(join("first").await.status, 200);
    up.stop().await;
}
