use std::{fmt, sync::Arc};

use bytes::Bytes;
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair, UnparsedPublicKey};
use rsa::{
    pkcs1::{DecodeRsaPublicKey as _, EncodeRsaPublicKey as _},
    pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _},
    rand_core::{CryptoRng, TryCryptoRng, TryRng},
    traits::PublicKeyParts as _,
};
use thiserror::Error;
use zeroize::{Zeroize as _, Zeroizing};

use super::{Digest, DigestAlgorithm};

/// The shortest modulus that is taken, in bits.
pub const RSA_BITS_MIN: usize = 2048;
/// The longest modulus that is taken, in bits: longer ones cost every verifier time.
pub const RSA_BITS_MAX: usize = 4096;
/// The longest signature, in bytes.
pub const SIGNATURE_BYTES_MAX: usize = RSA_BITS_MAX / 8;

/// Why an RSA private key was not taken.
#[derive(Debug, Error)]
pub enum InvalidIdentity {
    /// The length of the modulus is out of range or no multiple of 1024.
    #[error("RSA key of {bits} bits: must be a multiple of 1024 from {RSA_BITS_MIN} to {RSA_BITS_MAX}")]
    Bits {
        /// The length asked for.
        bits: usize,
    },
    /// The generator failed.
    #[error("generating an RSA key of {bits} bits failed")]
    Generation {
        /// The length asked for.
        bits: usize,
        /// What the generator said.
        #[source]
        source: rsa::Error,
    },
    /// The bytes are no PKCS#8 document with an RSA key.
    #[error("private key is not an RSA key in PKCS#8 DER")]
    Pkcs8(#[source] rsa::pkcs8::Error),
    /// The key is inconsistent or of an unsupported size.
    #[error("private key refused: {0}; generate a new one of {RSA_BITS_MIN} bits or more")]
    Key(ring::error::KeyRejected),
}

/// Why an RSA public key was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InvalidPublicKey {
    /// The bytes are no PKCS#1 `RSAPublicKey`.
    #[error("public key of {bytes} bytes is not an RSAPublicKey in PKCS#1 DER (RFC 8017, A.1.1)")]
    Der {
        /// How many bytes there were.
        bytes: usize,
    },
    /// The modulus is too short or too long.
    #[error("public key of {bits} bits: must have {RSA_BITS_MIN} to {RSA_BITS_MAX}")]
    Bits {
        /// The modulus's length.
        bits: usize,
    },
}

/// The signature does not belong to these bytes, this domain and this signer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("signature does not verify")]
pub struct SignatureRefused;

/// An RSA key pair: who a replica or a client is for as long as it lives.
///
/// Cloning is cheap and shares the key. `Debug` prints the public fingerprint only.
///
/// ```
/// use quorate_pbft::crypto::{Identity, SeedRng};
/// // A real caller hands in the operating system's generator, or 32 bytes from it.
/// let identity = Identity::generate(&mut SeedRng::new([7; 32]))?;
/// let again = Identity::from_pkcs8(&identity.to_pkcs8())?;
/// let signature = again.sign(b"bytes");
/// assert!(identity.public_key().verify(b"bytes", &signature).is_ok());
/// assert!(identity.public_key().verify(b"other", &signature).is_err());
/// # Ok::<(), quorate_pbft::crypto::InvalidIdentity>(())
/// ```
#[derive(Clone)]
pub struct Identity(Arc<Inner>);

struct Inner {
    signer: RsaKeyPair,
    pkcs8: Zeroizing<Vec<u8>>,
    public: PublicKey,
}

impl Identity {
    /// Generates a key pair of [`RSA_BITS_MIN`] bits.
    ///
    /// # Errors
    /// As [`Identity::generate_bits`].
    pub fn generate(rng: &mut impl CryptoRng) -> Result<Self, InvalidIdentity> {
        Self::generate_bits(rng, RSA_BITS_MIN)
    }

    /// Generates a key pair of `bits` bits.
    ///
    /// # Errors
    /// When `bits` is out of range or the generator fails.
    pub fn generate_bits(rng: &mut impl CryptoRng, bits: usize) -> Result<Self, InvalidIdentity> {
        if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits) || !bits.is_multiple_of(1024) {
            return Err(InvalidIdentity::Bits { bits });
        }
        let key =
            rsa::PrivateKey::new(rng, bits).map_err(|source| InvalidIdentity::Generation { bits, source })?;
        Self::from_key(&key)
    }

    /// Takes a key pair from its PKCS#8 DER bytes.
    ///
    /// # Errors
    /// When the bytes are no RSA key, or one that is inconsistent, too short or too long.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, InvalidIdentity> {
        let key = rsa::PrivateKey::from_pkcs8_der(der).map_err(InvalidIdentity::Pkcs8)?;
        Self::from_key(&key)
    }

    fn from_key(key: &rsa::PrivateKey) -> Result<Self, InvalidIdentity> {
        let pkcs8 = key.to_pkcs8_der().map_err(InvalidIdentity::Pkcs8)?.to_bytes();
        // ring checks the consistency of the key's parts and the sizes it can sign with.
        let signer = RsaKeyPair::from_pkcs8(&pkcs8).map_err(InvalidIdentity::Key)?;
        let bits = signer.public().modulus_len() * 8;
        if bits > RSA_BITS_MAX {
            return Err(InvalidIdentity::Bits { bits });
        }
        let public = PublicKey(Bytes::copy_from_slice(signer.public().as_ref()));
        Ok(Self(Arc::new(Inner { signer, pkcs8, public })))
    }

    /// The private key as PKCS#8 DER; the copy is wiped when it is dropped.
    pub fn to_pkcs8(&self) -> Zeroizing<Vec<u8>> {
        self.0.pkcs8.clone()
    }

    /// The public half.
    pub fn public_key(&self) -> &PublicKey {
        &self.0.public
    }

    /// Signs `bytes` (PKCS#1 v1.5 over SHA-256). Protocol statements are signed through
    /// [`Keychain::sign`](super::Keychain::sign), which separates domains.
    pub fn sign(&self, bytes: &[u8]) -> Signature {
        let mut signature = vec![0; self.0.signer.public().modulus_len()];
        // PKCS#1 v1.5 padding is deterministic: ring's interface asks for a generator, which only
        // PSS would draw from.
        let unused = ring::rand::SystemRandom::new();
        self.0
            .signer
            .sign(&RSA_PKCS1_SHA256, &unused, bytes, &mut signature)
            .expect("the buffer has the modulus's length, and a key of 2048 bits holds the padding");
        Signature(signature.into())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.0.public)
    }
}

/// An RSA public key of 2048 to 4096 bits. `Display` is a short fingerprint.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PublicKey(Bytes);

impl PublicKey {
    /// Takes a key from its PKCS#1 `RSAPublicKey` DER bytes.
    ///
    /// # Errors
    /// When the bytes are something else, or the modulus is too short or too long.
    pub fn from_der(der: Bytes) -> Result<Self, InvalidPublicKey> {
        let key =
            rsa::PublicKey::from_pkcs1_der(&der).map_err(|_| InvalidPublicKey::Der { bytes: der.len() })?;
        let bits = key.size() * 8;
        if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits) {
            return Err(InvalidPublicKey::Bits { bits });
        }
        // One key has one encoding, so that comparing bytes compares keys.
        match key.to_pkcs1_der() {
            Ok(canonical) if canonical.as_bytes() == &der[..] => Ok(Self(der)),
            _ => Err(InvalidPublicKey::Der { bytes: der.len() }),
        }
    }

    /// PKCS#1 `RSAPublicKey` DER.
    pub fn to_der(&self) -> Bytes {
        self.0.clone()
    }

    /// Checks that `signature` is this key's over `bytes`.
    ///
    /// # Errors
    /// When it is not.
    pub fn verify(&self, bytes: &[u8], signature: &Signature) -> Result<(), SignatureRefused> {
        UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &self.0)
            .verify(bytes, &signature.0)
            .map_err(|_| SignatureRefused)
    }

    /// A well-formed key that belongs to nobody, another one for each index: with fast keys it is never
    /// used.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn fixture(index: u32) -> Self {
        let mut der = vec![0x30, 0x82, 0x01, 0x0a, 0x02, 0x82, 0x01, 0x01, 0x00, 0xc5];
        der.extend((0..255u32).map(|byte| u8::try_from((byte * 167 + 13) % 256).expect("below 256")));
        let end = der.len();
        der[end - 5..end - 1].copy_from_slice(&index.to_be_bytes());
        der[end - 1] |= 1; // a modulus is odd
        der.extend([0x02, 0x03, 0x01, 0x00, 0x01]);
        Self::from_der(der.into()).expect("an odd modulus of 2048 bits")
    }

    /// The first eight bytes of the key's SHA-256, in hexadecimal.
    pub fn fingerprint(&self) -> String {
        let digest = Digest::of(DigestAlgorithm::Sha256, &[&self.0]);
        digest.to_string()[..16].to_owned()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rsa:{}", self.fingerprint())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// A signature; what it is over, and whose, is for the verifier to know.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Signature(pub Bytes);

impl Signature {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signature(")?;
        self.0.iter().take(4).try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str(")")
    }
}

/// A generator that stretches 32 secret random bytes: SHA-256 over (seed, counter).
///
/// It lets a caller that holds only a seed generate an identity or draw ephemerals; the same seed
/// gives the same stream, which is what tests and the simulator want.
pub struct SeedRng {
    seed: Zeroizing<[u8; 32]>,
    counter: u64,
    block: [u8; 32],
    used: usize,
}

impl SeedRng {
    /// The stream of `seed`, which must be secret and used for nothing else.
    pub fn new(seed: [u8; 32]) -> Self {
        Self { seed: Zeroizing::new(seed), counter: 0, block: [0; 32], used: 32 }
    }

    /// The next 32 bytes of the stream.
    pub fn next_seed(&mut self) -> [u8; 32] {
        let mut seed = [0; 32];
        self.fill(&mut seed);
        seed
    }

    fn fill(&mut self, mut out: &mut [u8]) {
        while !out.is_empty() {
            if self.used == self.block.len() {
                let counter = self.counter.to_be_bytes();
                self.block = Digest::of(DigestAlgorithm::Sha256, &[&*self.seed, &counter]).0;
                self.counter += 1;
                self.used = 0;
            }
            let count = out.len().min(self.block.len() - self.used);
            let (now, later) = out.split_at_mut(count);
            now.copy_from_slice(&self.block[self.used..self.used + count]);
            self.used += count;
            out = later;
        }
    }
}

impl Drop for SeedRng {
    fn drop(&mut self) {
        self.block.zeroize();
    }
}

impl fmt::Debug for SeedRng {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SeedRng")
    }
}

impl TryRng for SeedRng {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        let mut bytes = [0; 4];
        self.fill(&mut bytes);
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Self::Error> {
        self.fill(out);
        Ok(())
    }
}

impl TryCryptoRng for SeedRng {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_survives_pkcs8_and_signs_alike() {
        let identity = Identity::generate(&mut SeedRng::new([1; 32])).unwrap();
        let again = Identity::from_pkcs8(&identity.to_pkcs8()).unwrap();
        assert_eq!(identity.public_key(), again.public_key());
        assert_eq!(identity.sign(b"x"), again.sign(b"x"));
        let key = PublicKey::from_der(identity.public_key().to_der()).unwrap();
        assert_eq!(key.verify(b"x", &again.sign(b"x")), Ok(()));
        assert_eq!(key.verify(b"y", &again.sign(b"x")), Err(SignatureRefused));
        assert_eq!(key.verify(b"x", &Signature(Bytes::new())), Err(SignatureRefused));
    }

    #[test]
    fn short_and_malformed_keys_are_refused() {
        assert!(matches!(
            Identity::generate_bits(&mut SeedRng::new([1; 32]), 1024),
            Err(InvalidIdentity::Bits { bits: 1024 })
        ));
        assert!(matches!(Identity::from_pkcs8(b"no"), Err(InvalidIdentity::Pkcs8(_))));
        assert_eq!(PublicKey::from_der(Bytes::from_static(b"no")), Err(InvalidPublicKey::Der { bytes: 2 }));
    }

    #[test]
    fn debug_of_an_identity_shows_no_secret() {
        let identity = Identity::generate(&mut SeedRng::new([1; 32])).unwrap();
        assert_eq!(format!("{identity:?}"), format!("Identity({})", identity.public_key()));
    }

    #[test]
    fn seed_stream_does_not_depend_on_the_sizes_asked_for() {
        let mut whole = [0; 100];
        SeedRng::new([3; 32]).fill(&mut whole);
        let mut parts = [0; 100];
        let mut rng = SeedRng::new([3; 32]);
        for part in parts.chunks_mut(7) {
            rng.fill(part);
        }
        assert_eq!(whole, parts);
    }
}
