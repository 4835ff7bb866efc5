use std::fmt;

use sha2::Digest as _;

/// Which hash function a group digests with. Chosen at the genesis, for good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DigestAlgorithm {
    /// SHA-256. The default.
    #[default]
    Sha256,
    /// MD5, as in the report. **Insecure**: two operations with one digest can be made in
    /// seconds, so a client can make correct replicas disagree. For comparison only.
    Md5,
}

/// The digest of some bytes.
///
/// Always 32 bytes; of MD5 the first 16 count and the rest are zero, so that a group's choice of
/// algorithm changes no format.
///
/// ```
/// use quorate_pbft::crypto::{Digest, DigestAlgorithm};
/// let whole = Digest::of(DigestAlgorithm::Sha256, &[b"ab"]);
/// assert_eq!(whole, Digest::of(DigestAlgorithm::Sha256, &[b"a", b"b"]));
/// assert_eq!(whole.to_string().len(), 64);
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// All zeros: stands where there is nothing to digest.
    pub const ZERO: Self = Self([0; 32]);

    /// The digest of the concatenation of `parts`.
    pub fn of(algorithm: DigestAlgorithm, parts: &[&[u8]]) -> Self {
        let mut hasher = Hasher::new(algorithm);
        for part in parts {
            hasher.update(part);
        }
        hasher.finish()
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl AsRef<[u8]> for Digest {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    /// The first four bytes: enough to tell digests apart in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Digests bytes that come in pieces.
pub struct Hasher(Inner);

enum Inner {
    Sha256(sha2::Sha256),
    Md5(md5::Md5),
}

impl Hasher {
    /// Starts with nothing.
    pub fn new(algorithm: DigestAlgorithm) -> Self {
        Self(match algorithm {
            DigestAlgorithm::Sha256 => Inner::Sha256(sha2::Sha256::default()),
            DigestAlgorithm::Md5 => Inner::Md5(md5::Md5::default()),
        })
    }

    /// Appends `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            Inner::Sha256(context) => context.update(bytes),
            Inner::Md5(context) => context.update(bytes),
        }
    }

    /// The digest of all bytes so far.
    pub fn finish(self) -> Digest {
        let mut digest = Digest::ZERO;
        match self.0 {
            Inner::Sha256(context) => digest.0 = context.finalize().into(),
            Inner::Md5(context) => digest.0[..16].copy_from_slice(&context.finalize()),
        }
        digest
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 180-2, appendix B.1; RFC 1321, appendix A.5.
    #[test]
    fn digests_match_published_vectors() {
        assert_eq!(
            Digest::of(DigestAlgorithm::Sha256, &[b"abc"]).to_string(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(
            Digest::of(DigestAlgorithm::Md5, &[b"a", b"bc"]).to_string(),
            format!("900150983cd24fb0d6963f7d28e17f72{}", "0".repeat(32))
        );
    }
}
