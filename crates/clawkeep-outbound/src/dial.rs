use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

/// With several addresses, the longest wait for one of them.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(3);

/// Why none of the addresses answered: the cause of the last one tried.
#[derive(Debug)]
pub enum DialError {
    /// There was no address to try.
    NoAddress,
    /// The connection was refused or cannot be made.
    Failed(std::io::Error),
    /// Nothing answered in this time.
    TimedOut(Duration),
}

/// Connect to one of these addresses, tried in their order, and to no other. `limit` is for all together.
/// Nagle's algorithm is off: messages here are small and waited for.
///
/// # Errors
/// [`DialError`], of the last address that was tried.
pub async fn dial(addresses: &[SocketAddr], limit: Duration) -> Result<TcpStream, DialError> {
    let deadline = Instant::now() + limit;
    let mut last = DialError::NoAddress;
    for (index, address) in addresses.iter().enumerate() {
        let rest = deadline.saturating_duration_since(Instant::now());
        let share = if index + 1 < addresses.len() { rest.min(ADDRESS_TIMEOUT) } else { rest };
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true).map_err(DialError::Failed)?;
                return Ok(stream);
            }
            Ok(Err(error)) => last = DialError::Failed(error),
            Err(_) => last = DialError::TimedOut(share),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_that_answers_is_taken_and_the_last_failure_is_told() {
        let limit = Duration::from_secs(20);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = listener.local_addr().unwrap();
        let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let bad = gone.local_addr().unwrap();
        drop(gone);
        assert_eq!(dial(&[bad, good], limit).await.unwrap().peer_addr().unwrap(), good);
        assert!(matches!(dial(&[bad], limit).await, Err(DialError::Failed(_))));
        assert!(matches!(dial(&[], limit).await, Err(DialError::NoAddress)));
    }
}
