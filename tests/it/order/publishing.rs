//! The order in which one agent's events are stored, over connections that break.

use agentbus_proto::EventHead;
use agentbus_proto::event::v1::Event;
use agentbus_tests::grpc;
use agentbus_tests::proxy::Proxy;
use agentbus_tests::wait::until;
use agentbus_tests::{Broker, Member, SidecarProcess};

#[tokio::test]
async fn events_are_stored_in_the_order_in_which_they_were_published_over_broken_connections() {
    const EVENTS: usize = 20_000;
    let broker = Broker::start().await;
    let proxy = Proxy::start(broker.url().trim_start_matches("nats://")).await;
    let address = proxy.address();
    let member = Member { agent: "writer", publish: &["note.>"], server: Some(&address), ..Member::default() };
    let sidecar = SidecarProcess::start(&broker, member).await;
    let mut client = grpc::client(&sidecar).await;
    let ids: Vec<String> = (0..EVENTS).map(|n| format!("id-{n}")).collect();
    let events: Vec<Event> =
        ids.iter().map(|id| Event { id: id.clone(), ..grpc::event("note.made", id.clone()) }).collect();
    let publishing = tokio::spawn(async move { grpc::publish_all(&mut client, events).await });
    let (mut stored, mut broken, stream) = (0, 0, broker.names.events());
    while !publishing.is_finished() {
        let done = || publishing.is_finished();
        stored = until("some more stored", || async {
            let now = broker.count(&stream).await;
            if now > stored + 500 || done() { Ok(now) } else { Err(now) }
        })
        .await;
        let lost = proxy.lost();
        proxy.swallow(true);
        until("some lost", || async { if proxy.lost() > lost || done() { Ok(()) } else { Err(()) } }).await;
        proxy.cut();
        proxy.swallow(false);
        broken += 1;
    }
    let answers = publishing.await.unwrap();
    assert_eq!(answers.iter().filter_map(|answer| answer.failure.as_ref()).next(), None);
    assert!(broken > 3, "{broken} connections broken");
    let messages = broker.messages(&stream).await;
    let order: Vec<String> = messages.iter().map(|one| EventHead::decode(&one.payload).unwrap().id).collect();
    let wrong = order.iter().zip(&ids).position(|(stored, published)| stored != published);
    assert_eq!((wrong, order.len()), (None, EVENTS));
}
