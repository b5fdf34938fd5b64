//! What an account's status should say. Pure.

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;

use super::api::{
    COPIED, Condition, ManagedServiceAccount, ManagedServiceAccountStatus, SECRET_CREATED,
    TOKEN_REPORTED, TokenSecretRef,
};

/// What came of one look at an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The token in its Secret is good.
    Kept,
    /// A new one is there.
    Minted {
        /// Since when.
        refreshed: Timestamp,
        /// Until when.
        expires: Timestamp,
    },
    /// Nothing could be done, and nothing has to be reported: the old token still lives.
    Waiting,
    /// It has no token, or cannot get the next one.
    Failed(Problem),
}

/// Why an account has no good token, as its conditions say it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(super) struct Problem {
    /// One word.
    pub(super) reason: &'static str,
    /// For people. Without secrets, and the same at every try: a change of it is a write.
    pub(super) message: String,
}

// === impl Problem ===

impl Problem {
    /// Something on the way to the token.
    pub(super) fn report(message: impl Into<String>) -> Self {
        Self { reason: REPORT_FAILED, message: message.into() }
    }

    /// Whether only somebody else can help.
    pub(super) fn is_refusal(&self) -> bool {
        self.reason != REPORT_FAILED
    }
}

/// The status of `account` after `outcome` of a look at its generation `seen`. `refused` says why a
/// copy of its Secret cannot be made.
pub(super) fn status(
    account: &ManagedServiceAccount,
    outcome: &Outcome,
    refused: Option<&str>,
    seen: Option<i64>,
    now: Timestamp,
) -> ManagedServiceAccountStatus {
    let mut status = account.status.clone().unwrap_or_default();
    let mut set = |kind, value, reason: &str, message: &str| {
        set_condition(&mut status.conditions, kind, value, reason, message, seen, now);
    };
    match outcome {
        Outcome::Waiting => {}
        Outcome::Kept | Outcome::Minted { .. } => {
            set(SECRET_CREATED, "True", SECRET_CREATED, "");
            set(TOKEN_REPORTED, "True", TOKEN_REPORTED, "");
        }
        Outcome::Failed(problem) => {
            if problem.reason == SECRET_NOT_MANAGED {
                set(SECRET_CREATED, "False", problem.reason, &problem.message);
            }
            set(TOKEN_REPORTED, "False", problem.reason, &problem.message);
        }
    }
    match refused {
        Some(why) => set(COPIED, "False", NAME_TAKEN, why),
        None => status.conditions.retain(|condition| condition.kind != COPIED),
    }
    if let Outcome::Minted { refreshed, expires } = outcome {
        status.expiration_timestamp = Some(seconds(*expires));
        status.token_secret_ref = Some(TokenSecretRef {
            name: account.name_any(),
            last_refresh_timestamp: seconds(*refreshed),
        });
    }
    status
}

fn set_condition(
    conditions: &mut Vec<Condition>,
    kind: &str,
    status: &str,
    reason: &str,
    message: &str,
    observed_generation: Option<i64>,
    now: Timestamp,
) {
    let mut wanted = Condition {
        kind: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: seconds(now),
        observed_generation,
    };
    match conditions.iter_mut().find(|condition| condition.kind == kind) {
        Some(condition) => {
            if condition.status == status {
                wanted.last_transition_time = condition.last_transition_time.clone();
            }
            *condition = wanted;
        }
        None => conditions.push(wanted),
    }
}

/// RFC 3339 in whole seconds, as Kubernetes writes times.
fn seconds(at: Timestamp) -> String {
    // Any timestamp is in the range of its own seconds.
    Timestamp::from_second(at.as_second()).unwrap_or(at).to_string()
}

/// Reason: something on the way to the token, which may heal.
pub(super) const REPORT_FAILED: &str = "TokenReportFailed";
/// Reason: a ServiceAccount of the name was there, and is not labelled as made for this.
pub(super) const ACCOUNT_NOT_MANAGED: &str = "ServiceAccountNotManaged";
/// Reason: a Secret of the name was there, and is not labelled as made for this.
pub(super) const SECRET_NOT_MANAGED: &str = "SecretNotManaged";
/// Reason: the account asks for something that cannot be.
pub(super) const INVALID: &str = "InvalidRequest";
/// Reason: the name of the copy belongs to another.
const NAME_TAKEN: &str = "NameTaken";

#[cfg(test)]
mod tests {
    use super::super::testing::{account, at, reported};
    use super::*;

    fn status(
        account: &ManagedServiceAccount,
        outcome: &Outcome,
        refused: Option<&str>,
        now: Timestamp,
    ) -> ManagedServiceAccountStatus {
        super::status(account, outcome, refused, account.metadata.generation, now)
    }

    fn find<'a>(status: &'a ManagedServiceAccountStatus, kind: &str) -> Option<&'a Condition> {
        status.conditions.iter().find(|condition| condition.kind == kind)
    }

    fn failed(reason: &'static str) -> Outcome {
        Outcome::Failed(Problem { reason, message: "why".to_owned() })
    }

    #[test]
    fn a_new_token_is_reported_whole() {
        let outcome = Outcome::Minted { refreshed: at(10), expires: at(610) };
        let status = status(&account("c1", "a"), &outcome, None, at(11));
        assert_eq!(status.expiration_timestamp.as_deref(), Some("1970-01-01T00:10:10Z"));
        let reference = status.token_secret_ref.clone().unwrap();
        assert_eq!(reference.name, "a");
        assert_eq!(reference.last_refresh_timestamp, "1970-01-01T00:00:10Z");
        for kind in [SECRET_CREATED, TOKEN_REPORTED] {
            let condition = find(&status, kind).unwrap();
            assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("True", kind));
            assert_eq!(condition.observed_generation, Some(1));
            assert_eq!(condition.last_transition_time, "1970-01-01T00:00:11Z");
        }
    }

    #[test]
    fn the_same_again_changes_nothing_and_a_new_generation_does() {
        let mut account = reported(account("c1", "a"), 0, 600);
        account.status = Some(status(&account, &Outcome::Kept, None, at(1)));
        let again = status(&account, &Outcome::Kept, None, at(99));
        assert_eq!(Some(&again), account.status.as_ref());
        account.metadata.generation = Some(2);
        let next = status(&account, &Outcome::Kept, None, at(99));
        let condition = find(&next, TOKEN_REPORTED).unwrap();
        assert_eq!(condition.observed_generation, Some(2));
        assert_eq!(condition.last_transition_time, "1970-01-01T00:00:01Z", "no transition");
        assert_eq!(status(&account, &Outcome::Waiting, None, at(99)), again);
        let older = super::status(&account, &Outcome::Kept, None, Some(1), at(99));
        assert_eq!(older, again, "what was looked at was the one before");
    }

    #[test]
    fn a_failure_keeps_what_was_reported_and_conditions_of_others() {
        let mut account = reported(account("c1", "a"), 0, 600);
        let other = Condition { kind: "Other".to_owned(), ..Condition::default() };
        account.status.as_mut().unwrap().conditions.push(other.clone());
        let status = status(&account, &failed(REPORT_FAILED), None, at(5));
        assert_eq!(status.token_secret_ref, account.status.unwrap().token_secret_ref);
        assert_eq!(status.conditions[0], other);
        let condition = find(&status, TOKEN_REPORTED).unwrap();
        assert_eq!((condition.status.as_str(), condition.message.as_str()), ("False", "why"));
        assert_eq!(find(&status, SECRET_CREATED), None, "as upstream: nothing is said of it");
    }

    #[test]
    fn a_secret_of_others_and_a_refused_copy_are_said() {
        let mut account = account("c1", "a");
        let refused = status(&account, &failed(SECRET_NOT_MANAGED), Some("taken"), at(5));
        assert_eq!(find(&refused, SECRET_CREATED).unwrap().status, "False");
        assert_eq!(find(&refused, COPIED).unwrap().message, "taken");
        account.status = Some(refused);
        let healed = status(&account, &Outcome::Kept, None, at(6));
        assert_eq!(find(&healed, SECRET_CREATED).unwrap().status, "True");
        assert_eq!(find(&healed, COPIED), None);
    }
}
