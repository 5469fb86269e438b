use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, date_time_ymd};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::ServerSessionMemoryCache;
use rustls::sign::{CertifiedKey, SigningKey, SingleCertAndKey};

use crate::authority::{AuthorityError, made, named};

/// Hosts whose TLS is kept ready.
const MAX_KEPT: usize = 256;

/// TLS sessions of each certificate that can be taken up again.
const SESSIONS: usize = 16;

/// The longest common name of a certificate (RFC 5280, ub-common-name).
const MAX_COMMON_NAME: usize = 64;

/// Makes certificates for hosts, each signed by the sandbox's authority, and keeps those that were used last.
pub(crate) struct Leaves {
    issuer: Issuer<'static, KeyPair>,
    ca: CertificateDer<'static>,
    /// One for all leaves: whoever had one of them would have the process that holds the authority's own.
    key: KeyPair,
    signing: Arc<dyn SigningKey>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    configs: HashMap<(String, bool), (Arc<ServerConfig>, u64)>,
    uses: u64,
}

impl Leaves {
    pub(crate) fn new(
        issuer: Issuer<'static, KeyPair>,
        ca: CertificateDer<'static>,
    ) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate().map_err(made)?;
        let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let signing = rustls::crypto::ring::sign::any_ecdsa_type(&der).map_err(made)?;
        Ok(Self { issuer, ca, key, signing, kept: Mutex::default() })
    }

    /// A certificate for this host name or address (without brackets), and the CA's own after it: some clients
    /// show that one, none needs it.
    pub(crate) fn leaf(&self, host: &str) -> Result<CertifiedKey, AuthorityError> {
        let mut params = CertificateParams::new(vec![host.to_owned()]).map_err(made)?;
        params.distinguished_name =
            named(if host.len() <= MAX_COMMON_NAME { host } else { "Clawkeep sandbox leaf" });
        (params.not_before, params.not_after) = (date_time_ymd(2000, 1, 1), date_time_ymd(2049, 12, 31));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let cert = params.signed_by(&self.key, &self.issuer).map_err(made)?;
        Ok(CertifiedKey::new(vec![cert.der().clone(), self.ca.clone()], self.signing.clone()))
    }

    /// TLS as this host, which speaks HTTP/2 first or only where the client speaks nothing else.
    pub(crate) fn server_config(&self, host: &str, http2: bool) -> Result<Arc<ServerConfig>, AuthorityError> {
        let key = (host.to_owned(), http2);
        if let Some(config) = self.kept().take(&key) {
            return Ok(config);
        }
        let protocols: [&[u8]; 2] = if http2 { [b"h2", b"http/1.1"] } else { [b"http/1.1", b"h2"] };
        let config = Arc::new(server_config(self.leaf(host)?, &protocols)?);
        self.kept().put(key, config.clone());
        Ok(config)
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn take(&mut self, key: &(String, bool)) -> Option<Arc<ServerConfig>> {
        self.uses += 1;
        let (config, used) = self.configs.get_mut(key)?;
        *used = self.uses;
        Some(config.clone())
    }

    fn put(&mut self, key: (String, bool), config: Arc<ServerConfig>) {
        if self.configs.len() >= MAX_KEPT
            && let Some(oldest) =
                self.configs.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| key.clone())
        {
            self.configs.remove(&oldest);
        }
        self.configs.insert(key, (config, self.uses));
    }
}

/// TLS 1.2 and 1.3 as a server with this certificate for every name.
pub(crate) fn server_config(leaf: CertifiedKey, protocols: &[&[u8]]) -> Result<ServerConfig, AuthorityError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(made)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(leaf)));
    // By default room for 256 is set aside, 25 KB, for every sandbox and host.
    config.session_storage = ServerSessionMemoryCache::new(SESSIONS);
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(config)
}

#[cfg(test)]
mod tests {
    use crate::Authority;

    #[test]
    fn what_is_kept_is_bounded_and_the_oldest_goes() {
        let authority = Authority::generate().unwrap();
        let leaves = authority.leaves();
        let first = leaves.server_config("first.example", false).unwrap();
        let second = leaves.server_config("second.example", false).unwrap();
        for index in 0..super::MAX_KEPT - 1 {
            leaves.server_config(&format!("{index}.example"), false).unwrap();
            assert!(std::sync::Arc::ptr_eq(&first, &leaves.server_config("first.example", false).unwrap()));
        }
        assert_eq!(leaves.kept().configs.len(), super::MAX_KEPT);
        assert!(!std::sync::Arc::ptr_eq(&second, &leaves.server_config("second.example", false).unwrap()));
    }

    #[test]
    fn hosts_of_every_kind_get_one() {
        let authority = Authority::generate().unwrap();
        for host in ["a_b.example", "192.0.2.7", "2001:db8::7", &format!("{}example", "a.".repeat(120))] {
            let leaf = authority.leaves().leaf(host).unwrap();
            let name = rustls::pki_types::ServerName::try_from(host).unwrap();
            authority.verify(&leaf.cert[0], &name).unwrap();
        }
    }
}
