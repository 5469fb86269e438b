use std::fmt;
use std::sync::Arc;

use clawkeep_inference::{HOST, Secret};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

use crate::leaves::{Leaves, server_config};

/// A sandbox's own certificate authority. Only that sandbox trusts it, and its key never enters. Durable:
/// store [`Authority::cert_pem`] and [`Authority::key_pem`] and load them again after a restart, since
/// processes inside read their trust only once.
pub struct Authority {
    cert_pem: String,
    cert: CertificateDer<'static>,
    key_pem: Secret,
    leaves: Arc<Leaves>,
}

/// Why there is no certificate authority.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A key or certificate could not be made.
    #[error("the sandbox's certificate authority cannot be made: {0}")]
    Make(String),
    /// The stored certificate or key cannot be read.
    #[error("the sandbox's stored certificate authority cannot be read: {0}")]
    Read(&'static str),
    /// The stored certificate and key do not belong together.
    #[error("the sandbox's stored certificate and key do not belong together")]
    Mismatch,
}

impl Authority {
    /// A new authority with a new key (ECDSA P-256).
    ///
    /// # Errors
    /// [`AuthorityError::Make`], when the system gives no randomness.
    pub fn generate() -> Result<Self, AuthorityError> {
        let key = KeyPair::generate().map_err(made)?;
        let key_pem = Secret::new(key.serialize_pem());
        let cert = ca_params().self_signed(&key).map_err(made)?;
        let leaves = Arc::new(Leaves::new(Issuer::new(ca_params(), key), cert.der().clone())?);
        Ok(Self { cert_pem: cert.pem(), cert: cert.der().clone(), key_pem, leaves })
    }

    /// The authority that was stored, proven to work: a leaf that the key signs must be valid under the
    /// certificate.
    ///
    /// # Errors
    /// [`AuthorityError::Read`] or [`AuthorityError::Mismatch`].
    pub fn load(cert_pem: &str, key_pem: &Secret) -> Result<Self, AuthorityError> {
        let cert = CertificateDer::from_pem_slice(cert_pem.as_bytes())
            .map_err(|_| AuthorityError::Read("no certificate in its PEM"))?;
        let key = KeyPair::from_pem(key_pem.expose())
            .map_err(|_| AuthorityError::Read("no usable key in its PEM"))?;
        let leaves = Arc::new(Leaves::new(Issuer::new(ca_params(), key), cert.clone())?);
        let authority = Self { cert_pem: cert_pem.to_owned(), cert, key_pem: key_pem.clone(), leaves };
        let leaf = authority.leaves.leaf(HOST)?;
        authority.verify(&leaf.cert[0], &ServerName::try_from(HOST).map_err(made)?)?;
        Ok(authority)
    }

    /// Its certificate, PEM (RFC 7468). Not secret.
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// Its private key, PKCS#8 in PEM. Store it where no sandbox reaches, mode 0600.
    pub fn key_pem(&self) -> &Secret {
        &self.key_pem
    }

    /// The CA bundle for inside: the host's roots, then this authority's certificate.
    pub fn bundle(&self, host_roots_pem: &str) -> String {
        let mut bundle = String::with_capacity(host_roots_pem.len() + self.cert_pem.len() + 64);
        bundle.push_str(host_roots_pem.trim_end());
        if !bundle.is_empty() {
            bundle.push('\n');
        }
        bundle.push_str("# Clawkeep sandbox CA\n");
        bundle.push_str(self.cert_pem.trim_end());
        bundle.push('\n');
        bundle
    }

    /// Certificates for hosts, signed by this authority.
    pub(crate) fn leaves(&self) -> &Arc<Leaves> {
        &self.leaves
    }

    /// TLS for `inference.local`: HTTP/1.1 only.
    pub(crate) fn inference_config(&self) -> Result<rustls::ServerConfig, AuthorityError> {
        server_config(self.leaves.leaf(HOST)?, &[b"http/1.1"])
    }

    pub(crate) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        name: &ServerName<'_>,
    ) -> Result<(), AuthorityError> {
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(self.cert.clone())
            .map_err(|_| AuthorityError::Read("its certificate is no certificate authority's"))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(made)?;
        rustls::client::danger::ServerCertVerifier::verify_server_cert(
            verifier.as_ref(),
            leaf,
            &[],
            name,
            &[],
            UnixTime::now(),
        )
        .map(|_| ())
        .map_err(|_| AuthorityError::Mismatch)
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authority")
    }
}

pub(crate) fn made(error: impl fmt::Display) -> AuthorityError {
    AuthorityError::Make(error.to_string())
}

pub(crate) fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

/// The same for every authority, so that a stored key alone rebuilds its issuer; key identifiers tell them
/// apart. The dates are wide because a wrong clock must not cut an agent off from its model, and end before
/// 2050, where the encoding of dates changes and old readers fail.
fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named("Clawkeep sandbox CA");
    (params.not_before, params.not_after) = (date_time_ymd(2000, 1, 1), date_time_ymd(2049, 12, 31));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_loads_again_and_foreign_parts_do_not() {
        let (one, two) = (Authority::generate().unwrap(), Authority::generate().unwrap());
        let again = Authority::load(one.cert_pem(), one.key_pem()).unwrap();
        assert_eq!(again.cert_pem(), one.cert_pem());
        assert!(matches!(Authority::load(one.cert_pem(), two.key_pem()), Err(AuthorityError::Mismatch)));
        assert!(matches!(Authority::load("", one.key_pem()), Err(AuthorityError::Read(_))));
        let no_key = Secret::new(String::new());
        assert!(matches!(Authority::load(one.cert_pem(), &no_key), Err(AuthorityError::Read(_))));
    }

    #[test]
    fn shows_no_key_and_bundles_both() {
        let authority = Authority::generate().unwrap();
        assert!(!format!("{authority:?} {:?}", authority.key_pem()).contains("PRIVATE"));
        let bundle = authority.bundle("HOST ROOTS\n\n");
        assert!(bundle.starts_with("HOST ROOTS\n#") && bundle.contains(authority.cert_pem().trim_end()));
        assert!(!bundle.contains("PRIVATE"));
    }
}
