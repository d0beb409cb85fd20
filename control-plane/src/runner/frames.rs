//! The frames a runner sends on its subscribe stream.

use std::time::Duration;

use agentbus_proto::duration;
use agentbus_proto::sidecar::v1 as pb;
use pb::settle_request::How;
use pb::subscribe_request::Frame;

/// The first frame: what is declared for the agent, at most `credit` at once.
pub(super) fn open(credit: u32) -> pb::SubscribeRequest {
    frame(Frame::Open(pb::Open { subscriptions: Vec::new(), credit }))
}

/// A new value of the credit.
pub(super) fn credit(credit: u32) -> pb::SubscribeRequest {
    frame(Frame::Credit(credit))
}

/// Asks for this much time from now.
pub(super) fn extend(delivery_id: &str, by: Duration) -> pb::SubscribeRequest {
    let how = Some(How::Extend(pb::Extend { by: Some(duration::to_proto(by)) }));
    frame(Frame::Settle(pb::SettleRequest { delivery_id: delivery_id.to_owned(), emit: Vec::new(), how }))
}

fn frame(frame: Frame) -> pb::SubscribeRequest {
    pb::SubscribeRequest { frame: Some(frame) }
}
