//! Pulling from the consumers of one group that reads in slices: by lanes, by parts, or in strict order.
//!
//! Unlike [`Pull`], which keeps requests open for a wish, each request is asked for by itself and its end is told. So the
//! caller can weigh one slice against another before it asks, and promises no credit twice. A request of a pinned
//! consumer names the pin; who is not pinned waits as a standby.

use agentbus_proto::Fault;

use super::{Incoming, Pull};

mod each;
mod jetstream;
mod requests;

pub(crate) use jetstream::{JetStream, unpin};
pub(crate) use requests::RoundTrip;

/// What comes of asking.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are messages, and none is kept")]
pub enum Taken {
    /// A message, by the number of its slice.
    Message(usize, Incoming),
    /// The request on this slice is over and found less than it asked for.
    Ended {
        /// Number of the slice.
        slice: usize,
        /// The broker could not serve it: asking again at once would not help.
        refused: bool,
    },
}

/// Pulls from several consumers of one stream, one request at a time on each.
pub struct Slices {
    way: Way,
}

enum Way {
    JetStream(Box<JetStream>),
    Each(Box<each::Each>),
}

impl Slices {
    pub(crate) fn jetstream(requests: JetStream) -> Self {
        Self { way: Way::JetStream(Box::new(requests)) }
    }

    /// Over one pull per slice, for a backend without networks and pins.
    pub fn each(pulls: Vec<Pull>) -> Self {
        Self { way: Way::Each(Box::new(each::Each::new(pulls))) }
    }

    /// Asks a slice for at most so many messages: what is there now, or with `wait` what comes within a few seconds. Each
    /// ask ends with that many messages, or with [`Taken::Ended`]; until then no other may follow on this slice.
    pub async fn ask(&mut self, slice: usize, messages: usize, wait: bool) {
        match &mut self.way {
            Way::JetStream(requests) => requests.ask(slice, messages, wait).await,
            Way::Each(each) => each.ask(slice, messages, wait),
        }
    }

    /// What comes next. Cancel-safe: nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Taken {
        match &mut self.way {
            Way::JetStream(requests) => requests.next().await,
            Way::Each(each) => each.next().await,
        }
    }

    /// The same if it is here already.
    pub fn try_next(&mut self) -> Option<Taken> {
        match &mut self.way {
            Way::JetStream(requests) => requests.try_next(),
            Way::Each(each) => each.try_next(),
        }
    }

    /// Ends all requests and returns what was on its way, within a second. What is sent in the last round trip may be
    /// missed and comes again after the ack wait. Asking may go on afterwards.
    pub async fn withdraw(&mut self) -> Result<Vec<Incoming>, Fault> {
        match &mut self.way {
            Way::JetStream(requests) => requests.withdraw().await,
            Way::Each(each) => Ok(each.withdraw().await),
        }
    }

    /// For how long this slice has been pinned to us; none when it is not.
    pub fn pinned(&self, slice: usize) -> Option<std::time::Duration> {
        match &self.way {
            Way::JetStream(requests) => requests.pinned(slice),
            Way::Each(_) => None,
        }
    }

    /// Lets go of the pin of this slice, so that a standby is asked at once.
    pub async fn release(&mut self, slice: usize) {
        match &mut self.way {
            Way::JetStream(requests) => requests.release(slice).await,
            Way::Each(_) => {}
        }
    }
}
