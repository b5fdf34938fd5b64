//! What no rule lets through, the hub's own API server may: SubjectAccessReview
//! (`authorization.k8s.io/v1`), so that RBAC of the hub's cluster says who reaches which cluster.
//!
//! | attribute | what it says |
//! |---|---|
//! | `user`, `groups`, `uid`, `extra` | the caller as the hub's own API server knows them, without `cluster:hub:`; a user of an issuer as policy and clusters know them |
//! | `group` | [`GROUP`] |
//! | `resource` | [`RESOURCE`] |
//! | `subresource` | [`SERVICES`] for a path to a service of the cluster, else empty |
//! | `name` | the cluster |
//! | `namespace`, `version` | empty |
//! | `verb` | that of the request, as the cluster's RBAC will see it: `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; for paths that are no resources the method in lower case |
//!
//! Whether somebody may see on the hub's own page how a cluster is, is asked as `get`; with an empty `name`
//! about all clusters at once.
//!
//! What the request is about inside of the cluster is no attribute: that is for the cluster's RBAC,
//! or for rules. Answers are remembered for [`FRESH`], refusals apart from the others; an outage is
//! no answer, and nobody is let in by it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::seen::LOOKING;
use super::{Asked, Wanted};
use crate::hub::authn::{HubApi, SpokeApiError};
use crate::hub::token_review::UserInfo;
use crate::name::ClusterName;

/// Asks the hub's API server who may. Clones share what they know.
#[derive(Clone)]
pub(crate) struct Delegation(Arc<Inner>);

struct Inner {
    api: Arc<dyn HubApi>,
    /// When the question was asked: the answer may be as old as that.
    allowed: moka::future::Cache<Question, Instant>,
    refused: moka::future::Cache<Question, Instant>,
    asking: Semaphore,
    /// Of those, the questions of pages.
    looking: Semaphore,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Question {
    who: Arc<UserInfo>,
    verb: Box<str>,
    cluster: Box<str>,
    /// About a service of the cluster instead of its API.
    service: bool,
}

/// Why nobody is let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NotDelegated {
    /// A definite no.
    Refused,
    /// No answer, or none that says anything.
    Unasked(String),
}

/// Why a review says nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoReview {
    /// The request failed. Names the API server, so it is for logs and operators, not for callers.
    #[error("{0}")]
    Failed(SpokeApiError),
    /// It answered something else.
    #[error("{0}")]
    Said(String),
}

/// What an API server said.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Said {
    pub(crate) allowed: bool,
    /// By what, in words of the API server.
    pub(crate) reason: String,
    /// It may say no because of this.
    evaluation_error: String,
}

// === impl Question ===

impl Question {
    /// About a request; `None` where the caller's names are not theirs alone on the hub.
    pub(super) fn about(asked: &Asked, wanted: Wanted<'_>) -> Option<Self> {
        let own = asked.identity.impersonation.as_ref()?.own.as_ref()?;
        Self::new(Arc::clone(own), &asked.cluster, wanted)
    }

    /// About somebody; `None` where there are no attributes that could be asked about.
    pub(crate) fn new(
        who: Arc<UserInfo>,
        cluster: &ClusterName,
        wanted: Wanted<'_>,
    ) -> Option<Self> {
        let (verb, service) = match wanted {
            Wanted::Resource { verb: "", .. } | Wanted::Unclear => return None,
            Wanted::Resource { verb, resource, subresource, .. } => {
                (verb.into(), resource == "services" && subresource == "proxy-service")
            }
            Wanted::Path { method, .. } => (method.as_str().to_ascii_lowercase().into(), false),
        };
        Some(Self { who, verb, cluster: cluster.as_str().into(), service })
    }

    /// Whether somebody may see a cluster, or whichever there is.
    pub(super) fn to_see(who: Arc<UserInfo>, cluster: Option<&ClusterName>) -> Self {
        let cluster = cluster.map_or_else(Box::default, |cluster| cluster.as_str().into());
        Self { who, verb: "get".into(), cluster, service: false }
    }

    /// As RBAC of the hub has it.
    pub(crate) fn words(&self) -> String {
        let Self { verb, cluster, service, .. } = self;
        let slash = if *service { "/" } else { "" };
        let subresource = if *service { SERVICES } else { "" };
        format!("{verb} {RESOURCE}{slash}{subresource} of {cluster} in API group {GROUP}")
    }

    fn body(&self) -> Bytes {
        let UserInfo { username, uid, groups, extra } = &*self.who;
        let subresource = if self.service { SERVICES } else { "" };
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": KIND,
            "spec": {
                "user": username,
                "uid": uid,
                "groups": groups,
                "extra": extra,
                "resourceAttributes": {
                    "group": GROUP,
                    "resource": RESOURCE,
                    "subresource": subresource,
                    "name": self.cluster,
                    "verb": self.verb,
                },
            },
        });
        review.to_string().into()
    }

    /// Bytes, about.
    fn weight(&self) -> u32 {
        let UserInfo { username, uid, groups, extra } = &*self.who;
        let groups = groups.iter().map(|group| group.len() + OVERHEAD);
        let extra = extra.iter().flat_map(|(key, values)| {
            std::iter::once(key).chain(values).map(|text| text.len() + OVERHEAD)
        });
        let names = username.len() + uid.len() + groups.chain(extra).sum::<usize>();
        u32::try_from(names + ENTRY).unwrap_or(u32::MAX)
    }
}

// === impl Delegation ===

impl Delegation {
    /// Knows nothing yet.
    pub(crate) fn new(api: Arc<dyn HubApi>) -> Self {
        let cache = || {
            moka::future::Cache::builder()
                .max_capacity(MAX_BYTES)
                .weigher(|question: &Question, _| question.weight())
                .time_to_live(FRESH)
                .build()
        };
        let (asking, looking) = (Semaphore::new(AT_ONCE), Semaphore::new(LOOKING));
        Self(Arc::new(Inner { api, allowed: cache(), refused: cache(), asking, looking }))
    }

    /// What the API server says, or said less than `age` ago.
    pub(crate) async fn ask(&self, question: &Question, age: Duration) -> Result<(), NotDelegated> {
        if let Some(answer) = self.remembered(question, age).await {
            return answer;
        }
        // In a task of its own: a stream whose reader has stopped asks, and is not polled again; what
        // it asked holds a place, and others wait for the same answer.
        let (this, question) = (self.clone(), question.clone());
        let asking = tokio::spawn(async move { this.ask_now(&question).await });
        let broken = |_| Err(NotDelegated::Unasked("the question was given up".to_owned()));
        AbortOnDropHandle::new(asking).await.unwrap_or_else(broken)
    }

    async fn ask_now(&self, question: &Question) -> Result<(), NotDelegated> {
        let Inner { allowed, refused, .. } = &*self.0;
        match allowed.try_get_with_by_ref(question, self.review(question)).await {
            Ok(_) => Ok(()),
            Err(error) => {
                let (error, asked) = &*error;
                if *error == NotDelegated::Refused {
                    refused.insert(question.clone(), *asked).await;
                }
                Err(error.clone())
            }
        }
    }

    /// What the API server said less than `age` ago.
    pub(super) async fn remembered(
        &self,
        question: &Question,
        age: Duration,
    ) -> Option<Result<(), NotDelegated>> {
        let Inner { allowed, refused, .. } = &*self.0;
        for (cache, answer) in [(allowed, Ok(())), (refused, Err(NotDelegated::Refused))] {
            if let Some(asked) = cache.get(question).await {
                if asked.elapsed() < age {
                    return Some(answer);
                }
                cache.invalidate(question).await;
            }
        }
        None
    }

    /// A place among the questions of pages, which leave most places to requests.
    pub(super) async fn place_of_page(&self) -> SemaphorePermit<'_> {
        // Nobody closes it.
        self.0.looking.acquire().await.expect("the semaphore is never closed")
    }

    async fn review(&self, question: &Question) -> Result<Instant, (NotDelegated, Instant)> {
        let place = tokio::time::timeout(DEADLINE, self.0.asking.acquire()).await;
        let asked = Instant::now();
        let busy = NotDelegated::Unasked("too many questions wait for it".to_owned());
        let _place = place.map_err(|_| (busy, asked))?;
        let said = review(&*self.0.api, question).await.map_err(|error| {
            let why = match error {
                NoReview::Failed(error) => {
                    tracing::warn!(%error, "the hub's API server does not say who may");
                    "it does not answer; try again".to_owned()
                }
                NoReview::Said(why) => why,
            };
            (NotDelegated::Unasked(why), asked)
        })?;
        let Said { allowed, reason, evaluation_error } = said;
        let (user, what) = (&question.who.username, question.words());
        tracing::debug!(
            user,
            what,
            allowed,
            reason,
            error = evaluation_error,
            "the hub's API server was asked who may"
        );
        if allowed { Ok(asked) } else { Err((NotDelegated::Refused, asked)) }
    }
}

/// Asks once, whatever was said before.
pub(crate) async fn review(api: &dyn HubApi, question: &Question) -> Result<Said, NoReview> {
    let unasked = |why: String| NoReview::Said(why);
    let answer = api.post(PATH, question.body(), MAX_ANSWER, DEADLINE).await;
    let (status, body) = answer.map_err(NoReview::Failed)?;
    match status {
        StatusCode::OK | StatusCode::CREATED => {}
        StatusCode::FORBIDDEN => {
            let right = "the hub's ServiceAccount lacks the right to create subjectaccessreviews (deploy/README.md)";
            return Err(unasked(right.to_owned()));
        }
        status => return Err(unasked(format!("it answered {status}"))),
    }
    match serde_json::from_slice(&body) {
        Ok(Review { kind, status: Some(said) }) if kind == KIND => Ok(said),
        _ => Err(unasked("its answer is no SubjectAccessReview".to_owned())),
    }
}

#[derive(Deserialize)]
struct Review {
    kind: String,
    status: Option<Said>,
}

/// API group of the questions. There is no such API: RBAC needs none, and without a dot in its name
/// there can never be one.
pub(crate) const GROUP: &str = "cluster-proxy";

/// What is asked for: a cluster, by its name.
pub(crate) const RESOURCE: &str = "clusters";

/// Services of a cluster, which no RBAC of the cluster judges.
pub(crate) const SERVICES: &str = "services";

const KIND: &str = "SubjectAccessReview";

const PATH: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";

/// The question comes back with the answer; a user may be in a great many groups.
const MAX_ANSWER: usize = 256 * 1024;

/// How old an answer may be that lets a request in: what begins by it ends within ten seconds of a
/// change, the first look at a stream and its confirmation included.
pub(crate) const FRESH: Duration = Duration::from_secs(8);

/// Bytes of answers of each kind. About 40,000 of ServiceAccounts: eight seconds' worth of callers,
/// clusters and verbs.
const MAX_BYTES: u64 = 32 << 20;

/// Bytes of a question without the names in it, and of a name besides its own.
const ENTRY: usize = 300;
const OVERHEAD: usize = 32;

/// Questions under way together. An API server answers in milliseconds.
const AT_ONCE: usize = 16;

/// For one answer, and for one's turn.
const DEADLINE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
