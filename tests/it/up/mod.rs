//! The whole thing as a person runs it: `agentbus up` with its processes, the demo, and what happens when parts of it die.

mod audit;
mod bad_input;
mod bus;
mod commands;
mod crashes;
mod demo;
mod disk;
mod headless;
mod life;
mod memory;
mod persons;
mod redrive;
mod secrets;
mod supervision;
mod wall;
