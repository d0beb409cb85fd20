//! Asks the sidecars of groups who has which event, and waits a moment for their answers.
//!
//! The question goes to every instance of an agent as a note; answers come as requests with the verb `held`, from agents
//! whose name the broker has checked. Who does not answer in time is named, not waited for.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use agentbus_nats::bus::Bus;
use agentbus_nats::held::{self, Answer, Question, WANTED_MAX, Wanted, What};
use agentbus_nats::subject;
use agentbus_proto::{Code, Fault};
use async_trait::async_trait;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::decide::{Held, HeldState};
use crate::control::Verb;

/// How long sidecars have: they answer from memory.
const ANSWERS_WAIT: Duration = Duration::from_millis(300);
/// Answers to one question kept at most.
const ANSWERS_MAX: usize = 256;
/// Questions out at once; beyond, nobody is asked and all count as silent.
const QUESTIONS_MAX: usize = 64;

/// The questions that are out.
#[derive(Default)]
pub(super) struct Desk {
    open: Mutex<HashMap<String, mpsc::Sender<(String, Answer)>>>,
}

/// What came back.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Heard {
    /// By group and number of the event.
    pub held: BTreeMap<(String, u64), Vec<Held>>,
    /// Instances that did not answer.
    pub silent: BTreeSet<String>,
}

impl Desk {
    /// Asks these agents. `instances` are the ones that should answer, each with its agent; where none is known, all the
    /// time is waited.
    pub async fn ask(
        self: &Arc<Self>,
        bus: &dyn Bus,
        namespace: &str,
        agents: &BTreeSet<String>,
        instances: &[(String, String)],
        mut wanted: Vec<Wanted>,
    ) -> Heard {
        let mut heard = Heard::default();
        wanted.truncate(WANTED_MAX);
        heard.silent = instances.iter().map(|(_, instance)| instance.clone()).collect();
        let Some((id, mut answers)) = self.open_question().filter(|_| !agents.is_empty() && !wanted.is_empty()) else {
            return heard;
        };
        let _closed = Close { desk: self, id: id.clone() };
        let question = serde_json::to_vec(&Question { id, wanted }).unwrap_or_default();
        for agent in agents {
            if let Err(fault) =
                bus.send_note(&subject::questions(namespace, agent), None, question.clone().into()).await
            {
                tracing::debug!(agent, %fault, "not asked");
            }
        }
        let end = Instant::now() + ANSWERS_WAIT;
        while instances.is_empty() || !heard.silent.is_empty() {
            let Ok(Some((agent, answer))) = timeout_at(end, answers.recv()).await else { break };
            heard.take(&agent, answer);
        }
        heard
    }

    fn open_question(&self) -> Option<(String, mpsc::Receiver<(String, Answer)>)> {
        let mut open = self.open();
        if open.len() >= QUESTIONS_MAX {
            return None;
        }
        let (tx, rx) = mpsc::channel(ANSWERS_MAX);
        let id = agentbus_proto::id::new();
        open.insert(id.clone(), tx);
        Some((id, rx))
    }

    fn open(&self) -> MutexGuard<'_, HashMap<String, mpsc::Sender<(String, Answer)>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Heard {
    fn take(&mut self, agent: &str, answer: Answer) {
        self.silent.remove(&answer.instance);
        for one in answer.held {
            let held = Held {
                agent: agent.to_owned(),
                instance: answer.instance.clone(),
                what: state(one.what),
                attempt: one.attempt,
                since: one.since_ms.map(|ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms)),
            };
            self.held.entry((one.group, one.seq)).or_default().push(held);
        }
    }
}

fn state(what: What) -> HeldState {
    match what {
        held::What::Out => HeldState::Out,
        held::What::Waiting => HeldState::Waiting,
        held::What::Acked => HeldState::Acked,
        held::What::Later => HeldState::Later,
        held::What::Moved => HeldState::Moved,
    }
}

/// Takes a question back, whatever happens to whoever asked.
struct Close<'a> {
    desk: &'a Desk,
    id: String,
}

impl Drop for Close<'_> {
    fn drop(&mut self) {
        self.desk.open().remove(&self.id);
    }
}

/// The verb `held`: an answer of a sidecar.
#[async_trait]
impl Verb for Desk {
    async fn answer(&self, agent: &str, request: &[u8]) -> Result<serde_json::Value, Fault> {
        let answer: Answer = serde_json::from_slice(request)
            .map_err(|error| Fault::new(Code::InvalidEvent, format!("unreadable answer: {error}")))?;
        let waiting = self.open().get(&answer.id).cloned();
        // An agent speaks for its own instances only.
        if let Some(waiting) = waiting.filter(|_| held::is_instance(&answer.instance, agent)) {
            // Full or gone: whoever asked has enough.
            let _ = waiting.try_send((agent.to_owned(), answer));
        }
        Ok(json!({}))
    }

    /// The agent may be waiting for the very answer that needs this one.
    fn out_of_turn(&self) -> bool {
        true
    }
}
