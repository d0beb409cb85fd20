//! A scripted agent that speaks HTTP/JSON, one connection per request: like curl.

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::sidecar::SidecarProcess;

/// Talks to one sidecar with its token.
#[derive(Debug, Clone)]
pub struct HttpAgent {
    /// `host:port`
    pub address: String,
    /// Bearer token.
    pub token: String,
}

/// Status and body of an answer; the body is `null` if it is no JSON.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Body.
    pub body: Value,
}

impl HttpAgent {
    /// The agent beside this sidecar.
    pub fn of(sidecar: &SidecarProcess) -> Self {
        Self { address: sidecar.address(), token: sidecar.token.clone() }
    }

    /// POST with the token.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        let headers = [("authorization", format!("Bearer {}", self.token))];
        request(&self.address, "POST", path, &headers, body.to_string().into()).await.expect("an answer")
    }

    /// Publishes and expects success.
    pub async fn publish(&self, event: Value) -> Value {
        let answer = self.post("/v1/publish", &event).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body
    }

    /// One long poll that expects exactly one delivery within `wait`.
    pub async fn receive_one(&self, wait: &str) -> Value {
        let mut deliveries = self.receive(1, wait).await;
        assert_eq!(deliveries.len(), 1, "one delivery within {wait}");
        deliveries.remove(0)
    }

    /// One long poll.
    pub async fn receive(&self, max: usize, wait: &str) -> Vec<Value> {
        let answer = self.post("/v1/receive", &json!({"max": max, "wait": wait})).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body["deliveries"].as_array().cloned().unwrap_or_default()
    }

    /// Settles a delivery.
    pub async fn settle(&self, delivery: &Value, verb: &str, body: Value) -> Answer {
        let id = delivery["delivery_id"].as_str().expect("a delivery id");
        self.post(&format!("/v1/deliveries/{id}/{verb}"), &body).await
    }

    /// Acks and expects success.
    pub async fn ack(&self, delivery: &Value) {
        let answer = self.settle(delivery, "ack", json!({})).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
}

/// Any request, bounded in time.
pub async fn request(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, String)],
    body: Bytes,
) -> anyhow::Result<Answer> {
    let exchange = async {
        let stream = TcpStream::connect(address).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let mut request = http::Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| *name == "host") {
            request = request.header("host", address);
        }
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let response = sender.send_request(request.body(Full::new(body))?).await?;
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await?.to_bytes();
        let body =
            serde_json::from_slice(&bytes).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into()));
        Ok(Answer { status, body })
    };
    tokio::time::timeout(std::time::Duration::from_secs(90), exchange).await?
}
