//! A scripted agent that speaks gRPC, with the generated client.

use agentbus_proto::event::v1::Event;
use agentbus_proto::sidecar::v1::sidecar_client::SidecarClient;
use agentbus_proto::sidecar::v1::{
    Ack, Delivery, Nack, Open, PublishRequest, PublishResponse, SettleRequest, SubscribeRequest, SubscribeResponse,
    Subscription, settle_request, subscribe_request, subscribe_response,
};
use agentbus_proto::{Address, Fault};
use futures_util::TryStreamExt;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

use crate::sidecar::SidecarProcess;
use crate::wait::PATIENCE;

/// Adds the token to every call.
#[derive(Clone)]
pub struct Token(String);

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let value: MetadataValue<_> = format!("Bearer {}", self.0).parse().map_err(|_| Status::internal("token"))?;
        request.metadata_mut().insert("authorization", value);
        Ok(request)
    }
}

/// A client with its token.
pub type Client = SidecarClient<InterceptedService<Channel, Token>>;

/// A client of this sidecar.
pub async fn client(sidecar: &SidecarProcess) -> Client {
    client_with(sidecar, &sidecar.token).await
}

/// A client with another token.
pub async fn client_with(sidecar: &SidecarProcess, token: &str) -> Client {
    let channel = Channel::from_shared(sidecar.url.clone()).expect("a URL").connect().await.expect("connects");
    SidecarClient::with_interceptor(channel, Token(token.to_owned())).max_decoding_message_size(16 << 20)
}

/// A client that reaches the sidecar at another address: that of a proxy.
pub async fn client_via(sidecar: &SidecarProcess, address: &str) -> Client {
    let endpoint = Channel::from_shared(format!("http://{address}")).expect("a URL");
    // The sidecar must see its own name.
    let channel = endpoint.origin(sidecar.url.parse().expect("a URL")).connect().await.expect("connects");
    SidecarClient::with_interceptor(channel, Token(sidecar.token.clone())).max_decoding_message_size(16 << 20)
}

/// An event to a topic with this data.
pub fn event(to: &str, data: impl Into<bytes::Bytes>) -> Event {
    let to: Address = to.parse().expect("an address");
    Event { to: Some(to.into()), data: data.into(), content_type: "text/plain".into(), ..Event::default() }
}

/// Publishes over one stream; the answers in order.
pub async fn publish_all(client: &mut Client, events: impl IntoIterator<Item = Event>) -> Vec<PublishResponse> {
    let requests: Vec<PublishRequest> =
        events.into_iter().map(|event| PublishRequest { event: Some(event), ..Default::default() }).collect();
    let answers = client.publish_stream(tokio_stream::iter(requests)).await.expect("a stream").into_inner();
    let answers = timeout(PATIENCE, answers.try_collect::<Vec<_>>()).await.expect("answers in time");
    answers.expect("no error")
}

/// An open subscribe stream.
pub struct Stream {
    /// Frames to the sidecar.
    pub tx: mpsc::Sender<SubscribeRequest>,
    /// Frames from it.
    pub rx: Streaming<SubscribeResponse>,
}

impl Stream {
    /// Opens one for the declared groups.
    pub async fn open(client: &mut Client, credit: u32) -> Self {
        Self::try_open(client, vec![], credit).await.expect("subscribes")
    }

    /// Opens one.
    pub async fn try_open(client: &mut Client, subscriptions: Vec<Subscription>, credit: u32) -> Result<Self, Fault> {
        let (tx, frames) = mpsc::channel(1024);
        let open = subscribe_request::Frame::Open(Open { subscriptions, credit });
        tx.send(SubscribeRequest { frame: Some(open) }).await.expect("open");
        let rx = client.subscribe(ReceiverStream::new(frames)).await?.into_inner();
        Ok(Self { tx, rx })
    }

    /// The next frame, whatever it is.
    pub async fn frame(&mut self) -> subscribe_response::Frame {
        let frame = timeout(PATIENCE, self.rx.message()).await.expect("a frame in time");
        frame.expect("no error").expect("not the end").frame.expect("a frame")
    }

    /// The next delivery; other frames are passed over.
    pub async fn delivery(&mut self) -> Delivery {
        loop {
            if let subscribe_response::Frame::Delivery(delivery) = self.frame().await {
                return delivery;
            }
        }
    }

    /// No delivery within this time.
    pub async fn quiet(&mut self, wait: std::time::Duration) -> bool {
        let next = async {
            loop {
                if let subscribe_response::Frame::Delivery(delivery) = self.frame().await {
                    return delivery;
                }
            }
        };
        timeout(wait, next).await.is_err()
    }

    /// Sends a settle frame.
    pub async fn settle(&self, delivery: &Delivery, how: settle_request::How) {
        let settle = SettleRequest { delivery_id: delivery.delivery_id.clone(), emit: vec![], how: Some(how) };
        let frame = subscribe_request::Frame::Settle(settle);
        self.tx.send(SubscribeRequest { frame: Some(frame) }).await.expect("sent");
    }

    /// Acks.
    pub async fn ack(&self, delivery: &Delivery) {
        self.settle(delivery, settle_request::How::Ack(Ack {})).await;
    }

    /// Nacks with a reason.
    pub async fn nack(&self, delivery: &Delivery, reason: &str) {
        let nack = Nack { retry_after: None, reason: reason.to_owned() };
        self.settle(delivery, settle_request::How::Nack(nack)).await;
    }

    /// Sets the credit.
    pub async fn credit(&self, credit: u32) {
        let frame = subscribe_request::Frame::Credit(credit);
        self.tx.send(SubscribeRequest { frame: Some(frame) }).await.expect("sent");
    }
}
