//! Event ids: made here when the sender brings none.
//!
//! They are UUIDv7, so an id also tells when it was made; a chain's correlation id tells when the chain began, without
//! any index.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use uuid::Uuid;

/// A new id: 36 characters, ordered by time.
pub fn new() -> String {
    Uuid::now_v7().to_string()
}

/// When a UUIDv7 id was made, to the millisecond. `None` for the ids of others.
pub fn made_at(id: &str) -> Option<SystemTime> {
    let uuid = Uuid::try_parse(id).ok().filter(|uuid| uuid.get_version_num() == 7)?;
    let (seconds, nanos) = uuid.get_timestamp()?.to_unix();
    UNIX_EPOCH.checked_add(Duration::new(seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_tells_when_it_was_made() {
        let before = SystemTime::now();
        let made = made_at(&new()).unwrap();
        assert!(made + Duration::from_millis(1) > before && made <= SystemTime::now());
    }

    #[test]
    fn a_foreign_id_tells_nothing() {
        for id in ["", "m-1", "00000000-0000-0000-0000-000000000000", "550e8400-e29b-41d4-a716-446655440000"] {
            assert_eq!(made_at(id), None, "{id}");
        }
    }
}
