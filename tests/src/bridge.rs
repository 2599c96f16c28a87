//! A loopback port in front of a daemon's socket, for clients that know only TCP.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, UnixStream};
use tokio::runtime::Runtime;

/// A running bridge. It ends when this is dropped.
#[derive(Debug)]
pub struct Bridge {
    address: SocketAddr,
    _runtime: Runtime,
}

impl Bridge {
    /// Passes on whatever comes to a free port.
    pub fn to(socket: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a thread for the bridge");
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = runtime.block_on(TcpListener::bind(loopback)).expect("a free port");
        let address = listener.local_addr().expect("the listener is bound");
        runtime.spawn(accept(listener, socket.to_owned()));
        Self { address, _runtime: runtime }
    }

    /// Where it listens, as a URL without a path.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

async fn accept(listener: TcpListener, socket: PathBuf) {
    while let Ok((mut client, _)) = listener.accept().await {
        let socket = socket.clone();
        tokio::spawn(async move {
            if let Ok(mut daemon) = UnixStream::connect(&socket).await {
                // Either side may end it at any time.
                let _ = copy_bidirectional(&mut client, &mut daemon).await;
            }
        });
    }
}
