//! Events for later, and events that are too late.

mod cancel;
mod expiry;
mod firing;
mod outage;
mod refusals;
mod topology;
mod world;
