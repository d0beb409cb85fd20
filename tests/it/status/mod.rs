//! Where an event is, the story of a chain, and watching events go by.

mod chain;
mod reach;
mod stage;
mod states;
mod watch;
