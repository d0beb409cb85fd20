//! Ask and reply: at once when nobody serves, until the deadline when nobody replies, and over outages of everybody.

mod answers;
mod away;
mod backlog;
mod streams;
mod unhappy;
mod world;
