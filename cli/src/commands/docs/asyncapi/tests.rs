//! The document against the structure that AsyncAPI 3.0 asks for.

use super::*;

const PROJECT: &str = "version: 1\nnamespace: shop\nchannels: [eng]\nagents:\n  \
     list: {runner: process, command: [x], subscribe: [audit.requested], publish: [file.found, 'log.>', '@check', '#eng']}\n  \
     check: {runner: process, command: [x], subscribe: [file.*, {patterns: ['file.*'], group: second, types: [a.v1]}], pools: [crew], publish: ['file.*.done']}\n  \
     hear: {runner: process, command: [x], subscribe: ['#eng', 'log.>']}\n";

fn made() -> Value {
    document(&Project::parse(PROJECT, "agentbus.yaml").unwrap()).unwrap()
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

/// Every `$ref`, with where it stands.
fn references<'a>(value: &'a Value, at: &str, found: &mut Vec<(String, &'a str)>) {
    match value {
        Value::Object(map) => {
            for (key, inner) in map {
                match inner.as_str().filter(|_| key == "$ref") {
                    Some(target) => found.push((at.to_owned(), target)),
                    None => references(inner, &format!("{at}/{key}"), found),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|inner| references(inner, at, found)),
        _ => {}
    }
}

#[test]
fn it_has_the_shape_that_the_specification_asks_for() {
    let document = made();
    assert_eq!(document["asyncapi"], "3.0.0");
    assert!(document["info"]["title"].is_string() && document["info"]["version"].is_string());
    let known = ["asyncapi", "channels", "components", "defaultContentType", "info", "operations"];
    assert_eq!(keys(&document), known);
    let plain = |id: &str| id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
    for (id, channel) in document["channels"].as_object().unwrap() {
        assert!(plain(id), "{id}");
        assert!(channel["address"].is_string() || channel["address"].is_null(), "{id}");
        for message in channel["messages"].as_object().expect("messages").values() {
            assert!(message["$ref"].as_str().unwrap().starts_with("#/components/messages/"), "{id}");
        }
        let address = channel["address"].as_str().unwrap_or_default();
        let parameters = channel["parameters"].as_object().cloned().unwrap_or_default();
        assert_eq!(address.matches('{').count(), parameters.len(), "{id}: each parameter once");
        assert!(parameters.keys().all(|name| address.contains(&format!("{{{name}}}"))), "{id}");
        assert!(keys(channel).iter().all(|key| {
            ["address", "title", "description", "messages", "parameters"].contains(key) || key.starts_with("x-")
        }));
    }
    for (id, operation) in document["operations"].as_object().unwrap() {
        assert!(plain(id), "{id}");
        assert!(["send", "receive"].contains(&operation["action"].as_str().unwrap()), "{id}");
        let channel = operation["channel"]["$ref"].as_str().unwrap();
        assert!(channel.starts_with("#/channels/"), "{id}");
        for message in operation["messages"].as_array().unwrap() {
            // Messages of an operation are those of its channel, by reference to it.
            assert!(message["$ref"].as_str().unwrap().starts_with(&format!("{channel}/messages/")), "{id}");
        }
        assert!(keys(operation).iter().all(|key| {
            ["action", "title", "channel", "messages", "tags", "reply"].contains(key) || key.starts_with("x-")
        }));
    }
}

#[test]
fn every_reference_leads_somewhere() {
    let document = made();
    let mut found = Vec::new();
    references(&document, "", &mut found);
    assert!(found.len() > 20, "{found:?}");
    for (at, target) in found {
        let pointer = target.strip_prefix('#').expect("within the document");
        assert!(document.pointer(pointer).is_some(), "{at}: {target} leads nowhere");
    }
}

#[test]
fn every_agent_has_its_operations() {
    let document = made();
    let wanted = [
        "check.receive.agent.check",
        "check.receive.agent.crew",
        "check.receive.channel.all",
        "check.receive.topic.file.ANY",
        "check.receive.topic.file.ANY-2",
        "check.send.topic.file.ANY.done",
        "hear.receive.agent.hear",
        "hear.receive.channel.all",
        "hear.receive.channel.eng",
        "hear.receive.topic.log.REST",
        "list.receive.agent.list",
        "list.receive.channel.all",
        "list.receive.topic.audit.requested",
        "list.send.agent.check",
        "list.send.channel.eng",
        "list.send.topic.file.found",
        "list.send.topic.log.REST",
    ];
    assert_eq!(keys(&document["operations"]), wanted);
    let second = &document["operations"]["check.receive.topic.file.ANY-2"];
    assert_eq!((&second["x-agentbus-group"], &second["x-agentbus-types"]), (&json!("second"), &json!(["a.v1"])));
    let log = &document["channels"]["topic.log.REST"];
    assert_eq!(
        (&log["address"], &log["x-agentbus-subjects"]),
        (&json!("log.{rest}"), &json!(["ab.shop.*.*.topic.*.log.>"]))
    );
    assert_eq!(document["operations"]["check.receive.agent.check"]["reply"]["channel"]["$ref"], "#/channels/replies");
    assert_eq!(document["operations"]["list.send.agent.check"]["reply"], Value::Null);
}

#[test]
fn different_patterns_with_one_id_stay_apart() {
    let text = "version: 1\nagents:\n  a: {runner: process, command: [x], publish: ['x.*', x.ANY]}\n";
    let document = document(&Project::parse(text, "t").unwrap()).unwrap();
    assert_eq!(document["channels"]["topic.x.ANY"]["x-agentbus-pattern"], "x.*");
    assert_eq!(document["channels"]["topic.x.ANY-2"]["x-agentbus-pattern"], "x.ANY");
}
