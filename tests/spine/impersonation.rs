//! Identities of the hub's own cluster: let in by the policy, judged by the spoke's RBAC under names
//! that no account of the spoke can have. Hub and spoke are in-memory Kubernetes APIs.

use std::time::Duration;

use serde_json::{Value, json};

use cluster_proxy::agent::{AgentConfig, ImpersonationRule};
use cluster_proxy::name::ClusterName;

use crate::live::Streams;
use crate::support::agent::RunningAgent;
use crate::support::client::{Answer, Client, full};
use crate::support::fleet::Fleet;
use crate::support::hub_api::HubApi;
use crate::support::{PATIENCE, eventually};
use crate::world::MiniSpoke;

/// A hub with an API of its own and an account there, and the spoke `c1`.
pub(crate) struct World {
    pub(crate) api: HubApi,
    pub(crate) fleet: Fleet,
    pub(crate) spoke: MiniSpoke,
    /// Of `ops/deployer`, on the hub.
    token: String,
}

// === impl World ===

impl World {
    pub(crate) async fn start(policy: Option<&str>) -> Self {
        let api = HubApi::start().await;
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ops"}});
        api.create("/api/v1/namespaces", &namespace).await;
        let token = api.account("ops", "deployer").await;
        let fleet = api.fleet(policy).await;
        let spoke = MiniSpoke::join("c1", &fleet).await;
        Self { api, fleet, spoke, token }
    }

    /// Of the hub's account.
    pub(crate) fn client(&self) -> Client {
        self.fleet.anonymous().token(&self.token)
    }

    /// Changes the policy.
    fn set_policy(&self, policy: &str) {
        self.fleet.hub.set_policy(policy);
    }

    /// Lets a user or group of the hub have `rules` on the spoke.
    pub(crate) async fn grant(&self, kind: &str, subject: &str, rules: Value) {
        let rbac = "/apis/rbac.authorization.k8s.io/v1";
        let name = format!("granted-{}", subject.replace(':', "-").to_lowercase());
        let object = |kind: &str| json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name}});
        let mut role = object("ClusterRole");
        role["rules"] = rules;
        self.spoke.create(&format!("{rbac}/clusterroles"), role).await;
        let mut binding = object("ClusterRoleBinding");
        let group = "rbac.authorization.k8s.io";
        binding["roleRef"] = json!({"apiGroup": group, "kind": "ClusterRole", "name": name});
        binding["subjects"] = json!([{"apiGroup": group, "kind": kind, "name": subject}]);
        self.spoke.create(&format!("{rbac}/clusterrolebindings"), binding).await;
    }

    /// Waits until as many streams are counted under `reason`: the client may see an end a moment
    /// before the hub has counted it.
    pub(crate) async fn wait_ended(&self, reason: &str, streams: f64) {
        let labels = ["cluster=\"c1\"", &format!("reason=\"{reason}\"")];
        eventually("the ends are counted", PATIENCE, || async {
            let ended = self.fleet.hub.metric("cluster_proxy_streams_ended_total", &labels).await;
            (ended == streams).then_some(())
        })
        .await;
    }
}

/// A `Status` of ours: its code, and its message.
fn refused(answer: &Answer) -> (u16, String) {
    let status = answer.json();
    assert_eq!(status["code"], answer.status.as_u16(), "{status}");
    (answer.status.as_u16(), status["message"].as_str().unwrap().to_owned())
}

async fn whoami(client: &Client) -> Value {
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let path = "/c1/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let mut request = client.request("POST", path, full(review.to_string()));
    request.headers_mut().insert("content-type", "application/json".parse().unwrap());
    let answer = client.send(request).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    answer.json()["status"]["userInfo"].clone()
}

#[tokio::test]
async fn an_account_of_the_hub_does_what_its_rbac_allows_and_nothing_else() {
    let world = World::start(Some(ALL)).await;
    let client = world.client();
    let pods = "/c1/api/v1/namespaces/default/pods";
    let secrets = "/c1/api/v1/namespaces/default/secrets";
    let answer = client.get(pods).await;
    assert_eq!(answer.status, 403, "{}", answer.text());
    let name = "User \"cluster:hub:system:serviceaccount:ops:deployer\" cannot list";
    assert!(answer.json()["message"].as_str().unwrap().contains(name), "{}", answer.text());

    let read = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}]);
    world.grant("User", USER, read).await;
    assert_eq!(client.get(pods).await.status, 200);
    assert_eq!(client.get(secrets).await.status, 403);
    let read = json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["list"]}]);
    world.grant("Group", "cluster:hub:system:serviceaccounts:ops", read).await;
    assert_eq!(client.get(secrets).await.status, 200);

    // What the spoke gives to accounts of the same names is not for those of the hub.
    let object =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "deployer"}});
    world
        .spoke
        .create(
            "/api/v1/namespaces",
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ops"}}),
        )
        .await;
    world.spoke.create("/api/v1/namespaces/ops/serviceaccounts", object).await;
    world.spoke.bind("ops", "deployer").await;
    let everything = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]);
    world.grant("Group", "system:serviceaccounts:ops", everything).await;
    assert_eq!(client.get("/c1/api/v1/nodes").await.status, 403);
}

#[tokio::test]
async fn the_spoke_knows_name_groups_uid_and_extra_as_the_hubs() {
    let world = World::start(Some(ALL)).await;
    let me = whoami(&world.client()).await;
    assert_eq!(me["username"], USER);
    let account = world.api.get("/api/v1/namespaces/ops/serviceaccounts/deployer").await;
    let uid = account["metadata"]["uid"].as_str().unwrap();
    assert_eq!(me["uid"], format!("cluster:hub:{uid}"));
    let groups = [
        "cluster:hub:system:serviceaccounts",
        "cluster:hub:system:serviceaccounts:ops",
        "cluster:hub:system:authenticated",
        // The spoke's own, for everybody who came this far.
        "system:authenticated",
    ];
    assert_eq!(me["groups"], json!(groups));
    let extra = me["extra"].as_object().unwrap();
    let key = "cluster-proxy/hub/authentication.kubernetes.io/credential-id";
    assert_eq!(extra.keys().collect::<Vec<_>>(), [key]);
    assert!(extra[key][0].as_str().unwrap().starts_with("JTI="), "{me}");
}

#[tokio::test]
async fn who_is_not_allowed_hears_nothing_of_clusters() {
    let rule = "rules: [{users: ['cluster:hub:system:serviceaccount:ops:deployer'], clusters: [c1, gone], verbs: [get]}]";
    let world = World::start(Some(rule)).await;
    let client = world.client();
    world.grant("User", USER, json!([{"nonResourceURLs": ["/version"], "verbs": ["get"]}])).await;
    assert_eq!(client.get("/c1/version").await.status, 200);
    // The same for a cluster that is there, under another verb, and for one that is not.
    let (code, message) = refused(&client.get("/c1/api/v1/nodes").await);
    let expected = format!(
        "cluster-proxy: hub-policy: no rule of the hub's policy (--policy, --policy-configmap) lets {USER} list nodes at the cluster scope on cluster c1"
    );
    assert_eq!((code, &message), (403, &expected));
    let nowhere = refused(&client.get("/nowhere/api/v1/nodes").await);
    assert_eq!(nowhere, (403, message.replace("cluster c1", "cluster nowhere")));
    let (code, message) = refused(&client.get("/gone/version").await);
    assert!(code == 404 && message.contains("no cluster gone is enrolled"), "{message}");

    let denied = ["decision=\"denied\"", "by=\"no-rule\""];
    let decisions = "cluster_proxy_authorizations_total";
    assert_eq!(world.fleet.hub.metric(decisions, &denied).await, 2.0);
    assert_eq!(world.fleet.hub.metric(decisions, &["decision=\"allowed\""]).await, 2.0);
    let metrics = world.fleet.hub.admin("/metrics").await;
    assert!(!metrics.contains("nowhere") && !metrics.contains("gone\""), "no label of a stranger");
    eventually("the access log says who, where and why", PATIENCE, || async {
        let log = std::fs::read_to_string(&world.fleet.hub.access_log).unwrap();
        let line = log.lines().find(|line| line.contains("/nowhere/"))?;
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!((&line["user"], &line["cluster"]), (&json!(USER), &json!("nowhere")));
        assert_eq!((&line["hop"], &line["code"]), (&json!("hub-policy"), &json!(403)));
        line["reason"].as_str().unwrap().starts_with("no rule of").then_some(())
    })
    .await;
}

#[tokio::test]
async fn without_a_policy_no_identity_of_the_hub_is_let_in() {
    let world = World::start(None).await;
    world.grant("User", USER, json!([{"nonResourceURLs": ["/version"], "verbs": ["get"]}])).await;
    let (code, message) = refused(&world.client().get("/c1/version").await);
    assert!(code == 403 && message.contains("set --policy"), "{message}");
    // A token of the spoke is its own RBAC's to judge.
    world
        .spoke
        .create(
            "/api/v1/namespaces/default/serviceaccounts",
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "own"}}),
        )
        .await;
    world.spoke.bind("default", "own").await;
    let own = world
        .spoke
        .create(
            "/api/v1/namespaces/default/serviceaccounts/own/token",
            json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}),
        )
        .await;
    let own = world.fleet.anonymous().token(own["status"]["token"].as_str().unwrap());
    eventually("the spoke's own token", PATIENCE, || async {
        (own.get("/c1/version").await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_changed_policy_decides_from_then_on_and_a_broken_one_never() {
    let world = World::start(Some("rules: []")).await;
    let client = world.client();
    world.grant("User", USER, json!([{"nonResourceURLs": ["/version"], "verbs": ["get"]}])).await;
    assert_eq!(client.get("/c1/version").await.status, 403);
    world.set_policy(ALL);
    eventually("the new policy lets in", PATIENCE, || async {
        (client.get("/c1/version").await.status == 200).then_some(())
    })
    .await;
    world.set_policy("rules: [{users: [x]}]");
    eventually("the broken one is counted", PATIENCE, || async {
        let failures = "cluster_proxy_policy_reload_failures_total";
        (world.fleet.hub.metric(failures, &[]).await == 1.0).then_some(())
    })
    .await;
    assert_eq!(client.get("/c1/version").await.status, 200, "the last good one is kept");
}

#[tokio::test]
async fn the_owner_of_a_spoke_can_turn_identities_of_the_hub_away() {
    let mut world = World::start(Some(ALL)).await;
    world.grant("User", USER, json!([{"nonResourceURLs": ["/version"], "verbs": ["get"]}])).await;
    let client = world.client();
    let hub = world.fleet.hub.addresses.agents;
    assert_eq!(client.get("/c1/version").await.status, 200);
    for rule in [None, Some(ImpersonationRule::new(vec!["cluster:other:".to_owned()]).unwrap())] {
        world.spoke.kill_agent();
        world.fleet.hub.wait_tunnels("c1", 0, PATIENCE).await;
        let directory = &world.spoke.directory;
        let change = |config: &mut AgentConfig| config.impersonation = rule;
        let agent = RunningAgent::start_with("c1", directory, hub, change);
        world.fleet.hub.wait_tunnels("c1", 2, PATIENCE).await;
        let (code, message) = refused(&client.get("/c1/version").await);
        assert_eq!(code, 403, "{message}");
        assert!(
            message.starts_with("cluster-proxy: agent: ") && message.contains("--impersonation")
        );
        agent.kill();
        world.fleet.hub.wait_tunnels("c1", 0, PATIENCE).await;
    }
    world.spoke.start_agent(hub);
    world.fleet.hub.wait_tunnels("c1", 2, PATIENCE).await;
    assert_eq!(client.get("/c1/version").await.status, 200);
}

#[tokio::test]
async fn identities_of_the_hub_impersonate_nobody() {
    let world = World::start(Some(ALL)).await;
    let everything = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]);
    world.grant("User", USER, everything).await;
    let client = world.client();
    for (name, value) in [
        ("impersonate-user", "jane"),
        ("impersonate-group", "system:masters"),
        ("impersonate-uid", "1"),
        ("impersonate-extra-scopes", "x"),
        ("impersonate-anything", ""),
    ] {
        let mut request =
            client.request("GET", "/c1/api/v1/nodes", crate::support::client::empty());
        request.headers_mut().insert(name, value.parse().unwrap());
        let (code, message) = refused(&client.send(request).await);
        assert!(code == 403 && message.contains("cannot impersonate others"), "{name}: {message}");
    }
    assert_eq!(client.get("/c1/api/v1/nodes").await.status, 200);
}

#[tokio::test]
async fn streams_of_an_account_of_the_hub_end_with_it() {
    let world = World::start(Some(ALL)).await;
    let everything = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]);
    let everyone = "cluster:hub:system:serviceaccounts:ops";
    world.grant("Group", everyone, everything).await;
    let stayer = world.fleet.anonymous().token(&world.api.account("ops", "stayer").await);
    let streams = Streams::open(&world.client()).await;
    let mut staying = Streams::open(&stayer).await;
    world.api.delete("/api/v1/namespaces/ops/serviceaccounts/deployer").await;
    streams.end("the streams of a deleted account of the hub").await;
    staying.go_on("the streams of another account").await;
    world.wait_ended("token-refused", 3.0).await;
    eventually("the token is refused", Duration::from_secs(10), || async {
        (world.client().get("/c1/version").await.status == 401).then_some(())
    })
    .await;
}

#[tokio::test]
async fn streams_end_with_the_rule_that_let_them_through() {
    let world = World::start(Some(ALL)).await;
    let everything = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]);
    world.grant("Group", "cluster:hub:system:serviceaccounts:ops", everything).await;
    let stayer = world.fleet.anonymous().token(&world.api.account("ops", "stayer").await);
    let streams = Streams::open(&world.client()).await;
    let mut staying = Streams::open(&stayer).await;
    world.set_policy(
        "rules: [{users: ['cluster:hub:system:serviceaccount:ops:stayer'], clusters: ['*']}]",
    );
    streams.end("the streams that no rule allows any more").await;
    staying.go_on("the streams of another account").await;
    world.wait_ended("policy-denied", 3.0).await;
}

#[tokio::test]
async fn streams_of_identities_of_the_hub_end_with_the_cluster() {
    let world = World::start(Some(ALL)).await;
    let everything = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]);
    world.grant("User", USER, everything).await;
    let streams = Streams::open(&world.client()).await;
    let name = ClusterName::parse("c1").unwrap();
    assert!(world.fleet.hub.state.remove(&name).await.unwrap());
    streams.end("the streams of a removed cluster").await;
    assert_eq!(world.client().get("/c1/version").await.status, 404);
}

/// As the spoke knows the account.
pub(crate) const USER: &str = "cluster:hub:system:serviceaccount:ops:deployer";

/// Lets all accounts of the hub in everywhere.
pub(crate) const ALL: &str =
    "rules: [{groups: ['cluster:hub:system:serviceaccounts'], clusters: ['*']}]";
