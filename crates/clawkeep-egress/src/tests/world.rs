//! A proxy with a policy, the names that it resolves, and origins that do what a test wants.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use clawkeep_inference::{BoxBody, LiveService, Service};
use clawkeep_policy::{Matcher, Policy};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

pub(super) use super::wire::{DEADLINE, read_exactly, read_head, read_to_end, status};
use crate::outside::Outside;
use crate::{Action, Authority, Callers, Event, Limits, LivePolicy, NoCallers, Proxy, Resolver, Resolving};

/// The address that names have, unless a test says otherwise. The loopback stands in for it.
pub(super) const PUBLIC: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 41, 0, 1));

pub(super) type Tls = tokio_rustls::client::TlsStream<TcpStream>;

/// Answers each name with what is next in its list; the last stays.
#[derive(Clone, Default)]
pub(super) struct Names(Arc<Mutex<HashMap<String, VecDeque<Vec<IpAddr>>>>>);

impl Names {
    pub(super) fn answer(&self, name: &str, answers: &[&[&str]]) {
        let read = |answer: &&[&str]| answer.iter().map(|ip| ip.parse().unwrap()).collect();
        self.0.lock().unwrap().insert(name.to_owned(), answers.iter().map(read).collect());
    }
}

impl Resolver for Names {
    fn resolve<'a>(&'a self, name: &'a str) -> Resolving<'a> {
        let mut names = self.0.lock().unwrap();
        let found = match names.get_mut(name) {
            Some(answers) if answers.len() > 1 => answers.pop_front().unwrap(),
            Some(answers) => answers[0].clone(),
            None => vec![PUBLIC],
        };
        Box::pin(async move { Ok(found) })
    }
}

pub(super) struct World {
    pub(super) address: SocketAddr,
    pub(super) policy: LivePolicy,
    pub(super) names: Names,
    pub(super) events: mpsc::Receiver<Event>,
    /// The addresses that were dialed.
    pub(super) dialed: Arc<Mutex<Vec<SocketAddr>>>,
    pub(super) tasks: JoinSet<()>,
    ca_pem: String,
    origins: Authority,
    /// Where everything goes instead of to the port that was asked for; 0: nowhere else.
    port: Arc<AtomicU16>,
}

/// What differs from test to test.
#[derive(Clone)]
pub(super) struct Setup {
    pub(super) limits: Limits,
    pub(super) callers: Arc<dyn Callers>,
}

impl Default for Setup {
    fn default() -> Self {
        Self { limits: Limits::default(), callers: Arc::new(NoCallers) }
    }
}

/// A policy of endpoints, each a flow mapping of YAML, for every program.
pub(super) fn matcher(endpoints: &[String]) -> Matcher {
    let rules: String = endpoints
        .iter()
        .enumerate()
        .map(|(index, endpoint)| {
            format!("  site{index}: {{endpoints: [{endpoint}], binaries: [{{path: /**}}]}}\n")
        })
        .collect();
    read(&format!("version: 1\nnetwork_policies:\n{rules}"))
}

pub(super) fn read(policy: &str) -> Matcher {
    Matcher::new(&Policy::read(policy).unwrap_or_else(|error| panic!("{error}\n{policy}")).policy)
}

impl World {
    pub(super) async fn new(matcher: Matcher) -> Self {
        Self::with(matcher, Setup::default()).await
    }

    pub(super) async fn with(matcher: Matcher, setup: Setup) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut world = Self {
            address,
            policy: LivePolicy::new(matcher),
            names: Names::default(),
            events: mpsc::channel(1).1,
            dialed: Arc::default(),
            tasks: JoinSet::new(),
            ca_pem: String::new(),
            origins: Authority::generate().unwrap(),
            port: Arc::default(),
        };
        world.serve(listener, setup);
        world
    }

    /// Start another proxy on this listener, with everything else as it is.
    pub(super) fn serve(&mut self, listener: TcpListener, setup: Setup) -> tokio::task::AbortHandle {
        let authority = Authority::generate().unwrap();
        self.ca_pem = authority.cert_pem().to_owned();
        let (sender, events) = mpsc::channel(4096);
        self.events = events;
        let mut outside = Outside::new(Arc::new(self.names.clone()));
        outside.trust(roots(self.origins.cert_pem()));
        let (dialed, port) = (self.dialed.clone(), self.port.clone());
        outside.reroute = Some(Arc::new(move |address| {
            dialed.lock().unwrap().push(address);
            let port = match port.load(Ordering::SeqCst) {
                0 => address.port(),
                port => port,
            };
            (Ipv4Addr::LOCALHOST, port).into()
        }));
        let inference = LiveService::new(Service::canary());
        let proxy = Proxy::new(&authority, inference, self.policy.clone(), setup.callers, sender)
            .unwrap()
            .with_limits(setup.limits)
            .with_name("box")
            .with(|shared| shared.outside = Arc::new(outside));
        self.tasks.spawn(proxy.serve(listener, std::future::pending()))
    }

    /// Have one origin behind every port.
    pub(super) fn reroute_to(&self, port: u16) {
        self.port.store(port, Ordering::SeqCst);
    }

    /// A listener for an origin, and its port.
    pub(super) async fn origin() -> (TcpListener, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener, port)
    }

    /// An origin that speaks HTTP, over TLS as `tls` where that is said, and there HTTP/2 where `http2`.
    pub(super) fn http<A, F>(&mut self, listener: TcpListener, tls: Option<(&str, bool)>, answer: A)
    where
        A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<BoxBody>> + Send + 'static,
    {
        let acceptor = tls.map(|(host, http2)| self.acceptor(host, http2));
        self.tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, acceptor) = (answer.clone(), acceptor.clone());
                connections.spawn(async move {
                    match acceptor {
                        None => speak(stream, false, answer).await,
                        Some(acceptor) => {
                            let Ok(stream) = acceptor.accept(stream).await else { return };
                            let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                            speak(stream, http2, answer).await;
                        }
                    }
                });
            }
        });
    }

    /// TLS as an origin of this world.
    pub(super) fn acceptor(&self, host: &str, http2: bool) -> tokio_rustls::TlsAcceptor {
        let protocols: &[&[u8]] = if http2 { &[b"h2", b"http/1.1"] } else { &[b"http/1.1"] };
        let leaf = self.origins.leaves().leaf(host).unwrap();
        Arc::new(crate::leaves::server_config(leaf, protocols).unwrap()).into()
    }

    pub(super) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Send bytes, keep the sending side open, and read until the proxy closes.
    pub(super) async fn exchange(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes.as_ref()).await.unwrap();
        read_to_end(&mut stream).await
    }

    /// A tunnel that the proxy has agreed to.
    pub(super) async fn tunnel(&self, target: &str) -> TcpStream {
        let mut stream = self.connect().await;
        let head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let answer = read_head(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        stream
    }

    /// TLS in a tunnel that the proxy inspects.
    pub(super) async fn inspected(&self, target: &str, protocols: &[&[u8]]) -> Tls {
        let name = target.split_once(':').unwrap().0;
        greet(self.tunnel(target).await, name, &self.ca_pem, protocols).await.unwrap()
    }

    /// TLS in a tunnel that ends at the origin.
    pub(super) async fn passed(&self, target: &str, name: &str) -> std::io::Result<Tls> {
        greet(self.tunnel(target).await, name, self.origins.cert_pem(), &[]).await
    }

    /// The sandbox's CA.
    pub(super) fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The next event of this kind.
    pub(super) async fn event(&mut self, action: Action) -> Event {
        loop {
            let event = timeout(DEADLINE, self.events.recv()).await.expect("an event in time").unwrap();
            if event.action == action {
                return event;
            }
        }
    }

    pub(super) fn dialed(&self) -> Vec<String> {
        self.dialed.lock().unwrap().iter().map(|address| address.ip().to_string()).collect()
    }
}

async fn speak<T, A, F>(stream: T, http2: bool, answer: A)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    A: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<BoxBody>> + Send + 'static,
{
    let service = hyper::service::service_fn(|request| {
        let answer = answer(request);
        async move { Ok::<_, std::convert::Infallible>(answer.await) }
    });
    let io = TokioIo::new(stream);
    if http2 {
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = builder.serve_connection(io, service).await;
    } else {
        let builder = hyper::server::conn::http1::Builder::new();
        let _ = builder.serve_connection(io, service).with_upgrades().await;
    }
}

fn roots(pem: &str) -> rustls::RootCertStore {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
    roots
}

async fn greet(stream: TcpStream, name: &str, ca_pem: &str, protocols: &[&[u8]]) -> std::io::Result<Tls> {
    let config = clawkeep_outbound::client_config(roots(ca_pem).into(), protocols);
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let greeted = connector.connect(ServerName::try_from(name.to_owned()).unwrap(), stream);
    timeout(DEADLINE, greeted).await.expect("TLS in time")
}

pub(super) fn text(text: impl Into<Bytes>) -> Response<BoxBody> {
    Response::new(Full::new(text.into()).map_err(|never| match never {}).boxed_unsync())
}
