//! Publishes the outputs of one event, in order, and waits until every one of them is stored.
//!
//! Ids are fixed, so whatever is uncertain is sent again: a sidecar or broker that is away for a moment costs the event
//! nothing. Only after [`PATIENCE`] without a single event stored it goes back.

use std::time::Duration;

use agentbus_proto::sidecar::v1::{PublishRequest, Stored};
use agentbus_proto::{Code, Fault};
use futures_util::stream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Request;

use super::client::Client;
use super::verdict::{self, Ending, Verdict};

/// How long a passing failure is sat out.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);
/// Pause before the next try, when the sidecar did not say.
const PAUSE: Duration = Duration::from_millis(250);
/// Longest pause, whatever was said.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Ack when all are stored; else what follows for the event.
pub(super) async fn all(
    client: &Client,
    requests: &[PublishRequest],
    traceparent: &str,
    patience: Duration,
    stop: &CancellationToken,
) -> Verdict {
    let mut until = Instant::now() + patience;
    let mut stored = 0;
    loop {
        let before = stored;
        let published = tokio::select! {
            published = from(client.clone(), requests, &mut stored, traceparent, patience) => published,
            // What was sent may be stored; the next run publishes the same ids.
            () = stop.cancelled() => return verdict::of_ending(&Ending::Stopped, ""),
        };
        let Err(fault) = published else { return Verdict::Ack };
        if stored > before {
            until = Instant::now() + patience;
        }
        let pause = fault.retry_after.unwrap_or(PAUSE).min(PAUSE_MAX);
        if !fault.code.retryable() || Instant::now() + pause > until {
            return verdict::of_fault(stored, &fault);
        }
        tracing::debug!(%fault, output = stored, "outputs are published again");
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return verdict::of_fault(stored, &fault),
        }
    }
}

/// Publishes those from number `stored` on and counts it up; the first that is not stored ends it.
async fn from(
    mut client: Client,
    requests: &[PublishRequest],
    stored: &mut usize,
    traceparent: &str,
    patience: Duration,
) -> Result<(), Fault> {
    let left = requests[*stored..].to_vec();
    if left.is_empty() {
        return Ok(());
    }
    let mut request = Request::new(stream::iter(left));
    if let Ok(value) = traceparent.parse()
        && !traceparent.is_empty()
    {
        request.metadata_mut().insert("traceparent", value);
    }
    let opened = tokio::time::timeout(patience, client.publish_stream(request)).await;
    let mut answers = opened.map_err(|_| unknown("the sidecar does not answer"))??.into_inner();
    while *stored < requests.len() {
        let silent = |_| unknown("the sidecar does not answer");
        let answer = tokio::time::timeout(patience, answers.message()).await.map_err(silent)??;
        let answer = answer.ok_or_else(|| unknown("the sidecar ended the stream before all were answered"))?;
        if let Some(failure) = answer.failure {
            return Err(failure.into());
        }
        if answer.stored() == Stored::Unspecified {
            return Err(unknown("the sidecar did not say where the event is stored"));
        }
        *stored += 1;
    }
    Ok(())
}

fn unknown(why: &str) -> Fault {
    Fault::new(Code::OutcomeUnknown, why)
}
