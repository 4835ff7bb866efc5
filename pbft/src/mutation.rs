//! Mistakes that tests make on purpose: the protocol with one rule left out.
//!
//! A rule that no test misses is a rule that no test checks. Each mistake here has a test that must
//! notice it. Without the feature `sim` nothing of this exists in the program.

/// A rule that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "sim"), expect(unreachable_pub, reason = "public with the feature `sim` only"))]
pub enum Mutation {
    /// A batch is committed with 2f commits.
    CommitAtTwoF,
    /// A vote that comes twice counts twice.
    CountSenderTwice,
    /// Promises do not wait for the journal.
    SkipDurableWait,
    /// A gap in the order is skipped.
    ExecuteOutOfOrder,
    /// The client table is not asked whether an operation was executed before.
    DropDedupe,
    /// A checkpoint is stable when this replica alone vouches for it.
    CollectTooEarly,
    /// Votes of other views count.
    AcceptWrongView,
    /// Sequence numbers above the high watermark are taken.
    AcceptOutsideWindow,
    /// A restarted replica does not remember what it proposed or accepted.
    ForgetPromises,
    /// A fetched page is taken without comparing its digest.
    TrustPages,
    /// Fetched digests are taken without comparing them with the one above.
    TrustMetaData,
    /// Pages that a fetched state does not have any more are kept.
    KeepVanished,
    /// A replica whose state is not the group's, or that fetches another one, serves it to others.
    ServeDiverged,
    /// A new view forgets what was prepared in those before.
    ForgetPrepared,
    /// A VIEW-CHANGE says nothing of what was prepared.
    HidePrepared,
    /// A VIEW-CHANGE says nothing of what was pre-prepared.
    HidePrePrepared,
    /// One view-change of somebody else is reason enough to leave a view.
    FollowOne,
    /// A restarted replica does not remember that it left a view.
    ForgetViewChange,
    /// A NEW-VIEW is believed whatever is in it.
    TrustNewView,
    /// f replicas' word makes a request authentic.
    VouchedByF,
    /// A replica vouches for requests that it could not check.
    VouchUnchecked,
    /// A request may be waited for, whoever vouches for it.
    WaitForAnyRequest,
    /// One replica's mark binds a client.
    MarkAlone,
    /// A restarted replica does not remember which clients are marked.
    ForgetMarks,
    /// Nobody minds a state that differs from the certified one.
    TolerateWrongStates,
    /// A replica that was told another batch than its peer keeps that to itself.
    HideConflicts,
    /// A client takes f+1 equal answers.
    AnswerAtWeakQuorum,
    /// A SUCCESSION is followed without a look at its signatures.
    TrustSuccession,
    /// The boundary of a configuration is the next checkpoint.
    BoundaryTooEarly,
    /// A restarted replica does not remember that it went over to another configuration.
    ForgetSuccession,
    /// Anybody may order to replace members.
    TrustReconfigure,
    /// A restarted replica answers reads before it has executed again what it may have answered before.
    ReadTooEarly,
    /// A vote that comes twice is taken for a contradiction.
    BlameRepeated,
    /// Any number of a client's requests may wait.
    QueueEverything,
    /// Nobody vouches for what it has executed, whoever waits for it yet.
    SilentOnceExecuted,
    /// Any number of CHECKPOINTs of one replica is kept.
    KeepEveryVote,
    /// A certificate lacks one of its signatures.
    ShortCertificate,
    /// The grace of a session key that was refreshed never ends.
    AcceptOldEpoch,
    /// A batch is accepted though operations that it names are not here.
    AcceptWithoutOperations,
    /// Operations are taken without comparing them with the digests that name them.
    TrustOperations,
    /// The journal keeps batches without the operations that they name.
    ForgetOperations,
}

#[cfg(feature = "sim")]
mod switch {
    use std::cell::Cell;

    use super::Mutation;

    thread_local! {
        static MUTATION: Cell<Option<Mutation>> = const { Cell::new(None) };
    }

    /// Leaves one rule out on this thread while `run` runs.
    pub fn with<T>(mutation: Mutation, run: impl FnOnce() -> T) -> T {
        /// Puts the rule back, also when `run` panics.
        struct Restore;

        impl Drop for Restore {
            fn drop(&mut self) {
                MUTATION.set(None);
            }
        }

        MUTATION.set(Some(mutation));
        let _restore = Restore;
        run()
    }

    /// Whether this rule is left out.
    pub(crate) fn is_on(mutation: Mutation) -> bool {
        MUTATION.get() == Some(mutation)
    }
}

#[cfg(feature = "sim")]
pub(crate) use switch::is_on;
#[cfg(feature = "sim")]
pub use switch::with;

/// Whether this rule is left out: never.
#[cfg(not(feature = "sim"))]
pub(crate) const fn is_on(_: Mutation) -> bool {
    false
}
