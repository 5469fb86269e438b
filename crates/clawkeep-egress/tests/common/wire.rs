//! Reading HTTP/1.1 byte by byte: what arrives, and when.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::time::timeout;

/// Longer than anything here takes unless it hangs.
pub const DEADLINE: Duration = Duration::from_secs(30);

pub async fn read_to_end<T: AsyncRead + Unpin>(stream: &mut T) -> String {
    let mut bytes = Vec::new();
    // A peer that closes without TLS's goodbye, or resets, has ended too; what came before counts.
    let _ = timeout(DEADLINE, stream.read_to_end(&mut bytes)).await.expect("the proxy closes in time");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Read up to the end of a head, and no further.
pub async fn read_head<T: AsyncRead + Unpin>(stream: &mut T) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = timeout(DEADLINE, stream.read_u8()).await.expect("an answer in time").unwrap();
        head.push(byte);
    }
    String::from_utf8(head).unwrap()
}

/// Read one whole answer that has a content-length, leaving the connection open.
pub async fn read_answer<T: AsyncRead + Unpin>(stream: &mut T) -> (String, String) {
    let head = read_head(stream).await;
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned))
        .expect("a content-length");
    let mut body = vec![0; length.parse().unwrap()];
    timeout(DEADLINE, stream.read_exact(&mut body)).await.unwrap().unwrap();
    (head, String::from_utf8(body).unwrap())
}

pub async fn read_exactly<T: AsyncRead + Unpin>(stream: &mut T, bytes: usize) -> String {
    let mut read = vec![0; bytes];
    timeout(DEADLINE, stream.read_exact(&mut read)).await.expect("the bytes in time").unwrap();
    String::from_utf8_lossy(&read).into_owned()
}

/// The status of an answer.
pub fn status(answer: &str) -> u16 {
    answer.get(9..12).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("no status in {answer:?}"))
}
