//! The walking skeleton: an event goes through two sidecars and back.

use agentbus_proto::sidecar::v1::PublishRequest;
use agentbus_tests::grpc::{self, Stream};
use agentbus_tests::http::HttpAgent;
use agentbus_tests::{Broker, Member, SidecarProcess};
use serde_json::json;

#[tokio::test]
async fn an_event_goes_through_two_sidecars_and_back() {
    let broker = Broker::start().await;
    let questions = [broker.group("answerer", &["question.*"]).await];
    let answers = [broker.group("asker", &["answer.>"]).await];
    let asker = Member { agent: "asker", groups: &answers, publish: &["question.asked"], ..Member::default() };
    let answerer = Member { agent: "answerer", groups: &questions, publish: &["answer.given"], ..Member::default() };
    let (asker, answerer) =
        (SidecarProcess::start(&broker, asker).await, SidecarProcess::start(&broker, answerer).await);

    let mut client = grpc::client(&answerer).await;
    let mut stream = Stream::open(&mut client, 1).await;
    let asker = HttpAgent::of(&asker);
    let stored = asker.publish(json!({"to": "question.asked", "data": {"n": 6}})).await;
    assert_eq!((stored["stored"].as_str(), stored["duplicate"].as_bool()), (Some("broker"), Some(false)));

    let delivery = stream.delivery().await;
    let question = delivery.event.clone().unwrap();
    assert_eq!((question.source.as_str(), delivery.attempt), ("asker", 1));
    assert_eq!(question.data, br#"{"n":6}"#.as_slice());
    let answer = grpc::event("answer.given", "42");
    let answer = PublishRequest { event: Some(answer), ..PublishRequest::default() };
    client.publish(answer).await.unwrap();
    stream.ack(&delivery).await;

    let delivery = asker.receive_one("20s").await;
    assert_eq!(delivery["event"]["data"], "42");
    assert_eq!(delivery["event"]["source"], "answerer");
    asker.ack(&delivery).await;
}
