//! What is wrong with a configuration, and where.

use crate::excerpt::Excerpt;
use std::{fmt, path::PathBuf};

/// Everything that is wrong with a configuration: all of it, so that one run of the editor mends all.
#[derive(Debug)]
pub struct ConfigErrors(pub Vec<ConfigError>);

/// One thing that is wrong.
#[derive(Debug)]
pub struct ConfigError {
    /// Where it was said.
    pub place: Place,
    /// What is wrong with it.
    pub fault: Fault,
}

/// Where a value was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nowhere: it is the default.
    Default,
    /// In a file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, with the key or value marked.
        excerpt: Excerpt,
    },
    /// In a file, as a whole.
    WholeFile {
        /// The file.
        path: PathBuf,
    },
    /// In the environment.
    Environment {
        /// The variable.
        name: String,
    },
    /// On the command line.
    Flag {
        /// The flag, as it was written.
        name: String,
    },
}

/// What is wrong with a value or key.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The file can't be read.
    #[error("can't be read: {0}")]
    Unreadable(#[source] std::io::Error),
    /// The file is not TOML.
    #[error("not TOML: {0}")]
    Syntax(#[source] toml::de::Error),
    /// There is no such key.
    #[error("unknown key `{key}`{}", did_you_mean(.suggestion.as_deref()))]
    UnknownKey {
        /// What was written.
        key: String,
        /// The key that is nearest.
        suggestion: Option<String>,
    },
    /// There is no such environment variable.
    #[error("unknown variable {name}{}", did_you_mean(.suggestion.as_deref()))]
    UnknownVariable {
        /// What was set.
        name: String,
        /// The variable that is nearest.
        suggestion: Option<String>,
    },
    /// A table was expected.
    #[error("`{key}` is a section: write [{key}] and its keys below it, not a {found}")]
    NotASection {
        /// The section.
        key: String,
        /// What was found.
        found: &'static str,
    },
    /// The value has another type.
    #[error("`{key}` is {expected}, not a {found}{}", did_you_mean(.suggestion.as_deref()))]
    WrongType {
        /// The key.
        key: String,
        /// What it takes, with an example.
        expected: &'static str,
        /// What was found.
        found: &'static str,
        /// What was meant, when that can be guessed.
        suggestion: Option<String>,
    },
    /// The value can't be read as what the key takes.
    #[error("`{key}` is {expected}, not `{value}`{}", did_you_mean(.suggestion.as_deref()))]
    Malformed {
        /// The key.
        key: String,
        /// What was given.
        value: String,
        /// What it takes, with an example.
        expected: &'static str,
        /// What was meant, when that can be guessed.
        suggestion: Option<String>,
    },
    /// The value is not allowed.
    #[error("`{key}` = {value} is out of range ({low} to {high})")]
    OutOfRange {
        /// The key.
        key: String,
        /// What was given.
        value: String,
        /// The least that is allowed.
        low: String,
        /// The most that is allowed.
        high: String,
    },
    /// Replicas can't agree on operations that large.
    #[error(
        "`{key}` = {value} is over {limit}: two fractions of more digits are over the {bytes} bytes of an \
         operation that replicas agree on (operation_bytes_max); more is possible only when no function \
         is replicated"
    )]
    OverOperation {
        /// The key.
        key: String,
        /// What it is.
        value: u32,
        /// The most that it may be.
        limit: u32,
        /// The most bytes of an operation.
        bytes: u32,
    },
    /// This program was built without an engine.
    #[error(
        "`{key}` = \"{feature}\" needs a program with that engine in it, as the image is: this one was built \
         without the cargo feature `{feature}` (all of them: `--features engines`)"
    )]
    NotBuilt {
        /// The key.
        key: String,
        /// The feature, and the value that needs it.
        feature: &'static str,
    },
    /// A value means nothing without another one.
    #[error("`{key}` means nothing without `{needed}`")]
    Alone {
        /// The key.
        key: String,
        /// What has to be set, too.
        needed: &'static str,
    },
    /// Two values do not go together.
    #[error("`{key}` = {value} is over `{limit_key}` = {limit}")]
    Over {
        /// The key.
        key: String,
        /// What it is.
        value: String,
        /// The key that bounds it.
        limit_key: String,
        /// What that one is.
        limit: String,
    },
}

fn did_you_mean(suggestion: Option<&str>) -> String {
    suggestion.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
}

impl fmt::Display for Place {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => to.write_str("default"),
            Self::File { path, excerpt } => write!(to, "{}:{}", path.display(), excerpt.line()),
            Self::WholeFile { path } => write!(to, "{}", path.display()),
            Self::Environment { name } => to.write_str(name),
            Self::Flag { name } => to.write_str(name),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.place, &self.fault) {
            // toml's own message repeats the excerpt.
            (place, Fault::Syntax(error)) => write!(to, "{place}: not TOML: {}", error.message().trim())?,
            (place, fault) => write!(to, "{place}: {fault}")?,
        }
        if let Place::File { excerpt, .. } = &self.place {
            for line in excerpt.to_string().lines() {
                write!(to, "\n  {line}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, error) in self.0.iter().enumerate() {
            if at > 0 {
                writeln!(to)?;
            }
            write!(to, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}
