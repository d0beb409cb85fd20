//! Slices over one pull each: what is there is there at once, so a request that does not wait ends at once.

use std::collections::VecDeque;

use futures_util::FutureExt;

use super::Taken;
use crate::pull::{Incoming, Pull};

pub(super) struct Each {
    pulls: Vec<Pull>,
    /// Messages that a waiting request still lacks.
    open: Vec<usize>,
    ready: VecDeque<Taken>,
}

impl Each {
    pub fn new(pulls: Vec<Pull>) -> Self {
        Self { open: vec![0; pulls.len()], pulls, ready: VecDeque::new() }
    }

    pub fn ask(&mut self, slice: usize, messages: usize, wait: bool) {
        let Some(pull) = self.pulls.get_mut(slice) else { return };
        pull.want(messages);
        if wait {
            self.open[slice] = messages;
            return;
        }
        let mut got = 0;
        while got < messages {
            // The first look asks, so `try_next` alone would never find anything.
            let Some(incoming) = pull.next().now_or_never() else { break };
            self.ready.push_back(Taken::Message(slice, incoming));
            got += 1;
        }
        pull.want(0);
        if got < messages {
            self.ready.push_back(Taken::Ended { slice, refused: false });
        }
    }

    pub async fn next(&mut self) -> Taken {
        if let Some(taken) = self.ready.pop_front() {
            return taken;
        }
        let waiting = self.pulls.iter_mut().zip(&self.open).enumerate().filter(|(_, (_, open))| **open > 0);
        let waiting: Vec<_> =
            waiting.map(|(slice, (pull, _))| Box::pin(async move { (slice, pull.next().await) })).collect();
        if waiting.is_empty() {
            return std::future::pending().await;
        }
        let ((slice, incoming), ..) = futures_util::future::select_all(waiting).await;
        self.open[slice] -= 1;
        Taken::Message(slice, incoming)
    }

    pub fn try_next(&mut self) -> Option<Taken> {
        self.next().now_or_never()
    }

    pub async fn withdraw(&mut self) -> Vec<Incoming> {
        let mut rest = Vec::new();
        for (pull, open) in self.pulls.iter_mut().zip(&mut self.open) {
            pull.want(0);
            *open = 0;
            while let Some(incoming) = pull.try_next() {
                rest.push(incoming);
            }
        }
        rest.extend(self.ready.drain(..).filter_map(|taken| match taken {
            Taken::Message(_, incoming) => Some(incoming),
            Taken::Ended { .. } => None,
        }));
        rest
    }
}
