//! The daemon's own certificate: read at the start, and again when its files change.

use crate::error::CliError;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};
use tokio_rustls::TlsAcceptor;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Where certificate and key are: PEM, the certificate's chain with its own first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsFiles {
    /// The certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// What tells one state of the files from another.
type Stamp = [(Option<SystemTime>, u64); 2];

/// The certificate in use.
#[derive(Clone)]
pub struct Tls {
    files: TlsFiles,
    current: Arc<Current>,
    stamp: Stamp,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl Tls {
    /// Reads both files.
    ///
    /// # Errors
    /// One cannot be read, is not PEM, or the two do not belong together.
    pub fn load(files: TlsFiles) -> Result<Self, CliError> {
        let (stamp, key) = (stamp(&files), certified(&files)?);
        Ok(Self { files, current: Arc::new(Current(RwLock::new(Arc::new(key)))), stamp })
    }

    /// What speaks TLS 1.2 and 1.3 with it, and HTTP/1.1 inside.
    ///
    /// # Errors
    /// The cryptography cannot be used.
    pub fn acceptor(&self) -> Result<TlsAcceptor, CliError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| CliError::new(format!("TLS cannot be used: {error}")))?;
        let resolver = Arc::clone(&self.current) as Arc<dyn ResolvesServerCert>;
        let mut config = config.with_no_client_auth().with_cert_resolver(resolver);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    /// Reads the files again whenever they have changed; what is wrong with them is said, and the old ones are kept.
    pub async fn follow(mut self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            self.look();
        }
    }

    fn look(&mut self) {
        let found = stamp(&self.files);
        if found == self.stamp {
            return;
        }
        // Noted in either case: what is wrong is said once.
        self.stamp = found;
        match certified(&self.files) {
            Ok(key) => {
                *self.current.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(key);
                tracing::info!(cert = %self.files.cert.display(), "the new certificate is in use");
            }
            Err(error) => {
                tracing::error!(error = error.report(), "the new certificate cannot be used: the old one stays")
            }
        }
    }
}

fn stamp(files: &TlsFiles) -> Stamp {
    [&files.cert, &files.key].map(|path| {
        let found = fs::metadata(path).ok();
        (found.as_ref().and_then(|found| found.modified().ok()), found.map_or(0, |found| found.len()))
    })
}

fn certified(files: &TlsFiles) -> Result<CertifiedKey, CliError> {
    let unfit = |path: &Path, what: &str| {
        CliError::new(format!("{}: {what}", path.display()))
            .next_step("give tls_cert a PEM file with the certificate and its chain, tls_key one with its private key")
    };
    let chain = CertificateDer::pem_file_iter(&files.cert).and_then(Iterator::collect);
    let chain: Vec<CertificateDer<'static>> = chain.map_err(|error| unfit(&files.cert, &error.to_string()))?;
    if chain.is_empty() {
        return Err(unfit(&files.cert, "it has no certificate"));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| unfit(&files.key, &error.to_string()))?;
    let key = aws_lc_rs::sign::any_supported_type(&key).map_err(|error| unfit(&files.key, &error.to_string()))?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(certified),
        Err(error) => Err(unfit(&files.key, &error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, names: &[&str]) -> (TlsFiles, Vec<u8>) {
        let made = rcgen::generate_simple_self_signed(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        let made = made.unwrap();
        let files = TlsFiles { cert: folder.join("cert.pem"), key: folder.join("key.pem") };
        fs::write(&files.cert, made.cert.pem()).unwrap();
        fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
        (files, made.cert.der().to_vec())
    }

    fn in_use(tls: &Tls) -> Vec<u8> {
        tls.current.0.read().unwrap().cert[0].to_vec()
    }

    #[test]
    fn a_new_certificate_is_taken_and_a_wrong_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let (files, first) = write(folder.path(), &["localhost"]);
        let mut tls = Tls::load(files.clone()).unwrap();
        tls.acceptor().unwrap();
        assert_eq!(in_use(&tls), first);
        fs::write(&files.cert, "no certificate").unwrap();
        tls.look();
        assert_eq!(in_use(&tls), first, "a wrong file changes nothing");
        let (_, second) = write(folder.path(), &["localhost", "keep.example"]);
        tls.look();
        assert_eq!(in_use(&tls), second);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let (files, _) = write(folder.path(), &["localhost"]);
        let other = tempfile::tempdir().unwrap();
        let (others, _) = write(other.path(), &["localhost"]);
        let said = |files: &TlsFiles| Tls::load(files.clone()).unwrap_err().report();
        let wrong_key = TlsFiles { key: others.key.clone(), ..files.clone() };
        assert!(said(&wrong_key).contains("key.pem"), "{}", said(&wrong_key));
        let swapped = TlsFiles { cert: files.key.clone(), key: files.cert.clone() };
        assert!(said(&swapped).contains("no certificate"), "{}", said(&swapped));
        let missing = TlsFiles { cert: folder.path().join("none.pem"), ..files };
        assert!(said(&missing).contains("none.pem"), "{}", said(&missing));
    }
}
