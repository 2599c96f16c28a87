//! What must never be shown.

use std::fmt;
use zeroize::Zeroizing;

/// A token, a client secret, or text that contains one.
///
/// It has no `Display`, no `Clone` and no serialization, its `Debug` shows nothing, and its memory
/// is wiped on drop. The one way to the text is [`Secret::expose`], so `expose` is what a reviewer
/// searches for.
///
/// ```compile_fail
/// let secret = tokenkeep_core::Secret::new("hunter2");
/// println!("{secret}");
/// ```
/// ```compile_fail
/// let secret = tokenkeep_core::Secret::new("hunter2");
/// let second = secret.clone();
/// ```
/// ```
/// let secret = tokenkeep_core::Secret::new("hunter2");
/// assert_eq!(format!("{secret:?}"), "Secret(..)");
/// assert_eq!(secret.expose(), "hunter2");
/// ```
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes the text over.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text itself. Whoever calls this answers for where it goes.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// True where `text` holds the secret: then it is one itself.
    #[must_use]
    pub fn is_in(&self, text: &str) -> bool {
        !self.0.is_empty() && text.contains(self.0.as_str())
    }

    /// A second holder of the same text, said out loud.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self(self.0.clone())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl PartialEq for Secret {
    /// Compares in a time that depends on the lengths alone.
    fn eq(&self, other: &Self) -> bool {
        let (a, b) = (self.0.as_bytes(), other.0.as_bytes());
        a.len() == b.len() && a.iter().zip(b).fold(0, |differing, (x, y)| differing | (x ^ y)) == 0
    }
}

impl Eq for Secret {}
