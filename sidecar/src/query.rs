//! Tells the control plane which events are in this sidecar's hands, when it asks.
//!
//! Questions come as notes; the answer goes as a request to the control plane, because a sidecar may write nowhere else.
//! One question at a time: more wait in the subscription, and the control plane waits for none of them long.

use std::time::{Duration, Instant, SystemTime};

use agentbus_nats::bus::Bus;
use agentbus_nats::held::{Answer, Question, WANTED_MAX};
use agentbus_nats::subject;
use agentbus_proto::Fault;
use tokio_util::sync::CancellationToken;

use crate::control::Control;
use crate::inbound::Hub;

/// Pause before the subscription is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// Answers until stopped.
pub async fn run(control: Control, hub: Hub, stop: CancellationToken) {
    let answering = async {
        loop {
            if let Err(fault) = answer_all(&control, &hub).await {
                tracing::debug!(%fault, "questions are not heard");
            }
            tokio::time::sleep(AGAIN).await;
        }
    };
    // A question that is cut off was asked of somebody who leaves.
    stop.run_until_cancelled(answering).await;
}

async fn answer_all(control: &Control, hub: &Hub) -> Result<(), Fault> {
    let bus: &dyn Bus = &**hub.bus();
    let grant = control.grant();
    let mut questions = bus.subscribe(&subject::questions(&grant.namespace, &grant.agent), None).await?;
    while let Some(note) = questions.next().await {
        let Ok(question) = serde_json::from_slice::<Question>(&note.payload) else { continue };
        let answer = answer(&control.grant().instance, hub, question);
        if let Err(fault) = control.call::<serde_json::Value>("held", &answer).await {
            tracing::debug!(%fault, "not told what is held");
        }
    }
    Ok(())
}

fn answer(instance: &str, hub: &Hub, question: Question) -> Answer {
    let now = (Instant::now(), SystemTime::now());
    let held = question.wanted.iter().take(WANTED_MAX).filter_map(|wanted| hub.look(wanted, now)).collect();
    Answer { id: question.id, instance: instance.to_owned(), held }
}
