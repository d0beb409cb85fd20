//! The W3C trace context: parsing, writing, new ids.

use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

/// The place of one span in one trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Context {
    /// Never all zero.
    pub trace_id: [u8; 16],
    /// Never all zero.
    pub span_id: [u8; 8],
    /// The caller may have recorded its span. Samplers downstream follow it unless told otherwise.
    pub sampled: bool,
}

impl Context {
    /// Reads a `traceparent` header value. `None` for anything the W3C recommendation calls invalid; then the caller starts a
    /// new trace. Versions above 00 are read as far as we know them.
    /// See <https://www.w3.org/TR/trace-context/#traceparent-header>.
    pub fn parse(traceparent: &str) -> Option<Self> {
        let mut parts = traceparent.splitn(5, '-');
        let version: [u8; 1] = hex(parts.next()?)?;
        let trace_id = hex(parts.next()?)?;
        let span_id = hex(parts.next()?)?;
        let flags: [u8; 1] = hex(parts.next()?)?;
        let foreign = version == [0xff] || (version == [0] && parts.next().is_some());
        let empty = trace_id == [0; 16] || span_id == [0; 8];
        (!foreign && !empty).then_some(Self { trace_id, span_id, sampled: flags[0] & 1 == 1 })
    }

    /// The `traceparent` header value, version 00.
    pub fn traceparent(&self) -> String {
        // By hand: this is on the path of every event, and formatting is five times slower.
        let mut text = String::with_capacity(55);
        text.push_str("00-");
        self.trace_id.iter().for_each(|&byte| push_hex(&mut text, byte));
        text.push('-');
        self.span_id.iter().for_each(|&byte| push_hex(&mut text, byte));
        text.push_str(if self.sampled { "-01" } else { "-00" });
        text
    }

    /// A new random trace. Marked as sampled: a process that does not export leaves the choice to those who do.
    pub fn root() -> Self {
        Self { trace_id: rand::random::<u128>().max(1).to_be_bytes(), span_id: random_span_id(), sampled: true }
    }

    /// The same trace, a new span id.
    pub fn child(&self) -> Self {
        Self { span_id: random_span_id(), ..*self }
    }

    /// The trace id in hex, as trace viewers take it.
    pub fn trace_id_hex(&self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.trace_id))
    }

    pub(super) fn to_otel(self, remote: bool) -> SpanContext {
        let flags = if self.sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
        let (trace, span) = (TraceId::from_bytes(self.trace_id), SpanId::from_bytes(self.span_id));
        SpanContext::new(trace, span, flags, remote, TraceState::default())
    }

    pub(super) fn from_otel(context: &SpanContext) -> Option<Self> {
        context.is_valid().then(|| Self {
            trace_id: context.trace_id().to_bytes(),
            span_id: context.span_id().to_bytes(),
            sampled: context.is_sampled(),
        })
    }
}

fn random_span_id() -> [u8; 8] {
    rand::random::<u64>().max(1).to_be_bytes()
}

fn push_hex(text: &mut String, byte: u8) {
    const DIGITS: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    text.push(DIGITS[usize::from(byte >> 4)]);
    text.push(DIGITS[usize::from(byte & 15)]);
}

/// Exactly `N` bytes in lower-case hex.
fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let bytes = text.as_bytes();
    if bytes.len() != 2 * N {
        return None;
    }
    let mut out = [0; N];
    for (target, pair) in out.iter_mut().zip(bytes.chunks_exact(2)) {
        *target = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn traceparent_survives_a_round_trip() {
        let context = Context::parse(EXAMPLE).unwrap();
        assert!(context.sampled);
        assert_eq!(context.traceparent(), EXAMPLE);
        assert_eq!(context.trace_id_hex(), "4bf92f3577b34da6a3ce929d0e0e4736");
        let unsampled = EXAMPLE.replace("-01", "-02");
        assert!(!Context::parse(&unsampled).unwrap().sampled);
    }

    #[test]
    fn invalid_traceparents_are_refused() {
        let zero_trace = format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32));
        let cases = [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e473é-00f067aa0ba902b7-01",
            &zero_trace,
        ];
        for case in cases {
            assert_eq!(Context::parse(case), None, "{case}");
        }
    }

    #[test]
    fn a_later_version_is_read_as_far_as_known() {
        assert!(Context::parse("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-ever").is_some());
    }

    #[test]
    fn a_child_keeps_the_trace_and_changes_the_span() {
        let root = Context::root();
        let child = root.child();
        assert_eq!(root.trace_id, child.trace_id);
        assert_ne!(root.span_id, child.span_id);
        assert_eq!(Context::parse(&child.traceparent()), Some(child));
    }
}
