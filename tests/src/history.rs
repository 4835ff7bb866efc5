//! What a client saw of its requests, and what it must never see.

use std::collections::{BTreeSet, HashMap};

/// One request as its client saw it, from beginning to end.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// What was asked.
    pub expression: String,
    /// Its value, by the arithmetic of this machine.
    pub expected: String,
    /// In the order in which it was seen.
    pub saw: Vec<Saw>,
}

/// Something that a client saw of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Saw {
    /// It was submitted, for the first time or again, under the same key.
    Submitted,
    /// It is accepted under an id, and not answered.
    Accepted {
        /// The id.
        id: String,
    },
    /// It has a result.
    Result {
        /// The id.
        id: String,
        /// The result.
        result: String,
    },
    /// It is refused or has failed, so that asking again would change nothing.
    Failed {
        /// What was answered.
        answer: String,
    },
    /// There is no such request: never, or no more.
    Absent {
        /// The id.
        id: String,
    },
}

/// What clients must never see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Violations {
    /// Requests that had no answer, or an answer other than a result.
    pub lost: Vec<String>,
    /// Requests that had two ids or two results, and ids that two requests had.
    pub doubled: Vec<String>,
    /// Results that are not the value.
    pub wrong: Vec<String>,
    /// Reads that went back: no result where one was seen before, or no request where one was accepted.
    pub vanished: Vec<String>,
}

impl Violations {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kinds().iter().all(|(_, all)| all.is_empty())
    }

    /// All of them by their kinds.
    #[must_use]
    pub fn kinds(&self) -> [(&'static str, &[String]); 4] {
        [
            ("lost", &self.lost),
            ("doubled", &self.doubled),
            ("wrong", &self.wrong),
            ("vanished", &self.vanished),
        ]
    }
}

/// Checks all histories of one platform. Every request was answered, once in value, correctly; and reads are
/// monotonic: who has seen that a request is accepted or what its result is sees that from then on.
#[must_use]
pub fn check(histories: &[History]) -> Violations {
    let mut found = Violations::default();
    let mut ids: HashMap<&str, usize> = HashMap::new();
    for (nth, history) in histories.iter().enumerate() {
        let name = &history.expression;
        let (mut mine, mut results) = (BTreeSet::new(), BTreeSet::new());
        for saw in &history.saw {
            match saw {
                Saw::Submitted => {}
                Saw::Accepted { id } => {
                    mine.insert(id.as_str());
                    if let Some(result) = results.first() {
                        found.vanished.push(format!("{name} ({id}) was {result}, and later not answered"));
                    }
                }
                Saw::Result { id, result } => {
                    mine.insert(id);
                    results.insert(result.as_str());
                    if *result != history.expected {
                        found.wrong.push(format!("{name} ({id}) = {}, not {result}", history.expected));
                    }
                }
                Saw::Failed { answer } => match results.first() {
                    Some(result) => found.vanished.push(format!("{name} was {result}, and later {answer}")),
                    None => found.lost.push(format!("{name}: {answer}")),
                },
                Saw::Absent { id } => found.vanished.push(format!("{name} ({id}) was there, and later not")),
            }
        }
        if results.is_empty() && !history.saw.iter().any(|saw| matches!(saw, Saw::Failed { .. })) {
            found.lost.push(format!("{name}: {:?}", history.saw.last()));
        }
        if results.len() > 1 || mine.len() > 1 {
            found.doubled.push(format!("{name}: {results:?} as {mine:?}"));
        }
        for id in mine {
            if let Some(other) = ids.insert(id, nth) {
                found.doubled.push(format!("{id} is {} and {name}", histories[other].expression));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(saw: &[Saw]) -> History {
        History { expression: "20+22".into(), expected: "42".into(), saw: saw.to_vec() }
    }

    fn accepted(id: &str) -> Saw {
        Saw::Accepted { id: id.into() }
    }

    fn result(id: &str, result: &str) -> Saw {
        Saw::Result { id: id.into(), result: result.into() }
    }

    fn failed() -> Saw {
        Saw::Failed { answer: "422".into() }
    }

    fn absent(id: &str) -> Saw {
        Saw::Absent { id: id.into() }
    }

    /// How many are lost, doubled, wrong and vanished.
    fn found(saw: &[Saw]) -> [usize; 4] {
        check(&[history(saw)]).kinds().map(|(_, all)| all.len())
    }

    #[test]
    fn a_request_that_is_answered_once_and_stays_so_is_flawless() {
        let whole = [Saw::Submitted, Saw::Submitted, accepted("a"), result("a", "42"), result("a", "42")];
        assert!(check(&[history(&whole)]).is_empty());
        assert!(check(&[]).is_empty());
    }

    #[test]
    fn a_request_without_a_result_is_lost() {
        assert_eq!(found(&[Saw::Submitted]), [1, 0, 0, 0]);
        assert_eq!(found(&[Saw::Submitted, accepted("a")]), [1, 0, 0, 0]);
        assert_eq!(found(&[Saw::Submitted, accepted("a"), failed()]), [1, 0, 0, 0]);
    }

    #[test]
    fn two_results_and_two_ids_are_doubled() {
        assert_eq!(found(&[result("a", "42"), result("a", "43")]), [0, 1, 1, 0]);
        assert_eq!(found(&[accepted("a"), result("b", "42")]), [0, 1, 0, 0]);
        let two = [history(&[result("a", "42")]), history(&[result("a", "42")])];
        assert_eq!(check(&two).doubled.len(), 1);
        let two = [history(&[result("a", "42")]), history(&[result("b", "42")])];
        assert!(check(&two).is_empty());
    }

    #[test]
    fn a_result_that_is_not_the_value_is_wrong() {
        assert_eq!(found(&[result("a", "41")]), [0, 0, 1, 0]);
    }

    #[test]
    fn a_read_that_goes_back_is_found() {
        assert_eq!(found(&[result("a", "42"), accepted("a")]), [0, 0, 0, 1]);
        assert_eq!(found(&[result("a", "42"), absent("a")]), [0, 0, 0, 1]);
        assert_eq!(found(&[result("a", "42"), failed()]), [0, 0, 0, 1]);
        assert_eq!(found(&[accepted("a"), absent("a"), result("a", "42")]), [0, 0, 0, 1]);
    }
}
