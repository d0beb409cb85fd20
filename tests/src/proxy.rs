//! A TCP proxy that can lose what is sent, cut connections and refuse new ones: outages that look like outages.
//!
//! Everything is passed on byte for byte until told otherwise. Ends with its owner.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

#[derive(Default)]
struct Swallow {
    on: AtomicBool,
    bytes: AtomicU64,
    /// While on: so many bytes are passed on all the same.
    grace: AtomicU64,
}

/// Turns the loss of what clients send on when the server says this.
#[derive(Default)]
struct Trap {
    needle: Mutex<Option<Vec<u8>>>,
}

/// A running proxy.
pub struct Proxy {
    address: SocketAddr,
    ways: Ways,
    cuts: watch::Sender<u64>,
    task: JoinHandle<()>,
}

/// What is done to the bytes of all connections.
#[derive(Clone, Default)]
struct Ways {
    swallow: Arc<Swallow>,
    deafen: Arc<Swallow>,
    trap: Arc<Trap>,
    delay: Arc<AtomicU64>,
    held: watch::Sender<bool>,
}

impl Proxy {
    /// Starts one in front of `target`, `host:port`.
    pub async fn start(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (ways, cuts) = (Ways::default(), watch::Sender::new(0));
        let task = tokio::spawn(accept(listener, target.to_owned(), ways.clone(), cuts.clone()));
        Self { address, ways, cuts, task }
    }

    /// `127.0.0.1:<port>`
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// From now on, what clients send is lost (true) or passed on again (false). Answers pass either way.
    pub fn swallow(&self, on: bool) {
        self.ways.swallow.grace.store(0, Ordering::SeqCst);
        self.ways.swallow.on.store(on, Ordering::SeqCst);
    }

    /// Passes so many more bytes of clients on, and loses what they send after that.
    pub fn swallow_after(&self, bytes: u64) {
        self.ways.swallow.grace.store(bytes, Ordering::SeqCst);
        self.ways.swallow.on.store(true, Ordering::SeqCst);
    }

    /// From the moment the server says this, what clients send is lost. The server's word itself is passed on.
    pub fn swallow_when(&self, said: &str) {
        *self.ways.trap.needle.lock().expect("no panic") = Some(said.as_bytes().to_vec());
    }

    /// From now on, what the server answers is lost (true) or passed on again (false).
    pub fn deafen(&self, on: bool) {
        self.ways.deafen.on.store(on, Ordering::SeqCst);
    }

    /// From now on, each way takes this long.
    pub fn delay(&self, way: Duration) {
        self.ways.delay.store(u64::try_from(way.as_millis()).expect("short"), Ordering::SeqCst);
    }

    /// From now on, what the server answers waits here (true) or is passed on again, what waited first (false).
    pub fn hold(&self, on: bool) {
        self.ways.held.send_replace(on);
    }

    /// Bytes of clients lost so far.
    pub fn lost(&self) -> u64 {
        self.ways.swallow.bytes.load(Ordering::SeqCst)
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

async fn accept(listener: TcpListener, target: String, ways: Ways, cuts: watch::Sender<u64>) {
    while let Ok((client, _)) = listener.accept().await {
        let Ok(server) = TcpStream::connect(&target).await else { continue };
        let mut cut = cuts.subscribe();
        let Ways { swallow, deafen, trap, delay, held } = ways.clone();
        let on = swallow.clone();
        let springs = move |read: &[u8]| {
            let mut needle = trap.needle.lock().expect("no panic");
            let said = |needle: &Vec<u8>| read.windows(needle.len()).any(|window| window == needle);
            if needle.as_ref().is_some_and(said) {
                *needle = None;
                on.on.store(true, Ordering::SeqCst);
            }
        };
        let (free, held) = (watch::Sender::new(false).subscribe(), held.subscribe());
        tokio::spawn(async move {
            let ((client_rx, client_tx), (server_rx, server_tx)) = (client.into_split(), server.into_split());
            tokio::select! {
                // A cut comes first: nothing may pass after what a cut connection has lost.
                biased;
                _ = cut.changed() => {}
                () = pass(client_rx, server_tx, swallow, &delay, free, |_| ()) => {}
                () = pass(server_rx, client_tx, deafen, &delay, held, springs) => {}
            }
        });
    }
}

/// Passes bytes on until one side ends; then the caller drops both.
async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    swallow: Arc<Swallow>,
    delay: &AtomicU64,
    mut held: watch::Receiver<bool>,
    heard: impl Fn(&[u8]),
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(mut read @ 1..) = from.read(&mut buffer).await {
        heard(&buffer[..read]);
        if let millis @ 1.. = delay.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(millis)).await;
        }
        if swallow.on.load(Ordering::SeqCst) {
            let grace = swallow.grace.load(Ordering::SeqCst).min(read as u64);
            swallow.grace.fetch_sub(grace, Ordering::SeqCst);
            swallow.bytes.fetch_add(read as u64 - grace, Ordering::SeqCst);
            read = grace as usize;
        }
        // Its owner may be gone; then nothing is held.
        let _ = held.wait_for(|held| !held).await;
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
