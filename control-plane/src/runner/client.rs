//! The connection to the sidecar: a gRPC client that carries the token, and a subscribe stream that is opened again for
//! ever, because a sidecar is replaced now and then.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use agentbus_proto::sidecar::v1::sidecar_client::SidecarClient;
use agentbus_proto::sidecar::v1::{SubscribeRequest, subscribe_response};
use agentbus_proto::{Code, Fault};
use agentbus_runtime::backoff::Backoff;
use futures_util::stream;
use tokio::sync::mpsc;
use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::frames;

/// Time to get a connection: it is the same machine.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// Largest frame, in bytes: far above any event a broker takes.
const FRAME_BYTES_MAX: usize = 64 << 20;
/// Frames on their way to the sidecar. More would mean that it does not read; they are sent again later.
const OUTBOUND_MAX: usize = 256;
/// Between two tries to open the stream. A sidecar that is back should be used at once.
const BACKOFF: Backoff =
    Backoff { initial: Duration::from_millis(50), max: Duration::from_secs(2), factor: 2.0, jitter: 0.3 };

/// The typed client. Connects when it is used, and again after the connection broke.
pub(super) type Client = SidecarClient<InterceptedService<Channel, Token>>;

/// Adds the bearer token.
#[derive(Clone)]
pub(super) struct Token(AsciiMetadataValue);

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// For the sidecar at `url`, which need not be there yet. Needs a runtime.
pub(super) fn client(url: &str, token: &str) -> Result<Client, Fault> {
    let invalid = |what: &str| Fault::new(Code::BadConfig, format!("{what} is not usable"));
    let mut token: AsciiMetadataValue = format!("Bearer {token}").parse().map_err(|_| invalid("AGENTBUS_TOKEN"))?;
    token.set_sensitive(true);
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|_| invalid(&format!("AGENTBUS_URL `{url}`")))?;
    let channel = endpoint.connect_timeout(CONNECT_LIMIT).tcp_nodelay(true).connect_lazy();
    let client = SidecarClient::with_interceptor(channel, Token(token));
    Ok(client.max_decoding_message_size(FRAME_BYTES_MAX).max_encoding_message_size(FRAME_BYTES_MAX))
}

/// What happens on the subscribe stream.
#[derive(Debug)]
pub(super) enum Inbound {
    /// It was opened, with this credit; frames go out through `outbound`.
    Up { outbound: mpsc::Sender<SubscribeRequest>, credit: u32 },
    /// A frame from the sidecar.
    Frame(Box<subscribe_response::Frame>),
    /// It broke; it is being opened again.
    Down,
}

/// Keeps a subscribe stream open with the credit that `room` says at that moment, and reports to `inbound`. Returns only
/// with a fault that trying again cannot mend, or when nobody listens any more.
pub(super) async fn subscribe(client: Client, room: Arc<AtomicU32>, inbound: mpsc::Sender<Inbound>) -> Option<Fault> {
    let mut failures = 0;
    while !inbound.is_closed() {
        let (fault, opened) = match once(client.clone(), &room, &inbound).await {
            Ok(()) => (None, true),
            Err((fault, opened)) => (Some(fault), opened),
        };
        if let Some(fault) = fault {
            if for_good(fault.code) {
                return Some(fault);
            }
            tracing::debug!(%fault, "subscribe stream broke");
        }
        failures = if opened { 1 } else { failures + 1 };
        tokio::time::sleep(BACKOFF.delay(failures, rand::random())).await;
    }
    None
}

fn for_good(code: Code) -> bool {
    matches!(code, Code::Unauthenticated | Code::ScopeDenied | Code::InvalidAddress | Code::BadConfig)
}

/// One stream from its opening to its end; on failure also whether it had been opened.
async fn once(mut client: Client, room: &AtomicU32, inbound: &mpsc::Sender<Inbound>) -> Result<(), (Fault, bool)> {
    let (outbound, frames) = mpsc::channel(OUTBOUND_MAX);
    let credit = room.load(Ordering::Relaxed);
    // Room for one is there: the channel is new.
    let _ = outbound.try_send(frames::open(credit));
    let requests = stream::unfold(frames, |mut frames| async { frames.recv().await.map(|frame| (frame, frames)) });
    let answer = client.subscribe(requests).await.map_err(|status| (Fault::from(status), false))?;
    let mut responses = answer.into_inner();
    let _ = inbound.send(Inbound::Up { outbound, credit }).await;
    let ended = loop {
        match responses.message().await {
            Ok(Some(response)) => {
                let Some(frame) = response.frame else { continue };
                if inbound.send(Inbound::Frame(Box::new(frame))).await.is_err() {
                    break Ok(());
                }
            }
            Ok(None) => break Ok(()),
            Err(status) => break Err((Fault::from(status), true)),
        }
    };
    let _ = inbound.send(Inbound::Down).await;
    ended
}
