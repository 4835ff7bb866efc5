//! The platform's own authority, or one that it is given: who makes certificates.

use super::{Credentials, Files, NAMES, Name, Role, TlsError, credentials};
use crate::{draft::draft, hex};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use ring::digest::{SHA256, digest};
use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};
use zeroize::Zeroizing;

/// Certificates are valid from so long before they were made: clocks differ.
const BEFORE: Duration = Duration::from_secs(24 * 3600);

/// How long certificates are valid. They lie where the authority's key or their own lies, so a shorter time
/// would only end platforms that nobody has looked at for long.
const VALID: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Who makes certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// The file of its certificate, and what is in it.
    path: PathBuf,
    pem: String,
}

impl fmt::Debug for Authority {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "Authority({})", self.path.display())
    }
}

impl Authority {
    /// The name of the file with an authority's key.
    pub const KEY: &str = "ca.key";

    /// The authority that lies in a folder, made when there is none.
    ///
    /// # Errors
    /// When files can't be read or written, or hold something else.
    pub fn at(folder: &Path) -> Result<Self, TlsError> {
        let (cert, key) = (folder.join(NAMES[0]), folder.join(Self::KEY));
        if !key.exists() {
            fs::create_dir_all(folder).map_err(TlsError::file(folder))?;
            // Whoever is first makes it; all others find that one.
            write_new(&key, Zeroizing::new(KeyPair::generate()?.serialize_pem()).as_bytes())?;
        }
        if !cert.exists() {
            let pair = read_pair(&key)?;
            write_new(&cert, params(&pair).self_signed(&pair)?.pem().as_bytes())?;
        }
        Self::open(&cert, &key)
    }

    /// The authority with this key, whose certificate is one of those in the other file.
    ///
    /// # Errors
    /// When files can't be read, hold something else, or do not go together.
    pub fn open(ca: &Path, key: &Path) -> Result<Self, TlsError> {
        let pem = fs::read_to_string(ca).map_err(TlsError::file(ca))?;
        let pair = read_pair(key)?;
        let certificates = credentials::certificates(ca, pem.as_bytes())?;
        let own = certificates.iter().find(|certificate| is_of(certificate, &pair));
        let own = own.ok_or_else(|| TlsError::Malformed {
            path: ca.to_owned(),
            what: "certificate of the authority",
            why: format!("none in it goes with the key in {}", key.display()),
        })?;
        Ok(Self { issuer: Issuer::from_ca_cert_der(own, pair)?, path: ca.to_owned(), pem })
    }

    /// Its certificate, and those beside it, as PEM.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate, and its key, for who has this role, and a name of its own.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn issue(&self, role: Role, own: Option<&Name>) -> Result<Issued, TlsError> {
        self.issue_until(role, own, SystemTime::now() + VALID)
    }

    pub(super) fn issue_until(
        &self,
        role: Role,
        own: Option<&Name>,
        end: SystemTime,
    ) -> Result<Issued, TlsError> {
        let names = std::iter::once(role.name()).chain(own.cloned()).map(|name| name.0);
        let mut params = CertificateParams::new(names.collect::<Vec<_>>())?;
        params.distinguished_name = named(own.map_or(role.label(), |own| &own.0));
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        (params.not_before, params.not_after) = ((end - VALID - BEFORE).into(), end.into());
        let pair = KeyPair::generate()?;
        let cert = params.signed_by(&pair, &self.issuer)?.pem();
        let key = Zeroizing::new(pair.serialize_pem());
        Ok(Issued { ca: self.path.clone(), ca_pem: self.pem.clone(), cert, key })
    }
}

/// A certificate and its key.
pub struct Issued {
    ca: PathBuf,
    ca_pem: String,
    /// The certificate, as PEM.
    pub cert: String,
    /// Its key, as PEM.
    pub key: Zeroizing<String>,
}

impl fmt::Debug for Issued {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("Issued")
    }
}

impl Issued {
    /// For connections of this process.
    ///
    /// # Errors
    /// When the authority's certificates make no sense.
    pub fn credentials(&self) -> Result<Credentials, TlsError> {
        let made = |what| PathBuf::from(format!("the {what} that {} has signed", self.ca.display()));
        let names = Files { ca: self.ca.clone(), cert: made("certificate"), key: made("key") };
        Credentials::parse(&names, self.ca_pem.as_bytes(), self.cert.as_bytes(), self.key.as_bytes())
    }

    /// Puts it into a folder, where only their owner can read the key. It is made anew for each life of its
    /// owner, so nothing waits for a disk.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn write(&self, folder: &Path) -> Result<Files, TlsError> {
        fs::create_dir_all(folder).map_err(TlsError::file(folder))?;
        let files = Files { ca: self.ca.clone(), cert: folder.join(NAMES[1]), key: folder.join(NAMES[2]) };
        replace(&files.key, self.key.as_bytes())?;
        replace(&files.cert, self.cert.as_bytes())?;
        Ok(files)
    }
}

fn read_pair(path: &Path) -> Result<KeyPair, TlsError> {
    let text = Zeroizing::new(fs::read_to_string(path).map_err(TlsError::file(path))?);
    KeyPair::from_pem(&text).map_err(|error| TlsError::Malformed {
        path: path.to_owned(),
        what: "key",
        why: error.to_string(),
    })
}

/// Whether a certificate is of this key.
fn is_of(certificate: &CertificateDer<'static>, pair: &KeyPair) -> bool {
    let key = Zeroizing::new(pair.serialize_pem());
    let Ok(key) = PrivateKeyDer::from_pem_slice(key.as_bytes()) else { return false };
    CertifiedKey::from_der(vec![certificate.clone()], key, &credentials::provider()).is_ok()
}

fn params(pair: &KeyPair) -> CertificateParams {
    let mut params = CertificateParams::default();
    let print = digest(&SHA256, pair.public_key_raw());
    params.distinguished_name = named(&format!("Quorate authority {}", hex::encode(&print.as_ref()[..8])));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let now = SystemTime::now();
    (params.not_before, params.not_after) = ((now - BEFORE).into(), (now + VALID).into());
    params
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// Writes a file unless there is one.
fn write_new(path: &Path, bytes: &[u8]) -> Result<(), TlsError> {
    let draft = draft(path, bytes).map_err(TlsError::file(path))?;
    draft.as_file().sync_all().map_err(TlsError::file(path))?;
    match draft.persist_noclobber(path) {
        Ok(_) => Ok(()),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(TlsError::file(path)(error.error)),
    }
}

fn replace(path: &Path, bytes: &[u8]) -> Result<(), TlsError> {
    draft(path, bytes).and_then(|draft| Ok(draft.persist(path).map(drop)?)).map_err(TlsError::file(path))
}
