//! An agent that can do the same things in all three ways of the sidecar's API, so that a test can say them once.

use std::time::Duration;

use agentbus_proto::event::v1::Event;
use agentbus_proto::sidecar::v1::settle_request::How;
use agentbus_proto::sidecar::v1::{
    Ack, Delivery, Extend, Nack, ReceiveRequest, Reject, SettleRequest, SubscribeRequest, subscribe_request,
    subscribe_response,
};
use agentbus_proto::{Fault, duration};
use agentbus_tests::SidecarProcess;
use agentbus_tests::grpc::{self, Client, Stream};
use agentbus_tests::http::HttpAgent;
use serde_json::{Value, json};

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Way {
    Stream,
    Unary,
    Http,
}

pub const WAYS: [Way; 3] = [Way::Stream, Way::Unary, Way::Http];

/// A delivery as far as the tests look at it.
#[derive(Debug, Clone)]
pub struct Got {
    pub id: String,
    pub attempt: u32,
    pub max_attempts: u32,
    pub last_failure: String,
    pub data: String,
    pub event_id: String,
    pub stream: String,
    pub seq: u64,
}

/// A settle that went well.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Done {
    pub emitted: Vec<String>,
    pub deadline: bool,
}

pub struct Agent {
    way: Way,
    client: Client,
    http: HttpAgent,
    stream: Option<Stream>,
}

pub fn ack() -> How {
    How::Ack(Ack {})
}

pub fn nack(reason: &str) -> How {
    How::Nack(Nack { retry_after: None, reason: reason.to_owned() })
}

pub fn nack_for(wait: Duration) -> How {
    How::Nack(Nack { retry_after: Some(duration::to_proto(wait)), reason: "later".to_owned() })
}

pub fn reject(reason: &str) -> How {
    How::Reject(Reject { reason: reason.to_owned() })
}

pub fn extend(by: Duration) -> How {
    How::Extend(Extend { by: Some(duration::to_proto(by)) })
}

impl Agent {
    pub async fn connect(way: Way, sidecar: &SidecarProcess) -> Self {
        let mut client = grpc::client(sidecar).await;
        let stream = if way == Way::Stream { Some(Stream::open(&mut client, 1).await) } else { None };
        Self { way, client, http: HttpAgent::of(sidecar), stream }
    }

    pub async fn next(&mut self) -> Got {
        match (self.way, &mut self.stream) {
            (Way::Stream, Some(stream)) => stream.delivery().await.into(),
            (Way::Http, _) => Got::from_json(&self.http.receive_one("20s").await),
            _ => {
                let wait = Some(duration::to_proto(Duration::from_secs(20)));
                let answer = self
                    .client
                    .receive(ReceiveRequest { max: 1, wait, group: String::new() })
                    .await
                    .expect("an answer");
                answer.into_inner().deliveries.pop().expect("a delivery").into()
            }
        }
    }

    pub async fn settle(&mut self, id: &str, how: How) -> Result<Done, String> {
        self.settle_with(id, how, vec![]).await
    }

    /// The error is the code.
    pub async fn settle_with(&mut self, id: &str, how: How, emit: Vec<Event>) -> Result<Done, String> {
        let request = SettleRequest { delivery_id: id.to_owned(), emit, how: Some(how) };
        match (self.way, &mut self.stream) {
            (Way::Stream, Some(stream)) => over_stream(stream, request).await,
            (Way::Http, _) => self.over_http(request).await,
            _ => match self.client.settle(request).await {
                Ok(answer) => Ok(done(answer.into_inner())),
                Err(status) => Err(Fault::from(status).code.as_str().to_owned()),
            },
        }
    }

    async fn over_http(&self, request: SettleRequest) -> Result<Done, String> {
        let text = |wait: prost_types::Duration| duration::format(duration::from_proto(&wait).expect("positive"));
        let event =
            |event: Event| json!({"to": to(&event), "data": String::from_utf8_lossy(&event.data), "id": event.id});
        let (verb, body) = match request.how.expect("a verb") {
            How::Ack(_) if request.emit.is_empty() => ("ack", Value::Null),
            How::Ack(_) => ("ack", json!({"emit": request.emit.into_iter().map(event).collect::<Vec<_>>()})),
            How::Nack(Nack { retry_after: None, reason }) => ("nack", json!({"reason": reason})),
            How::Nack(nack) => ("nack", json!({"retry_after": nack.retry_after.map(text), "reason": nack.reason})),
            How::Reject(reject) => ("reject", json!({"reason": reject.reason})),
            How::Extend(extend) => ("extend", json!({"by": extend.by.map(text)})),
            How::Reply(_) => panic!("no event here is an ask"),
        };
        let body = if body.is_null() { json!({}) } else { body };
        let answer = self.http.post(&format!("/v1/deliveries/{}/{verb}", request.delivery_id), &body).await;
        if answer.status != 200 {
            return Err(answer.body["code"].as_str().expect("a code").to_owned());
        }
        let ids = answer.body["emitted"].as_array().cloned().unwrap_or_default();
        let emitted = ids.iter().map(|one| one["id"].as_str().expect("an id").to_owned()).collect();
        Ok(Done { emitted, deadline: answer.body["deadline"].is_string() })
    }
}

/// A plain ack is answered only when it fails, so an extend of a made-up delivery follows: its refusal comes behind.
async fn over_stream(stream: &mut Stream, request: SettleRequest) -> Result<Done, String> {
    const MARKER: &str = "marker";
    let id = request.delivery_id.clone();
    let plain = matches!(request.how, Some(How::Ack(_))) && request.emit.is_empty();
    send(stream, request).await;
    if plain {
        let how = Some(ack());
        send(stream, SettleRequest { delivery_id: MARKER.to_owned(), how, ..SettleRequest::default() }).await;
    }
    loop {
        let subscribe_response::Frame::Settled(settled) = stream.frame().await else { continue };
        if let Some(failure) = settled.failure.clone().filter(|_| settled.delivery_id == id) {
            return Err(failure.code);
        }
        if settled.delivery_id == id || (plain && settled.delivery_id == MARKER) {
            return Ok(done(settled));
        }
    }
}

async fn send(stream: &Stream, request: SettleRequest) {
    let frame = subscribe_request::Frame::Settle(request);
    stream.tx.send(SubscribeRequest { frame: Some(frame) }).await.expect("sent");
}

fn done(answer: agentbus_proto::sidecar::v1::SettleResponse) -> Done {
    Done { emitted: answer.emitted.into_iter().map(|one| one.id).collect(), deadline: answer.deadline.is_some() }
}

fn to(event: &Event) -> String {
    let address = event.to.as_ref().and_then(|to| agentbus_proto::Address::try_from(to).ok());
    address.expect("an address").to_string()
}

impl From<Delivery> for Got {
    fn from(delivery: Delivery) -> Self {
        let event = delivery.event.expect("an event");
        Self {
            id: delivery.delivery_id,
            attempt: delivery.attempt,
            max_attempts: delivery.max_attempts,
            last_failure: delivery.last_failure,
            data: String::from_utf8_lossy(&event.data).into(),
            event_id: event.id,
            stream: delivery.stream,
            seq: delivery.seq,
        }
    }
}

impl Got {
    fn from_json(delivery: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let number = |name| delivery[name].as_u64().expect("a number") as u32;
        Self {
            id: text(&delivery["delivery_id"]),
            attempt: number("attempt"),
            max_attempts: number("max_attempts"),
            last_failure: text(&delivery["last_failure"]),
            data: text(&delivery["event"]["data"]),
            event_id: text(&delivery["event"]["id"]),
            stream: text(&delivery["stream"]),
            seq: delivery["seq"].as_u64().expect("a number"),
        }
    }
}
