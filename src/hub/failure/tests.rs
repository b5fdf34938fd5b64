//! `src/hub/README.md`: every error that the hub answers with, every reason of a 401, how streams
//! break, and why a hub does not start.

use http::{HeaderName, HeaderValue, Method, header};
use http_body_util::BodyExt as _;

use super::*;
use crate::hub::admission::Admission;
use crate::hub::authn::{Explanation, Refusal};
use crate::hub::forward::respond::respond;
use crate::hub::limits::Limits;
use crate::hub::{AccessLog, HubError, Unusable};
use crate::kubernetes::EndpointError;
use crate::pki::tls::TlsError;
use crate::state::{Document, StateError};
use crate::testing::{assert_written, code, head, row};
use crate::tunnel::impersonation::Unwritable;

/// Pairs of a pattern and an example of it, each with what to do. The patterns must cover the type,
/// so an error that is added is on the page, or nothing compiles.
macro_rules! catalogue {
    ($type:ty: $($pattern:pat => $example:expr, $remedy:expr;)+) => {{
        let remedy = |error: &$type| match error {
            $($pattern => $remedy,)+
        };
        let examples: Vec<$type> = vec![$($example),+];
        let remedies = [$($remedy),+];
        for (example, expected) in examples.iter().zip(remedies) {
            assert_eq!(remedy(example), expected, "{example:?} is no example of its pattern");
        }
        examples.into_iter().zip(remedies).collect::<Vec<($type, &'static str)>>()
    }};
}

#[tokio::test]
async fn the_page_says_every_error() {
    let mut rows = Vec::new();
    for (failure, remedy) in failures() {
        let response = respond(&failure, &HeaderValue::from_static("id"));
        let retried = response.headers().contains_key(header::RETRY_AFTER);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let status: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let number = status["code"].to_string();
        let [reason, message] = ["reason", "message"].map(|key| status[key].as_str().unwrap());
        // What stands before the message says the hop once more.
        let prefix = format!("cluster-proxy: {}: ", failure.hop().label());
        let cause = code(message.strip_prefix(&prefix).unwrap_or(message));
        let retry = if retried { "yes" } else { "" };
        let made = row(&[&number, reason, failure.hop().label(), &cause, remedy, retry]);
        rows.push((number, made));
    }
    // Stable: those of one code stay in the order of the catalogue.
    rows.sort_by(|one, other| one.0.cmp(&other.0));
    let rows: String = rows.into_iter().map(|(_, row)| row).collect();
    let names =
        ["code", "reason", "hop", "message, with an example's names", "what to do", "retried"];
    assert_written("src/hub/README.md", "errors", &format!("{}{rows}", head(&names)));
}

#[test]
fn the_page_says_every_reason_of_a_401() {
    let rows =
        refusals().into_iter().map(|(refusal, cause)| row(&[&code(refusal.as_str()), cause]));
    let text = format!("{}{}", head(&["reason", "what is wrong"]), rows.collect::<String>());
    assert_written("src/hub/README.md", "refusals", &text);
}

#[test]
fn the_page_says_how_streams_break() {
    let rows = streams()
        .into_iter()
        .map(|(error, remedy)| row(&[Hop::of(&error).label(), &code(&error.to_string()), remedy]));
    let text = format!("{}{}", head(&["hop", "reason", "what to do"]), rows.collect::<String>());
    assert_written("src/hub/README.md", "streams", &text);
}

#[test]
fn the_page_says_why_a_hub_does_not_start() {
    let rows =
        starts().into_iter().map(|(error, remedy)| row(&[&code(&error.to_string()), remedy]));
    let text = format!(
        "{}{}",
        head(&["message, with an example's names", "what to do"]),
        rows.collect::<String>()
    );
    assert_written("src/hub/README.md", "start", &text);
}

fn cluster() -> ClusterName {
    ClusterName::parse("edge-1").unwrap()
}

fn service() -> ServiceTarget {
    "https:shop/web:443".parse().unwrap()
}

fn of_agent(fault: Fault) -> Failure {
    Failure::Fault { cluster: cluster(), fault }
}

fn of_service(fault: Fault) -> Failure {
    Failure::ServiceFault { cluster: cluster(), service: Box::new(service()), fault }
}

fn of_path(path: &'static str) -> Failure {
    let path = http::uri::PathAndQuery::from_static(path);
    crate::hub::services::service(&path).unwrap_err().into()
}

fn too_many() -> TooMany {
    Admission::new(&Limits { uploads: 0, ..Limits::default() }).upload().err().unwrap()
}

/// For what the two ends of a tunnel never do to each other while they speak the same version.
const OLD_AGENT: &str = "upgrade the older of hub and agent";

fn failures() -> Vec<(Failure, &'static str)> {
    use crate::hub::authn::AuthnError as Authn;

    catalogue! { Failure:
        Failure::Route(RouteError::Scheme) => RouteError::Scheme.into(),
            "write the address with https://";
        Failure::Route(RouteError::Form) => RouteError::Form.into(),
            "give the server URL of the kubeconfig the path of the cluster, https://HUB/CLUSTER";
        Failure::Route(RouteError::Cluster(_)) =>
            RouteError::Cluster(ClusterName::parse("Edge").unwrap_err()).into(),
            "compare the path with `cluster-proxy clusters list`";
        Failure::Route(RouteError::DotSegment) => RouteError::DotSegment.into(),
            "resolve `..` in the client (`curl` does, without `--path-as-is`)";
        Failure::Route(RouteError::Encoding(_)) => RouteError::Encoding(12).into(),
            "percent-encode the path in the client";
        Failure::Route(RouteError::OwnPage) => RouteError::OwnPage.into(),
            "names of clusters do not begin with `_`";
        Failure::Route(RouteError::Method(_)) => RouteError::Method(Method::TRACE).into(),
            "use the methods of the Kubernetes API, in capitals";
        Failure::Host(HostError::Ambiguous) => HostError::Ambiguous.into(),
            "send one `Host`, the same as in the target";
        Failure::Host(HostError::NotServed) => HostError::NotServed.into(),
            "use a name of the hub, or add this one to `--allowed-host`";
        Failure::Headers(HeaderError::Underscore(_)) =>
            HeaderError::Underscore(HeaderName::from_static("impersonate_user")).into(),
            "write the header with `-`, or have the proxy before the hub drop it";
        Failure::Headers(HeaderError::Expectation) => HeaderError::Expectation.into(),
            "leave `Expect` out";
        Failure::Headers(HeaderError::Coding) => HeaderError::Coding.into(),
            "send the body with `Content-Length`, or chunked once";
        Failure::Body(_) => Failure::Body("connection closed before message completed".to_owned()),
            "look for what cuts connections between client and hub, and repeat it";
        Failure::Upgrade(ConnectError::Protocol) => ConnectError::Protocol.into(),
            "upgrade to WebSocket or SPDY/3.1, as kubectl does";
        Failure::Upgrade(ConnectError::Connection) => ConnectError::Connection.into(),
            "have the proxy before the hub pass `Connection: upgrade` on";
        Failure::Upgrade(ConnectError::Body) => ConnectError::Body.into(),
            "send the upgrade without a body";
        Failure::Upgrade(ConnectError::Path) => ConnectError::Path.into(), "correct the path";
        Failure::Upgrade(ConnectError::Method | ConnectError::Stream | ConnectError::Answer) =>
            ConnectError::Answer.into(),
            OLD_AGENT;
        Failure::Service(ServicePathError::Name { .. }) =>
            of_path("/api/v1/namespaces/shop/services/Web/proxy-service"),
            "write the service as `NAME[:PORT]` or `http[s]:NAME:[PORT]`";
        Failure::Authn(Authn::Unauthorized(_)) => Authn::from(Refusal::Expired).into(),
            "look up its `reason` in the access log, by `X-Request-Id`; callers are told no more (below)";
        Failure::Authn(Authn::Explained(Explanation::LegacyToken)) =>
            Authn::from(Explanation::LegacyToken).into(),
            "take a token with an end, or set `--allow-legacy-tokens`";
        Failure::Authn(Authn::Explained(Explanation::NotManaged)) =>
            Authn::from(Explanation::NotManaged).into(),
            "use a managed service account, or change `--managed-only`";
        Failure::Authn(Authn::Unwritable(_)) => Authn::from(Unwritable("a group")).into(),
            "rename it where it comes from: at the issuer, or in the hub's cluster";
        Failure::Denied(Denied::NoPolicy) => Denied::NoPolicy.into(),
            "set `--policy` or `--policy-configmap`, or use a token of the cluster itself";
        Failure::Denied(Denied::Unread) => Denied::Unread.into(),
            "read the hub's log; a broken policy keeps the last good one, but a new hub has none";
        Failure::Denied(Denied::NoRule { .. }) =>
            Denied::NoRule {
                user: "cluster:hub:system:serviceaccount:ops:deployer".to_owned(),
                what: "list pods in namespace shop".to_owned(),
                cluster: cluster(),
            }.into(),
            "add a rule; `cluster-proxy auth check` explains what is missing";
        Failure::Denied(Denied::NotDelegated { .. }) =>
            Denied::NotDelegated {
                user: "cluster:hub:system:serviceaccount:ops:deployer".to_owned(),
                what: "list pods in namespace shop".to_owned(),
                cluster: cluster(),
                rule: "list clusters of edge-1 in API group cluster-proxy".to_owned(),
            }.into(),
            "add a rule to the policy, or to the RBAC of the hub's cluster";
        Failure::Denied(Denied::Unasked(_)) => Denied::Unasked("it does not answer; try again".to_owned()).into(),
            "bring the hub's API server back, or give the hub the right that the message names";
        Failure::Denied(Denied::Withdrawn) => Denied::Withdrawn.into(),
            "somebody changed the policy: ask them";
        Failure::Denied(Denied::Impersonates(_)) =>
            Denied::Impersonates("cluster:oidc:jane".to_owned()).into(),
            "leave out `--as` and `Impersonate-*`, or use a token of the cluster itself";
        Failure::Service(ServicePathError::ApiServer) =>
            of_path("/api/v1/namespaces/default/services/https:kubernetes:443/proxy-service"),
            "take the cluster's own paths: `/CLUSTER/api/...`";
        Failure::NotExposed(NotExposed::NoList) => NotExposed::NoList.into(),
            "expose services at the hub";
        Failure::NotExposed(NotExposed::NotListed { .. }) =>
            NotExposed::NotListed { service: service(), cluster: cluster() }.into(),
            "add an entry to the list";
        Failure::NotExposed(NotExposed::Withdrawn) => NotExposed::Withdrawn.into(),
            "somebody changed the list: ask them";
        Failure::NotExposed(NotExposed::Unread) => NotExposed::Unread.into(),
            "read the hub's log; a broken list keeps the last good one, but a new hub has none";
        Failure::NoCluster(_) => Failure::NoCluster(cluster()),
            "enrol it, or correct the name (`cluster-proxy clusters list`)";
        Failure::BodyTooLarge(_) => Failure::BodyTooLarge(1 << 20),
            "send less, or raise `--max-body`";
        Failure::Head(HeadTooLarge::Target { .. }) =>
            HeadTooLarge::Target { bytes: 70_000, most: 65_536 }.into(),
            "shorten the URL, or raise the limit";
        Failure::Head(HeadTooLarge::Bytes { .. }) =>
            HeadTooLarge::Bytes { bytes: 70_000, most: 65_536 }.into(),
            "send fewer or shorter headers, or raise the limit";
        Failure::Head(HeadTooLarge::Count { .. }) =>
            HeadTooLarge::Count { count: 300, most: 256 }.into(),
            "send fewer headers, or raise the limit";
        Failure::TooMany(_) => too_many().into(), "wait; or raise the limit that the message names";
        Failure::TooManyTokens(_) => Failure::TooManyTokens(cluster()),
            "use fewer accounts for watches and sessions, or raise `--max-live-tokens-per-cluster`";
        Failure::Full(_) => Failure::Full(cluster()),
            "wait; or run more agents, or agents with more `--tunnels`";
        Failure::Reset { .. } =>
            Failure::Reset {
                cluster: cluster(),
                reason: OpenError::Reset(h2::Reason::INTERNAL_ERROR).to_string(),
            },
            "read the agent's log at that time";
        Failure::TunnelLost { .. } =>
            Failure::TunnelLost { cluster: cluster(), reason: "broken pipe".to_owned() },
            "repeat it, if that is safe; `cluster_proxy_tunnels_lost_total` says why tunnels end";
        Failure::NoTunnel { soon: true, .. } =>
            Failure::NoTunnel { cluster: cluster(), soon: true },
            "wait: the hub starts or stops, or the tunnel was lost a moment ago";
        Failure::NoTunnel { soon: false, .. } =>
            Failure::NoTunnel { cluster: cluster(), soon: false },
            "read the agent's log, which says why it cannot connect";
        Failure::Authn(Authn::Unavailable(_)) =>
            Authn::Unavailable(
                "cluster edge-1 could not confirm the token: it does not answer".to_owned()
            ).into(),
            "bring back whom the message names: hub's own API server, issuer, or cluster";
        Failure::Fault { fault: Fault::Unreachable, .. } => of_agent(Fault::Unreachable),
            "look at the API server, and at the server and CA in the agent's kubeconfig";
        Failure::Fault { fault: Fault::Interrupted, .. } => of_agent(Fault::Interrupted),
            "repeat it, if that is safe; look whether the API server restarts";
        Failure::Fault { fault: Fault::BadAnswer, .. } => of_agent(Fault::BadAnswer),
            "look what the agent's kubeconfig leads to; heads of answers over 64 KiB count as well";
        Failure::Fault { fault: Fault::AgentRefused, .. } => of_agent(Fault::AgentRefused),
            "renew the token in the agent's kubeconfig, and its rights (deploy/README.md)";
        Failure::Fault { fault: Fault::NotImpersonated, .. } => of_agent(Fault::NotImpersonated),
            "ask the owner of the cluster for `agent --impersonation`";
        Failure::Fault { fault: Fault::Refused, .. } => of_agent(Fault::Refused), OLD_AGENT;
        Failure::Fault {
            fault: Fault::ServiceRefused | Fault::NoService | Fault::ServiceUnreachable
                | Fault::ServiceUntrusted | Fault::ServiceMisnamed | Fault::ServiceExpired, ..
        } =>
            of_agent(Fault::NoService),
            OLD_AGENT;
        Failure::ServiceFault { fault: Fault::ServiceRefused, .. } =>
            of_service(Fault::ServiceRefused),
            "ask the owner of the cluster to expose it";
        Failure::ServiceFault { fault: Fault::NoService, .. } => of_service(Fault::NoService),
            "look at the Service and its Endpoints in the cluster";
        Failure::ServiceFault { fault: Fault::ServiceUnreachable, .. } =>
            of_service(Fault::ServiceUnreachable),
            "look at the pods behind it";
        Failure::ServiceFault { fault: Fault::ServiceUntrusted, .. } =>
            of_service(Fault::ServiceUntrusted),
            "add the authority to the agent's file; its log, at `debug`, has the certificate's fault";
        Failure::ServiceFault { fault: Fault::ServiceMisnamed, .. } =>
            of_service(Fault::ServiceMisnamed),
            "issue the service a certificate for its name in the cluster";
        Failure::ServiceFault { fault: Fault::ServiceExpired, .. } =>
            of_service(Fault::ServiceExpired),
            "renew the service's certificate";
        Failure::ServiceFault { fault: Fault::AgentRefused, .. } => of_service(Fault::AgentRefused),
            "give the agent the rights of deploy/README.md";
        Failure::ServiceFault { fault: Fault::Unreachable, .. } => of_service(Fault::Unreachable),
            "look at the cluster's API server";
        Failure::ServiceFault { fault: Fault::Interrupted, .. } => of_service(Fault::Interrupted),
            "repeat it, if that is safe; look whether its pods restart";
        Failure::ServiceFault { fault: Fault::BadAnswer, .. } => of_service(Fault::BadAnswer),
            "look what its pods speak, and whether the path should say `http:` or `https:`";
        Failure::ServiceFault { fault: Fault::Refused | Fault::NotImpersonated, .. } =>
            of_service(Fault::Refused),
            OLD_AGENT;
        Failure::HeadTimeout { .. } =>
            Failure::HeadTimeout { cluster: cluster(), after: Duration::from_secs(70) },
            "look why the API server is slow; `--response-head-timeout` is how long the hub waits";
        Failure::Loop(_) => Loop.into(), "correct the server in the agent's kubeconfig";
    }
}

fn refusals() -> Vec<(Refusal, &'static str)> {
    catalogue! { Refusal:
        Refusal::Missing => Refusal::Missing, "there is no token";
        Refusal::Malformed => Refusal::Malformed,
            "there is not exactly one well-formed bearer token";
        Refusal::TooLarge => Refusal::TooLarge, "it is longer than 16 KiB";
        Refusal::Opaque => Refusal::Opaque, "it is no JSON Web Token";
        Refusal::Header => Refusal::Header,
            "its header is no plain JSON object, or has a name twice";
        Refusal::Algorithm => Refusal::Algorithm,
            "its algorithm is none that API servers sign with";
        Refusal::Critical => Refusal::Critical, "its header has `crit`";
        Refusal::UnknownKey => Refusal::UnknownKey,
            "no key known for this path has signed it: another cluster's token, or no such cluster";
        Refusal::Signature => Refusal::Signature,
            "its key is known, and has not made this signature";
        Refusal::HubRefused => Refusal::HubRefused,
            "the hub's API server signed it and does not accept it: its account is gone, or its time over";
        Refusal::Claims => Refusal::Claims, "a claim is missing, there twice, or of the wrong type";
        Refusal::Issuer => Refusal::Issuer,
            "`iss` is none of the cluster's: `agent --issuer` adds one";
        Refusal::Audience => Refusal::Audience,
            "`aud` has none of the cluster's: `agent --audience` names them";
        Refusal::RequiredClaim => Refusal::RequiredClaim,
            "a claim that the issuer's configuration requires is missing or different";
        Refusal::Expired => Refusal::Expired, "it has ended: get a new one";
        Refusal::Revoked => Refusal::Revoked,
            "the API server stopped accepting it while its request was under way";
        Refusal::NotYetValid => Refusal::NotYetValid, "it has not begun: compare the clocks";
        Refusal::Subject => Refusal::Subject,
            "its subject is no ServiceAccount, or not the one of its claims";
    }
}

fn streams() -> Vec<(OpenError, &'static str)> {
    catalogue! { OpenError:
        OpenError::NotWritten => OpenError::NotWritten, "nothing: it is sent by another tunnel";
        OpenError::Refused => OpenError::Refused, "nothing: it is sent by another tunnel";
        OpenError::Reset(_) => OpenError::Reset(h2::Reason::INTERNAL_ERROR),
            "read the agent's log at that time: its API server broke off, mostly";
        OpenError::Lost(_) => OpenError::Lost("broken pipe".to_owned()),
            "look for what cuts connections between agent and hub";
        OpenError::Unread => OpenError::Unread,
            "read faster, or raise `--max-unread-bytes`";
        OpenError::Invalid(_) => OpenError::Invalid("malformed headers".to_owned()), OLD_AGENT;
    }
}

fn starts() -> Vec<(HubError, &'static str)> {
    let denied = || std::io::Error::from(std::io::ErrorKind::PermissionDenied);
    catalogue! { HubError:
        HubError::Bind { .. } => HubError::Bind {
                address: "0.0.0.0:9092".parse().unwrap(),
                flag: "--listen",
                source: std::io::Error::from(std::io::ErrorKind::AddrInUse),
            },
            "stop the other process, or choose another port";
        HubError::Tls(_) => TlsError::Unusable(
                format!("{} does not exist; run `pki issue`", Document::ServingCertificate)
            ).into(),
            "do what the message says; `cluster-proxy pki inspect` shows what there is";
        HubError::State(_) => StateError::Damaged {
                document: Document::ServingCertificate.to_string(),
                reason: "it is empty".to_owned(),
            }.into(),
            "bring the named document back from a backup, or mend its rights";
        HubError::Endpoint(_) => EndpointError::Unusable(
                "cannot read kubeconfig hub.kubeconfig: No such file or directory".to_owned()
            ).into(),
            "correct `--hub-kubeconfig`";
        HubError::Written(_) => Unusable::Wrong {
                what: "policy",
                at: "policy.yaml".to_owned(),
                why: "line 3: unknown field `user`".to_owned(),
            }.into(),
            "correct the file; `cluster-proxy auth check` reads it as the hub does";
        HubError::AccessLog { .. } => HubError::AccessLog {
                log: AccessLog::File("/var/log/access.log".into()),
                source: denied(),
            },
            "give the hub's user the right to write there";
        HubError::Workers(_) => HubError::Workers(denied()),
            "raise the limits of processes and open files (`ulimit -u`, `ulimit -n`)";
        HubError::Part(_) => HubError::Part("user listener"),
            "restart it, and report what its log says: this is a mistake of ours";
        HubError::Metrics(_) => prometheus::Error::AlreadyReg.into(),
            "report it: this is a mistake of ours";
    }
}
