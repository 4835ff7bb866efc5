use std::fmt;

use sha2::{Digest as _, block_api::compress256};

/// Which hash function a group digests with. Chosen at the genesis, for good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DigestAlgorithm {
    /// SHA-256. The default.
    #[default]
    Sha256,
    /// MD5, as in the report. **Insecure**: two operations with one digest can be made in
    /// seconds, so a client can make correct replicas disagree. All that names its content by a digest is no
    /// stronger, whatever proves it: a PRE-PREPARE, whose tags are over its place and its batch's digest, votes,
    /// certificates, pages, receipts. What is tagged or signed as bytes is as strong as with SHA-256. For
    /// comparison only.
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
        Self::of_all(algorithm, parts.iter().copied())
    }

    /// As [`Digest::of`]. Nearly all that is digested is short, and put into its few blocks by hand
    /// in two thirds of the time that a hasher takes, which expects more to come.
    pub(super) fn of_all<'a>(
        algorithm: DigestAlgorithm,
        parts: impl Iterator<Item = &'a [u8]> + Clone,
    ) -> Self {
        let bytes = parts.clone().map(<[u8]>::len).sum();
        if algorithm == DigestAlgorithm::Sha256 && bytes <= SHORT_BYTES_MAX {
            return sha256_of_short(parts, bytes);
        }
        let mut hasher = Hasher::new(algorithm);
        parts.for_each(|part| hasher.update(part));
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

/// The first state of SHA-256 (FIPS 180-4, section 5.3.3).
pub(super) const SHA256_INITIAL: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];
/// Bytes that SHA-256 takes at a time.
pub(super) const BLOCK_BYTES: usize = 64;
const SHORT_BLOCKS: usize = 3;
/// The longest message of so many blocks, with its padding: a leaf of the history is one.
const SHORT_BYTES_MAX: usize = SHORT_BLOCKS * BLOCK_BYTES - 9;

/// SHA-256 of `parts`, which have `bytes` bytes together.
fn sha256_of_short<'a>(parts: impl Iterator<Item = &'a [u8]>, bytes: usize) -> Digest {
    let mut blocks = [[0; BLOCK_BYTES]; SHORT_BLOCKS];
    let message = blocks.as_flattened_mut();
    let mut at = 0;
    for part in parts {
        message[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    assert_eq!(at, bytes, "parts are as long as they said");
    message[at] = 0x80;
    let end = (at + 9).next_multiple_of(BLOCK_BYTES);
    message[end - 8..end].copy_from_slice(&(8 * at as u64).to_be_bytes());
    let mut state = SHA256_INITIAL;
    compress256(&mut state, &blocks[..end / BLOCK_BYTES]);
    Digest(state_bytes(state))
}

/// A state of SHA-256 as the digest that it is at the end.
pub(super) fn state_bytes(state: [u32; 8]) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.as_chunks_mut().0.iter_mut().zip(state).for_each(|(chunk, word)| *chunk = word.to_be_bytes());
    bytes
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
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn short_digests_are_those_of_a_hasher(
            message in prop::collection::vec(any::<u8>(), 0..=SHORT_BYTES_MAX + 2),
            cut in any::<prop::sample::Index>(),
        ) {
            let (first, second) = message.split_at(cut.index(message.len() + 1));
            let mut hasher = Hasher::new(DigestAlgorithm::Sha256);
            hasher.update(&message);
            prop_assert_eq!(Digest::of(DigestAlgorithm::Sha256, &[first, second]), hasher.finish());
        }
    }

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
