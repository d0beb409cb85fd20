//! The typed API. Thin: converts, calls, converts back.

use std::time::Duration;

use agentbus_proto::sidecar::v1::{
    CancelScheduleRequest, CancelScheduleResponse, GetStatusRequest, ListSchedulesRequest, PublishResponse,
    ReceiveRequest, ReplayRequest, ReportRequest, ReportResponse, ScheduleResponse, SettleResponse,
};
use agentbus_proto::sidecar::wire::sidecar_server::Sidecar;
use agentbus_proto::sidecar::wire::{
    AskRequest, GetStatusResponse, ListSchedulesResponse, PublishRequest, ReceiveResponse, ReplayResponse,
    ScheduleRequest, SettleRequest, SubscribeRequest, settle_request,
};
use agentbus_proto::{Code, Fault};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use super::{State, ask, duration, publish_stream, receive, replay, schedules, status, subscribe};
use crate::inbound::{How, ReplyWith, Settled, hub};
use crate::outbound::{Kept, Parent};

/// Answers of a publish stream waiting for the agent.
const ANSWERS_MAX: usize = 1024;
/// An agent that reports should do so at least this often.
const REPORT_EVERY: Duration = Duration::from_secs(30);

/// The service behind the generated server.
pub(super) struct Service {
    state: State,
}

impl Service {
    pub(super) fn new(state: State) -> Self {
        Self { state }
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Sidecar for Service {
    type PublishStreamStream = ReceiverStream<Result<PublishResponse, Status>>;
    type SubscribeStream = subscribe::Frames;
    type AskStream = ask::Answers;
    type ReplayStream = ReceiverStream<Result<ReplayResponse, Status>>;

    async fn publish(&self, request: Request<PublishRequest>) -> Answer<PublishResponse> {
        let parent = parent(request.metadata());
        let request = request.into_inner();
        let reference = request.r#ref;
        let stored = publish_stream::publish(&self.state.outbound, &parent, request).await?.outcome().await?;
        Ok(Response::new(publish_stream::respond(reference, Ok(stored))))
    }

    async fn publish_stream(&self, request: Request<Streaming<PublishRequest>>) -> Answer<Self::PublishStreamStream> {
        let parent = parent(request.metadata());
        let (tx, rx) = mpsc::channel(ANSWERS_MAX);
        tokio::spawn(publish_stream::run(self.state.clone(), parent, request.into_inner(), tx));
        Ok(Response::new(ReceiverStream::new(rx)))
    }

    async fn subscribe(&self, request: Request<Streaming<SubscribeRequest>>) -> Answer<Self::SubscribeStream> {
        let frames = subscribe::open(self.state.clone(), request.into_inner()).await?;
        Ok(Response::new(frames))
    }

    async fn receive(&self, request: Request<ReceiveRequest>) -> Answer<ReceiveResponse> {
        let request = request.into_inner();
        if self.state.hub.is_draining() {
            return Err(hub::draining().into());
        }
        let wait = request.wait.map(|wait| duration("wait", wait)).transpose()?.unwrap_or_default();
        let groups = self.state.control.joined(&request.group)?;
        let deliveries = receive::receive(&self.state.hub, &groups, request.max as usize, wait).await?;
        Ok(Response::new(ReceiveResponse { deliveries }))
    }

    async fn settle(&self, request: Request<SettleRequest>) -> Answer<SettleResponse> {
        let (id, how) = how(request.into_inner());
        let done = self.state.hub.settle(&id, how?).await?;
        Ok(Response::new(settled(id, done)))
    }

    async fn report(&self, _request: Request<ReportRequest>) -> Answer<ReportResponse> {
        let next_within = prost_types::Duration::try_from(REPORT_EVERY).ok();
        Ok(Response::new(ReportResponse { next_within, pause: false, drain: self.state.hub.is_draining() }))
    }

    async fn ask(&self, request: Request<AskRequest>) -> Answer<Self::AskStream> {
        let parent = parent(request.metadata());
        Ok(Response::new(ask::grpc(&self.state, request.into_inner(), &parent).await?))
    }

    async fn schedule(&self, request: Request<ScheduleRequest>) -> Answer<ScheduleResponse> {
        let parent = parent(request.metadata());
        Ok(Response::new(schedules::rpc_create(&self.state, request.into_inner(), &parent).await?))
    }

    async fn list_schedules(&self, request: Request<ListSchedulesRequest>) -> Answer<ListSchedulesResponse> {
        let ListSchedulesRequest { page_token, page_size } = request.into_inner();
        Ok(Response::new(schedules::rpc_list(&self.state, page_token, page_size).await?))
    }

    async fn cancel_schedule(&self, request: Request<CancelScheduleRequest>) -> Answer<CancelScheduleResponse> {
        let cancelled = crate::later::cancel(&self.state.control, &request.into_inner().schedule_id).await?;
        Ok(Response::new(CancelScheduleResponse { cancelled }))
    }

    async fn replay(&self, request: Request<ReplayRequest>) -> Answer<Self::ReplayStream> {
        let events = replay::grpc(&self.state, request.into_inner()).await?;
        Ok(Response::new(ReceiverStream::new(events)))
    }

    async fn get_status(&self, request: Request<GetStatusRequest>) -> Answer<GetStatusResponse> {
        Ok(Response::new(status::get(&self.state, request.into_inner()).await?))
    }
}

fn parent(metadata: &MetadataMap) -> Parent {
    let text = |name| metadata.get(name).and_then(|value| value.to_str().ok());
    Parent::from_headers(text("traceparent"), text("tracestate"))
}

/// A settle request in our words, beside its delivery id.
pub(super) fn how(request: SettleRequest) -> (String, Result<How, Fault>) {
    let SettleRequest { delivery_id, emit, how } = request;
    let how = match how {
        Some(settle_request::How::Ack(_)) => Ok(How::Ack { emit }),
        _ if !emit.is_empty() => Err(Fault::new(Code::InvalidEvent, "`emit` goes with an ack only")),
        Some(settle_request::How::Nack(nack)) => {
            let wait = nack.retry_after.map(|wait| duration("retry_after", wait)).transpose();
            wait.map(|retry_after| How::Nack { retry_after, reason: nack.reason })
        }
        Some(settle_request::How::Reject(reject)) => Ok(How::Reject { reason: reject.reason }),
        Some(settle_request::How::Extend(extend)) => match extend.by {
            Some(by) => duration("by", by).map(|by| How::Extend { by }),
            None => Err(Fault::new(Code::InvalidEvent, "`extend` needs `by`, for example 30s")),
        },
        Some(settle_request::How::Reply(reply)) => {
            let settle = |reply: agentbus_proto::sidecar::v1::ReplyWith| ReplyWith {
                data: reply.data,
                content_type: reply.content_type,
                more: reply.more,
                index: reply.index,
                error_code: reply.error_code,
                error_message: reply.error_message,
            };
            Ok(How::Reply(settle(reply)))
        }
        None => Err(Fault::new(Code::InvalidEvent, "a settle needs one of ack, nack, reject, extend, reply")),
    };
    (delivery_id, how)
}

/// The answer to a settle.
pub(super) fn settled(delivery_id: String, done: Settled) -> SettleResponse {
    let emitted = done
        .emitted
        .into_iter()
        .map(|(id, stored)| publish_stream::respond(0, Ok((id, Kept::Broker(stored)))))
        .collect();
    SettleResponse { delivery_id, emitted, deadline: done.deadline.map(Into::into), failure: None }
}
