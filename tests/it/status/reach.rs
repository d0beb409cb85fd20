//! What an agent is told: of events it sent, and of those for its groups.

use agentbus_proto::sidecar::v1::sidecar_client::SidecarClient;
use agentbus_proto::sidecar::v1::{GetStatusRequest, State, get_status_request::By};
use serde_json::json;
use tonic::Request;

use super::stage::{Stage, event, get};

#[tokio::test]
async fn anothers_event_with_the_same_id_hides_nothing() {
    let stage = Stage::new().await;
    let (a, b) = (stage.voice("a").await, stage.voice("b").await);
    for (agent, to) in [(&a, "made.first"), (&b, "made.second")] {
        agent.publish(json!({"to": to, "id": "order-7", "data": 1})).await;
    }
    for (agent, to) in [(&a, "made.first"), (&b, "made.second")] {
        let told = get(agent, "/v1/events/order-7").await;
        assert_eq!((told.status, &told.body["events"][0]["event"]["to"]), (200, &json!(to)), "{}", told.body);
    }
    // An id may tell any time, beyond every calendar too.
    let beyond = get(&a, "/v1/events/ffffffff-ffff-7fff-bfff-ffffffffffff").await;
    assert_eq!((beyond.status, &beyond.body["code"]), (404, &json!("UNKNOWN_DELIVERY")), "{}", beyond.body);
    stage.end().await;
}

#[tokio::test]
async fn an_agent_sees_its_own_events_and_no_others() {
    let stage = Stage::new().await;
    let (a, c) = (stage.voice("a").await, stage.voice("c").await);
    let id = stage.publish(event("work.private")).await;
    let path = format!("/v1/events/{id}");

    let mine = get(&stage.up.me(), &path).await;
    assert_eq!(
        (mine.status, mine.body["events"][0]["groups"].as_array().map(Vec::len)),
        (200, Some(2)),
        "{}",
        mine.body
    );
    let member = get(&a, &path).await;
    let groups = member.body["events"][0]["groups"].as_array().cloned().unwrap_or_default();
    assert_eq!(
        (groups.len(), &groups[0]["group"]),
        (1, &json!("a")),
        "others' groups are not its business: {}",
        member.body
    );
    let stranger = get(&c, &path).await;
    assert_eq!((stranger.status, &stranger.body["code"]), (404, &json!("UNKNOWN_DELIVERY")), "{}", stranger.body);
    let chain = get(&c, &format!("/v1/chains/{id}")).await;
    assert_eq!(chain.status, 404, "{}", chain.body);

    let made = a.publish(json!({"to": "made.thing", "data": 1})).await;
    let made = made["id"].as_str().unwrap().to_owned();
    let sender = get(&a, &format!("/v1/events/{made}")).await;
    assert_eq!(sender.body["events"][0]["groups"][0]["group"], "c", "{}", sender.body);

    let channel =
        tonic::transport::Endpoint::from_shared(format!("http://{}", a.address)).unwrap().connect().await.unwrap();
    let ask = |by: By| {
        let mut request = Request::new(GetStatusRequest { by: Some(by) });
        request.metadata_mut().insert("authorization", format!("Bearer {}", a.token).parse().unwrap());
        request
    };
    let mut client = SidecarClient::new(channel);
    let told = client.get_status(ask(By::EventId(made.clone()))).await.unwrap().into_inner();
    assert_eq!(
        (told.events[0].event.as_ref().unwrap().id.as_str(), told.events[0].groups[0].state()),
        (made.as_str(), State::Accepted)
    );
    assert!(told.events[0].stored.is_some());
    let told = client.get_status(ask(By::CorrelationId(id))).await.unwrap().into_inner();
    assert_eq!(told.events.len(), 1);
    let refused = client.get_status(Request::new(GetStatusRequest { by: None })).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unauthenticated);
    stage.end().await;
}
