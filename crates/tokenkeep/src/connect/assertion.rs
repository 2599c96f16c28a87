//! Signed assertions (RFC 7523): who the client is without a shared secret, and whom it asks for.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use std::time::Duration;
use tokenkeep_core::{Secret, Timestamp};

/// How long an assertion may be used: enough for a clock that is off, too short to be of use to a thief.
pub const ASSERTION_LIFE: Duration = Duration::from_secs(60);
/// The fewest bits that an RSA key may have (RFC 7518 section 3.3).
pub const RSA_BITS_MIN: usize = 2_048;

/// A private key that signs assertions. It shows nothing of itself.
pub struct SigningKey {
    kind: Kind,
    key_id: Option<String>,
}

enum Kind {
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey")
            .field("algorithm", &self.algorithm())
            .field("key_id", &self.key_id)
            .finish_non_exhaustive()
    }
}

/// A text that is no signing key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SigningKeyError {
    /// It is no PEM, or holds no private key.
    #[error("it holds no private key: expected PEM, beginning with -----BEGIN PRIVATE KEY-----")]
    NoKey,
    /// It is a key that signs nothing here.
    #[error("its kind of key is not taken: expected RSA of 2048 bits or more, EC on P-256, or Ed25519, as PKCS#8")]
    Kind,
}

impl SigningKey {
    /// Reads a private key in PEM. `key_id` goes into each assertion as `kid`, where the provider knows several keys.
    ///
    /// # Errors
    /// [`SigningKeyError`].
    pub fn from_pem(pem: &Secret, key_id: Option<String>) -> Result<Self, SigningKeyError> {
        let key = PrivateKeyDer::from_pem_slice(pem.expose().as_bytes()).map_err(|_| SigningKeyError::NoKey)?;
        let kind = match &key {
            PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der()).ok().map(Kind::Rsa),
            PrivateKeyDer::Sec1(der) => {
                EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_sec1_der())
                    .ok()
                    .map(Kind::P256)
            }
            PrivateKeyDer::Pkcs8(der) => pkcs8(der.secret_pkcs8_der()),
            _ => None,
        };
        let kind = kind.filter(|kind| !matches!(kind, Kind::Rsa(key) if key.public_modulus_len() * 8 < RSA_BITS_MIN));
        Ok(Self { kind: kind.ok_or(SigningKeyError::Kind)?, key_id })
    }

    const fn algorithm(&self) -> &'static str {
        match self.kind {
            Kind::Rsa(_) => "RS256",
            Kind::P256(_) => "ES256",
            Kind::Ed25519(_) => "EdDSA",
        }
    }

    /// The public half, in the encoding of its kind, for tests and for who has to register it.
    #[must_use]
    pub fn public_key(&self) -> &[u8] {
        match &self.kind {
            Kind::Rsa(key) => key.public_key().as_ref(),
            Kind::P256(key) => key.public_key().as_ref(),
            Kind::Ed25519(key) => key.public_key().as_ref(),
        }
    }

    /// Signs what `subject` asserts to `audience` at `now`, in wall time. Without a subject the client speaks of itself
    /// (RFC 7523 sections 2.2 and 3).
    #[must_use]
    pub fn assert(&self, client_id: &str, subject: Option<&str>, audience: &str, now: Timestamp) -> Secret {
        let seconds = now.as_millis() / 1_000;
        let claims = json!({
            "iss": client_id,
            "sub": subject.unwrap_or(client_id),
            "aud": audience,
            "iat": seconds,
            "exp": seconds + ASSERTION_LIFE.as_secs().cast_signed(),
            "jti": super::random_text(),
        });
        self.sign(&claims)
    }

    fn sign(&self, claims: &Value) -> Secret {
        let mut header = json!({"alg": self.algorithm(), "typ": "JWT"});
        if let Some(key_id) = &self.key_id {
            header["kid"] = key_id.as_str().into();
        }
        let encoded = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", encoded(&header), encoded(claims));
        let signature = BASE64_URL_SAFE_NO_PAD.encode(self.signature(message.as_bytes()));
        Secret::new(format!("{message}.{signature}"))
    }

    fn signature(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.kind {
            Kind::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature)
                    .expect("a checked key signs any message into a buffer of its length");
                signature
            }
            Kind::P256(key) => key.sign(&random, message).expect("a checked key signs any message").as_ref().to_vec(),
            Kind::Ed25519(key) => key.sign(message).as_ref().to_vec(),
        }
    }
}

fn pkcs8(der: &[u8]) -> Option<Kind> {
    let rsa = || RsaKeyPair::from_pkcs8(der).ok().map(Kind::Rsa);
    let p256 = || EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der).ok().map(Kind::P256);
    let ed25519 = || Ed25519KeyPair::from_pkcs8(der).ok().map(Kind::Ed25519);
    rsa().or_else(p256).or_else(ed25519)
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm,
    };

    fn claims_of(
        assertion: &Secret,
        algorithm: &'static dyn VerificationAlgorithm,
        key: &SigningKey,
    ) -> (Value, Value) {
        let (message, signature) = assertion.expose().rsplit_once('.').unwrap();
        let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).unwrap();
        UnparsedPublicKey::new(algorithm, key.public_key()).verify(message.as_bytes(), &signature).unwrap();
        let part = |text: &str| serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(text).unwrap()).unwrap();
        let (header, claims) = message.split_once('.').unwrap();
        (part(header), part(claims))
    }

    fn pem(algorithm: &'static rcgen::SignatureAlgorithm) -> Secret {
        let der = rcgen::KeyPair::generate_for(algorithm).unwrap().serialize_der();
        let text = base64::prelude::BASE64_STANDARD.encode(der);
        Secret::new(format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n"))
    }

    #[test]
    fn an_assertion_verifies_and_says_who_and_to_whom_and_until_when() {
        let kinds: [(&rcgen::SignatureAlgorithm, &'static dyn VerificationAlgorithm, &str); 3] = [
            (&rcgen::PKCS_RSA_SHA256, &RSA_PKCS1_2048_8192_SHA256, "RS256"),
            (&rcgen::PKCS_ECDSA_P256_SHA256, &ECDSA_P256_SHA256_FIXED, "ES256"),
            (&rcgen::PKCS_ED25519, &ED25519, "EdDSA"),
        ];
        for (made, verified, name) in kinds {
            let key = SigningKey::from_pem(&pem(made), Some("k1".into())).unwrap();
            let now = Timestamp::from_millis(1_800_000_000_999);
            let (header, claims) = claims_of(&key.assert("app", None, "https://idp/token", now), verified, &key);
            assert_eq!((&header["alg"], &header["kid"]), (&name.into(), &"k1".into()));
            assert_eq!(
                (&claims["iss"], &claims["sub"], &claims["aud"]),
                (&"app".into(), &"app".into(), &"https://idp/token".into())
            );
            assert_eq!((&claims["iat"], &claims["exp"]), (&1_800_000_000.into(), &1_800_000_060.into()));
            let (_, again) = claims_of(&key.assert("app", Some("user"), "x", now), verified, &key);
            assert_eq!(again["sub"], "user");
            assert_ne!(again["jti"], claims["jti"]);
            assert!(!format!("{key:?}").contains("BEGIN"));
        }
    }

    #[test]
    fn what_is_no_key_says_what_was_expected() {
        let of = |text: &str| SigningKey::from_pem(&Secret::new(text), None).unwrap_err();
        assert_eq!(of("hunter2"), SigningKeyError::NoKey);
        let p384 = pem(&rcgen::PKCS_ECDSA_P384_SHA384);
        assert_eq!(of(p384.expose()), SigningKeyError::Kind);
        assert!(SigningKeyError::Kind.to_string().contains("P-256"));
    }
}
