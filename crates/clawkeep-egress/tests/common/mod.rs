//! A proxy on loopback, and clients that say exactly what a test wants said.
#![allow(dead_code, unused_imports, reason = "each test binary uses a part")]

mod wire;

use std::net::SocketAddr;
use std::sync::Arc;

use clawkeep_egress::{Authority, Event, Limits, LivePolicy, NoCallers, Proxy};
use clawkeep_inference::{LiveService, Service};
use clawkeep_policy::Matcher;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

pub use wire::{DEADLINE, read_answer, read_head, read_to_end, status};

pub struct Running {
    pub address: SocketAddr,
    pub ca_pem: String,
    pub inference: LiveService,
    pub events: mpsc::Receiver<Event>,
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
    let policy = LivePolicy::new(Matcher::nothing());
    let proxy = Proxy::new(authority, inference.clone(), policy, Arc::new(NoCallers), sender).unwrap();
    let proxy = set(proxy);
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

    pub async fn event(&mut self) -> Event {
        timeout(DEADLINE, self.events.recv()).await.expect("an event in time").unwrap()
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
