//! Whether a broker answers at all: a nats-server greets every connection at once. One that hangs does not, although the kernel
//! still takes the connection.

use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// Longest wait for the greeting.
pub const LIMIT: Duration = Duration::from_secs(2);

/// `Ok` when the broker at `nats://host:port` greets within [`LIMIT`], else why not. Tells nothing about rights or streams.
pub async fn greets(url: &str) -> Result<(), String> {
    if url == agentbus_nats::bus::memory::URL {
        // The bus is in the process that answered already.
        return Ok(());
    }
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
    let greeting = async {
        let mut stream = TcpStream::connect(authority).await?;
        stream.read_u8().await
    };
    match tokio::time::timeout(LIMIT, greeting).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(format!("the broker at {url} cannot be reached ({error})")),
        Err(_) => Err(format!("the broker at {url} does not answer: no word within {} s", LIMIT.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_greeting_counts_and_silence_does_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("nats://{}", listener.local_addr().unwrap());
        let polite = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"INFO {}\r\n").await.unwrap();
        };
        let (said, ()) = tokio::join!(greets(&url), polite);
        assert_eq!(said, Ok(()));
        // Nobody accepts any more; the kernel does.
        assert!(greets(&url).await.unwrap_err().contains("no word within 2 s"));
        drop(listener);
        assert!(greets(&url).await.unwrap_err().contains("cannot be reached"));
    }
}
