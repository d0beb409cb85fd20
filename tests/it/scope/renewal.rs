//! The sidecar's own view: a refusal by the broker reaches its caller at once, and a new token is taken into use
//! without losing anything. The test plays the control plane.

use std::sync::Arc;
use std::time::{Duration, Instant};

use agentbus_nats::grant::{ControlReply, ControlRequest, Grant, GroupGrant};
use agentbus_nats::identity::Layout;
use agentbus_tests::http::HttpAgent;
use agentbus_tests::{Broker, Member, SidecarProcess, grpc};
use futures_util::StreamExt;
use serde_json::json;
use tokio::task::JoinHandle;

/// Answers the requests of sidecars with what `decide` makes of them.
async fn control_plane(
    broker: &Arc<Broker>,
    decide: impl Fn(&Broker, ControlRequest) -> Grant + Send + 'static,
) -> JoinHandle<()> {
    let mut requests = broker.link.client.subscribe("abc.default.writer.*").await.unwrap();
    super::round_trip(&broker.link).await;
    let broker = broker.clone();
    tokio::spawn(async move {
        while let Some(message) = requests.next().await {
            let agent = message.subject.split('.').nth(2).expect("an agent").to_owned();
            let reply = message.reply.expect("a reply subject");
            assert!(broker.authority.layout().may_answer(&agent, &reply), "{reply}");
            let request: ControlRequest = serde_json::from_slice(&message.payload).expect("a request");
            if let Some(group) = request.group.clone() {
                broker.group_with(group).await;
            }
            let answer = ControlReply::Grant(Box::new(decide(&broker, request)));
            broker.link.client.publish(reply, serde_json::to_vec(&answer).unwrap().into()).await.unwrap();
        }
    })
}

async fn a_refusal_by_the_broker_reaches_the_caller_at_once(layout: Layout) {
    let broker = Arc::new(Broker::start_in(layout).await);
    // A token for `notes.>` beside a grant that promises more: the sidecar lets it pass, the broker does not.
    let control = control_plane(&broker, |broker, request| {
        let groups: Vec<GroupGrant> = request.group.into_iter().collect();
        let grant = broker.grant("writer", "writer", &request.public_key, &groups, &["notes.>"]);
        Grant { publish: vec![">".to_owned()], ..grant }
    });
    let control = control.await;
    let member = Member { agent: "writer", publish: &["notes.>"], ..Member::default() };
    let sidecar = SidecarProcess::start(&broker, member).await;
    let agent = HttpAgent::of(&sidecar);
    let joined = agent.post("/v1/subscriptions", &json!({"patterns": ["notes.>"]})).await;
    assert_eq!((joined.status, joined.body), (200, json!({"group": "writer", "groups": ["writer"]})));

    let before = Instant::now();
    let refused = agent.post("/v1/publish", &json!({"to": "secret.plan"})).await;
    assert_eq!((refused.status, refused.body["code"].as_str()), (403, Some("SCOPE_DENIED")), "{}", refused.body);
    assert!(refused.body["detail"].as_str().unwrap().contains("secret.plan"), "{}", refused.body);
    let mut client = grpc::client(&sidecar).await;
    let event = Some(grpc::event("secret.plan", "x"));
    let request = agentbus_proto::sidecar::v1::PublishRequest { event, ..Default::default() };
    assert_eq!(client.publish(request).await.unwrap_err().code(), tonic::Code::PermissionDenied);
    assert!(before.elapsed() < Duration::from_secs(1), "{:?}", before.elapsed());
    agent.publish(json!({"to": "notes.created"})).await;
    control.abort();
}

async fn joining_a_group_reconnects_with_a_new_token_and_loses_nothing(layout: Layout) {
    const EVENTS: usize = 400;
    let server = Arc::new(Broker::start_in(layout).await);
    let first = server.group("first", &["work.>"]).await;
    let groups = [first.clone()];
    let control = control_plane(&server, move |broker, request| {
        let groups = [vec![first.clone()], request.group.into_iter().collect()].concat();
        broker.grant("writer", "writer", &request.public_key, &groups, &["notes.>", "work.>"])
    });
    let control = control.await;
    let member = Member { agent: "writer", groups: &groups, publish: &["notes.>", "work.>"], ..Member::default() };
    let sidecar = SidecarProcess::start(&server, member).await;
    let agent = HttpAgent::of(&sidecar);
    agent.publish(json!({"to": "work.a"})).await;
    let held = agent.receive_one("20s").await;

    let publisher = agent.clone();
    let publishing = tokio::spawn(async move {
        for n in 0..EVENTS {
            let answer = publisher.publish(json!({"to": "notes.created", "id": format!("n-{n}")})).await;
            assert_eq!(answer["stored"], "broker");
        }
    });
    for n in 0..3 {
        let wanted = json!({"patterns": ["notes.>"], "group": format!("late-{n}")});
        let joined = agent.post("/v1/subscriptions", &wanted).await;
        assert_eq!(joined.status, 200, "{}", joined.body);
    }
    publishing.await.unwrap();
    assert_eq!(server.count(&server.names.events()).await, EVENTS as u64 + 1, "each stored once");
    agent.ack(&held).await;
    server.settled("first").await;
    agent.publish(json!({"to": "notes.last", "id": "last"})).await;
    // The group joined last is there, and reads what came after it was made.
    loop {
        let deliveries = agent.receive(1000, "20s").await;
        assert!(!deliveries.is_empty(), "the last event never came");
        for delivery in &deliveries {
            agent.ack(delivery).await;
        }
        if deliveries.iter().any(|d| d["group"] == "late-2" && d["event"]["id"] == "last") {
            break;
        }
    }
    control.abort();
}

async fn a_refused_group_is_told_in_the_control_planes_words(layout: Layout) {
    let server = Arc::new(Broker::start_in(layout).await);
    let member = Member { agent: "writer", ..Member::default() };
    let sidecar = SidecarProcess::start(&server, member).await;
    let mut requests = server.link.client.subscribe("abc.default.writer.subscribe").await.unwrap();
    super::round_trip(&server.link).await;
    let client = server.link.client.clone();
    let control = tokio::spawn(async move {
        let message = requests.next().await.expect("a request");
        let refusal = ControlReply::refused(agentbus_proto::Code::ScopeDenied, "not `payroll.>`");
        client.publish(message.reply.unwrap(), serde_json::to_vec(&refusal).unwrap().into()).await.unwrap();
    });
    let wanted = json!({"patterns": ["payroll.>"], "group": "spy"});
    let answer = HttpAgent::of(&sidecar).post("/v1/subscriptions", &wanted).await;
    assert_eq!((answer.status, answer.body["detail"].as_str()), (403, Some("not `payroll.>`")), "{}", answer.body);
    control.await.unwrap();
}

in_both! {
    a_refusal_by_the_broker_reaches_the_caller_at_once,
    joining_a_group_reconnects_with_a_new_token_and_loses_nothing,
    a_refused_group_is_told_in_the_control_planes_words,
}
