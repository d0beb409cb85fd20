//! gRPC beyond single calls: the publish stream, health, reflection, and what this version does not have.

// A test's future may be large: there is one of it.
#![allow(clippy::large_futures)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agentbus_proto::sidecar::v1 as pb;
use agentbus_proto::sidecar::v1::sidecar_client::SidecarClient;
use agentbus_tests::wait::until;
use agentbus_tests::{SidecarProcess, grpc};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use super::Edge;

fn request(r#ref: u64, to: &str) -> pb::PublishRequest {
    pb::PublishRequest { event: Some(grpc::event(to, "x")), r#ref, ..Default::default() }
}

#[tokio::test]
async fn a_publish_stream_answers_each_in_order_and_a_bad_one_does_not_end_it() {
    let edge = Edge::start().await;
    let mut client = grpc::client(&edge.sidecar).await;
    let mut requests: Vec<_> = (0..200).map(|n| request(1000 + n, "notes.a")).collect();
    requests[50] = request(1050, "elsewhere");
    requests[51].event = None;
    requests[52].event.as_mut().unwrap().hops = 99;
    let answers = client.publish_stream(tokio_stream::iter(requests)).await.unwrap().into_inner();
    let answers: Vec<_> = answers.map(|answer| answer.expect("an answer")).collect().await;
    let refs: Vec<u64> = answers.iter().map(|answer| answer.r#ref).collect();
    assert_eq!(refs, (1000..1200).collect::<Vec<_>>());
    let failed: Vec<_> =
        answers.iter().filter_map(|answer| Some((answer.r#ref, answer.failure.as_ref()?.code.as_str()))).collect();
    assert_eq!(failed, [(1050, "SCOPE_DENIED"), (1051, "INVALID_EVENT"), (1052, "HOP_LIMIT")]);
    let seqs: Vec<u64> = answers.iter().filter_map(|answer| answer.seq).collect();
    assert_eq!(seqs, (1..=197).collect::<Vec<_>>(), "stored in the order sent");
    assert_eq!(edge.stored().await, 197);
}

#[tokio::test]
async fn a_frame_that_cannot_be_read_ends_the_stream_with_an_error_after_the_answers() {
    let edge = Edge::start().await;
    let mut client = grpc::client(&edge.sidecar).await;
    let mut large = request(2, "notes.a");
    large.event.as_mut().unwrap().data = vec![b'x'; 17 << 20].into();
    let requests = [request(1, "notes.a"), large, request(3, "notes.a")];
    let mut answers = client.publish_stream(tokio_stream::iter(requests)).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap().map(|answer| answer.r#ref), Some(1));
    assert_eq!(answers.message().await.unwrap_err().code(), tonic::Code::OutOfRange);
}

/// Publishes this many events of this size without reading an answer, until the sidecar takes no more; then reads all.
async fn flood(events: u64, bytes: usize) {
    let edge = Edge::start().await;
    // Small windows, so that little fits into what the client itself buffers.
    let endpoint = Channel::from_shared(edge.sidecar.url.clone()).unwrap().initial_stream_window_size(65_535);
    let mut client = SidecarClient::new(endpoint.connect().await.unwrap());
    let (tx, rx) = tokio::sync::mpsc::channel(1);
    let requests = authorized(&edge.sidecar, ReceiverStream::new(rx));
    let mut answers = client.publish_stream(requests).await.unwrap().into_inner();
    let before = edge.sidecar.resident_bytes();
    let sent = Arc::new(AtomicU64::new(0));
    let count = sent.clone();
    let sender = tokio::spawn(async move {
        for n in 0..events {
            let event = Some(grpc::event("notes.a", vec![b'x'; bytes]));
            tx.send(pb::PublishRequest { event, r#ref: n, ..Default::default() }).await.expect("the stream is open");
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    let held_back = until("standstill", || async {
        let before = sent.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = sent.load(Ordering::Relaxed);
        if now == before && now > 0 { Ok(now) } else { Err(now) }
    });
    assert!(held_back.await < events, "all were taken");
    let grown = edge.sidecar.resident_bytes().saturating_sub(before);
    assert!(grown < 24 << 20, "grew by {grown} bytes");
    for n in 0..events {
        assert_eq!(answers.message().await.unwrap().map(|answer| answer.r#ref), Some(n));
    }
    sender.await.unwrap();
    assert_eq!(edge.stored().await, events);
}

#[tokio::test]
async fn an_agent_that_reads_no_answers_is_held_back() {
    flood(12_000, 300).await;
}

/// h2 closes a connection that has too many small frames unread (ENHANCE_YOUR_CALM): holding back must not end there.
#[tokio::test]
async fn an_agent_with_small_events_is_held_back_too_and_not_cut_off() {
    flood(12_000, 1).await;
}

fn authorized<T>(sidecar: &SidecarProcess, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let token: MetadataValue<_> = format!("Bearer {}", sidecar.token).parse().expect("ascii");
    request.metadata_mut().insert("authorization", token);
    request
}

async fn channel(sidecar: &SidecarProcess) -> Channel {
    Channel::from_shared(sidecar.url.clone()).unwrap().connect().await.unwrap()
}

#[tokio::test]
async fn health_follows_the_broker() {
    let mut edge = Edge::start().await;
    let health = HealthClient::new(channel(&edge.sidecar).await);
    let becomes = async |sidecar: &SidecarProcess, wanted: ServingStatus| {
        for service in ["", "agentbus.sidecar.v1.Sidecar"] {
            until("health status", || async {
                let request = authorized(sidecar, HealthCheckRequest { service: service.to_owned() });
                let status = health.clone().check(request).await.expect("health answers").into_inner().status();
                if status == wanted { Ok(()) } else { Err(status) }
            })
            .await;
        }
    };
    becomes(&edge.sidecar, ServingStatus::Serving).await;
    edge.broker.server.kill9().await.unwrap();
    becomes(&edge.sidecar, ServingStatus::NotServing).await;
    edge.broker.server.restart().await.unwrap();
    becomes(&edge.sidecar, ServingStatus::Serving).await;
}

#[tokio::test]
async fn reflection_lists_the_service() {
    let edge = Edge::start().await;
    let mut client = ServerReflectionClient::new(channel(&edge.sidecar).await);
    let ask = |message| ServerReflectionRequest { host: String::new(), message_request: Some(message) };
    let requests = [
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol("agentbus.event.v1.Event".into())),
    ];
    let requests = authorized(&edge.sidecar, tokio_stream::iter(requests));
    let mut answers = client.server_reflection_info(requests).await.unwrap().into_inner();
    let Some(MessageResponse::ListServicesResponse(list)) = answers.message().await.unwrap().unwrap().message_response
    else {
        panic!("no list");
    };
    let names: Vec<&str> = list.service.iter().map(|service| service.name.as_str()).collect();
    assert!(names.contains(&"agentbus.sidecar.v1.Sidecar"), "{names:?}");
    let file = answers.message().await.unwrap().unwrap().message_response;
    assert!(matches!(file, Some(MessageResponse::FileDescriptorResponse(_))), "{file:?}");
}

#[tokio::test]
async fn report_answers_and_every_verb_of_the_contract_is_served() {
    let edge = Edge::start().await;
    let mut client = grpc::client(&edge.sidecar).await;
    let report = client.report(pb::ReportRequest { state: "ready".into(), ..Default::default() }).await.unwrap();
    let pb::ReportResponse { next_within, pause, drain } = report.into_inner();
    assert_eq!((next_within.map(|wait| wait.seconds), pause, drain), (Some(30), false, false));
    let served = [
        client.ask(pb::AskRequest::default()).await.map(drop),
        client.replay(pb::ReplayRequest::default()).await.map(drop),
        client.schedule(pb::ScheduleRequest::default()).await.map(drop),
        client.list_schedules(pb::ListSchedulesRequest::default()).await.map(drop),
        client.cancel_schedule(pb::CancelScheduleRequest::default()).await.map(drop),
        client.get_status(pb::GetStatusRequest::default()).await.map(drop),
    ];
    for (number, answer) in served.into_iter().enumerate() {
        // There is no control plane here, and nothing was asked for: the answer is a refusal, and one with a reason.
        let Err(status) = answer else { continue };
        assert_ne!(status.code(), tonic::Code::Unimplemented, "verb {number}: {}", status.message());
        assert!(!status.message().is_empty(), "verb {number}");
    }
}
