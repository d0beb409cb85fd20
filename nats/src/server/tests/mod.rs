//! Finding and running a nats-server, tried from outside: with fake programs, then with the real one.

mod finding;
mod running;
