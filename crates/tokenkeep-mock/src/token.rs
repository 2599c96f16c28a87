//! Tokens that are computed instead of stored.
//!
//! A token carries its owner, its serial number and its end, followed by a tag that only the same seed computes again.
//! So the provider recognizes every token that it ever issued, spent ones too, without remembering any of them:
//! a million grants cost the memory of a million grants, however often they are refreshed.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::random::keyed;

/// Bytes of a token before it is encoded: three words that it says and three words of tag.
const TOKEN_BYTES: usize = 48;

/// Characters of an encoded token after its prefix.
const TOKEN_CHARS: usize = TOKEN_BYTES / 3 * 4;

/// What a token is for. The kinds have different prefixes, so that neither passes as the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Access,
    Refresh,
    Code,
    Device,
}

impl Kind {
    const fn prefix(self) -> &'static str {
        match self {
            Kind::Access => "mock-at-",
            Kind::Refresh => "mock-rt-",
            Kind::Code => "mock-code-",
            Kind::Device => "mock-device-",
        }
    }
}

/// What a token says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// The number of the grant, or of the client where no grant stands behind the token.
    pub owner: u64,
    /// Counts the tokens of this owner.
    pub serial: u64,
    /// The time at which it ends; 0 for refresh tokens, which do not end by themselves.
    pub expires_at_ms: i64,
}

/// Issues tokens, and recognizes its own.
#[derive(Debug, Clone)]
pub(crate) struct Mint {
    seed: u64,
}

impl Mint {
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// The token that says `stamp`: always the same one for the same seed.
    pub fn issue(&self, kind: Kind, stamp: Stamp) -> String {
        let mut token = String::with_capacity(kind.prefix().len() + TOKEN_CHARS);
        token.push_str(kind.prefix());
        URL_SAFE_NO_PAD.encode_string(self.bytes(kind, stamp), &mut token);
        token
    }

    /// What `token` says, if this mint issued it as a token of this kind.
    pub fn read(&self, kind: Kind, token: &str) -> Option<Stamp> {
        let encoded = token.strip_prefix(kind.prefix())?;
        if encoded.len() != TOKEN_CHARS {
            return None;
        }
        let mut bytes = [0; TOKEN_BYTES];
        URL_SAFE_NO_PAD.decode_slice(encoded, &mut bytes).ok()?;
        let stamp = Stamp { owner: word(&bytes, 0)?, serial: word(&bytes, 1)?, expires_at_ms: word(&bytes, 2)? as i64 };
        (self.bytes(kind, stamp) == bytes).then_some(stamp)
    }

    fn bytes(&self, kind: Kind, stamp: Stamp) -> [u8; TOKEN_BYTES] {
        let says = [stamp.owner, stamp.serial, stamp.expires_at_ms as u64];
        let key = keyed(&[self.seed, kind as u64, says[0], says[1], says[2]]);
        let tag = [1, 2, 3].map(|nth| keyed(&[key, nth]));
        let mut bytes = [0; TOKEN_BYTES];
        for (slot, word) in bytes.chunks_exact_mut(8).zip(says.into_iter().chain(tag)) {
            slot.copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }
}

fn word(bytes: &[u8; TOKEN_BYTES], nth: usize) -> Option<u64> {
    let word = bytes.chunks_exact(8).nth(nth)?;
    Some(u64::from_be_bytes(word.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { owner: 7, serial: 3, expires_at_ms: 1_000 };

    #[test]
    fn a_mint_reads_what_it_issued() {
        let mint = Mint::new(1);
        let token = mint.issue(Kind::Access, STAMP);
        assert_eq!(mint.read(Kind::Access, &token), Some(STAMP));
        assert_eq!(token, Mint::new(1).issue(Kind::Access, STAMP));
    }

    #[test]
    fn a_mint_refuses_what_it_did_not_issue() {
        let mint = Mint::new(1);
        let token = mint.issue(Kind::Access, STAMP);
        assert_eq!(mint.read(Kind::Refresh, &token), None);
        assert_eq!(Mint::new(2).read(Kind::Access, &token), None);
        let swapped = token.replace("mock-at-", "mock-rt-");
        assert_eq!(mint.read(Kind::Refresh, &swapped), None);
    }

    #[test]
    fn every_changed_character_is_noticed() {
        let mint = Mint::new(1);
        let token = mint.issue(Kind::Refresh, STAMP);
        for at in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(mint.read(Kind::Refresh, &changed), None, "at {at}");
        }
    }

    #[test]
    fn hostile_tokens_are_only_unknown() {
        let mint = Mint::new(1);
        let long = "mock-rt-".repeat(10_000);
        for token in ["", "mock-rt-", "mock-rt-é", "\0", "mock-rt-====", &long] {
            assert_eq!(mint.read(Kind::Refresh, token), None);
        }
    }
}
