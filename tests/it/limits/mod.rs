//! What an agent may use, what is left alone for a while, and outputs that are stored together with their ack.

mod breaker;
mod emit;
mod quotas;
