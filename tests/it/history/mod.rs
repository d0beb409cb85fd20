//! History: what is kept, what is removed and when, and what happens to a group that does not read.

mod ages;
mod trim;
mod world;
