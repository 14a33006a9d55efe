//! A client of an API server that needs no credentials and checks none: is anybody there, and is it ready?
//!
//! `/readyz` is open to anybody. kubectl would hide what is looked at here: it retries, and it takes 50 ms to start.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};

/// How long an answer may take. On a bridge it takes milliseconds, or somebody is waiting for nothing.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// What every connection needs.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    tls: Arc<ClientConfig>,
}

/// A connection that stays.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: StreamOwned<ClientConnection, TcpStream>,
}

impl Client {
    /// A client that takes every certificate.
    pub(crate) fn new() -> Result<Self> {
        let provider = Arc::new(ring::default_provider());
        let versions =
            ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        let anyone = Arc::new(Anyone(provider));
        let tls = versions?.dangerous().with_custom_certificate_verifier(anyone).with_no_client_auth();
        Ok(Self { tls: Arc::new(tls) })
    }

    /// A new connection.
    pub(crate) fn connect(&self, to: SocketAddr) -> Result<Connection> {
        let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let session = ClientConnection::new(self.tls.clone(), ServerName::from(to.ip()))?;
        Ok(Connection { stream: StreamOwned::new(session, stream) })
    }

    /// The status of the answer to `GET PATH` on a connection of its own.
    pub(crate) fn get(&self, to: SocketAddr, path: &str) -> Result<u16> {
        self.connect(to)?.get(path)
    }
}

impl Connection {
    /// Whether the server has closed it. Who keeps a connection looks before using it again, as HTTP libraries do.
    pub(crate) fn is_closed(&mut self) -> Result<bool> {
        let StreamOwned { conn, sock } = &mut self.stream;
        sock.set_nonblocking(true)?;
        let read = conn.read_tls(sock);
        sock.set_nonblocking(false)?;
        match read {
            Ok(0) => Ok(true),
            Ok(_) => Ok(conn.process_new_packets()?.peer_has_closed()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(_) => Ok(true),
        }
    }

    /// The status of the answer to `GET PATH`; the connection can be used again after that.
    pub(crate) fn get(&mut self, path: &str) -> Result<u16> {
        write!(self.stream, "GET {path} HTTP/1.1\r\nHost: e2e\r\nUser-Agent: e2e\r\n\r\n")?;
        self.stream.flush()?;
        let mut answer = Vec::new();
        loop {
            let mut part = [0; 4096];
            let read = self.stream.read(&mut part)?;
            ensure!(read > 0, "the connection was closed");
            answer.extend_from_slice(&part[..read]);
            if let Some(status) = complete(&answer) {
                return status;
            }
        }
    }
}

/// The status, once the whole answer is there. kube-apiserver gives the length of what it says about its health.
fn complete(answer: &[u8]) -> Option<Result<u16>> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let (Some(status), Some(length)) = (status, length) else {
        return Some(Err(anyhow::anyhow!("an answer without status or length: {head}")));
    };
    (body.len() >= length).then_some(Ok(status))
}

/// Takes every certificate: what is asked here is whether somebody answers.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// An address of the test bed.
pub(crate) fn socket(address: &str, port: u16) -> Result<SocketAddr> {
    format!("{address}:{port}").parse().with_context(|| format!("{address}:{port} is no address"))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_connection_that_the_server_closed_is_seen_before_it_is_used_again() {
        let server = TcpListener::bind("127.0.0.1:0").expect("a port");
        let to = server.local_addr().expect("bound");
        let mut connection = Client::new().expect("a client").connect(to).expect("it listens");
        let (accepted, _) = server.accept().expect("a connection");
        assert!(!connection.is_closed().expect("looked at"));
        drop(accepted);
        assert!(connection.is_closed().expect("looked at"));
    }

    #[test]
    fn an_answer_is_complete_with_its_last_byte() {
        let answer = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 3\r\n\r\nno\n";
        for end in 0..answer.len() {
            assert!(complete(&answer[..end]).is_none(), "{end} bytes are not all of it");
        }
        assert_eq!(complete(answer).expect("all of it").expect("well formed"), 500);
        assert!(complete(b"HTTP/1.1 200 OK\r\n\r\n").expect("a whole head").is_err(), "without a length");
    }
}
