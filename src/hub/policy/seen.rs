//! Which clusters an identity of the hub may see, beside how they are: those that a rule names for it,
//! and those that the hub's own API server lets it `get` where that is asked.
//!
//! One page is one question about all clusters, and where that is no yes at most [`QUESTIONS`] about
//! single ones, [`LOOKING`] at a time for all pages together, within [`TIME`]. What was said less than
//! [`FRESH`] ago is not asked again. Whatever has no answer is left out, and the page says so.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;

use super::delegation::{Delegation, FRESH, NotDelegated, Question};
use super::{Denied, Policies};
use crate::hub::authn::Identity;
use crate::hub::token_review::UserInfo;
use crate::name::ClusterName;

/// The clusters that somebody may see.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) clusters: BTreeSet<ClusterName>,
    /// Why there may be more.
    pub(crate) incomplete: Option<String>,
}

// === impl Policies ===

impl Policies {
    /// Which of these clusters an identity of the hub may see.
    ///
    /// # Errors
    /// When there are no rules about anybody, and nobody who is asked instead.
    pub(crate) async fn seen(
        &self,
        identity: &Identity,
        clusters: impl Iterator<Item = &ClusterName>,
    ) -> Result<Seen, Denied> {
        let policy = self.in_force();
        if self.delegation.is_none()
            && let Err(denied) = &policy
        {
            self.count(Err(denied));
            return Err(denied.clone());
        }
        let Some(impersonated) = &identity.impersonation else { return Ok(Seen::default()) };
        let (user, groups) = (&identity.user, &impersonated.groups);
        let is_named = |cluster: &ClusterName| {
            policy.as_ref().is_ok_and(|policy| policy.names(user, groups, cluster))
        };
        let (named, others): (BTreeSet<_>, BTreeSet<_>) = clusters.cloned().partition(is_named);
        let mut seen = Seen { clusters: named, incomplete: None };
        if let (Some(delegation), Some(own)) = (&self.delegation, &impersonated.own) {
            seen.ask(delegation, own, others).await;
        }
        if policy.err() == Some(Denied::Unread) {
            seen.incomplete = Some(Denied::Unread.to_string());
        }
        Ok(seen)
    }
}

// === impl Seen ===

impl Seen {
    async fn ask(
        &mut self,
        delegation: &Delegation,
        who: &Arc<UserInfo>,
        clusters: BTreeSet<ClusterName>,
    ) {
        if clusters.is_empty() {
            return;
        }
        let asked = tokio::time::timeout(TIME, self.ask_all(delegation, who, clusters)).await;
        let unasked = match asked {
            Ok(Ok(())) => return,
            Ok(Err(why)) => why,
            Err(_) => "it takes too long".to_owned(),
        };
        let why = Denied::Unasked(unasked);
        self.incomplete = Some(format!("clusters that only it lets you see may be missing: {why}"));
    }

    async fn ask_all(
        &mut self,
        delegation: &Delegation,
        who: &Arc<UserInfo>,
        clusters: BTreeSet<ClusterName>,
    ) -> Result<(), String> {
        let all = Question::to_see(Arc::clone(who), None);
        match delegation.ask(&all, FRESH).await {
            Ok(()) => {
                self.clusters.extend(clusters);
                return Ok(());
            }
            Err(NotDelegated::Refused) => {}
            Err(NotDelegated::Unasked(why)) => return Err(why),
        }
        let mut unknown = Vec::new();
        for cluster in clusters {
            let question = Question::to_see(Arc::clone(who), Some(&cluster));
            match delegation.remembered(&question, FRESH).await {
                Some(Ok(())) => drop(self.clusters.insert(cluster)),
                Some(Err(_)) => {}
                None => unknown.push((cluster, question)),
            }
        }
        let too_many = unknown.len() > QUESTIONS;
        unknown.truncate(QUESTIONS);
        let ask = |(cluster, question)| async move {
            let _place = delegation.place_of_page().await;
            (cluster, delegation.ask(&question, FRESH).await)
        };
        let mut answers = stream::iter(unknown).map(ask).buffer_unordered(LOOKING);
        while let Some((cluster, answer)) = answers.next().await {
            match answer {
                Ok(()) => drop(self.clusters.insert(cluster)),
                Err(NotDelegated::Refused) => {}
                // It would be no better about the others.
                Err(NotDelegated::Unasked(why)) => return Err(why),
            }
        }
        if too_many {
            return Err(format!("one page asks about {QUESTIONS} clusters at most"));
        }
        Ok(())
    }
}

/// Single clusters that one page asks about. Whoever may see more has a rule, or a right without names.
const QUESTIONS: usize = 256;

/// Of the questions that may be under way together, those that are of pages.
pub(super) const LOOKING: usize = 4;

/// For all questions of a page.
const TIME: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests;
