use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use clawkeep_outbound::{DialError, client_config, dial, host_roots};
use clawkeep_policy::is_metadata;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::body::BoxBody;
use crate::problem::RouteProblem;
use crate::route::Origin;

/// The sending half of a connection to a provider.
pub(crate) struct Sender {
    pub inner: hyper::client::conn::http1::SendRequest<BoxBody>,
    received: Arc<AtomicU64>,
}

impl Sender {
    /// How many bytes have come from the provider so far (inside TLS).
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Acquire)
    }
}

/// Counts what is read.
struct Counted<T> {
    inner: T,
    received: Arc<AtomicU64>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Counted<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        self.received.fetch_add((buf.filled().len() - before) as u64, Ordering::Release);
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Counted<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }
}

/// Opens a new connection to the origin. The connection's task ends when its sender is dropped.
pub(crate) async fn connect(origin: &Origin, limit: Duration) -> Result<Sender, RouteProblem> {
    let slow = || RouteProblem::Timeout { address: origin.display(), what: "connect", after: limit };
    timeout(limit, open(origin, limit)).await.map_err(|_| slow())?
}

async fn open(origin: &Origin, limit: Duration) -> Result<Sender, RouteProblem> {
    let tcp = reach(origin, limit).await?;
    if !origin.https {
        return handshake(origin, tcp).await;
    }
    let tls = |cause: String| RouteProblem::Tls { address: origin.display(), cause };
    let name = ServerName::try_from(origin.host.clone()).map_err(|error| tls(error.to_string()))?;
    let connector = tokio_rustls::TlsConnector::from(tls_config().map_err(|cause| tls(cause.to_owned()))?);
    let stream = connector.connect(name, tcp).await.map_err(|error| tls(error.to_string()))?;
    handshake(origin, stream).await
}

async fn reach(origin: &Origin, limit: Duration) -> Result<TcpStream, RouteProblem> {
    let dns = |cause: String| RouteProblem::Dns { host: origin.host.clone(), cause };
    let found = tokio::net::lookup_host((origin.host.as_str(), origin.port)).await;
    let addresses: Vec<_> = found.map_err(|error| dns(error.to_string()))?.take(8).collect();
    if addresses.iter().any(|address| is_metadata(address.ip())) {
        // It hands out this machine's own credentials to whoever asks, and has no model.
        let cause = "it leads to a cloud's metadata service".to_owned();
        return Err(RouteProblem::Connect { address: origin.display(), cause });
    }
    dial(&addresses, limit).await.map_err(|error| match error {
        DialError::NoAddress => dns("it has no address".to_owned()),
        DialError::Failed(error) => {
            RouteProblem::Connect { address: origin.display(), cause: error.to_string() }
        }
        DialError::TimedOut(after) => {
            RouteProblem::Timeout { address: origin.display(), what: "connect", after }
        }
    })
}

async fn handshake<T>(origin: &Origin, stream: T) -> Result<Sender, RouteProblem>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let received = Arc::new(AtomicU64::new(0));
    let stream = Counted { inner: stream, received: received.clone() };
    let (inner, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| RouteProblem::Protocol { address: origin.display(), cause: error.to_string() })?;
    // What goes wrong here is seen by the request or the body that it happens to.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(Sender { inner, received })
}

/// TLS with the host's own roots, HTTP/1.1 only, made once a process.
fn tls_config() -> Result<Arc<rustls::ClientConfig>, &'static str> {
    static CONFIG: OnceLock<Option<Arc<rustls::ClientConfig>>> = OnceLock::new();
    CONFIG
        .get_or_init(|| host_roots().map(|roots| Arc::new(client_config(roots, &[b"http/1.1"]))))
        .clone()
        .ok_or("this machine has no root certificates")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_clouds_metadata_service_is_not_dialed() {
        for host in ["169.254.169.254", "::ffff:169.254.169.254", "fd00:ec2::254"] {
            let origin = Origin {
                https: false,
                host: host.to_owned(),
                port: 80,
                authority: host.to_owned(),
                path: "/v1".to_owned(),
            };
            let problem = connect(&origin, Duration::from_secs(20)).await.err().unwrap();
            assert!(
                matches!(&problem, RouteProblem::Connect { cause, .. } if cause.contains("metadata")),
                "{problem}"
            );
        }
    }
}
