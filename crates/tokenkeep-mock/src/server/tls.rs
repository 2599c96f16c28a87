//! TLS in front of the provider, well or badly: with certificates made at the start, signed by an authority made at the
//! start.

use std::io;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use tokio_rustls::TlsAcceptor;

/// How the TLS listener presents itself to new connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TlsFace {
    /// A certificate for `localhost`, `127.0.0.1` and `::1`, signed by the authority of `GET /control/tls`.
    #[default]
    Good,
    /// Signed as well, but for `elsewhere.invalid`.
    WrongName,
    /// Signed as well, but over since 2001.
    Expired,
    /// Signed by an authority that nobody knows.
    Untrusted,
    /// Closes the connection in the handshake.
    Cut,
    /// Speaks HTTP without TLS.
    Plain,
}

/// The names of every face but `Plain`'s and `WrongName`'s.
const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// What each face needs.
pub(crate) struct Faces {
    /// The certificate of the authority, which clients must trust.
    pub authority_pem: String,
    good: TlsAcceptor,
    wrong_name: TlsAcceptor,
    expired: TlsAcceptor,
    untrusted: TlsAcceptor,
}

type Authority = CertifiedIssuer<'static, KeyPair>;

impl Faces {
    pub fn new() -> io::Result<Self> {
        Self::made().map_err(io::Error::other)
    }

    fn made() -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let (known, unknown) = (authority("Mock authority")?, authority("Unknown authority")?);
        let expired = {
            let mut params = CertificateParams::new(NAMES.map(str::to_owned))?;
            params.not_before = date_time_ymd(2000, 1, 1);
            params.not_after = date_time_ymd(2001, 1, 1);
            params
        };
        Ok(Self {
            authority_pem: pem(known.der()),
            good: acceptor(CertificateParams::new(NAMES.map(str::to_owned))?, &known)?,
            wrong_name: acceptor(CertificateParams::new(["elsewhere.invalid".to_owned()])?, &known)?,
            expired: acceptor(expired, &known)?,
            untrusted: acceptor(CertificateParams::new(NAMES.map(str::to_owned))?, &unknown)?,
        })
    }

    /// How to shake hands with this face, if it does at all.
    pub fn acceptor(&self, face: TlsFace) -> Option<&TlsAcceptor> {
        match face {
            TlsFace::Good => Some(&self.good),
            TlsFace::WrongName => Some(&self.wrong_name),
            TlsFace::Expired => Some(&self.expired),
            TlsFace::Untrusted => Some(&self.untrusted),
            TlsFace::Cut | TlsFace::Plain => None,
        }
    }
}

/// The text form of a certificate (RFC 7468). rcgen's own would bring a second base64 crate.
fn pem(certificate: &CertificateDer<'_>) -> String {
    let encoded = STANDARD.encode(certificate);
    // Proof: base64 is ASCII, so every piece is text.
    let lines = encoded.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line) + "\n");
    format!("-----BEGIN CERTIFICATE-----\n{}-----END CERTIFICATE-----\n", lines.collect::<String>())
}

fn authority(name: &str) -> Result<Authority, rcgen::Error> {
    let mut params = CertificateParams::new([])?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Authority::self_signed(params, KeyPair::generate()?)
}

fn acceptor(
    mut params: CertificateParams,
    authority: &Authority,
) -> Result<TlsAcceptor, Box<dyn std::error::Error + Send + Sync>> {
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let certificate: CertificateDer<'static> = params.signed_by(&key, authority)?.into();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let crypto = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(crypto)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
