//! Whether anybody serves an address: the control plane knows, and its word is good for a moment.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use agentbus_nats::asks::{RESOLVE, Resolve, Resolved};
use agentbus_proto::{Address, Code, Fault};

use crate::control::Control;

/// The control plane may take so long to answer; the ask goes on without its word.
const ANSWER_WAIT: Duration = Duration::from_millis(500);
/// An address that was served a moment ago is not asked about again.
const GOOD_FOR: Duration = Duration::from_secs(1);
/// Addresses remembered as served.
const REMEMBERED_MAX: usize = 256;

/// Addresses that were served lately.
#[derive(Default)]
pub(super) struct Served {
    lately: Mutex<HashMap<String, Instant>>,
}

impl Served {
    /// Refuses with `NO_RESPONDER` when the control plane says so. Without its word the ask goes on.
    pub(super) async fn check(&self, control: &Control, to: &Address) -> Result<(), Fault> {
        let to = to.to_string();
        let known = self.lately().get(&to).is_some_and(|at| at.elapsed() < GOOD_FOR);
        if known {
            return Ok(());
        }
        let request = Resolve { to: to.clone() };
        let asked = control.call::<Resolved>(RESOLVE, &request);
        match tokio::time::timeout(ANSWER_WAIT, asked).await {
            Ok(Ok(Resolved { served: false, why })) => return Err(Fault::new(Code::NoResponder, why)),
            Ok(Ok(_)) => self.remember(to),
            Ok(Err(fault)) => tracing::debug!(%fault, %to, "who serves it is not known; asking all the same"),
            Err(_) => tracing::debug!(%to, "who serves it was not told in time; asking all the same"),
        }
        Ok(())
    }

    fn remember(&self, to: String) {
        let mut lately = self.lately();
        if lately.len() >= REMEMBERED_MAX {
            lately.clear();
        }
        lately.insert(to, Instant::now());
    }

    fn lately(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.lately.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
