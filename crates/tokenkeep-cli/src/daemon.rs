//! The engine with its API around it: what `serve` and `demo` run.

use crate::api::oauth::SignIns;
use crate::api::stream::Streams;
use crate::api::{self, Api};
use crate::config::live::Live;
use crate::error::CliError;
use crate::notify;
use crate::server::{self, OwnerSocket};
use crate::state_dir;
use crate::tls::Tls;
use std::fs;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokenkeep::{Config, TokenKeep};
use tokio::net::{TcpListener, TcpSocket, UnixListener};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use url::Url;

/// How many connections may wait to be accepted; the system may allow fewer. One that finds no room is tried again after a
/// second.
const QUEUE_MAX: u32 = 4_096;
/// How long an engine that cannot go on may take to close.
const CLOSE_MAX: Duration = Duration::from_secs(10);

/// Where the daemon listens on TCP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Listen {
    /// Somebody chose it: it must work.
    Chosen(SocketAddr),
    /// Nobody did: where the port is taken, the daemon does without TCP and says so.
    Default(SocketAddr),
}

/// A running daemon.
pub struct Daemon {
    keep: TokenKeep,
    socket: PathBuf,
    tcp: Option<SocketAddr>,
    stop: watch::Sender<bool>,
    servers: JoinSet<()>,
    /// What goes on beside, and ends with the daemon.
    followers: JoinSet<()>,
}

/// Why a daemon ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// Somebody asked for it.
    Asked,
    /// The engine cannot go on.
    Failed(String),
}

impl Daemon {
    /// Opens the engine, which takes the state folder's lock, then listens, on TCP with this certificate if there is one.
    /// `live` is what its API tells of the configuration; `public_url` is where browsers find it, if not at its own address.
    ///
    /// # Errors
    /// The engine does not open, or an address cannot be listened on.
    pub async fn start(
        config: Config,
        listen: Listen,
        tls: Option<Tls>,
        live: Arc<Live>,
        public_url: Option<Url>,
    ) -> Result<Self, CliError> {
        let secured = tls.as_ref().map(Tls::acceptor).transpose()?;
        let socket = state_dir::socket(&config.state_dir)?;
        let keep = TokenKeep::open(config).await?;
        match listeners(&socket, listen).await {
            Ok((unix, tcp)) => {
                if let Err(error) = api::webhooks::deliver(&keep).await {
                    tracing::error!(%error, "webhooks are sent nothing until the next start");
                }
                let address = tcp.as_ref().and_then(|tcp| tcp.local_addr().ok());
                let scheme = if secured.is_some() { "https" } else { "http" };
                let sign_ins = SignIns::at(public_url.or_else(|| address.and_then(|tcp| address_of(scheme, tcp))));
                let mut daemon = Self::serve(keep, live, sign_ins, socket, unix, tcp, secured);
                if let Some(tls) = tls {
                    daemon.followers.spawn(tls.follow());
                }
                Ok(daemon)
            }
            Err(error) => {
                keep.shutdown().await;
                Err(error)
            }
        }
    }

    fn serve(
        keep: TokenKeep,
        live: Arc<Live>,
        sign_ins: SignIns,
        socket: PathBuf,
        unix: UnixListener,
        tcp: Option<TcpListener>,
        secured: Option<TlsAcceptor>,
    ) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut servers = JoinSet::new();
        let address = tcp.as_ref().and_then(|tcp| tcp.local_addr().ok());
        let api = Api::new(keep.clone(), Streams::new(stopped.clone()), live, sign_ins);
        if let Some(tcp) = tcp {
            let (app, stopped) = (api::guarded(api.clone()), stopped.clone());
            match secured {
                Some(acceptor) => servers.spawn(server::serve_tls(tcp, acceptor, app, stopped)),
                None => servers.spawn(server::serve(tcp, app, stopped)),
            };
        }
        servers.spawn(server::serve(OwnerSocket::new(unix), api::whole(api), stopped));
        Self { keep, socket, tcp: address, stop, servers, followers: JoinSet::new() }
    }

    /// The engine.
    #[must_use]
    pub fn keep(&self) -> &TokenKeep {
        &self.keep
    }

    /// The socket's path.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Where it listens on TCP.
    #[must_use]
    pub fn tcp(&self) -> Option<SocketAddr> {
        self.tcp
    }

    /// Runs until a signal comes or the engine cannot go on, then stops cleanly. A second signal
    /// during the stop ends the process at once.
    ///
    /// # Errors
    /// The engine could not go on.
    pub async fn run(self, mut signals: Signals) -> Result<(), CliError> {
        notify::ready();
        let _telling = notify::keep_telling(&self.keep);
        let end = tokio::select! {
            () = signals.next() => End::Asked,
            reason = self.keep.failed() => End::Failed(reason),
        };
        tracing::info!(?end, "stopping");
        notify::stopping();
        tokio::select! {
            () = self.stop(&end) => {}
            () = signals.next() => return Err(CliError::new("stopped at once, by a second signal")),
        }
        match end {
            End::Asked => Ok(()),
            End::Failed(reason) => Err(CliError::new(format!("the engine cannot go on: {reason}"))
                .next_step("mend the cause, then start the daemon again; what was stored is kept")),
        }
    }

    /// Stops accepting, drains the engine, and removes the socket.
    pub async fn stop(mut self, end: &End) {
        // Servers that have ended need no word.
        let _ = self.stop.send(true);
        match end {
            End::Asked => self.keep.shutdown().await,
            End::Failed(_) => {
                if tokio::time::timeout(CLOSE_MAX, self.keep.shutdown()).await.is_err() {
                    tracing::error!("the engine did not close in time");
                }
            }
        }
        while self.servers.join_next().await.is_some() {}
        if let Err(error) = fs::remove_file(&self.socket) {
            tracing::debug!(%error, "the socket could not be removed");
        }
    }
}

/// Where browsers of this machine find the daemon.
fn address_of(scheme: &str, tcp: SocketAddr) -> Option<Url> {
    let host = if tcp.ip().is_loopback() { "localhost".to_owned() } else { tcp.ip().to_string() };
    Url::parse(&format!("{scheme}://{host}:{}/", tcp.port())).ok()
}

async fn listeners(socket: &Path, listen: Listen) -> Result<(UnixListener, Option<TcpListener>), CliError> {
    let tcp = bind_tcp(listen).await?;
    let unix = bind_socket(socket).map_err(|error| {
        let told = CliError::new(format!("the socket {} cannot be made: {error}", socket.display()));
        told.next_step(match error.kind() {
            io::ErrorKind::AlreadyExists => "look what it is and move it away, then start the daemon again",
            _ => "make the state folder writable for this user, on a file system that has sockets",
        })
    })?;
    Ok((unix, tcp))
}

/// Replaces the socket of a daemon that was killed: the state folder's lock says that none runs.
fn bind_socket(path: &Path) -> io::Result<UnixListener> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => fs::remove_file(path)?,
        Ok(_) => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "something else has its name"));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    // Until here the folder's mode (0700) keeps others out, and afterwards each peer's user id does too.
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn bind_tcp(listen: Listen) -> Result<Option<TcpListener>, CliError> {
    let (Listen::Chosen(address) | Listen::Default(address)) = listen;
    match bind(address) {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if listen == Listen::Default(address) && error.kind() == io::ErrorKind::AddrInUse => {
            tracing::warn!(%address, "the default address is in use: going on without TCP; choose another with --listen");
            Ok(None)
        }
        Err(error) => Err(CliError::new(format!("{address} cannot be listened on: {error}"))
            .next_step("choose another address with --listen, or port 0 for any free one")),
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A daemon that starts again takes its port up again.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(QUEUE_MAX)
}

/// SIGTERM and SIGINT.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Takes both signals over, from now on.
    ///
    /// # Errors
    /// The system refuses.
    pub fn new() -> Result<Self, CliError> {
        let listen = |kind| signal(kind).map_err(|error| CliError::new(format!("signals cannot be received: {error}")));
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    /// The next of them.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Runs a future on a runtime with a worker for each processor.
///
/// # Errors
/// The runtime does not start, or what the future answers.
pub fn block_on<T>(future: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::new(format!("the runtime does not start: {error}")))?
        .block_on(future)
}

/// Lets this process have as many connections and files open as the system allows it at all.
pub fn raise_limits() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let found = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: found.maximum, maximum: found.maximum }) {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
}

/// Keeps this process's memory out of core dumps and other processes' sight (security 8).
///
/// What the system refuses is said, and no reason to stop.
pub fn harden() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(error) = setrlimit(Resource::Core, none) {
        tracing::warn!(%error, "core dumps could not be turned off");
    }
    // Connections, the database and the requests to providers want more than the 1,024 of an ordinary shell.
    let files = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files }) {
        tracing::debug!(%error, "no more files can be open than the system gave");
    }
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "the process could not be made undumpable");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        drop(bind_socket(&path).unwrap());
        assert!(path.exists());
        let _listener = bind_socket(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let file = folder.path().join("f");
        fs::write(&file, "precious").unwrap();
        assert!(bind_socket(&file).is_err());
        assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    }

    #[tokio::test]
    async fn a_chosen_address_must_work_and_the_default_may_be_taken() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        assert!(bind_tcp(Listen::Default(address)).await.unwrap().is_none());
        let report = bind_tcp(Listen::Chosen(address)).await.unwrap_err().report();
        assert!(report.contains("cannot be listened on") && report.contains("--listen"), "{report}");
    }
}
