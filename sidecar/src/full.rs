//! Why the stream is full: asked of the control plane when the broker says that it is, and added to what agents hear.
//!
//! Never waited for: who publishes meets the reason that is known by then. The first refusal asks, the next ones have it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use agentbus_nats::bus::Bus;
use agentbus_nats::grant::ControlReply;
use agentbus_nats::subject;
use agentbus_proto::{Code, Fault};

/// An answer is told for so long.
const FRESH: Duration = Duration::from_secs(5);
/// Not asked more often.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// Longest wait for the answer.
const ANSWER_WAIT: Duration = Duration::from_secs(2);
/// The verb that tells.
const VERB: &str = "space";

/// Knows why. Cheap to clone.
#[derive(Clone)]
pub struct Full {
    inner: Arc<Inner>,
}

struct Inner {
    bus: Arc<dyn Bus>,
    subject: String,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    asked: Option<Instant>,
    /// When it was told, and what.
    because: Option<(Instant, String)>,
}

impl Full {
    /// For the sidecar of `agent`.
    pub fn new(bus: Arc<dyn Bus>, namespace: &str, agent: &str) -> Self {
        let subject = subject::control(namespace, agent, VERB);
        Self { inner: Arc::new(Inner { bus, subject, known: Mutex::default() }) }
    }

    /// The fault with the reason, if it is one of a full stream and the reason is known.
    pub fn explain(&self, mut fault: Fault) -> Fault {
        if fault.code != Code::StreamFull {
            return fault;
        }
        let mut known = self.inner.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, because)) = known.because.as_ref().filter(|(told, _)| told.elapsed() < FRESH) {
            fault.message = format!("{}; {because}", fault.message);
        }
        if known.asked.is_none_or(|asked| asked.elapsed() >= ASK_EVERY) {
            known.asked = Some(Instant::now());
            tokio::spawn(ask(self.inner.clone()));
        }
        fault
    }
}

async fn ask(inner: Arc<Inner>) {
    let Ok(answer) = inner.bus.request(&inner.subject, "{}".into(), ANSWER_WAIT).await else { return };
    let Ok(ControlReply::Answer(answer)) = serde_json::from_slice(&answer.payload) else { return };
    let because = answer["because"].as_str().map(|because| (Instant::now(), because.to_owned()));
    inner.known.lock().unwrap_or_else(PoisonError::into_inner).because = because;
}
