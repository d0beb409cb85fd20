//! Replies in several pieces: as they come, over SSE and gRPC; together otherwise.

use agentbus_proto::sidecar::v1::{AskRequest, ReplyWith, settle_request};
use agentbus_tests::grpc;
use agentbus_tests::http::HttpAgent;
use agentbus_tests::wait::PATIENCE;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::world::{World, asking, listens, next_ask, reply, taking};

/// A stream of server-sent events.
pub struct Sse {
    body: Incoming,
    text: String,
}

impl Sse {
    /// Asks for one; the status and, when it is a stream, the stream.
    pub async fn ask(agent: &HttpAgent, body: Value) -> (u16, Self) {
        let stream = tokio::net::TcpStream::connect(&agent.address).await.expect("connects");
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
        tokio::spawn(connection);
        let request = http::Request::builder()
            .method("POST")
            .uri("/v1/ask")
            .header("host", &agent.address)
            .header("authorization", format!("Bearer {}", agent.token))
            .header("accept", "text/event-stream")
            .body(Full::new(Bytes::from(body.to_string())))
            .expect("a request");
        let response = timeout(PATIENCE, sender.send_request(request)).await.expect("in time").expect("an answer");
        (response.status().as_u16(), Self { body: response.into_body(), text: String::new() })
    }

    /// The next event: its name and data; none at the end.
    pub async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some((one, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| {
                    one.lines().find_map(|line| line.strip_prefix(name)).map(|text| text.trim().to_owned())
                };
                let event = field("event:").zip(field("data:"));
                self.text = rest.to_owned();
                match event {
                    Some((name, data)) => return Some((name, serde_json::from_str(&data).expect("JSON"))),
                    // A comment that says: still here.
                    None => continue,
                }
            }
            let frame = timeout(PATIENCE, self.body.frame()).await.expect("in time")?.expect("no error");
            self.text.push_str(std::str::from_utf8(&frame.into_data().unwrap_or_default()).expect("UTF-8"));
        }
    }
}

#[tokio::test]
async fn pieces_come_one_by_one_over_sse() {
    let world = World::start().await;
    let (asker, helper) = (world.sidecar("asker").await, world.sidecar("helper").await);
    let (a, h) = (HttpAgent::of(&asker), HttpAgent::of(&helper));
    let taken = taking(&h);
    listens(&world, "helper--inbox").await;
    let (status, mut sse) = Sse::ask(&a, json!({"to": "@helper", "timeout": "20s"})).await;
    assert_eq!(status, 200);
    let delivery = taken.await.unwrap();
    for index in 0..3 {
        reply(&h, &delivery, json!({"data": index, "more": index < 2})).await;
        // Heard before the next one is even written.
        let (name, data) = sse.next().await.unwrap();
        let said = (&data["reply"]["data"], &data["reply"]["reply"]["index"], &data["final"]);
        assert_eq!((name.as_str(), said), ("reply", (&json!(index), &json!(index), &json!(index == 2))), "{data}");
    }
    assert!(sse.next().await.is_none());
    world.broker.settled("helper--inbox").await;
}

#[tokio::test]
async fn sse_tells_failures_before_and_after_its_beginning() {
    let world = World::start().await;
    let (asker, helper) = (world.sidecar("asker").await, world.sidecar("helper").await);
    let (a, h) = (HttpAgent::of(&asker), HttpAgent::of(&helper));
    let (status, _) = Sse::ask(&a, json!({"to": "@helper"})).await;
    assert_eq!(status, 404, "nobody serves");
    let (status, _) = Sse::ask(&a, json!({"to": "@helper", "timeout": "0s"})).await;
    assert_eq!(status, 400);
    let taken = taking(&h);
    listens(&world, "helper--inbox").await;
    let (status, mut sse) = Sse::ask(&a, json!({"to": "@helper", "timeout": "1s"})).await;
    assert_eq!(status, 200);
    reply(&h, &taken.await.unwrap(), json!({"data": "begun", "more": true})).await;
    assert_eq!(sse.next().await.unwrap().1["reply"]["data"], "begun");
    let (name, problem) = sse.next().await.unwrap();
    assert_eq!((name.as_str(), &problem["code"]), ("error", &json!("REPLY_TIMEOUT")), "{problem}");
    assert!(sse.next().await.is_none());
}

#[tokio::test]
async fn pieces_come_one_by_one_over_grpc_settled_on_the_subscribe_stream() {
    let world = World::start().await;
    let (asker, helper) = (world.sidecar("asker").await, world.sidecar("helper").await);
    let (mut client, mut serving) = (grpc::client(&asker).await, grpc::client(&helper).await);
    let mut stream = grpc::Stream::open(&mut serving, 8).await;
    listens(&world, "helper--inbox").await;
    let request = AskRequest { event: Some(grpc::event("@helper", "hello")), timeout: None };
    let mut replies = client.ask(request).await.unwrap().into_inner();
    let delivery = stream.delivery().await;
    for index in 0..3_u32 {
        let data = format!("piece {index}").into();
        let how = ReplyWith { data, content_type: "text/plain".into(), more: index < 2, ..ReplyWith::default() };
        stream.settle(&delivery, settle_request::How::Reply(how)).await;
        let piece = timeout(PATIENCE, replies.message()).await.unwrap().unwrap().unwrap();
        let event = piece.reply.unwrap();
        assert_eq!((event.data, piece.r#final), (format!("piece {index}").into(), index == 2));
        assert_eq!(event.reply.unwrap().index, index);
    }
    assert!(replies.message().await.unwrap().is_none());
}

#[tokio::test]
async fn without_a_stream_all_pieces_are_in_one_answer() {
    let world = World::start().await;
    let (asker, helper) = (world.sidecar("asker").await, world.sidecar("helper").await);
    let (a, h) = (HttpAgent::of(&asker), HttpAgent::of(&helper));
    let taken = taking(&h);
    listens(&world, "helper--inbox").await;
    let answer = asking(&a, json!({"to": "@helper", "timeout": "20s"}));
    let delivery = taken.await.unwrap();
    reply(&h, &delivery, json!({"data": "a", "more": true, "index": 0})).await;
    // A repetition of a call whose answer was lost is stored once.
    reply(&h, &delivery, json!({"data": "a", "more": true, "index": 0})).await;
    let gap = h.settle(&delivery, "reply", json!({"data": "c", "index": 2})).await;
    assert_eq!((gap.status, gap.body["code"].as_str()), (400, Some("INVALID_EVENT")), "{}", gap.body);
    reply(&h, &delivery, json!({"data": "b", "more": true})).await;
    let last = reply(&h, &delivery, json!({"data": "c"})).await;
    let again = reply(&h, &delivery, json!({"data": "c"})).await;
    assert_eq!(last["emitted"][0]["id"], again["emitted"][0]["id"], "a repeated settle gets the same answer");
    let answer = answer.await.unwrap();
    let datas: Vec<&Value> = answer.body["before"].as_array().unwrap().iter().map(|one| &one["data"]).collect();
    assert_eq!((datas, &answer.body["reply"]["data"]), (vec![&json!("a"), &json!("b")], &json!("c")));
    assert_eq!(world.stored_replies().await.len(), 3);
}

#[tokio::test]
async fn an_answer_that_begins_anew_replaces_what_came_before() {
    let world = World::start().await;
    let (asker, helper, other) =
        (world.sidecar("asker").await, world.sidecar("helper").await, world.sidecar("other").await);
    let (a, h, o) = (HttpAgent::of(&asker), HttpAgent::of(&helper), HttpAgent::of(&other));
    let taken = taking(&h);
    listens(&world, "pool--crew").await;
    let answer = asking(&a, json!({"to": "@crew", "timeout": "30s"}));
    let delivery = taken.await.unwrap();
    reply(&h, &delivery, json!({"data": "half of", "more": true})).await;
    let mut helper = helper;
    helper.kill().await;
    // The pool's next member does it all over again.
    let again = next_ask(&o).await;
    assert_eq!(again["event"]["id"], delivery["event"]["id"]);
    reply(&o, &again, json!({"data": "one", "more": true})).await;
    reply(&o, &again, json!({"data": "two"})).await;
    let answer = answer.await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    let before: Vec<&Value> = answer.body["before"].as_array().unwrap().iter().map(|one| &one["data"]).collect();
    assert_eq!((before, &answer.body["reply"]["data"]), (vec![&json!("one")], &json!("two")), "{}", answer.body);
    assert_eq!(answer.body["reply"]["source"], "other");
}

#[tokio::test]
async fn replies_that_nobody_reads_have_a_bound_over_all_asks() {
    // Of the 64 MiB that all asks may hold, the last quarter is for those that wait already.
    const PIECE_BYTES: usize = 900 << 10;
    const PIECES_MAX: usize = 100;
    let world = World::start().await;
    let (asker, helper) = (world.sidecar("asker").await, world.sidecar("helper").await);
    let (a, h) = (HttpAgent::of(&asker), HttpAgent::of(&helper));
    let mut unread = Vec::new();
    for _ in 0..3 {
        let taken = taking(&h);
        listens(&world, "helper--inbox").await;
        let (_, sse) = Sse::ask(&a, json!({"to": "@helper", "timeout": "10m"})).await;
        unread.push((sse, taken.await.unwrap()));
    }
    let refused = async {
        for piece in 0..PIECES_MAX {
            // One ask alone may hold half of it.
            let (_, delivery) = &unread[piece % unread.len()];
            reply(&h, delivery, json!({"data": "x".repeat(PIECE_BYTES), "more": true})).await;
            let more = a.post("/v1/ask", &json!({"to": "@helper", "timeout": "1ms"})).await;
            if more.body["code"] == "RATE_LIMITED" {
                return more;
            }
        }
        panic!("no bound within {PIECES_MAX} pieces");
    };
    let refused = Box::pin(refused).await;
    assert_eq!((refused.status, refused.body["retry_after"].is_null()), (429, false), "{}", refused.body);
    // Nobody has to wait for those who do not read: what they leave is free again.
    unread.clear();
    agentbus_tests::wait::until("room", || async {
        let more = a.post("/v1/ask", &json!({"to": "@helper", "timeout": "1ms"})).await;
        if more.body["code"] == "RATE_LIMITED" { Err(more.body) } else { Ok(()) }
    })
    .await;
}
