//! What the commands print, and with which exit code they end: scripts depend on both.

use agentbus_nats::connect::{Identity, Link, Options};
use agentbus_nats::identity::Layout;
use agentbus_tests::installation::finish;
use agentbus_tests::wait::until;
use agentbus_tests::{Installation, Up};
use serde_json::{Value, json};

async fn bus() -> (Installation, Up) {
    let here = Installation::new().await;
    let up = here.up(&[]).await;
    (here, up)
}

fn documents(text: &str) -> Vec<Value> {
    let documents = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    documents.collect::<Result<_, _>>().unwrap_or_else(|error| panic!("{error} in {text}"))
}

#[tokio::test]
async fn what_is_printed_as_json_controls_no_terminal() {
    let here = Installation::new().await;
    // CSI of C1, DEL, and an override of the reading direction.
    let evil = "\u{9b}2J\u{7f}\u{202e}";
    let plain = |text: &str| text.chars().all(|c| c == '\n' || (' '..'\u{7f}').contains(&c));
    let passed = here.run_with(&["decode"], json!({"a": evil}).to_string().as_bytes()).await;
    assert!(plain(&passed.stdout), "{passed:?}");
    assert_eq!(documents(&passed.stdout), [json!({"a": evil})]);
    let event = [b"\x0a\x01x\x22", &[u8::try_from(evil.len()).expect("short")][..], evil.as_bytes()].concat();
    let decoded = here.run_with(&["decode", "--json"], &event).await;
    assert!(plain(&decoded.stdout), "{decoded:?}");
    assert_eq!(documents(&decoded.stdout)[0]["type"], evil);
    let problem = here.run(&["publish", evil, "x", "--json"]).await;
    assert!(problem.code != 0 && plain(&problem.stderr), "{problem:?}");
    assert_eq!(documents(&problem.stderr)[0]["exit"], problem.code);
}

#[tokio::test]
async fn publish_says_where_it_is_stored_and_refuses_bad_input_with_65() {
    let (here, up) = bus().await;
    let stored = here.json(&["publish", "note.made", r#"{"n":1}"#, "--id", "a"]).await;
    let wanted = json!({"id": "a", "stored": "broker", "stream": "AB_default_EVENTS", "seq": 1, "duplicate": false});
    assert_eq!(stored, wanted);
    let again = here.json(&["publish", "note.made", r#"{"n":1}"#, "--id", "a"]).await;
    assert_eq!((&again["seq"], &again["duplicate"]), (&json!(1), &json!(true)));
    let said = here.run(&["publish", "note.made", "text"]).await;
    assert!(said.code == 0 && said.stdout.trim_end().ends_with("AB_default_EVENTS seq 2"), "{said:?}");

    let lines = here.run_with(&["publish", "note.made", "--lines", "--json"], b"{\"n\":3}\nplain\n{\"n\":5}\n").await;
    assert_eq!(lines.code, 0, "{}", lines.stderr);
    let mut seqs: Vec<u64> = documents(&lines.stdout).iter().filter_map(|answer| answer["seq"].as_u64()).collect();
    seqs.sort_unstable();
    assert_eq!(seqs, [3, 4, 5]);

    let long = "x".repeat(300);
    let wide = vec![b'x'; 2 << 20];
    for (args, stdin, code, words) in [
        (&["publish", "note..made", "x"][..], None, 65, "INVALID_ADDRESS"),
        (&["publish", &long, "x"], None, 65, "INVALID_ADDRESS"),
        (&["publish", "note.*", "x"], None, 65, "INVALID_ADDRESS"),
        (&["publish", "@somebody", "x"], None, 65, "INVALID_ADDRESS"),
        (&["publish", "#channel", "x"], None, 65, "INVALID_ADDRESS"),
        (&["publish", "note.made", "{broken", "--content-type", "application/json"], None, 65, "INVALID_EVENT"),
        (&["publish", "note.made", "x", "--ttl", "soon"], None, 65, "INVALID_EVENT"),
        (&["publish", "note.made", "@no-such-file"], None, 65, "INVALID_EVENT"),
        (&["publish", "note.made", "-"], Some(&wide[..]), 65, "TOO_LARGE"),
        (&["publish"], None, 64, "BAD_CONFIG"),
        (&["publish", "note.made", "x", "--prioritty", "high"], None, 64, "BAD_CONFIG"),
        (&["publsh"], None, 64, "BAD_CONFIG"),
    ] {
        let said = finish(here.agentbus(args), stdin).await;
        let start = format!("error: {words}: ");
        assert!(said.code == code && said.stderr.starts_with(&start), "{:.80?}: {said:?}", args);
        assert_eq!(said.stdout, "", "{:.80?}", args);
    }
    // Nothing of this was stored; of several lines, the good ones are.
    let status: Value = up.api("/v1/status").await;
    assert_eq!(status["streams"][0]["messages"], 5, "{status}");
    let json = ["publish", "note.made", "--lines", "--json", "--content-type", "application/json"];
    let mixed = here.run_with(&json, b"{\"n\":6}\n{broken\n{\"n\":7}\n").await;
    assert!(mixed.code == 65 && mixed.stderr.contains("line 2"), "{mixed:?}");
    assert_eq!(documents(&mixed.stdout).len(), 2, "{mixed:?}");
    assert_eq!(up.stop().await, 0);
}

#[tokio::test]
async fn what_is_published_is_seen_by_tail_and_taken_by_subscribe_and_receive() {
    let (here, up) = bus().await;
    let nothing = here.json(&["receive", "note.>", "--group", "r", "--wait", "1ms"]).await;
    assert_eq!(nothing, json!({"deliveries": []}));
    let subscribe = ["subscribe", "note.>", "--group", "s", "--max", "2", "--json"];
    let mut child = here.agentbus(&subscribe);
    child.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null());
    let child = child.spawn().expect("started");
    until("a listening group", || async {
        let status: Value = up.api("/v1/status").await;
        let groups = status["groups"].as_array().cloned().unwrap_or_default();
        if groups.iter().any(|group| group["group"] == "s") { Ok(()) } else { Err(status) }
    })
    .await;
    for number in 1..=2 {
        let data = json!({"n": number}).to_string();
        assert_eq!(here.run(&["publish", "note.made", &data, "--attr", "color=red"]).await.code, 0);
    }
    let output = tokio::time::timeout(std::time::Duration::from_secs(30), child.wait_with_output());
    let output = output.await.expect("ends after two").expect("output");
    assert_eq!(output.status.code(), Some(0));
    let taken = documents(&String::from_utf8_lossy(&output.stdout));
    let numbers: Vec<&Value> = taken.iter().map(|delivery| &delivery["event"]["data"]["n"]).collect();
    assert_eq!(numbers, [&json!(1), &json!(2)], "{taken:?}");
    assert_eq!(taken[0]["event"]["attributes"], json!({"color": "red"}));
    assert_eq!((&taken[0]["attempt"], &taken[0]["event"]["source"]), (&json!(1), &json!("me")));

    let tail = here.run(&["tail", "--last", "2", "--no-follow", "--json"]).await;
    assert_eq!(tail.code, 0, "{}", tail.stderr);
    let seen = documents(&tail.stdout);
    assert_eq!((seen.len(), &seen[1]["event"]["data"]), (2, &json!({"n": 2})), "{seen:?}");
    let tail = here.run(&["tail", "other.>", "--last", "9", "--no-follow"]).await;
    assert_eq!((tail.code, tail.stdout.as_str()), (0, ""), "{}", tail.stderr);

    let got = here.json(&["receive", "--max", "5", "--ack", "--group", "r", "note.>"]).await;
    assert!(got["deliveries"].as_array().is_some_and(|all| !all.is_empty()), "{got}");
    assert!(got["deliveries"][0]["delivery_id"].is_string() && got["deliveries"][0]["max_attempts"] == 4, "{got}");
    assert_eq!(up.stop().await, 0);
}

#[tokio::test]
async fn env_works_with_eval_curl_and_a_plain_nats_client() {
    let (here, up) = bus().await;
    // As in the contract, in a real shell.
    let script = r#"eval "$("$AGENTBUS" env)" && curl -sS --noproxy '*' -w '\n%{http_code}' \
        -H "Authorization: Bearer $AGENTBUS_TOKEN" -H 'Content-Type: application/json' \
        "$AGENTBUS_URL/v1/publish" -d '{"to":"notes.created","data":{"text":"hi"},"ttl":"1h"}'"#;
    let mut shell = here.plain("sh");
    shell.args(["-c", script]).env("AGENTBUS", agentbus_tests::binary::agentbus());
    let said = finish(shell, None).await;
    let (body, status) = said.stdout.trim_end().rsplit_once('\n').unwrap_or_else(|| panic!("{said:?}"));
    let body: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {said:?}"));
    assert_eq!((status, &body["stored"], &body["seq"]), ("200", &json!("broker"), &json!(1)));

    let env = here.json(&["env"]).await;
    let mut keys: Vec<&String> = env.as_object().expect("an object").keys().collect();
    keys.sort();
    assert_eq!(keys, ["AGENTBUS_TOKEN", "AGENTBUS_URL", "NATS_CREDS", "NATS_URL"]);
    let text = |key: &str| env[key].as_str().unwrap_or_default().to_owned();
    let plain = async_nats::ConnectOptions::with_credentials_file(text("NATS_CREDS"))
        .await
        .expect("credentials")
        .custom_inbox_prefix("_INBOX.me.plain")
        .connect(text("NATS_URL"))
        .await
        .expect("a plain client gets in");
    let jetstream = async_nats::jetstream::new(plain);
    let stream = jetstream.get_stream("AB_default_EVENTS").await.expect("views the streams");
    let message = stream.get_raw_message(1).await.expect("views a message");
    // `nats stream view --translate "agentbus decode"`
    let decoded = here.run_with(&["decode"], &message.payload).await;
    assert!(
        decoded.code == 0 && decoded.stdout.contains("notes.created") && decoded.stdout.contains("hi"),
        "{decoded:?}"
    );
    let decoded = here.run_with(&["decode", "--json"], &message.payload).await;
    let event: Value = serde_json::from_str(&decoded.stdout).expect("JSON");
    assert_eq!((&event["to"], &event["data"]), (&json!("notes.created"), &json!({"text": "hi"})), "{event}");
    for garbage in [&b"\xff\xfe garbage"[..], b"", b"plain text"] {
        let said = here.run_with(&["decode"], garbage).await;
        assert_eq!(said.code, 65, "{said:?}");
        assert!(said.stderr.contains("INVALID_EVENT"), "{said:?}");
    }
    let fact = here.run_with(&["decode"], br#"{"agent":"check"}"#).await;
    assert_eq!((fact.code, fact.stdout.trim()), (0, r#"{"agent":"check"}"#), "audit facts pass");

    // The same credentials by our own client, and not as somebody else.
    let creds = std::fs::read_to_string(text("NATS_CREDS")).expect("creds");
    let options = Options {
        servers: vec![text("NATS_URL")],
        name: "test".to_owned(),
        inbox: "_INBOX.me.test".to_owned(),
        layout: Layout::Plain,
        identity: Identity::from_creds(&creds).expect("credentials"),
    };
    assert!(Link::connect(options).await.is_ok());
    use std::os::unix::fs::PermissionsExt;
    for secret in [text("NATS_CREDS"), here.state().join("instance.json").to_string_lossy().into_owned()] {
        let mode = std::fs::metadata(&secret).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{secret}");
    }
    assert_eq!(up.stop().await, 0);
}

#[tokio::test]
async fn status_agents_and_streams_have_stable_shapes() {
    let here = Installation::new().await;
    here.write(
        "agentbus.yaml",
        "
version: 1
agents:
  worker: {runner: exec, command: [cat], subscribe: [note.>], replicas: 2}
",
    );
    let up = here.up(&[]).await;
    up.all_running().await;
    let status = here.json(&["status"]).await;
    let mut keys: Vec<&str> = status.as_object().expect("an object").keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["agents", "broker", "groups", "namespace", "streams"]);
    assert_eq!((&status["namespace"], &status["broker"]["connected"]), (&json!("default"), &json!(true)));
    assert_eq!(status["groups"][0]["group"], "worker");
    let streams: Vec<&Value> = status["streams"].as_array().expect("streams").iter().map(|one| &one["name"]).collect();
    let wanted = ["EVENTS", "RETRY", "DLQ", "SCHEDULES", "AUDIT"].map(|name| json!(format!("AB_default_{name}")));
    assert_eq!(streams, wanted.iter().collect::<Vec<_>>());
    let said = here.run(&["status"]).await;
    assert!(said.code == 0 && !said.stdout.contains('\x1b'), "no colour when piped: {said:?}");

    let agents = here.json(&["agents", "list"]).await;
    let instances: Vec<&Value> = agents.as_array().expect("a list").iter().map(|one| &one["instance"]).collect();
    assert_eq!(instances, ["worker-1", "worker-2", "me"]);

    let plan = here.json(&["streams", "plan"]).await;
    let actions: Vec<&Value> = plan.as_array().expect("a list").iter().map(|step| &step["action"]).collect();
    assert_eq!(actions, ["same"; 6], "{plan}");
    let folder = here.home().join("exported");
    let exported = here.run(&["streams", "export", folder.to_str().expect("UTF-8")]).await;
    assert_eq!((exported.code, exported.stdout.lines().count()), (0, 5), "{exported:?}");
    let table: Value =
        serde_json::from_slice(&std::fs::read(folder.join("AB_default_DLQ.json")).expect("there")).expect("JSON");
    assert_eq!(table["subjects"], json!(["abd.default.>"]));

    // Somebody changed a stream by hand: the plan says what, apply mends it and writes that down.
    let names = status["broker"]["url"].as_str().expect("a url").to_owned();
    let control = agentbus_control_plane::authority::load_or_create(&here.state(), "default").expect("keys");
    let credentials = control.control_plane(agentbus_tests::broker::now()).expect("credentials");
    let link = Link::connect(Options {
        servers: vec![names],
        name: "hand".to_owned(),
        inbox: "_INBOX.hand".to_owned(),
        layout: Layout::Plain,
        identity: Identity::from_credentials(&credentials).expect("credentials"),
    })
    .await
    .expect("connected");
    let context = async_nats::jetstream::new(link.client.clone());
    let changed = async {
        let mut config = context.get_stream("AB_default_AUDIT").await.expect("there").cached_info().config.clone();
        config.description = Some("changed by hand".to_owned());
        context.update_stream(config).await.expect("changed");
    };
    changed.await;
    let plan = here.run(&["streams", "plan"]).await;
    // The control plane may have mended it already: it looks every few seconds.
    if plan.stdout.contains('~') {
        assert!(plan.stdout.contains("~ AB_default_AUDIT update") && plan.stdout.contains("description"), "{plan:?}");
    }
    assert_eq!(here.run(&["streams", "apply", "--json"]).await.code, 0);
    let plan = here.run(&["streams", "plan"]).await;
    assert!(plan.code == 0 && plan.stderr.contains("as they should be"), "{plan:?}");
    assert_eq!(up.stop().await, 0);
}

#[tokio::test]
async fn dlq_commands_answer_in_tables_and_json_and_refuse_with_stable_codes() {
    let (here, up) = bus().await;
    assert_eq!(here.json(&["receive", "note.>", "--group", "r", "--wait", "1ms"]).await["deliveries"], json!([]));
    assert_eq!(here.run(&["publish", "note.made", "bad", "--id", "bad"]).await.code, 0);
    let rejected =
        here.run(&["subscribe", "note.>", "--group", "r", "--max", "1", "--reject", "--reason", "not good"]).await;
    assert_eq!(rejected.code, 0, "{}", rejected.stderr);
    let list = until("a dead letter", || async {
        let list = here.json(&["dlq", "list"]).await;
        if list.as_array().is_some_and(|list| list.len() == 1) { Ok(list) } else { Err(list) }
    })
    .await;
    assert_eq!((&list[0]["class"], &list[0]["cause"]), (&json!("REJECTED"), &json!("not good")), "{list}");
    let table = here.run(&["dlq", "list"]).await;
    assert!(table.stdout.contains("REJECTED") && table.stdout.contains("not good"), "{}", table.stdout);
    let causes = here.json(&["dlq", "list", "--by", "cause"]).await;
    assert_eq!(
        (&causes["causes"][0]["open"], &causes["causes"][0]["cause"]),
        (&json!(1), &json!("not good")),
        "{causes}"
    );
    let shown = here.run(&["dlq", "show", "1"]).await;
    assert!(shown.code == 0 && shown.stdout.contains("not good") && shown.stdout.contains("bad"), "{shown:?}");
    for (args, code) in [
        (&["dlq", "show", "77"][..], 69),
        (&["dlq", "show", "x"], 64),
        (&["dlq", "redrive"], 64),
        (&["dlq", "redrive", "77"], 69),
        (&["dlq", "list", "--type", "a..b"], 65),
    ] {
        let said = here.run(args).await;
        assert_eq!(said.code, code, "{args:?}: {said:?}");
        assert!(!said.stderr.is_empty(), "{args:?}");
    }
    let dry = here.run(&["dlq", "redrive", "--all", "--dry-run"]).await;
    assert!(dry.code == 0 && dry.stdout.contains("would be redriven"), "{dry:?}");
    let redriven = here.json(&["dlq", "redrive", "--group", "r"]).await;
    assert_eq!(redriven[0]["outcome"], "redriven");
    let again = here.run(&["dlq", "redrive", "1"]).await;
    assert!(again.code == 1 && again.stdout.contains("force"), "{again:?}");
    let got = here.json(&["receive", "note.>", "--group", "r", "--ack"]).await;
    assert_eq!(got["deliveries"][0]["event"]["id"], "bad");
    assert_eq!(up.stop().await, 0);
}

#[tokio::test]
async fn without_a_bus_every_command_says_so_with_75_and_how_to_start_one() {
    let here = Installation::new().await;
    for args in [
        &["publish", "a.b", "x"][..],
        &["subscribe", "a.b"],
        &["receive"],
        &["tail"],
        &["env"],
        &["status"],
        &["agents", "list"],
        &["streams", "plan"],
        &["dlq", "list"],
    ] {
        let said = here.run(args).await;
        assert!(said.code == 75 && said.stderr.contains("agentbus up -d"), "{args:?}: {said:?}");
        assert!(said.stderr.starts_with("error: CONTROL_PLANE_DOWN: ") && said.stdout.is_empty(), "{args:?}: {said:?}");
    }
    let down = here.run(&["down"]).await;
    assert_eq!(down.code, 0, "{down:?}");
    assert!(!here.home().join("state").exists(), "asking makes nothing");
}
