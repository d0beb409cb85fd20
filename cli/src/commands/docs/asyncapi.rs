//! The AsyncAPI 3 document of a project: a channel per address or pattern, an operation per agent and channel. Pure.
//!
//! Ids have only letters, digits, `.`, `-` and `_`, so that they need no escaping in references. Keys that begin with
//! `x-agentbus-` say what AsyncAPI has no words for.

use std::collections::BTreeMap;

use agentbus_control_plane::addresses;
use agentbus_control_plane::spec::{AgentSpec, Project};
use agentbus_nats::grant::GroupGrant;
use agentbus_nats::pattern;
use serde_json::{Map, Value, json};

/// Version of the specification that the document follows.
const VERSION: &str = "3.0.0";
/// The channel of replies: nobody sends there but who was asked.
const REPLIES: &str = "replies";

/// The document.
pub fn document(project: &Project) -> anyhow::Result<Value> {
    let mut channels = Channels { namespace: &project.namespace, all: BTreeMap::new() };
    let mut operations = Operations::default();
    let mut asked = false;
    for agent in &project.agents {
        for group in groups(project, agent) {
            for text in &group.patterns {
                let channel = channels.id(text)?;
                operations.receive(agent, &group, text, &channel);
                asked |= text.starts_with('@');
            }
        }
        for text in &agent.publish {
            let channel = channels.id(text)?;
            operations.send(agent, text, &channel);
        }
    }
    if asked {
        channels.all.insert(REPLIES.to_owned(), replies());
    }
    Ok(json!({
        "asyncapi": VERSION,
        "info": {
            "title": format!("Namespace {} on agentbus", project.namespace),
            "version": "1",
            "description": "Made by `agentbus docs asyncapi` from agentbus.yaml.",
        },
        "defaultContentType": "application/json",
        "channels": channels.all,
        "operations": operations.all,
        "components": components(),
    }))
}

/// All groups an agent is in: those it subscribes with, and those that come with its addresses.
fn groups(project: &Project, agent: &AgentSpec) -> Vec<GroupGrant> {
    let subscribed = agent.subscribe.iter().map(|subscription| GroupGrant {
        name: subscription.group.clone(),
        patterns: subscription.patterns.clone(),
        types: subscription.types.clone(),
        attributes: subscription.attributes.clone(),
        ordered: subscription.ordered,
        ..GroupGrant::default()
    });
    let own = addresses::own_groups(project, agent);
    // A group of both names the same channels in both, and `#all` in the latter only.
    let mut groups: Vec<GroupGrant> = subscribed.filter(|one| own.iter().all(|other| other.name != one.name)).collect();
    groups.extend(own);
    groups
}

struct Channels<'a> {
    namespace: &'a str,
    all: BTreeMap<String, Value>,
}

impl Channels<'_> {
    /// The id of the channel of a pattern, which is made if it is new.
    fn id(&mut self, text: &str) -> anyhow::Result<String> {
        let wanted = id(text);
        let same = |channel: &Value| channel["x-agentbus-pattern"] == text;
        let mut name = wanted.clone();
        let mut number = 2;
        while self.all.get(&name).is_some_and(|other| !same(other)) {
            name = format!("{wanted}-{number}");
            number += 1;
        }
        if !self.all.contains_key(&name) {
            let channel = channel(self.namespace, text)?;
            self.all.insert(name.clone(), channel);
        }
        Ok(name)
    }
}

/// `@x` → `agent.x`, `#x` → `channel.x`, `a.*.>` → `topic.a.ANY.REST`.
fn id(text: &str) -> String {
    let (class, name) = match text.split_at_checked(1) {
        Some(("@", name)) => ("agent", name),
        Some(("#", name)) => ("channel", name),
        _ => ("topic", text),
    };
    format!("{class}.{}", name.replace('*', "ANY").replace('>', "REST"))
}

fn channel(namespace: &str, text: &str) -> anyhow::Result<Value> {
    let kind = match text.chars().next() {
        Some('@') => "An agent or a pool: one agent gets each event.",
        Some('#') => "A channel: every subscriber gets every event, in order.",
        _ => "A topic: one member of each group that reads it gets each event.",
    };
    // The parameters of an address are its wildcards.
    let mut parameters = Map::new();
    let mut address = Vec::new();
    for token in text.split('.') {
        let (sign, name) =
            if let Some(name) = token.strip_prefix(['@', '#']) { (&token[..1], name) } else { ("", token) };
        let description = match name {
            "*" => "Exactly one token.",
            ">" => "One or more tokens.",
            _ => {
                address.push(token.to_owned());
                continue;
            }
        };
        let parameter = if name == ">" { "rest".to_owned() } else { format!("any{}", parameters.len() + 1) };
        address.push(format!("{sign}{{{parameter}}}"));
        parameters.insert(parameter, json!({"description": description}));
    }
    let mut channel = json!({
        "address": address.join("."),
        "title": text,
        "description": kind,
        "messages": {"event": {"$ref": "#/components/messages/event"}},
        "x-agentbus-pattern": text,
        "x-agentbus-subjects": pattern::filters(namespace, &[text.to_owned()])?,
    });
    if !parameters.is_empty() {
        channel["parameters"] = Value::Object(parameters);
    }
    Ok(channel)
}

fn replies() -> Value {
    json!({
        "address": null,
        "title": "Replies",
        "description": "What an agent replies to an ask goes to whoever asked.",
        "messages": {"reply": {"$ref": "#/components/messages/reply"}},
    })
}

#[derive(Default)]
struct Operations {
    all: BTreeMap<String, Value>,
}

impl Operations {
    fn receive(&mut self, agent: &AgentSpec, group: &GroupGrant, text: &str, channel: &str) {
        let mut operation = operation("receive", agent, channel, format!("{} receives {text}", agent.name));
        operation["x-agentbus-group"] = json!(group.name);
        if group.ordered {
            operation["x-agentbus-ordered"] = json!(true);
        }
        if !group.types.is_empty() {
            operation["x-agentbus-types"] = json!(group.types);
        }
        if !group.attributes.is_empty() {
            operation["x-agentbus-attributes"] = json!(group.attributes);
        }
        if text.starts_with('@') {
            operation["reply"] = json!({
                "channel": {"$ref": format!("#/channels/{REPLIES}")},
                "messages": [{"$ref": format!("#/channels/{REPLIES}/messages/reply")}],
            });
        }
        self.insert(format!("{}.receive.{channel}", agent.name), operation);
    }

    fn send(&mut self, agent: &AgentSpec, text: &str, channel: &str) {
        let operation = operation("send", agent, channel, format!("{} sends {text}", agent.name));
        self.insert(format!("{}.send.{channel}", agent.name), operation);
    }

    fn insert(&mut self, name: String, operation: Value) {
        let mut free = name.clone();
        let mut number = 2;
        while self.all.contains_key(&free) {
            free = format!("{name}-{number}");
            number += 1;
        }
        self.all.insert(free, operation);
    }
}

fn operation(action: &str, agent: &AgentSpec, channel: &str, title: String) -> Value {
    json!({
        "action": action,
        "title": title,
        "channel": {"$ref": format!("#/channels/{channel}")},
        "messages": [{"$ref": format!("#/channels/{channel}/messages/event")}],
        "tags": [{"name": agent.name}],
        "x-agentbus-agent": agent.name,
    })
}

fn components() -> Value {
    let message = |name: &str, title: &str, required: &[&str]| {
        json!({
            "name": name,
            "title": title,
            "contentType": "application/json",
            "correlationId": {
                "description": "The chain of events that belong together.",
                "location": "$message.payload#/correlation_id",
            },
            "payload": {
                "allOf": [{"$ref": "#/components/schemas/Event"}, {"type": "object", "required": required}],
            },
        })
    };
    json!({
        "messages": {
            "event": message("event", "An event as agents see it over HTTP", &["id", "source", "to"]),
            "reply": message("reply", "A reply to an ask", &["id", "source", "to", "reply"]),
        },
        "schemas": {"Event": event()},
    })
}

fn event() -> Value {
    let text = |description: &str| json!({"type": "string", "description": description});
    let moment = |description: &str| json!({"type": "string", "format": "date-time", "description": description});
    json!({
        "type": "object",
        "description": "On the broker it is the protobuf message agentbus.event.v1.Event.",
        "properties": {
            "id": text("Identity."),
            "source": text("The agent that sent it, authenticated by the broker."),
            "to": text("Where it went."),
            "type": text("What it is; its topic when the sender said nothing else."),
            "time": moment("When it was made."),
            "expires": moment("Not handed out from this moment on."),
            "correlation_id": text("Id of the first event of its chain."),
            "causation_id": text("Id of the event that led to this one."),
            "content_type": text("Media type of the content."),
            "data": {"description": "The content: any JSON value, or text."},
            "data_base64": text("The content when it is neither."),
            "attributes": {"type": "object", "additionalProperties": {"type": "string"}},
            "reply_by": moment("An ask: a reply is wanted until this moment."),
            "reply": {"type": "object", "description": "Set on a reply: `request_id`, `index`, `final`, `error_code`."},
            "hops": {"type": "integer", "minimum": 0, "description": "Events before this one in its chain."},
        },
    })
}

#[cfg(test)]
mod tests;
