//! The proxies that are compared, each a process of its own.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use clawkeep_egress::{Authority, Limits, LivePolicy, NoCallers, Proxy};
use clawkeep_inference::{LiveService, Service};
use clawkeep_policy::{Matcher, Policy};
use rustls::RootCertStore;

use crate::origin::{HOST, Origin, roots};

/// Says to this program that it is the proxy, and with which policy.
const SERVE: &str = "CLAWKEEP_BENCH_EGRESS_POLICY";

/// What stands between client and origin.
pub struct Peer {
    pub name: &'static str,
    proxy: Option<Running>,
}

struct Running {
    address: SocketAddr,
    /// Of the authority, where TLS is inspected.
    ca_pem: Option<String>,
    host: &'static str,
    child: Child,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Peer {
    pub fn is_proxy(&self) -> bool {
        self.proxy.is_some()
    }

    /// Where a client connects that wants to go to this port.
    pub fn address(&self, port: u16) -> SocketAddr {
        self.proxy.as_ref().map_or(([127, 0, 0, 1], port).into(), |proxy| proxy.address)
    }

    /// The name that it has for this host.
    pub fn host(&self) -> &'static str {
        self.proxy.as_ref().map_or("127.0.0.1", |proxy| proxy.host)
    }

    /// Whether a connection serves more than one request for an http URL. Tinyproxy's serves one.
    pub fn keeps_alive(&self) -> bool {
        self.proxy.as_ref().is_none_or(|proxy| proxy.ca_pem.is_some())
    }

    /// What stands before the path of a request that is sent there.
    pub fn prefix(&self, port: u16) -> String {
        self.proxy.as_ref().map_or(String::new(), |proxy| format!("http://{}:{port}", proxy.host))
    }

    /// Trust in whoever inspects TLS on this way; the origin itself where nobody is between. `None`: it cannot.
    pub fn inspecting_roots(&self, origin: &Origin) -> Option<RootCertStore> {
        match &self.proxy {
            None => Some(origin.roots()),
            Some(proxy) => proxy.ca_pem.as_ref().map(|pem| roots(pem.as_bytes())),
        }
    }

    /// What the proxy has used of processors so far (proc(5), stat, fields 14 and 15).
    pub fn processor_time(&self) -> Option<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.proxy.as_ref()?.child.id())).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        let ticks: u64 = fields[11].parse::<u64>().ok()? + fields[12].parse::<u64>().ok()?;
        Some(Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second()))
    }
}

/// All that are there, and how to get those that are not.
pub fn peers(origin: &Origin) -> (Vec<Peer>, Vec<&'static str>) {
    let ours = Peer { name: "clawkeep", proxy: Some(ours(origin)) };
    let mut present = vec![Peer { name: "no proxy", proxy: None }, ours];
    match tinyproxy() {
        Some(proxy) => present.push(Peer { name: "tinyproxy", proxy: Some(proxy) }),
        None => return (present, vec!["tinyproxy (apt-get install tinyproxy-bin)"]),
    }
    (present, Vec::new())
}

fn ours(origin: &Origin) -> Running {
    let Origin { plain, tls, raw, inspected, .. } = origin;
    let policy = format!(
        "version: 1\nnetwork_policies:\n  bench:\n    endpoints:\n      - {{host: {HOST}, ports: [{plain}, {tls}, {raw}]}}\n      \
         - {{host: {HOST}, port: {inspected}, protocol: rest, rules: [{{allow: {{method: GET, path: /hello}}}}]}}\n    \
         binaries: [{{path: /**}}]\n"
    );
    let mut child = Command::new(std::env::current_exe().unwrap())
        .env(SERVE, policy)
        .env("SSL_CERT_FILE", &origin.pem)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut address = String::new();
    output.read_line(&mut address).unwrap();
    let mut ca_pem = String::new();
    while !ca_pem.trim_end().ends_with("-----END CERTIFICATE-----") {
        assert!(output.read_line(&mut ca_pem).unwrap() > 0, "the proxy has ended");
    }
    Running { address: address.trim().parse().unwrap(), ca_pem: Some(ca_pem), host: HOST, child }
}

/// Be the proxy, if this process was started as that. As in the daemon, two threads serve.
pub fn serve_if_told() -> bool {
    let Ok(policy) = std::env::var(SERVE) else { return false };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let authority = Authority::generate().unwrap();
        let matcher = Matcher::new(&Policy::read(&policy).unwrap().policy);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        println!("{}\n{}", listener.local_addr().unwrap(), authority.cert_pem().trim_end());
        let (sender, mut events) = tokio::sync::mpsc::channel(64);
        tokio::spawn(async move { while events.recv().await.is_some() {} });
        let (inference, policy) = (LiveService::new(Service::canary()), LivePolicy::new(matcher));
        let limits = Limits { connections: 1024, ..Limits::default() };
        let proxy = Proxy::new(&authority, inference, policy, Arc::new(NoCallers), sender).unwrap();
        // Ends with its parent, whatever becomes of that.
        let orphaned = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
        let shutdown = async {
            let _ = orphaned.await;
        };
        proxy.with_limits(limits).serve(listener, shutdown).await;
    });
    true
}

fn tinyproxy() -> Option<Running> {
    let reserved = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = reserved.local_addr().unwrap();
    drop(reserved);
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("tinyproxy.conf");
    let text = format!(
        "Port {}\nListen 127.0.0.1\nTimeout 600\nMaxClients 1024\nLogLevel Critical\n",
        address.port()
    );
    std::fs::write(&config, text).unwrap();
    let child = Command::new("tinyproxy")
        .args(["-d", "-c"])
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let running = Running { address, ca_pem: None, host: "127.0.0.1", child };
    let listens = || std::net::TcpStream::connect(address).ok();
    testkit::wait_until(Duration::from_secs(20), "tinyproxy to listen", listens);
    Some(running)
}
