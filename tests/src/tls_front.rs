//! What stands in front of a daemon that is reached by https: it ends TLS, and knows the daemon below one path.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tempfile::TempDir;

/// The longest that a client may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// What is answered beside the path of the daemon.
const NOT_HERE: &str = "HTTP/1.1 404 Not Found\r\ncontent-type: text/html\r\ncontent-length: 9\r\n\r\n<p>No</p>";

/// A server with a certificate of its own for `localhost`. Its threads end with the test's process.
#[derive(Debug)]
pub struct TlsFront {
    address: SocketAddr,
    folder: TempDir,
}

impl TlsFront {
    /// Gives on what is asked below `base` to `upstream`, a `host:port`.
    pub fn start(upstream: String, base: &'static str) -> Self {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let key = PrivatePkcs8KeyDer::from(signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the versions of this library")
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key.into())
            .expect("the certificate fits its key");
        let folder = tempfile::tempdir().expect("a folder for temporary files");
        let made = Self::listen(Arc::new(config), folder, upstream, base);
        std::fs::write(made.certificate(), cert.pem()).expect("the folder is new");
        made
    }

    fn listen(config: Arc<ServerConfig>, folder: TempDir, upstream: String, base: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("the listener is bound");
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (config, upstream) = (Arc::clone(&config), upstream.clone());
                // A client that goes away, or does not trust us, is no fault of the test's.
                thread::spawn(move || serve(stream, config, &upstream, base));
            }
        });
        Self { address, folder }
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The file with its certificate, for who is to trust it.
    pub fn certificate(&self) -> PathBuf {
        certificate_in(self.folder.path())
    }
}

fn certificate_in(folder: &Path) -> PathBuf {
    folder.join("front.pem")
}

/// One request and its answer, as it comes: a stream has no end.
fn serve(stream: TcpStream, config: Arc<ServerConfig>, upstream: &str, base: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    let session = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut client = StreamOwned::new(session, stream);
    let request = read_request(&mut client)?;
    match below(&request, base) {
        Some(request) => {
            let mut daemon = TcpStream::connect(upstream)?;
            daemon.write_all(&request)?;
            let mut piece = [0; 16 * 1024];
            while let length @ 1.. = daemon.read(&mut piece)? {
                client.write_all(&piece[..length])?;
                client.flush()?;
            }
        }
        None => client.write_all(NOT_HERE.as_bytes())?,
    }
    client.conn.send_close_notify();
    client.flush()
}

fn read_request(client: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut request = Vec::new();
    let mut piece = [0; 16 * 1024];
    loop {
        if let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n")
            && request.len() >= end + 4 + body_length(&request[..end])
        {
            return Ok(request);
        }
        match client.read(&mut piece)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            length => request.extend_from_slice(&piece[..length]),
        }
    }
}

fn body_length(head: &[u8]) -> usize {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    length.unwrap_or_default()
}

/// The request as the daemon is to see it; `None` where its path is not below `base`.
fn below(request: &[u8], base: &str) -> Option<Vec<u8>> {
    let method_end = request.iter().position(|&byte| byte == b' ')?;
    let (method, target) = request.split_at(method_end + 1);
    let target = target.strip_prefix(base.as_bytes())?;
    target.starts_with(b"/").then(|| [method, target].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_below_the_path_is_given_on() {
        let below =
            |request: &str| below(request.as_bytes(), "/keep").map(|bytes| String::from_utf8(bytes).expect("text"));
        assert_eq!(below("GET /keep/livez HTTP/1.1\r\n"), Some("GET /livez HTTP/1.1\r\n".to_owned()));
        assert_eq!(below("GET /keeper HTTP/1.1\r\n"), None);
        assert_eq!(below("GET /livez HTTP/1.1\r\n"), None);
    }
}
