//! TLS of the public port: 1.2 and 1.3, HTTP/2 only, with or without certificates of callers.
use std::io;
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

/// What the port shows and asks for, as the text of PEM files.
pub struct Pem<'a> {
    /// The certificate of this node first, then those between it and its authority.
    pub certificates: &'a [u8],
    pub key: &'a [u8],
    /// Callers must have a certificate of one of these authorities; empty = they need none.
    pub client_authorities: &'a [u8],
}

/// What takes TLS connections. An error says which of the three is wrong, and how.
pub fn acceptor(pem: &Pem<'_>) -> io::Result<TlsAcceptor> {
    let provider = Arc::new(default_provider());
    let verifier = client_verifier(pem.client_authorities)?;
    let key = PrivateKeyDer::from_pem_slice(pem.key)
        .map_err(|e| wrong("key", "a private key in PEM", e))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|e| wrong("provider", "one for TLS 1.2 and 1.3", e))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates("certificate", pem.certificates)?, key)
        .map_err(|e| wrong("certificate", "one that fits the key", e))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn client_verifier(authorities: &[u8]) -> io::Result<Arc<dyn ClientCertVerifier>> {
    if authorities.is_empty() {
        return Ok(WebPkiClientVerifier::no_client_auth());
    }
    let mut roots = RootCertStore::empty();
    for authority in certificates("client authority", authorities)? {
        roots
            .add(authority)
            .map_err(|e| wrong("client authority", "a certificate of one", e))?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(default_provider()))
        .build()
        .map_err(|e| wrong("client authority", "a certificate of one", e))
}

fn certificates(what: &str, pem: &[u8]) -> io::Result<Vec<CertificateDer<'static>>> {
    const EXPECTED: &str = "certificates in PEM";
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|e| wrong(what, EXPECTED, e))?;
    if found.is_empty() {
        return Err(wrong(what, EXPECTED, "there is none"));
    }
    Ok(found)
}

fn wrong(what: &str, expected: &str, why: impl std::fmt::Display) -> io::Error {
    let text = format!("the TLS {what} is not {expected}: {why}");
    io::Error::new(io::ErrorKind::InvalidInput, text)
}
