//! One file per command.
pub mod agents;
pub mod decode;
pub mod dlq;
pub mod down;
pub mod env;
pub mod init;
pub mod launch;
pub mod logs;
pub mod publish;
pub mod receive;
pub mod status;
pub mod streams;
pub mod subscribe;
pub mod tail;
