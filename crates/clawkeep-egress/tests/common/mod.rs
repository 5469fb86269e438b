//! A proxy on loopback, and clients that say exactly what a test wants said.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use clawkeep_egress::{Authority, Limits, Proxy, Verdict};
use clawkeep_inference::{LiveService, Service};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Longer than anything here takes unless it hangs.
pub const DEADLINE: Duration = Duration::from_secs(30);

pub struct Running {
    pub address: SocketAddr,
    pub ca_pem: String,
    pub inference: LiveService,
    pub events: mpsc::Receiver<Verdict>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

pub async fn start(limits: Limits) -> Running {
    let authority = Authority::generate().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    start_with(&authority, listener, limits)
}

/// One that serves this user alone.
pub async fn start_only_for(uid: u32) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    begin(&Authority::generate().unwrap(), listener, |proxy| proxy.only_for(uid))
}

pub fn start_with(authority: &Authority, listener: TcpListener, limits: Limits) -> Running {
    begin(authority, listener, |proxy| proxy.with_limits(limits))
}

fn begin(authority: &Authority, listener: TcpListener, set: impl FnOnce(Proxy) -> Proxy) -> Running {
    let inference = LiveService::new(Service::canary());
    let (sender, events) = mpsc::channel(1024);
    let proxy = set(Proxy::new(authority, inference.clone(), sender).unwrap());
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(proxy.serve(listener, async move {
        let _ = stopped.await;
    }));
    Running { address, ca_pem: authority.cert_pem().to_owned(), inference, events, stop, task }
}

impl Running {
    pub async fn stop(self) {
        self.stop.send(()).unwrap();
        timeout(DEADLINE, self.task).await.expect("serve returns when told to").unwrap();
    }

    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Send bytes, keep the sending side open, and read until the proxy closes.
    pub async fn exchange(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes).await.unwrap();
        read_to_end(&mut stream).await
    }

    pub async fn verdict(&mut self) -> Verdict {
        timeout(DEADLINE, self.events.recv()).await.expect("a verdict in time").unwrap()
    }

    /// A tunnel that the proxy has agreed to.
    pub async fn tunnel(&self, target: &str) -> TcpStream {
        let mut stream = self.connect().await;
        let head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let answer = read_head(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        stream
    }

    /// TLS in a tunnel, trusting the sandbox's CA and nothing else.
    pub async fn tls(&self, name: &str) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca_pem.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = self.tunnel("inference.local:443").await;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        connector.connect(ServerName::try_from(name.to_owned()).unwrap(), stream).await
    }
}

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
