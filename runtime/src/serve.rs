//! The only accept loop: serves an axum router on TCP or on a unix socket, HTTP/1.1 and cleartext HTTP/2 (gRPC) alike.
//!
//! `TCP_NODELAY` is always on: without it a unary call can wait 44 ms for a delayed ACK. Connections are bounded, and a
//! shutdown is bounded too: first no new connections, then the open ones finish their requests, then they are cut.
//! Long streams must be ended by their handlers; this loop only waits for them. Access control is the router's business.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// What a server allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections open at once; further ones wait in the kernel's backlog.
    pub connections_max: usize,
    /// Time for open connections to finish after the shutdown began.
    pub grace: Duration,
}

impl Default for Limits {
    /// 1024 connections: far above any agent, below the usual limit of open files. 10 s: below the 30 s that Kubernetes gives.
    fn default() -> Self {
        Self { connections_max: 1024, grace: Duration::from_secs(10) }
    }
}

/// Serves `router` on a bound listener until `shutdown` is cancelled and the connections are gone.
pub async fn serve_tcp(listener: TcpListener, router: Router, shutdown: CancellationToken) {
    serve(Socket::Tcp(listener), router, shutdown, Limits::default()).await;
}

/// Binds the socket `path` (see [`bind_unix`]) and serves `router` on it like [`serve_tcp`]; removes the socket at the end.
pub async fn serve_unix(path: &Path, router: Router, shutdown: CancellationToken) -> io::Result<()> {
    let socket = bind_unix(path).await?;
    serve(socket, router, shutdown, Limits::default()).await;
    Ok(())
}

/// A bound listener.
#[derive(Debug)]
pub enum Socket {
    /// TCP.
    Tcp(TcpListener),
    /// A unix socket, made by [`bind_unix`]; its file goes when this is dropped.
    Unix(UnixSocket),
}

/// A listening unix socket that owns its file.
#[derive(Debug)]
pub struct UnixSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Binds a unix socket with mode 0600. A file left by a dead process is replaced; a socket that answers is not touched
/// (`AddrInUse`). There is no moment at which others could connect: the socket is made under another name, then renamed.
pub async fn bind_unix(path: &Path) -> io::Result<Socket> {
    if UnixStream::connect(path).await.is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, format!("socket `{}` is in use", path.display())));
    }
    let mut fresh = path.as_os_str().to_owned();
    fresh.push("~");
    let fresh = PathBuf::from(fresh);
    let _ = std::fs::remove_file(&fresh);
    let listener = UnixListener::bind(&fresh)?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&fresh, path)?;
    Ok(Socket::Unix(UnixSocket { listener, path: path.to_owned() }))
}

/// What one HTTP/2 stream may send before it is read from: bounds what a handler that lags behind has waiting.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
/// What all streams of a connection may send. Far above the stream's: h2 counts small frames that nobody has read against
/// half of it and cuts the connection, so a fast sender of small events would be cut instead of held back.
const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;

/// Serves `router` on `socket` until `shutdown` is cancelled, then finishes within `limits.grace`.
pub async fn serve(socket: Socket, router: Router, shutdown: CancellationToken, limits: Limits) {
    let mut connections = JoinSet::new();
    loop {
        let room = connections.len() < limits.connections_max;
        // A branch that loses `select!` loses nothing: accepting and joining are cancel-safe.
        tokio::select! {
            () = shutdown.cancelled() => break,
            _ = connections.join_next(), if !connections.is_empty() => {}
            accepted = accept(&socket), if room => match accepted {
                Ok(Stream::Tcp(stream)) => drop(connections.spawn(connection(stream, router.clone(), shutdown.clone()))),
                Ok(Stream::Unix(stream)) => drop(connections.spawn(connection(stream, router.clone(), shutdown.clone()))),
                Err(error) => pause_after(&error).await,
            },
        }
    }
    drop(socket);
    let finished = tokio::time::timeout(limits.grace, async { while connections.join_next().await.is_some() {} }).await;
    if finished.is_err() {
        warn!(connections = connections.len(), "connections cut at shutdown");
        connections.shutdown().await;
    }
}

enum Stream {
    Tcp(tokio::net::TcpStream),
    Unix(UnixStream),
}

async fn accept(socket: &Socket) -> io::Result<Stream> {
    match socket {
        Socket::Tcp(listener) => {
            let (stream, _) = listener.accept().await?;
            if let Err(error) = stream.set_nodelay(true) {
                debug!(%error, "cannot set TCP_NODELAY");
            }
            Ok(Stream::Tcp(stream))
        }
        Socket::Unix(socket) => socket.listener.accept().await.map(|(stream, _)| Stream::Unix(stream)),
    }
}

/// A client that left early is its own affair; anything else (no more file descriptors) needs a moment to pass.
async fn pause_after(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if !matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
        warn!(%error, "cannot accept a connection");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn connection<S>(stream: S, router: Router, shutdown: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http2()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    let service = TowerToHyperService::new(router);
    let mut connection = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        debug!(%error, "connection ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn accepted_connections_do_not_wait_to_fill_a_packet() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        match accept(&Socket::Tcp(listener)).await.unwrap() {
            Stream::Tcp(stream) => assert!(stream.nodelay().unwrap()),
            Stream::Unix(_) => panic!("not a TCP stream"),
        }
    }
}
