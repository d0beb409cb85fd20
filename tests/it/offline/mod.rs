//! The broker away: what is kept, in which order, how long, and what is told.

mod crashes;
mod outage;
mod refusals;
mod world;
