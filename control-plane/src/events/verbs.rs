//! What agents may ask about events, through their sidecars: the verb `status`. Without data: an answer must fit into a note.

use std::sync::Arc;

use agentbus_proto::{Code, Fault};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::receipts::Receipts;
use super::service::Events;
use crate::control::Verb;

/// Largest answer, in bytes: well below what a broker takes at least.
const ANSWER_BYTES_MAX: usize = 900 * 1024;

/// What an agent asks; one of both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// One event.
    EventId(String),
    /// All events of a chain.
    CorrelationId(String),
}

struct Status(Arc<Events>);

/// The verbs that this part answers, by name.
pub fn verbs(events: &Arc<Events>) -> [(&'static str, Arc<dyn Verb>); 3] {
    [
        ("status", Arc::new(Status(Arc::clone(events)))),
        ("held", events.held()),
        ("receipts", Arc::new(Receipts(Arc::clone(events)))),
    ]
}

#[async_trait]
impl Verb for Status {
    async fn answer(&self, agent: &str, request: &[u8]) -> Result<Value, Fault> {
        let question: Question = serde_json::from_slice(request)
            .map_err(|error| Fault::new(Code::InvalidEvent, format!("unreadable question: {error}")))?;
        let answer = match question {
            Question::EventId(id) => serde_json::to_value(self.0.show_to(agent, &id).await?),
            Question::CorrelationId(id) => serde_json::to_value(self.0.chain_to(agent, &id).await?),
        };
        let mut answer = answer.map_err(|error| Fault::new(Code::InvalidEvent, error.to_string()))?;
        if answer.to_string().len() > ANSWER_BYTES_MAX {
            without_data(&mut answer);
        }
        let bytes = answer.to_string().len();
        if bytes > ANSWER_BYTES_MAX {
            let why = format!("the answer has {bytes} bytes, more than a sidecar is sent: ask for single events");
            return Err(Fault::new(Code::TooLarge, why));
        }
        Ok(answer)
    }
}

fn without_data(answer: &mut Value) {
    for status in answer["events"].as_array_mut().into_iter().flatten() {
        if let Some(event) = status["event"].as_object_mut() {
            event.retain(|key, _| !key.starts_with("data"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_question_names_one_thing() {
        let read = |text: &str| serde_json::from_str::<Question>(text).ok();
        assert_eq!(read(r#"{"event_id":"a"}"#), Some(Question::EventId("a".into())));
        assert_eq!(read(r#"{"correlation_id":"c"}"#), Some(Question::CorrelationId("c".into())));
        assert_eq!((read("{}"), read(r#"{"event_id":"a","correlation_id":"c"}"#)), (None, None));
    }

    #[test]
    fn data_can_be_left_out() {
        let mut answer = json!({"events": [{"event": {"id": "a", "data": 1, "data_base64": "x"}}]});
        without_data(&mut answer);
        assert_eq!(answer, json!({"events": [{"event": {"id": "a"}}]}));
    }
}
