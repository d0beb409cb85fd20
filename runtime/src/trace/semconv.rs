//! Attribute keys.
//!
//! From the OpenTelemetry semantic conventions for messaging
//! (<https://opentelemetry.io/docs/specs/semconv/registry/attributes/messaging/>) and errors
//! (<https://opentelemetry.io/docs/specs/semconv/registry/attributes/error/>); the `agentbus.` ones are ours.

/// The messaging system; always [`SYSTEM`].
pub const MESSAGING_SYSTEM: &str = "messaging.system";
/// The value of [`MESSAGING_SYSTEM`].
pub const SYSTEM: &str = "agentbus";
/// The verb as the system calls it: `publish`, `receive`, `process`, `ack`, `nack`, `reject`, `retry`, `dead_letter`.
pub const MESSAGING_OPERATION_NAME: &str = "messaging.operation.name";
/// The kind of operation in the convention's words: `create`, `send`, `receive`, `process`, `settle`.
pub const MESSAGING_OPERATION_TYPE: &str = "messaging.operation.type";
/// The address: `task.done`, `@agent`, `#channel`.
pub const MESSAGING_DESTINATION_NAME: &str = "messaging.destination.name";
/// The event id.
pub const MESSAGING_MESSAGE_ID: &str = "messaging.message.id";
/// The correlation id.
pub const MESSAGING_MESSAGE_CONVERSATION_ID: &str = "messaging.message.conversation_id";
/// The group that consumes.
pub const MESSAGING_CONSUMER_GROUP_NAME: &str = "messaging.consumer.group.name";
/// Size of the payload, in bytes.
pub const MESSAGING_MESSAGE_BODY_SIZE: &str = "messaging.message.body.size";
/// The stable error code of what failed.
pub const ERROR_TYPE: &str = "error.type";
/// Which attempt at the event this is, from 1.
pub const AGENTBUS_ATTEMPT: &str = "agentbus.attempt";
/// Time between the event being stored and being handed to the agent, in milliseconds.
pub const AGENTBUS_QUEUE_WAIT_MS: &str = "agentbus.queue_wait_ms";
/// The agent.
pub const AGENTBUS_AGENT: &str = "agentbus.agent";
/// The namespace.
pub const AGENTBUS_NAMESPACE: &str = "agentbus.namespace";
/// The stream that holds the event.
pub const AGENTBUS_STREAM: &str = "agentbus.stream";
/// The stream sequence of the event.
pub const AGENTBUS_SEQ: &str = "agentbus.seq";
