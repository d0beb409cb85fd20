//! Deliveries: every way a delivery can end, and every way the world can end around it.
//!
//! No control plane runs in any of these tests: publish, deliver, settle, retry and dead-letter do without one.

mod agent;
mod credit;
mod failures;
mod flow;
mod life;
mod outage;
mod settle;
mod world;
