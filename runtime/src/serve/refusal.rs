//! What the HTTP parser refuses before any handler sees it, told as an RFC 9457 problem.
//!
//! hyper answers a request line or head that it cannot read by itself, with 400, 414 or 431 and an empty body, and has no
//! hook for it. Such a head is always the last thing it writes to an HTTP/1 connection, so it is exchanged on its way out.
//! HTTP/2 has no such answers and passes as it is.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Makes the body of the answer from its status.
pub type Refusal = fn(u16) -> String;

/// First lines of hyper's own answers, behind the version.
const OWN: [(&[u8], u16); 3] = [
    (b" 400 Bad Request\r\n", 400),
    (b" 414 URI Too Long\r\n", 414),
    (b" 431 Request Header Fields Too Large\r\n", 431),
];
/// Longer than any of hyper's own answers: with `connection` and `date` they have about 130 bytes.
const OWN_BYTES_MAX: usize = 256;
const VERSION: &[u8] = b"HTTP/1.";

/// A stream on which hyper's own answers are exchanged.
pub(super) struct Refusing<S> {
    stream: S,
    refusal: Refusal,
    http2: Arc<AtomicBool>,
    /// What is written instead, as far as it is not yet.
    instead: Vec<u8>,
}

impl<S> Refusing<S> {
    /// `http2` is set as soon as that is what is spoken.
    pub(super) fn new(stream: S, refusal: Refusal, http2: Arc<AtomicBool>) -> Self {
        Self { stream, refusal, http2, instead: Vec::new() }
    }

    /// Where in `bytes` an answer of hyper's own begins, and its status.
    fn own(&self, bytes: &[u8]) -> Option<(usize, u16)> {
        if !bytes.ends_with(b"\r\n\r\n") || self.http2.load(Ordering::Relaxed) {
            return None;
        }
        let from = bytes.len().saturating_sub(OWN_BYTES_MAX);
        let at = from + bytes[from..].windows(VERSION.len()).rposition(|window| window == VERSION)?;
        let head = &bytes[at..];
        let behind = head.get(VERSION.len() + 1..)?;
        let (_, status) = OWN.into_iter().find(|(line, _)| behind.starts_with(line))?;
        let empty = b"\r\ncontent-length: 0\r\n";
        head.windows(empty.len()).any(|window| window == empty).then_some((at, status))
    }

    fn answer(&self, status: u16, head: &[u8]) -> Vec<u8> {
        let body = (self.refusal)(status);
        let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
        let length = body.len();
        let rest = format!(
            "\r\ncontent-type: application/problem+json\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        [line, rest.as_bytes()].concat()
    }
}

impl<S: AsyncWrite + Unpin> Refusing<S> {
    fn poll_instead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.instead.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.instead))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.instead.drain(..written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Refusing<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Refusing<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_instead(cx))?;
        match self.own(buf) {
            Some((0, status)) => {
                self.instead = self.answer(status, buf);
                Poll::Ready(Ok(buf.len()))
            }
            // What is in front of it goes first.
            Some((at, _)) => Pin::new(&mut self.stream).poll_write(cx, &buf[..at]),
            None => Pin::new(&mut self.stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // hyper never has more than a head in its buffer when it writes its own one.
        match bufs.iter().find(|buf| !buf.is_empty()) {
            Some(first) if self.own(first).is_some() => self.poll_write(cx, first),
            _ => {
                ready!(self.poll_instead(cx))?;
                Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_instead(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_instead(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
