//! Where an event's data comes from: the command line, a file, stdin at once or line by line. Every read is bounded.

use std::path::Path;

use agentbus_proto::Code;
use agentbus_proto::json::content::{JSON, OCTETS};
use bytes::Bytes;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

use crate::exit::fault;

/// Most bytes read for one event: above every limit a sidecar has, so that the refusal is the sidecar's.
const DATA_BYTES_MAX: u64 = 64 << 20;
/// Content type of text that is not JSON.
const TEXT: &str = "text/plain; charset=utf-8";

/// The content type of data that came without one.
pub(in crate::commands) fn guess(data: &[u8]) -> &'static str {
    if data.is_empty() {
        ""
    } else if serde_json::from_slice::<serde::de::IgnoredAny>(data).is_ok() {
        JSON
    } else if std::str::from_utf8(data).is_ok() {
        TEXT
    } else {
        OCTETS
    }
}

/// Data that is called JSON has to be JSON: who typed it is the one who can still mend it.
pub(in crate::commands) fn check(content_type: &str, data: &[u8]) -> anyhow::Result<()> {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case(JSON) {
        return Ok(());
    }
    serde_json::from_slice::<serde::de::IgnoredAny>(data)
        .map(drop)
        .map_err(|error| fault(Code::InvalidEvent, format!("the data is not JSON, as --content-type says: {error}")))
}

/// The data that the argument means: nothing, stdin, a file, or itself.
pub(in crate::commands) async fn data(argument: Option<&str>) -> anyhow::Result<Bytes> {
    match argument {
        None => Ok(Bytes::new()),
        Some("-") => read_all(tokio::io::stdin(), "stdin").await,
        Some(text) => match text.strip_prefix('@') {
            Some(path) => {
                let unreadable = |error| {
                    let why =
                        format!("cannot read `{path}`: {error}; data with @ in front names a file, `-` reads stdin");
                    fault(Code::InvalidEvent, why)
                };
                read_all(tokio::fs::File::open(Path::new(path)).await.map_err(unreadable)?, path).await
            }
            None => Ok(Bytes::copy_from_slice(text.as_bytes())),
        },
    }
}

async fn read_all(from: impl tokio::io::AsyncRead + Unpin, name: &str) -> anyhow::Result<Bytes> {
    let mut data = Vec::new();
    let read = from.take(DATA_BYTES_MAX + 1).read_to_end(&mut data).await;
    read.map_err(|error| fault(Code::InvalidEvent, format!("cannot read {name}: {error}")))?;
    if data.len() as u64 > DATA_BYTES_MAX {
        return Err(fault(Code::TooLarge, format!("{name} has more than {DATA_BYTES_MAX} bytes")));
    }
    Ok(data.into())
}

/// The next line without its end; empty lines are skipped. Refuses a line that no event could hold instead of collecting it.
pub(super) async fn next_line(from: &mut (impl AsyncBufRead + Unpin)) -> anyhow::Result<Option<Bytes>> {
    loop {
        let mut line = Vec::new();
        if (&mut *from).take(DATA_BYTES_MAX).read_until(b'\n', &mut line).await? == 0 {
            return Ok(None);
        }
        if line.len() as u64 >= DATA_BYTES_MAX {
            return Err(fault(Code::TooLarge, format!("a line has more than {DATA_BYTES_MAX} bytes")));
        }
        let end = line.iter().rposition(|byte| !matches!(byte, b'\n' | b'\r')).map_or(0, |last| last + 1);
        line.truncate(end);
        if !line.is_empty() {
            return Ok(Some(line.into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::BufReader;

    use super::*;

    #[test]
    fn the_content_type_follows_the_data() {
        for (data, wanted) in
            [(&b"{\"a\":1}"[..], JSON), (b"5", JSON), (b"hello", TEXT), (b"\xff", OCTETS), (b"", ""), (b"{", TEXT)]
        {
            assert_eq!(guess(data), wanted, "{data:?}");
        }
    }

    #[test]
    fn what_is_called_json_must_be_json() {
        assert!(check(JSON, b"{\"a\":1}").is_ok());
        assert!(check("application/JSON; charset=utf-8", b"{").is_err());
        assert!(check(TEXT, b"{").is_ok());
    }

    #[tokio::test]
    async fn lines_lose_their_ends_and_empty_ones_are_skipped() {
        let mut input = BufReader::new(&b"one\r\n\n two \nthree"[..]);
        let mut lines = Vec::new();
        while let Some(line) = next_line(&mut input).await.unwrap() {
            lines.push(String::from_utf8(line.to_vec()).unwrap());
        }
        assert_eq!(lines, ["one", " two ", "three"]);
    }
}
