//! Signatures of Standard Webhooks (<https://www.standardwebhooks.com>): `v1`, HMAC-SHA256.

use crate::seal::random_bytes;
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokenkeep_core::{Secret, Timestamp};
use zeroize::Zeroizing;

/// How long a new secret is; the standard asks for 24 to 64 bytes.
pub const SECRET_BYTES: usize = 32;
/// What a secret's text begins with.
pub const SECRET_PREFIX: &str = "whsec_";

/// The header with the message's id.
pub const ID_HEADER: &str = "webhook-id";
/// The header with the attempt's time.
pub const TIMESTAMP_HEADER: &str = "webhook-timestamp";
/// The header with the signatures.
pub const SIGNATURE_HEADER: &str = "webhook-signature";

/// What a webhook's deliveries are signed with. It shows itself only by [`SigningSecret::text`].
pub struct SigningSecret(Zeroizing<Vec<u8>>);

impl std::fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningSecret(..)")
    }
}

impl SigningSecret {
    /// One that nobody can guess.
    #[must_use]
    pub fn generate() -> Self {
        let bytes = Zeroizing::new(random_bytes::<SECRET_BYTES>());
        Self(Zeroizing::new(bytes.to_vec()))
    }

    pub(crate) const fn of(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(bytes)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// As its receiver is told it.
    #[must_use]
    pub fn text(&self) -> Secret {
        let encoded = Zeroizing::new(STANDARD.encode(&self.0));
        Secret::new(format!("{SECRET_PREFIX}{}", *encoded))
    }

    fn sign(&self, signed: &[u8]) -> String {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &self.0), signed);
        format!("v1,{}", STANDARD.encode(tag))
    }
}

/// The value of [`TIMESTAMP_HEADER`]: seconds of the wall clock.
#[must_use]
pub fn timestamp(wall: Timestamp) -> i64 {
    wall.as_millis().div_euclid(1_000)
}

/// The value of [`SIGNATURE_HEADER`]: a signature by each secret.
#[must_use]
pub fn signatures<'a>(
    secrets: impl IntoIterator<Item = &'a SigningSecret>,
    id: &str,
    timestamp: i64,
    body: &str,
) -> String {
    let signed = format!("{id}.{timestamp}.{body}");
    let all: Vec<String> = secrets.into_iter().map(|secret| secret.sign(signed.as_bytes())).collect();
    all.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the standard's reference libraries.
    #[test]
    fn the_standard_s_example_comes_out() {
        let secret = SigningSecret(Zeroizing::new(STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap()));
        let (id, body) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", r#"{"test": 2432232314}"#);
        let signature = signatures([&secret], id, 1_614_265_330, body);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        let other = SigningSecret::generate();
        let both = signatures([&other, &secret], id, 1_614_265_330, body);
        assert!(both.starts_with(&other.sign(format!("{id}.1614265330.{body}").as_bytes())));
        assert!(both.ends_with(&format!(" {signature}")));
    }

    #[test]
    fn a_secret_has_the_standard_s_form_and_shows_itself_only_when_asked() {
        let secret = SigningSecret::generate();
        let text = secret.text();
        let encoded = text.expose().strip_prefix("whsec_").unwrap();
        assert_eq!(STANDARD.decode(encoded).unwrap(), secret.bytes());
        assert_eq!(secret.bytes().len(), SECRET_BYTES);
        assert_eq!(format!("{secret:?}"), "SigningSecret(..)");
        assert_ne!(SigningSecret::generate().bytes(), secret.bytes());
    }

    #[test]
    fn a_timestamp_is_whole_seconds() {
        assert_eq!(timestamp(Timestamp::from_millis(1_999)), 1);
    }
}
