//! A smart HTTP server of git: `git http-backend` behind a few lines of HTTP that want a token.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};

/// The longest time that a request may take to arrive.
const REQUEST_WITHIN: Duration = Duration::from_secs(30);

/// How a server wants the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// As RFC 6750 says.
    Bearer,
    /// As a password, as GitHub, GitLab and Bitbucket do.
    Basic,
}

/// A running server. Its threads end with the test's process.
#[derive(Debug, Clone, Copy)]
pub struct GitServer {
    address: SocketAddr,
}

/// What a server decides by.
struct Served {
    folder: PathBuf,
    scheme: Scheme,
    is_good: Box<dyn Fn(&str) -> bool + Send + Sync>,
}

impl GitServer {
    /// Serves the repositories in `folder` to whoever has a token that `is_good`.
    pub fn start(folder: &Path, scheme: Scheme, is_good: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let served = Arc::new(Served { folder: folder.to_owned(), scheme, is_good: Box::new(is_good) });
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let served = Arc::clone(&served);
                std::thread::spawn(move || served.answer(&stream));
            }
        });
        Self { address }
    }

    /// `host:port`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// The address of a repository.
    pub fn url(&self, repository: &str) -> String {
        format!("http://{}/{repository}", self.address)
    }
}

/// A request's head and body.
struct Asked {
    method: String,
    path: String,
    query: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Served {
    fn answer(&self, stream: &TcpStream) {
        let Some(asked) = read(stream) else { return };
        let token = asked.headers.get("authorization").and_then(|value| self.token(value));
        let answer = if token.is_some_and(|token| (self.is_good)(&token)) {
            self.run_backend(&asked)
        } else {
            let challenge = match self.scheme {
                Scheme::Bearer => "Bearer realm=\"git\"",
                Scheme::Basic => "Basic realm=\"git\"",
            };
            format!("Status: 401 Unauthorized\r\nWWW-Authenticate: {challenge}\r\n\r\n").into_bytes()
        };
        // A client that left needs no answer.
        let _ = write(stream, &answer);
    }

    fn token(&self, authorization: &str) -> Option<String> {
        let (scheme, value) = authorization.split_once(' ')?;
        match self.scheme {
            Scheme::Bearer => scheme.eq_ignore_ascii_case("bearer").then(|| value.to_owned()),
            Scheme::Basic => {
                let pair = String::from_utf8(BASE64_STANDARD.decode(value).ok()?).ok()?;
                pair.strip_prefix("oauth2:").map(str::to_owned)
            }
        }
    }

    /// Runs git's own program by CGI (RFC 3875).
    fn run_backend(&self, asked: &Asked) -> Vec<u8> {
        let header = |name: &str| asked.headers.get(name).map_or("", String::as_str);
        let mut backend = Command::new("git")
            .arg("http-backend")
            .env("GIT_PROJECT_ROOT", &self.folder)
            .env("GIT_HTTP_EXPORT_ALL", "1")
            .env("GIT_PROTOCOL", header("git-protocol"))
            .env("REQUEST_METHOD", &asked.method)
            .env("PATH_INFO", &asked.path)
            .env("QUERY_STRING", &asked.query)
            .env("CONTENT_TYPE", header("content-type"))
            .env("CONTENT_LENGTH", asked.body.len().to_string())
            .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("git is installed");
        // It may answer before it has read everything.
        let _ = backend.stdin.take().map(|mut input| input.write_all(&asked.body));
        backend.wait_with_output().expect("git ends").stdout
    }
}

fn read(stream: &TcpStream) -> Option<Asked> {
    stream.set_read_timeout(Some(REQUEST_WITHIN)).ok()?;
    let mut lines = BufReader::new(stream);
    let mut line = || {
        let mut line = String::new();
        lines.read_line(&mut line).ok().map(|_| line.trim_end().to_owned())
    };
    let first = line()?;
    let mut words = first.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut headers = BTreeMap::new();
    while let Some((name, value)) = line()?.split_once(':') {
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").map_or(Some(0), |text| text.parse().ok())?;
    let mut body = vec![0; length];
    lines.read_exact(&mut body).ok()?;
    Some(Asked { method, path: path.to_owned(), query: query.to_owned(), headers, body })
}

/// A CGI answer as HTTP.
fn write(mut stream: &TcpStream, answer: &[u8]) -> std::io::Result<()> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(0);
    let head = String::from_utf8_lossy(&answer[..end]);
    let status = head.lines().find_map(|line| line.strip_prefix("Status: ")).unwrap_or("200 OK");
    write!(stream, "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n", answer.len() - end - 4)?;
    stream.write_all(&answer[..end])?;
    stream.write_all(&answer[end..])
}
