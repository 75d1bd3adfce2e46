//! The same port with TLS.
use super::harness::*;
use dfs_engine::wire::{Limits, Pem, acceptor};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio_rustls::{TlsAcceptor, TlsConnector};

macro_rules! pem {
    ($name:literal) => {
        include_bytes!(concat!("../../../../tests/tls/", $name))
    };
}

const CA: &[u8] = pem!("ca.pem");
const NODE: &[u8] = pem!("node.pem");
const NODE_KEY: &[u8] = pem!("node.key");

fn takes(client_authorities: &[u8]) -> TlsAcceptor {
    acceptor(&Pem {
        certificates: NODE,
        key: NODE_KEY,
        client_authorities,
    })
    .unwrap()
}

fn server(client_authorities: &[u8], limits: Limits) -> Server {
    Server::with_tls(limits, None, Some(takes(client_authorities)))
}

struct Caller {
    versions: Vec<&'static SupportedProtocolVersion>,
    protocols: Vec<&'static str>,
    certificate: Option<(&'static [u8], &'static [u8])>,
}

impl Default for Caller {
    fn default() -> Caller {
        Caller {
            versions: vec![&TLS13],
            protocols: vec!["h2"],
            certificate: None,
        }
    }
}

impl Caller {
    async fn connect(&self, server: &Server) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(CA).unwrap())
            .unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&self.versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match self.certificate {
            None => config.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = vec![CertificateDer::from_pem_slice(certificate).unwrap()];
                let key = PrivateKeyDer::from_pem_slice(key).unwrap();
                config.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.alpn_protocols = self
            .protocols
            .iter()
            .map(|p| p.as_bytes().to_vec())
            .collect();
        let socket = TcpStream::connect(server.address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        within(TlsConnector::from(Arc::new(config)).connect(name, socket)).await
    }

    async fn echo(&self, server: &Server) -> bool {
        let Ok(socket) = self.connect(server).await else {
            return false;
        };
        let Some(mut client) = Client::over(socket, &builder()).await else {
            return false;
        };
        let Ok(ready) = within(client.requests.clone().ready()).await else {
            return false;
        };
        client.requests = ready;
        let response = client.begin(post("/t.S/Echo"), message(b"x")).await;
        match within(response).await {
            Ok(response) => read_body(response).await.good() == "x",
            Err(_) => false, // refused after the handshake, as TLS 1.3 does
        }
    }
}

#[tokio::test]
async fn calls_of_any_size_pass_in_both_versions() {
    let server = server(b"", Limits::default());
    for version in [&TLS12, &TLS13] {
        let caller = Caller {
            versions: vec![version],
            ..Caller::default()
        };
        let socket = caller.connect(&server).await.unwrap();
        let (_, session) = socket.get_ref();
        assert_eq!(session.alpn_protocol(), Some(&b"h2"[..]));
        assert_eq!(session.protocol_version(), Some(version.version));
        let mut client = Client::over(socket, &builder()).await.unwrap();
        let large = vec![7; 3 << 20];
        for size in [0, 1, 16_384, 3 << 20] {
            assert_eq!(client.echo(&large[..size]).await, large[..size]);
        }
    }
}

#[tokio::test]
async fn only_http2_is_agreed_on() {
    let server = server(b"", Limits::default());
    let http1 = Caller {
        protocols: vec!["http/1.1"],
        ..Caller::default()
    };
    assert!(http1.connect(&server).await.is_err());
    let silent = Caller {
        protocols: vec![],
        ..Caller::default()
    };
    assert!(silent.echo(&server).await, "HTTP/2 with prior knowledge");
}

#[tokio::test]
async fn callers_need_a_certificate_where_an_authority_is_named() {
    let server = server(CA, Limits::default());
    let with = |certificate| Caller {
        certificate,
        ..Caller::default()
    };
    let known: (&[u8], &[u8]) = (pem!("client.pem"), pem!("client.key"));
    let unknown: (&[u8], &[u8]) = (pem!("stranger.pem"), pem!("stranger.key"));
    assert!(with(Some(known)).echo(&server).await);
    assert!(!with(Some(unknown)).echo(&server).await);
    assert!(!with(None).echo(&server).await);
    eventually("they are gone", || server.wire.counters().connections == 0).await;
}

#[tokio::test]
async fn a_caller_without_tls_is_told_and_closed() {
    let server = server(b"", Limits::default());
    let mut plain = Client::connect(server.address).await;
    let answer = plain.call(post("/t.S/Echo"), message(b"x")).await;
    assert_eq!(answer.message(), "needs_tls");
    within(plain.driver).await.unwrap().unwrap();

    let mut browser = TcpStream::connect(server.address).await.unwrap();
    browser.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    within(browser.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(answer.contains("with TLS"), "{answer}");
    assert!(Caller::default().echo(&server).await, "others are served");
}

#[tokio::test]
async fn a_caller_with_tls_is_closed_where_there_is_none() {
    let server = Server::start();
    let start = Instant::now();
    assert!(Caller::default().connect(&server).await.is_err());
    assert!(start.elapsed() < Limits::default().handshake);
    assert_eq!(Client::connect(server.address).await.echo(b"x").await, "x");
}

#[tokio::test]
async fn half_a_handshake_is_closed_in_time_and_a_wrong_one_at_once() {
    let limits = Limits {
        handshake: Duration::from_millis(150),
        ..Limits::default()
    };
    let server = server(b"", limits);
    let hello = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    let nonsense = [&[0x16, 3, 1, 0, 5], &b"hello"[..]].concat();
    for (bytes, waits) in [(&hello[..1], true), (&hello, true), (&nonsense, false)] {
        let start = Instant::now();
        let mut socket = TcpStream::connect(server.address).await.unwrap();
        socket.write_all(bytes).await.unwrap();
        let mut rest = Vec::new();
        let _ = within(socket.read_to_end(&mut rest)).await; // an alert, or a reset
        assert_eq!(
            start.elapsed() >= Duration::from_millis(150),
            waits,
            "{bytes:?}"
        );
    }
    eventually("they are gone", || server.wire.counters().connections == 0).await;
    assert!(Caller::default().echo(&server).await);
}

#[test]
fn what_does_not_fit_is_named() {
    let try_with = |certificates, key, client_authorities| {
        let pem = Pem {
            certificates,
            key,
            client_authorities,
        };
        acceptor(&pem).err().unwrap().to_string()
    };
    for (text, begin) in [
        (try_with(b"", NODE_KEY, b""), "the TLS certificate is not"),
        (
            try_with(NODE, NODE, b""),
            "the TLS key is not a private key in PEM",
        ),
        (
            try_with(NODE, pem!("client.key"), b""),
            "the TLS certificate is not one that fits the key",
        ),
        (
            try_with(NODE, NODE_KEY, b"?"),
            "the TLS client authority is not",
        ),
    ] {
        assert!(text.starts_with(begin), "{text}");
    }
}
