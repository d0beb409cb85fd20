//! A gRPC client of a sidecar: the same door every agent uses, with the bearer token in each call.

use std::time::Duration;

use agentbus_proto::sidecar::v1::sidecar_client::SidecarClient;
use agentbus_proto::{Code, Fault};
use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// Time to get a connection: it is the same machine.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Largest frame read, in bytes: a full receive answer of large events.
const FRAME_BYTES_MAX: usize = 64 << 20;

/// The typed client.
pub type Client = SidecarClient<InterceptedService<Channel, Token>>;

/// Adds the bearer token.
#[derive(Clone)]
pub struct Token(AsciiMetadataValue);

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// Connects to the sidecar at `url` (`http://host:port`), or says within 5 s that nobody answers.
pub async fn connect(url: &str, token: &str) -> Result<Client, Fault> {
    let header = AsciiMetadataValue::try_from(format!("Bearer {token}"))
        .map_err(|_| Fault::new(Code::BadConfig, "the token in AGENTBUS_TOKEN has characters no token has"))?;
    let endpoint = Endpoint::from_shared(url.to_owned())
        .map_err(|error| Fault::new(Code::BadConfig, format!("AGENTBUS_URL `{url}` is not a URL: {error}")))?
        .connect_timeout(CONNECT_LIMIT)
        .tcp_nodelay(true);
    let channel = endpoint.connect().await.map_err(|error| {
        let cause = std::error::Error::source(&error).map(|source| format!(" ({source})")).unwrap_or_default();
        let message =
            format!("the sidecar at {url} cannot be reached{cause}; is the bus running? see `agentbus status`");
        Fault::new(Code::BrokerDown, message)
    })?;
    let client = SidecarClient::with_interceptor(channel, Token(header));
    Ok(client.max_decoding_message_size(FRAME_BYTES_MAX).max_encoding_message_size(FRAME_BYTES_MAX))
}
