//! Who listens to notes: on which subjects, alone or as one of a queue group.

use tokio::sync::mpsc;

use super::filter;
use crate::bus::Note;

/// Notes that wait for one listener; a slower one misses what comes then, as on a broker.
const NOTES_MAX: usize = 4096;

/// All listeners.
#[derive(Default)]
pub(super) struct Listeners {
    listeners: Vec<Listener>,
    /// Grows with every note, so that the members of a queue group take turns.
    turn: usize,
}

struct Listener {
    subject: String,
    queue: Option<String>,
    notes: mpsc::Sender<Note>,
}

impl Listeners {
    pub fn add(&mut self, subject: &str, queue: Option<&str>) -> mpsc::Receiver<Note> {
        self.listeners.retain(|listener| !listener.notes.is_closed());
        let (notes, receiver) = mpsc::channel(NOTES_MAX);
        self.listeners.push(Listener { subject: subject.to_owned(), queue: queue.map(str::to_owned), notes });
        receiver
    }

    /// Tells a note to everybody who listens, one of each queue group; tells how many heard it.
    pub fn tell(&mut self, note: &Note) -> usize {
        let means =
            |listener: &&Listener| !listener.notes.is_closed() && filter::matches(&listener.subject, &note.subject);
        let meant: Vec<&Listener> = self.listeners.iter().filter(means).collect();
        if meant.is_empty() {
            return 0;
        }
        self.turn = self.turn.wrapping_add(1);
        let mut served: Vec<&str> = Vec::new();
        let mut heard = 0;
        for listener in &meant {
            let to = match listener.queue.as_deref() {
                None => *listener,
                Some(queue) if served.contains(&queue) => continue,
                Some(queue) => {
                    served.push(queue);
                    let members: Vec<&&Listener> =
                        meant.iter().filter(|other| other.queue.as_deref() == Some(queue)).collect();
                    members[self.turn % members.len()]
                }
            };
            // A listener that is full misses it.
            heard += usize::from(to.notes.try_send(note.clone()).is_ok());
        }
        heard
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(subject: &str) -> Note {
        Note { subject: subject.into(), reply: None, headers: Default::default(), payload: Default::default() }
    }

    #[test]
    fn one_of_a_queue_group_hears_it_and_everybody_else_does() {
        let mut listeners = Listeners::default();
        let mut alone = listeners.add("a.*", None);
        let mut members = [listeners.add("a.>", Some("g")), listeners.add("a.>", Some("g"))];
        for _ in 0..4 {
            assert_eq!(listeners.tell(&note("a.b")), 2);
        }
        let mut count = |notes: &mut mpsc::Receiver<Note>| std::iter::from_fn(|| notes.try_recv().ok()).count();
        assert_eq!(count(&mut alone), 4);
        assert_eq!(members.each_mut().map(&mut count), [2, 2], "members take turns");
        assert_eq!(listeners.tell(&note("b")), 0);
    }

    #[test]
    fn who_has_gone_hears_nothing() {
        let mut listeners = Listeners::default();
        drop(listeners.add("a", None));
        assert_eq!(listeners.tell(&note("a")), 0);
    }
}
