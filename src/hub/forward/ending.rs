//! When the caller's right to a stream ends, or the hub's patience.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::{Forwarder, Order};
use crate::hub::authn::Refusal;
use crate::hub::failure::Failure;
use crate::hub::live::{LiveStream, TooManyTokens};
use crate::hub::policy::{Asked, Denied, Policies};
use crate::hub::services::{Allowed, NotExposed, Services};
use crate::hub::verb::Span;
use crate::name::ClusterName;
use crate::tunnel::service::ServiceTarget;

/// Why the hub ends a stream that could go on: the metric label, and the log's reason.
pub(crate) type EndReason = &'static str;

/// Ready when a stream must end.
pub(super) type End = BoxFuture<'static, EndReason>;

impl Forwarder {
    /// Counts a stream under its token, so that it ends with it.
    pub(super) fn enter(&self, order: &Order) -> Result<Option<LiveStream>, Failure> {
        let entered = order
            .authorization
            .as_ref()
            .map(|token| self.live.enter(&order.cluster, &order.identity, token))
            .transpose();
        entered.map_err(|TooManyTokens| Failure::TooManyTokens(order.cluster.clone()))
    }

    /// What a stream of `order` stands on.
    pub(super) fn right(&self, order: &Order, live: Option<LiveStream>) -> Right {
        let allowed = order.asked().map(|asked| (self.policies.clone(), asked));
        let exposed = order.service.as_ref().map(|order_of| {
            let (service, allowed) = (order_of.service.clone(), order_of.allowed);
            let (cluster, services) = (order.cluster.clone(), self.services.clone());
            Exposure { services, cluster, service, allowed }
        });
        Right { expires: order.identity.expires, allowed, exposed, live }
    }

    /// The end of a stream that may be open for ever. A watch of a hub that stops is not waited for
    /// at all: its client resumes at another hub, or through another agent when the one behind it
    /// is `leaving`.
    pub(super) fn end_of_long(&self, span: Span, right: Right, leaving: &CancellationToken) -> End {
        let (drain, leaving) = (self.drain.clone(), leaving.clone());
        Box::pin(async move {
            let moved = async {
                if span != Span::Watch {
                    return std::future::pending().await;
                }
                let reason = tokio::select! {
                    () = drain.stopping() => DRAINED,
                    () = leaving.cancelled() => "agent-drained",
                };
                tokio::time::sleep(rand::random_range(Duration::ZERO..WATCHES_END)).await;
                reason
            };
            tokio::select! {
                biased;
                reason = right.lost() => reason,
                reason = moved => reason,
                () = drain.cut() => DRAINED,
            }
        })
    }

    /// The end of an answer that should be short. One that goes on for long is counted as any live
    /// stream; what is over sooner costs nobody a look at its token.
    pub(super) fn end_of_short(&self, order: &Order) -> End {
        let (live, drain) = (self.live.clone(), self.drain.clone());
        let (cluster, identity) = (order.cluster.clone(), Arc::clone(&order.identity));
        let (token, right) = (order.authorization.clone(), self.right(order, None));
        Box::pin(async move {
            let late = async {
                tokio::time::sleep(NOT_SHORT).await;
                let Some(token) = token else { return std::future::pending().await };
                match live.enter(&cluster, &identity, &token) {
                    Ok(stream) => stream.ended().await,
                    // What cannot be ended in time must not go on.
                    Err(TooManyTokens) => "too-many-tokens",
                }
            };
            tokio::select! {
                biased;
                reason = late => reason,
                reason = right.lost() => reason,
                () = drain.cut() => DRAINED,
            }
        })
    }

    /// Lets the body of `order` go on after the head of its answer, and as long as an answer might:
    /// that may be over long before. Dropped, `sender` resets the stream.
    pub(super) fn upload(&self, order: &Order, sender: impl Future<Output: Send> + Send + 'static) {
        let end = self.end_of_short(order);
        self.drain.spawn(async move {
            tokio::select! {
                biased;
                _ = end => {}
                _ = sender => {}
            }
        });
    }
}

/// What a caller's stream stands on.
pub(super) struct Right {
    /// The token's end.
    expires: Option<SystemTime>,
    /// What the policy has let through.
    allowed: Option<(Policies, Asked)>,
    /// What the list of exposed services has.
    exposed: Option<Exposure>,
    /// The token's place among those that are reviewed.
    live: Option<LiveStream>,
}

/// A service, and what the list says of it.
struct Exposure {
    services: Services,
    cluster: ClusterName,
    service: ServiceTarget,
    allowed: Allowed,
}

// === impl Right ===

impl Right {
    /// Ready when it is gone.
    pub(super) async fn lost(&self) -> EndReason {
        // Wall clock to timer once; a clock that is set back later does not extend the stream.
        let left = self.expires.map(|at| at.duration_since(SystemTime::now()).unwrap_or_default());
        let expiry = async {
            match left {
                Some(left) => tokio::time::sleep(left).await,
                None => std::future::pending().await,
            }
        };
        let ended = async {
            match &self.live {
                Some(live) => live.ended().await,
                None => std::future::pending().await,
            }
        };
        let withdrawn = async {
            match &self.allowed {
                Some((policies, asked)) => policies.withdrawn(asked).await,
                None => std::future::pending().await,
            }
        };
        let hidden = async {
            match &self.exposed {
                Some(Exposure { services, cluster, service, allowed }) => {
                    services.withdrawn(cluster, service, *allowed).await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            reason = ended => reason,
            () = withdrawn => DENIED,
            () = hidden => NOT_EXPOSED,
            () = expiry => EXPIRED,
        }
    }
}

/// What a caller is told whose right ended before there was an answer.
pub(super) fn refusal(reason: EndReason) -> Failure {
    match reason {
        DENIED => Denied::Withdrawn.into(),
        NOT_EXPOSED => NotExposed::Withdrawn.into(),
        EXPIRED => Failure::Authn(Refusal::Expired.into()),
        _ => Failure::Authn(Refusal::Revoked.into()),
    }
}

const EXPIRED: EndReason = "token-expired";

const DENIED: EndReason = "policy-denied";

const NOT_EXPOSED: EndReason = "service-not-exposed";

const DRAINED: EndReason = "hub-drained";

/// Watches of a hub or agent that stops end over this time, so that their clients do not list all at once.
const WATCHES_END: Duration = Duration::from_secs(5);

/// As long as an API server itself remembers a token: an answer that takes longer than this is a
/// live stream, whatever it was meant to be.
const NOT_SHORT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use http::uri::PathAndQuery;
    use http::{HeaderMap, HeaderValue, Method};

    use super::*;
    use crate::drain::Drain;
    use crate::hub::authn::{Identity, Impersonated, Voucher};
    use crate::hub::followed::Source;
    use crate::hub::live::LiveStreams;
    use crate::hub::registry::Registry;
    use crate::hub::verb::RequestKind;
    use crate::name::ClusterName;

    fn forwarder() -> Forwarder {
        let live = LiveStreams::new(&prometheus::Registry::new(), 4).unwrap();
        let registry = Registry::new(live.clone());
        let metrics = crate::hub::metrics::Metrics::new(&prometheus::Registry::new()).unwrap();
        Forwarder {
            registry,
            policies: Policies::load(Source::None, false, None, &prometheus::Registry::new())
                .unwrap(),
            services: services(),
            live,
            drain: Drain::new(),
            head_timeout: Duration::from_secs(5),
            max_body: None,
            unread: crate::hub::unread::UnreadBudget::new(u64::MAX, &metrics),
        }
    }

    fn services() -> Services {
        Services::load(Source::None, None, &prometheus::Registry::new()).unwrap()
    }

    fn order(life: Option<Duration>) -> Order {
        let target = PathAndQuery::from_static("/api/v1/pods");
        let token = HeaderValue::from_static("Bearer token");
        Order {
            cluster: cluster(),
            identity: Arc::new(Identity {
                user: "system:serviceaccount:apps:a".to_owned(),
                impersonation: None,
                account_uid: None,
                bound: false,
                expires: life.map(|life| SystemTime::now() + life),
            }),
            kind: RequestKind::of(&Method::GET, &target),
            method: Method::GET,
            target,
            at_home: false,
            service: None,
            request_id: HeaderValue::from_static("id"),
            headers: HeaderMap::new(),
            authorization: Some(token),
        }
    }

    fn cluster() -> ClusterName {
        ClusterName::parse("c1").unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_answer_becomes_a_live_stream_when_it_is_not_short() {
        let forwarder = forwarder();
        let mut end = forwarder.end_of_short(&order(None));
        assert!((&mut end).now_or_never().is_none());
        forwarder.live.end_cluster(&cluster(), "cluster-revoked");
        tokio::select! {
            _ = &mut end => panic!("it was nobody's yet"),
            () = tokio::time::sleep(NOT_SHORT + Duration::from_secs(1)) => {}
        }
        forwarder.live.end_cluster(&cluster(), "cluster-revoked");
        assert_eq!(end.await, "cluster-revoked");
    }

    #[tokio::test(start_paused = true)]
    async fn every_answer_ends_with_its_token() {
        let (forwarder, stays) = (forwarder(), CancellationToken::new());
        for life in [Duration::from_secs(5), Duration::from_secs(60)] {
            let order = order(Some(life));
            let right = forwarder.right(&order, forwarder.enter(&order).unwrap());
            assert_eq!(forwarder.end_of_short(&order).await, EXPIRED);
            assert_eq!(forwarder.end_of_long(Span::Follow, right, &stays).await, EXPIRED);
        }
        assert!(matches!(refusal(EXPIRED), Failure::Authn(error) if error.reason() == "expired"));
        let revoked = refusal("cluster-removed");
        assert!(matches!(revoked, Failure::Authn(error) if error.reason() == "revoked"));
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_that_outlives_its_answer_ends_with_the_token() {
        let forwarder = forwarder();
        let order = order(Some(Duration::from_secs(60)));
        let (held, mut gone) = tokio::sync::mpsc::channel::<&str>(2);
        for takes in [30, 90] {
            let held = held.clone();
            forwarder.upload(&order, async move {
                tokio::time::sleep(Duration::from_secs(takes)).await;
                held.send("done").await
            });
        }
        drop(held);
        let started = tokio::time::Instant::now();
        assert_eq!(gone.recv().await, Some("done"));
        assert_eq!(gone.recv().await, None, "the other one was dropped");
        // The end is on the wall clock, which goes on while the test is set up.
        assert_eq!(started.elapsed().as_secs_f64().round(), 60.0);
        // Or with its cluster, after a while.
        let order = self::order(None);
        let (held, mut gone) = tokio::sync::mpsc::channel::<()>(1);
        forwarder.upload(&order, async move { held.closed().await });
        tokio::time::sleep(NOT_SHORT + Duration::from_secs(1)).await;
        assert!(gone.try_recv() != Err(tokio::sync::mpsc::error::TryRecvError::Disconnected));
        forwarder.live.end_cluster(&cluster(), "cluster-removed");
        assert_eq!(gone.recv().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_ends_with_the_policy_that_let_it_through() {
        let forwarder = forwarder();
        let mut order = order(None);
        let right = forwarder.right(&order, None);
        assert!(right.lost().now_or_never().is_none(), "no policy judges a spoke's own");
        let impersonation = Impersonated {
            groups: Vec::new(),
            headers: HeaderMap::new(),
            by: Voucher::Hub,
            own: None,
        };
        let identity = Identity { impersonation: Some(impersonation), ..(*order.identity).clone() };
        order.identity = Arc::new(identity);
        assert_eq!(forwarder.right(&order, None).lost().await, DENIED);
        assert_eq!(forwarder.end_of_short(&order).await, DENIED);
        assert!(matches!(refusal(DENIED), Failure::Denied(Denied::Withdrawn)));
    }
}
