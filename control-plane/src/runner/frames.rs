//! The frames a runner sends on its subscribe stream.

use agentbus_proto::sidecar::v1 as pb;
use pb::settle_request::How;
use pb::subscribe_request::Frame;

use super::verdict::Verdict;

/// The first frame: what is declared for the agent, at most `credit` at once.
pub(super) fn open(credit: u32) -> pb::SubscribeRequest {
    frame(Frame::Open(pb::Open { subscriptions: Vec::new(), credit }))
}

/// A new value of the credit.
pub(super) fn credit(credit: u32) -> pb::SubscribeRequest {
    frame(Frame::Credit(credit))
}

/// Answers a delivery.
pub(super) fn settle(delivery_id: &str, verdict: &Verdict) -> pb::SubscribeRequest {
    how(
        delivery_id,
        match verdict {
            Verdict::Ack => How::Ack(pb::Ack {}),
            Verdict::Nack(reason) => How::Nack(pb::Nack { retry_after: None, reason: reason.clone() }),
            Verdict::Reject(reason) => How::Reject(pb::Reject { reason: reason.clone() }),
        },
    )
}

/// Asks for more time: the group's ack deadline once more.
pub(super) fn extend(delivery_id: &str) -> pb::SubscribeRequest {
    how(delivery_id, How::Extend(pb::Extend { by: None }))
}

fn how(delivery_id: &str, how: How) -> pb::SubscribeRequest {
    let delivery_id = delivery_id.to_owned();
    frame(Frame::Settle(pb::SettleRequest { delivery_id, emit: Vec::new(), how: Some(how) }))
}

fn frame(frame: Frame) -> pb::SubscribeRequest {
    pb::SubscribeRequest { frame: Some(frame) }
}
