//! What is behind the proxy: small answers and one large one, from threads of this process's child.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, pem::PemObject as _};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};

/// The name by which a policy reaches this host.
pub const HOST: &str = "host.openshell.internal";

/// Bytes of the large answer.
pub const BULK: usize = 512 << 20;

/// Ports of the origin, and its certificate.
pub struct Origin {
    pub plain: u16,
    pub tls: u16,
    pub inspected: u16,
    pub raw: u16,
    pub pem: PathBuf,
    _dir: tempfile::TempDir,
}

impl Origin {
    pub fn start() -> Self {
        let made = rcgen::generate_simple_self_signed(vec![HOST.to_owned()]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let pem = dir.path().join("origin.pem");
        std::fs::write(&pem, made.cert.pem()).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let config = Arc::new(config);
        let over_tls = move |stream| {
            let tls = ServerConnection::new(config.clone()).unwrap();
            answer(StreamOwned::new(tls, stream));
        };
        Self {
            plain: listen(answer),
            tls: listen(over_tls.clone()),
            inspected: listen(over_tls),
            raw: listen(pour),
            pem,
            _dir: dir,
        }
    }

    /// Trust in the origin's own certificate.
    pub fn roots(&self) -> RootCertStore {
        roots(&std::fs::read(&self.pem).unwrap())
    }

    /// TLS towards the origin, or whoever stands for it.
    pub fn client(&self, roots: RootCertStore) -> ClientConnection {
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        ClientConnection::new(Arc::new(config), ServerName::try_from(HOST).unwrap()).unwrap()
    }
}

pub fn roots(pem: &[u8]) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pem).unwrap()).unwrap();
    roots
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn listen(serve: impl Fn(TcpStream) + Clone + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let serve = serve.clone();
            let _ = stream.set_nodelay(true);
            std::thread::spawn(move || serve(stream));
        }
    });
    port
}

/// `hello` to every request, until the client closes or asks to.
fn answer(mut stream: impl Read + Write) {
    let (mut head, mut block) = (Vec::new(), [0; 4096]);
    while let Ok(bytes @ 1..) = stream.read(&mut block) {
        head.extend_from_slice(&block[..bytes]);
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        let closes = String::from_utf8_lossy(&head).to_ascii_lowercase().contains("connection: close");
        let connection = if closes { "Connection: close\r\n" } else { "" };
        let text = format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n{connection}\r\nhello");
        if stream.write_all(text.as_bytes()).is_err() || closes {
            return;
        }
        head.clear();
    }
}

/// After one byte, the large answer.
fn pour(mut stream: TcpStream) {
    let block = vec![0; 1 << 20];
    if stream.read_exact(&mut [0]).is_ok() {
        for _ in 0..BULK / block.len() {
            if stream.write_all(&block).is_err() {
                return;
            }
        }
    }
}
