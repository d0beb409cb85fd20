//! The only accept loop: serves an axum router on TCP or on a unix socket, HTTP/1.1 and cleartext HTTP/2 (gRPC) alike.
//!
//! `TCP_NODELAY` is always on: without it a unary call can wait 44 ms for a delayed ACK. Connections are bounded, and a
//! shutdown is bounded too: first no new connections, then the open ones finish their requests, then they are cut.
//! Long streams must be ended by their handlers; this loop only waits for them. Access control is the router's business;
//! it tells [`Peer`] who has shown a token. Who has not is a guest: it stays for `guest_wait` at most, whatever it sends or
//! leaves unread, and makes room for newcomers when all places are taken. No timer here cuts a request that is under way.

mod guests;
mod refusal;

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::{Request, Version};
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use guests::Guests;
pub use guests::Peer;
pub use refusal::Refusal;
use refusal::Refusing;

/// What a server allows.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections open at once. Whoever takes the last place sends the oldest guest away; where there is none, further
    /// ones wait in the kernel's backlog.
    pub connections_max: usize,
    /// A connection on which no token was shown ends after this time.
    pub guest_wait: Duration,
    /// An HTTP/1 connection without a request ends after this time. An HTTP/2 one is for keeping.
    pub idle_wait: Duration,
    /// Time for open connections to finish after the shutdown began.
    pub grace: Duration,
    /// What is answered to requests that are no HTTP.
    pub refusal: Refusal,
}

impl Default for Limits {
    /// 1024 connections: far above any agent, below the usual limit of open files. A guest's 10 s: a request that is meant
    /// seriously is here within milliseconds. Idle for 5 min: longer than what clients keep unused connections for, so they are
    /// the ones that close. 10 s of grace: below the 30 s that Kubernetes gives.
    fn default() -> Self {
        Self {
            connections_max: 1024,
            guest_wait: Duration::from_secs(10),
            idle_wait: Duration::from_secs(300),
            grace: Duration::from_secs(10),
            refusal: |status| format!(r#"{{"type":"about:blank","status":{status},"title":"the request is no HTTP"}}"#),
        }
    }
}

/// After this time without a byte the kernel asks the peer's kernel whether it is still there, so often, so many times. Not
/// by HTTP/2 pings: a peer whose handler keeps it busy for an hour does not answer those, and must not lose its stream.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(15);
const KEEPALIVE_COUNT: u32 = 4;
/// A guest whose time is over may finish what it is being answered.
const GUEST_GRACE: Duration = Duration::from_secs(1);

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
    let (mut connections, mut guests) = (JoinSet::new(), Guests::new(limits.connections_max));
    loop {
        let room = connections.len() < limits.connections_max;
        // A branch that loses `select!` loses nothing: accepting and joining are cancel-safe.
        tokio::select! {
            () = shutdown.cancelled() => break,
            _ = connections.join_next(), if !connections.is_empty() => {}
            accepted = accept(&socket), if room => match accepted {
                Ok(stream) => {
                    // The last place is always freed again: the next one may have a token.
                    if connections.len() + 1 == limits.connections_max {
                        guests.cut_oldest();
                    }
                    let (peer, router, shutdown) = (Peer::default(), router.clone(), shutdown.clone());
                    guests.arrived(&peer);
                    match stream {
                        Stream::Tcp(stream) => connections.spawn(connection(stream, peer, router, shutdown, limits)),
                        Stream::Unix(stream) => connections.spawn(connection(stream, peer, router, shutdown, limits)),
                    };
                }
                Err(error) => {
                    // There may be fewer file descriptors than places.
                    guests.cut_oldest();
                    pause_after(&error).await;
                }
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
            if let Err(error) = tune(&stream) {
                debug!(%error, "cannot set the options of a connection");
            }
            Ok(Stream::Tcp(stream))
        }
        Socket::Unix(socket) => socket.listener.accept().await.map(|(stream, _)| Stream::Unix(stream)),
    }
}

fn tune(stream: &tokio::net::TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_EVERY)?;
    Ok(sockopt::set_tcp_keepcnt(stream, KEEPALIVE_COUNT)?)
}

/// A client that left early is its own affair; anything else (no more file descriptors) needs a moment to pass.
async fn pause_after(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if !matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
        warn!(%error, "cannot accept a connection");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn connection<S>(stream: S, peer: Peer, router: Router, shutdown: CancellationToken, limits: Limits)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let builder = builder(&limits);
    let http2 = Arc::new(AtomicBool::new(false));
    let stream = Refusing::new(stream, limits.refusal, http2.clone());
    let (router, caller) = (TowerToHyperService::new(router), peer.clone());
    let service = service_fn(move |mut request: Request<Incoming>| {
        http2.fetch_or(request.version() == Version::HTTP_2, Ordering::Relaxed);
        request.extensions_mut().insert(caller.clone());
        router.call(request)
    });
    let mut connection = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let over = async {
        tokio::time::sleep(limits.guest_wait).await;
        if !peer.is_guest() {
            std::future::pending::<()>().await;
        }
    };
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = peer.cut() => return debug!("connection without a token cut for another one"),
        () = over => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(GUEST_GRACE, connection).await.unwrap_or(Ok(()))
        }
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        debug!(%error, "connection ended");
    }
}

fn builder(limits: &Limits) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    // The time for a head is the time between requests, too.
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.idle_wait);
    builder
        .http2()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    builder
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn accepted_connections_do_not_wait_to_fill_a_packet_nor_for_a_dead_peer() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        match accept(&Socket::Tcp(listener)).await.unwrap() {
            Stream::Tcp(stream) => {
                assert!(stream.nodelay().unwrap() && sockopt::socket_keepalive(&stream).unwrap());
                assert_eq!(sockopt::tcp_keepidle(&stream).unwrap(), KEEPALIVE_IDLE);
            }
            Stream::Unix(_) => panic!("not a TCP stream"),
        }
    }
}
