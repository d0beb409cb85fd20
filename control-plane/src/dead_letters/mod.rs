//! Dead letters: events that were given up, kept with their reason until somebody decides about them.
//!
//! `letter` reads one from the broker's message, `filter` says which are meant, `read` walks the stream, `guard` decides
//! whether one may be sent again, `redrive` does it as `request` says, `facts` remembers it, `snapshot` keeps that, and `trim`
//! removes old facts. `shares` sees to it that no group fills the space for all. A dead letter is never changed or removed here: that it was redriven is a fact in the audit stream, and
//! what is redriven is a new message.

mod facts;
mod filter;
mod guard;
mod letter;
mod read;
mod redrive;
mod request;
mod shares;
mod snapshot;
mod trim;

pub use facts::{Redriven, Target};
pub use filter::Filter;
pub use guard::{REDRIVES_MAX, Refusal};
pub use letter::{DeadLetter, OriginRef};
pub use read::{Cause, Causes, DeadLetters, Page, Shown, redrive_secret};
pub use request::{LetterResult, Outcome, RATE_DEFAULT, Report, Request};
pub use shares::Shares;
