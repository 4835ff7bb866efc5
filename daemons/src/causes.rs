//! What an error comes from: the clients of other people's services say little in their own words.

use std::{error::Error, iter::successors};

/// What an error comes from, the nearest first.
pub(crate) fn causes<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    successors(error.source(), |&error| error.source())
}

/// Words, and after them those of causes that say something new.
pub(crate) fn with_causes<'a>(
    words: String,
    causes: impl Iterator<Item = &'a (dyn Error + 'static)>,
) -> String {
    causes.map(ToString::to_string).fold(words, |words, more| {
        if words.is_empty() {
            more
        } else if words.contains(&more) {
            words
        } else {
            format!("{words}: {more}")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Said(&'static str, #[source] Option<Box<Said>>);

    #[test]
    fn each_cause_is_said_once_and_after_what_it_caused() {
        let error =
            Said("request failed", Some(Box::new(Said("failed", Some(Box::new(Said("no route", None)))))));
        assert_eq!(with_causes(error.to_string(), causes(&error)), "request failed: no route");
        assert_eq!(with_causes(String::new(), causes(&error)), "failed: no route");
    }
}
