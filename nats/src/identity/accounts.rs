//! The accounts of a namespace as claims: what is in them, and what crosses between them where there are two.

use serde_json::{Value, json};

use super::permissions;
use crate::identity::Layout;
use crate::names::Names;

/// How long the broker keeps the way back of an answer. Longer than a heartbeat of a pull; with the default of two minutes each
/// publish that nobody answers would hold memory for as long.
const ANSWER_MAX_NS: u64 = 12_000_000_000;

/// The account with the streams and the control plane. Without the wall the sidecars are in it, too: `sidecars` is their
/// signing key.
pub(super) fn bus(namespace: &str, layout: Layout, sidecars: &str) -> Value {
    let mut account = account(true);
    match layout {
        Layout::Plain => account["signing_keys"] = json!([signing_key(namespace, layout, sidecars)]),
        Layout::Wall => account["exports"] = crossings(namespace).iter().map(Crossing::export).collect(),
    }
    account
}

/// The account of the sidecars behind the wall: nothing lives in it but what `bus`, a public key, lets through.
pub(super) fn agents(namespace: &str, sidecars: &str, bus: &str) -> Value {
    let mut account = account(false);
    account["signing_keys"] = json!([signing_key(namespace, Layout::Wall, sidecars)]);
    account["imports"] = crossings(namespace).iter().map(|crossing| crossing.import(bus)).collect();
    account
}

/// The broker's own account.
pub(super) fn system() -> Value {
    account(false)
}

fn account(jetstream: bool) -> Value {
    json!({
        "type": "account", "version": 2,
        "limits": limits(jetstream),
        "default_permissions": {"pub": {}, "sub": {}},
    })
}

fn signing_key(namespace: &str, layout: Layout, key: &str) -> Value {
    let template = permissions::sidecar_template(namespace, layout);
    json!({"kind": "user_scope", "key": key, "role": "sidecar", "template": template})
}

/// No limits but the server's own; JetStream only where it is asked for.
fn limits(jetstream: bool) -> Value {
    let storage = if jetstream { -1 } else { 0 };
    json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
        "mem_storage": storage, "disk_storage": storage, "streams": storage, "consumer": storage,
    })
}

/// What crosses the wall on one subject.
struct Crossing {
    subject: String,
    way: Way,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// In, with one answer.
    Asked,
    /// In, with many answers: a pull.
    Pulled,
    /// Out, to whoever listens.
    Told,
}

/// All that sidecars do, and nothing else. No stream is made, read, purged or deleted through it.
fn crossings(namespace: &str) -> Vec<Crossing> {
    let names = Names::new(namespace);
    let (events, retry) = (names.events(), names.retry());
    let consumer = |verb: &str, stream: &str| format!("$JS.API.CONSUMER.{verb}.{stream}.*");
    let asked = [
        format!("ab.{namespace}.>"),
        format!("abr.{namespace}.*.*"),
        format!("abd.{namespace}.*.*.*"),
        format!("abt.{namespace}.*.*.*"),
        format!("abc.{namespace}.*.*"),
        format!("$JS.ACK.{events}.>"),
        format!("$JS.ACK.{retry}.>"),
        consumer("INFO", &events),
        consumer("INFO", &retry),
        consumer("UNPIN", &events),
    ];
    let pulled = [consumer("MSG.NEXT", &events), consumer("MSG.NEXT", &retry)];
    let told = [format!("abq.{namespace}.*")];
    let all = |subjects: Vec<String>, way| subjects.into_iter().map(move |subject| Crossing { subject, way });
    all(asked.into(), Way::Asked).chain(all(pulled.into(), Way::Pulled)).chain(all(told.into(), Way::Told)).collect()
}

impl Crossing {
    fn export(&self) -> Value {
        let mut export = json!({"name": self.subject, "subject": self.subject, "type": self.kind()});
        if self.way != Way::Told {
            export["response_type"] = if self.way == Way::Pulled { "Stream" } else { "Singleton" }.into();
            export["response_threshold"] = ANSWER_MAX_NS.into();
        }
        export
    }

    fn import(&self, bus: &str) -> Value {
        let Self { subject, .. } = self;
        json!({"name": subject, "subject": subject, "type": self.kind(), "account": bus, "local_subject": self.local()})
    }

    fn kind(&self) -> &'static str {
        if self.way == Way::Told { "stream" } else { "service" }
    }

    /// Its name on the other side: each single wildcard is numbered, an open end stays one.
    fn local(&self) -> String {
        let mut number = 0;
        let mut token = |token: &str| match token {
            "*" => {
                number += 1;
                format!("${number}")
            }
            other => other.to_owned(),
        };
        let spelled = Layout::Wall.spell(&self.subject);
        spelled.split('.').map(&mut token).collect::<Vec<_>>().join(".")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_imported_below_the_prefix_but_acks() {
        let account = agents("x", "AS", "AB");
        let local = |subject: &str| {
            let imports = account["imports"].as_array().unwrap();
            imports.iter().find(|import| import["subject"] == subject).unwrap()["local_subject"].as_str().unwrap()
        };
        assert_eq!(local("ab.x.>"), "$JS.ACK.bus.ab.x.>");
        assert_eq!(local("abd.x.*.*.*"), "$JS.ACK.bus.abd.x.$1.$2.$3");
        assert_eq!(local("$JS.ACK.AB_x_EVENTS.>"), "$JS.ACK.AB_x_EVENTS.>");
        assert_eq!(local("abq.x.*"), "$JS.ACK.bus.abq.x.$1");
    }

    #[test]
    fn sidecars_are_in_one_account_only_and_it_has_no_streams_behind_the_wall() {
        let plain = bus("x", Layout::Plain, "AS");
        assert!(plain["signing_keys"][0]["key"] == "AS" && plain["exports"].is_null());
        let (bus, agents) = (bus("x", Layout::Wall, "AS"), agents("x", "AS", "AB"));
        assert!(bus["signing_keys"].is_null() && agents["exports"].is_null());
        assert_eq!((&bus["limits"]["streams"], &agents["limits"]["streams"]), (&json!(-1), &json!(0)));
        assert_eq!(bus["exports"].as_array().map(Vec::len), agents["imports"].as_array().map(Vec::len));
    }
}
