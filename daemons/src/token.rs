//! Bearer tokens: who may come to the gateway, and for what.
//!
//! A token is 32 random bytes, told once, when it is made. What is kept of it, in a file of JSON, is its
//! SHA-256: nobody guesses 256 bits, so no slower hash is needed, and whoever reads the file can't come in
//! with it. `quorate tokens` writes the file; gateways notice when it changes.

use crate::{draft::draft, hex};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    fmt, fs, io,
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// What every token begins with, so that one that got lost in a log or a repository is found there.
const PREFIX: &str = "quorate_";

/// Random bytes of a token.
const SECRET_BYTES: usize = 32;

/// Tokens of one platform.
const TOKENS_MAX: usize = 10_000;

/// Letters of a token's name.
const NAME_MAX: usize = 64;

/// What a token allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// To submit expressions, and to read what became of any whose id is known.
    Submit,
    /// To read: answers, processes, queues, faults, metrics.
    Read,
    /// Everything: to scale, and to look at and redrive dead letters, too.
    Admin,
}

impl fmt::Display for Scope {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Self::Submit => "submit",
            Self::Read => "read",
            Self::Admin => "admin",
        })
    }
}

/// What is kept of a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// Whose it is, for people.
    pub name: String,
    /// SHA-256 of the token's text, hexadecimal.
    sha256: String,
    /// What it allows.
    pub scopes: Vec<Scope>,
    /// Requests a second; `None`: `limits.requests_per_second`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_second: Option<u32>,
    /// When it was made.
    pub made: jiff::Timestamp,
}

impl Token {
    /// Whether it allows what any of these scopes does.
    #[must_use]
    pub fn allows(&self, any_of: &[Scope]) -> bool {
        self.scopes.iter().any(|scope| *scope == Scope::Admin || any_of.contains(scope))
    }
}

/// A platform's tokens.
#[derive(Clone, Debug, Default)]
pub struct Tokens(HashMap<[u8; 32], Token>);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    tokens: Vec<Token>,
}

/// Why there are no tokens, or there is not this one.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file can't be read or written.
    #[error("tokens {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("{} holds no tokens: {why}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The name can't be used.
    #[error("`{name:.80}` can't name a token: 1 to {NAME_MAX} letters, digits, `-`, `_` and `.`")]
    Name {
        /// The name.
        name: String,
    },
    /// There is one of that name.
    #[error("there is a token named {name} already; revoke it first, or choose another name")]
    Exists {
        /// The name.
        name: String,
    },
    /// There is none of that name.
    #[error("there is no token named {name}")]
    Unknown {
        /// The name.
        name: String,
    },
    /// There are too many.
    #[error("there are {TOKENS_MAX} tokens, which is the most; revoke some")]
    TooMany,
    /// The operating system gave no randomness.
    #[error("the operating system gave no random bytes")]
    Randomness,
}

impl Tokens {
    /// The tokens in a file; `None` when there is no such file.
    ///
    /// # Errors
    /// When it can't be read, or holds something else.
    pub fn read(path: &Path) -> Result<Option<Self>, TokenError> {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(TokenError::File { path: path.into(), source }),
        };
        let malformed = |why: String| TokenError::Malformed { path: path.into(), why };
        let file: File = serde_json::from_slice(&text).map_err(|error| malformed(error.to_string()))?;
        if file.tokens.len() > TOKENS_MAX {
            return Err(malformed(format!("{} tokens, over {TOKENS_MAX}", file.tokens.len())));
        }
        let mut tokens = HashMap::new();
        for token in file.tokens {
            let hash = hex::decode(&token.sha256).and_then(|bytes| bytes.try_into().ok());
            let hash = hash.ok_or_else(|| malformed(format!("`{:.80}` has no SHA-256", token.name)))?;
            tokens.insert(hash, token);
        }
        Ok(Some(Self(tokens)))
    }

    /// The token whose text this is.
    #[must_use]
    pub fn find(&self, text: &str) -> Option<&Token> {
        self.0.get(&sha256(text))
    }

    /// All of them, by name.
    #[must_use]
    pub fn all(&self) -> Vec<&Token> {
        let mut all: Vec<_> = self.0.values().collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Makes a token, and gives its text: nobody can be told that again.
    ///
    /// # Errors
    /// When the name can't be used or is used, there are too many, or there is no randomness.
    pub fn make(
        &mut self,
        name: &str,
        scopes: Vec<Scope>,
        requests_per_second: Option<u32>,
    ) -> Result<Zeroizing<String>, TokenError> {
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if name.is_empty() || name.len() > NAME_MAX || !name.bytes().all(letter) {
            return Err(TokenError::Name { name: name.into() });
        }
        if self.0.values().any(|token| token.name == name) {
            return Err(TokenError::Exists { name: name.into() });
        }
        if self.0.len() >= TOKENS_MAX {
            return Err(TokenError::TooMany);
        }
        let mut secret = Zeroizing::new([0; SECRET_BYTES]);
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut *secret)
            .map_err(|_| TokenError::Randomness)?;
        let text = Zeroizing::new(format!("{PREFIX}{}", hex::encode(&*secret)));
        let hash = sha256(&text);
        let token = Token {
            name: name.into(),
            sha256: hex::encode(&hash),
            scopes,
            requests_per_second,
            made: jiff::Timestamp::now(),
        };
        self.0.insert(hash, token);
        Ok(text)
    }

    /// Revokes the token of this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn revoke(&mut self, name: &str) -> Result<(), TokenError> {
        let hash = self.0.iter().find(|(_, token)| token.name == name).map(|(hash, _)| *hash);
        let hash = hash.ok_or_else(|| TokenError::Unknown { name: name.into() })?;
        self.0.remove(&hash);
        Ok(())
    }

    /// Writes them, whole or not at all, readable by the owner alone.
    ///
    /// # Errors
    /// When that can't be done.
    pub fn write(&self, path: &Path) -> Result<(), TokenError> {
        let file = File { tokens: self.all().into_iter().cloned().collect() };
        let text = serde_json::to_vec_pretty(&file).expect("tokens are plain data");
        let write = || {
            fs::create_dir_all(path.parent().unwrap_or(Path::new("")))?;
            let draft = draft(path, &text)?;
            draft.as_file().sync_all()?;
            draft.persist(path).map_err(|error| error.error)?;
            Ok(())
        };
        write().map_err(|source| TokenError::File { path: path.into(), source })
    }
}

fn sha256(text: &str) -> [u8; 32] {
    digest(&SHA256, text.as_bytes()).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_found_by_its_text_and_the_file_does_not_hold_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("deep/tokens.json");
        assert!(Tokens::read(&path).expect("read").is_none());
        let mut tokens = Tokens::default();
        let text = tokens.make("ci", vec![Scope::Submit], Some(5)).expect("made");
        let other = tokens.make("ops", vec![Scope::Admin], None).expect("made");
        assert_ne!(text, other);
        tokens.write(&path).expect("written");
        assert!(!fs::read_to_string(&path).expect("text").contains(&text[PREFIX.len()..]));
        let read = Tokens::read(&path).expect("read").expect("it is there");
        let found = read.find(&text).expect("known");
        assert_eq!((found.name.as_str(), found.requests_per_second), ("ci", Some(5)));
        assert!(found.allows(&[Scope::Read, Scope::Submit]) && !found.allows(&[Scope::Read]));
        assert!(read.find(&other).expect("known").allows(&[Scope::Read]));
        for wrong in ["", "quorate_", &text[..text.len() - 1], &text.to_uppercase(), &format!("{} ", *text)] {
            assert!(read.find(wrong).is_none(), "{wrong}");
        }
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn names_are_used_once_and_a_revoked_token_is_unknown() {
        let mut tokens = Tokens::default();
        let text = tokens.make("ci", vec![Scope::Read], None).expect("made");
        assert!(matches!(tokens.make("ci", Vec::new(), None), Err(TokenError::Exists { .. })));
        for name in ["", "a b", "ä", &"a".repeat(65)] {
            assert!(matches!(tokens.make(name, Vec::new(), None), Err(TokenError::Name { .. })), "{name}");
        }
        tokens.revoke("ci").expect("it is there");
        assert!(tokens.find(&text).is_none());
        assert!(matches!(tokens.revoke("ci"), Err(TokenError::Unknown { .. })));
    }

    #[test]
    fn what_is_no_file_of_tokens_is_refused_with_the_reason() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("tokens.json");
        for (text, why) in [
            ("", "EOF"),
            ("{}", "missing field `tokens`"),
            (r#"{"tokens": [], "more": 1}"#, "unknown field `more`"),
            (
                r#"{"tokens": [{"name": "a", "sha256": "00", "scopes": [], "made": "2026-01-01T00:00:00Z"}]}"#,
                "`a` has no SHA-256",
            ),
            (
                r#"{"tokens": [{"name": "a", "sha256": "00", "scopes": ["all"], "made": "2026-01-01T00:00:00Z"}]}"#,
                "unknown variant `all`",
            ),
        ] {
            fs::write(&path, text).expect("written");
            let error = Tokens::read(&path).expect_err("refused").to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
