//! A TCP proxy that can lose what is sent, cut connections and refuse new ones: outages that look like outages.
//!
//! Everything is passed on byte for byte until told otherwise. Ends with its owner.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

#[derive(Default)]
struct Swallow {
    on: AtomicBool,
    bytes: AtomicU64,
}

/// A running proxy.
pub struct Proxy {
    address: SocketAddr,
    swallow: Arc<Swallow>,
    deafen: Arc<Swallow>,
    cuts: watch::Sender<u64>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Starts one in front of `target`, `host:port`.
    pub async fn start(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (swallow, deafen, cuts) = (Arc::<Swallow>::default(), Arc::<Swallow>::default(), watch::Sender::new(0));
        let task = tokio::spawn(accept(listener, target.to_owned(), (swallow.clone(), deafen.clone()), cuts.clone()));
        Self { address, swallow, deafen, cuts, task }
    }

    /// `127.0.0.1:<port>`
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// From now on, what clients send is lost (true) or passed on again (false). Answers pass either way.
    pub fn swallow(&self, on: bool) {
        self.swallow.on.store(on, Ordering::SeqCst);
    }

    /// From now on, what the server answers is lost (true) or passed on again (false).
    pub fn deafen(&self, on: bool) {
        self.deafen.on.store(on, Ordering::SeqCst);
    }

    /// Bytes of clients lost so far.
    pub fn lost(&self) -> u64 {
        self.swallow.bytes.load(Ordering::SeqCst)
    }

    /// Drops all connections without a word; new ones are taken.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(
    listener: TcpListener,
    target: String,
    (swallow, deafen): (Arc<Swallow>, Arc<Swallow>),
    cuts: watch::Sender<u64>,
) {
    while let Ok((client, _)) = listener.accept().await {
        let Ok(server) = TcpStream::connect(&target).await else { continue };
        let mut cut = cuts.subscribe();
        let (swallow, deafen) = (swallow.clone(), deafen.clone());
        tokio::spawn(async move {
            let ((client_rx, client_tx), (server_rx, server_tx)) = (client.into_split(), server.into_split());
            tokio::select! {
                () = pass(client_rx, server_tx, swallow) => {}
                () = pass(server_rx, client_tx, deafen) => {}
                _ = cut.changed() => {}
            }
        });
    }
}

/// Passes bytes on until one side ends; then the caller drops both.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, swallow: Arc<Swallow>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if swallow.on.load(Ordering::SeqCst) {
            swallow.bytes.fetch_add(read as u64, Ordering::SeqCst);
            continue;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
