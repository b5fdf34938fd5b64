//! Who may do what, and the words of a refusal.

use serde_json::{Value, json};

use super::client::{Api, fields};
use super::tokens;
use crate::support::{PATIENCE, eventually};

pub(super) async fn all(api: &Api) {
    let token = tokens::of_a_new_account(api, "clerk").await;
    let clerk = api.holder_of(&token);
    nothing_is_allowed_by_default(&clerk).await;
    roles_allow(api, &clerk).await;
    reviews_say_the_same(api, &clerk).await;
    impersonation_needs_a_right(api, &clerk).await;
    strangers_are_refused(api).await;
}

async fn nothing_is_allowed_by_default(clerk: &Api) {
    for (path, said) in [
        (
            "/api/v1/namespaces/default/secrets/some",
            "secrets \"some\" is forbidden: User \"system:serviceaccount:default:clerk\" cannot get \
             resource \"secrets\" in API group \"\" in the namespace \"default\"",
        ),
        (
            "/api/v1/nodes",
            "nodes is forbidden: User \"system:serviceaccount:default:clerk\" cannot list resource \
             \"nodes\" in API group \"\" at the cluster scope",
        ),
        (
            "/metrics",
            "forbidden: User \"system:serviceaccount:default:clerk\" cannot get path \"/metrics\"",
        ),
    ] {
        assert_eq!(clerk.get(path).await.refused(403, "Forbidden"), said);
    }
    // What every account may see.
    clerk.get("/version").await.is(200);
    clerk.get("/api").await.is(200);
}

async fn roles_allow(api: &Api, clerk: &Api) {
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let role = json!({"metadata": {"name": "clerk"}, "rules": [
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["one"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list", "create"]},
        {"apiGroups": [""], "resources": ["serviceaccounts/token"], "verbs": ["create"]},
    ]});
    api.post(&format!("{rbac}/namespaces/default/roles"), role).await.is(201);
    let binding = json!({"metadata": {"name": "clerk"}, "subjects": [subject()],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "clerk"}});
    let bindings = format!("{rbac}/namespaces/default/rolebindings");
    api.post(&bindings, binding).await.is(201);
    let secrets = "/api/v1/namespaces/default/secrets";
    api.post(secrets, json!({"metadata": {"name": "one"}})).await.is(201);
    allowed(clerk, &format!("{secrets}/one")).await;
    clerk.get(&format!("{secrets}/two")).await.refused(403, "Forbidden");
    clerk.get(secrets).await.refused(403, "Forbidden");
    clerk.get("/api/v1/namespaces/default/configmaps").await.is(200);
    clerk.get("/api/v1/namespaces/kube-system/configmaps").await.refused(403, "Forbidden");
    clerk.get("/api/v1/configmaps").await.refused(403, "Forbidden");
    let token = "/api/v1/namespaces/default/serviceaccounts/clerk/token";
    clerk.post(token, json!({"spec": {}})).await.is(201);
    clerk.get("/api/v1/namespaces/default/serviceaccounts/clerk").await.refused(403, "Forbidden");

    let role = json!({"metadata": {"name": "clerk"}, "rules": [
        {"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]});
    api.post(&format!("{rbac}/clusterroles"), role).await.is(201);
    let binding = json!({"metadata": {"name": "clerk"}, "subjects": [subject()],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
            "name": "clerk"}});
    api.post(&format!("{rbac}/clusterrolebindings"), binding).await.is(201);
    eventually("the path is allowed", PATIENCE, || async {
        (clerk.get("/metrics").await.code() != 403).then_some(())
    })
    .await;
    // Nobody hands out what they do not have, nor makes roles without the right to.
    let roles = format!("{rbac}/namespaces/default/roles");
    clerk.post(&roles, json!({"metadata": {"name": "more"}})).await.refused(403, "Forbidden");
}

async fn reviews_say_the_same(api: &Api, clerk: &Api) {
    let group = "/apis/authorization.k8s.io/v1";
    for (attributes, allowed) in [
        (
            json!({"verb": "get", "resource": "secrets", "name": "one", "namespace": "default"}),
            true,
        ),
        (
            json!({"verb": "get", "resource": "secrets", "name": "two", "namespace": "default"}),
            false,
        ),
        (json!({"verb": "list", "resource": "configmaps", "namespace": "default"}), true),
        (json!({"verb": "list", "resource": "configmaps"}), false),
        (
            json!({"verb": "create", "resource": "serviceaccounts", "subresource": "token",
                "namespace": "default"}),
            true,
        ),
    ] {
        let own = json!({"spec": {"resourceAttributes": attributes}});
        let own = clerk.post(&format!("{group}/selfsubjectaccessreviews"), own).await.is(201);
        assert_eq!(own["status"]["allowed"], allowed, "{attributes}");
        let other = json!({"spec": {"resourceAttributes": attributes, "user": USER,
            "groups": ["system:serviceaccounts", "system:authenticated"]}});
        let path = format!("{group}/subjectaccessreviews");
        let other_review = api.post(&path, other.clone()).await.is(201);
        assert_eq!(other_review["status"]["allowed"], allowed, "{attributes}");
        clerk.post(&path, other).await.refused(403, "Forbidden");
    }
    let paths = json!({"spec": {"nonResourceAttributes": {"verb": "get", "path": "/metrics"}}});
    let paths = clerk.post(&format!("{group}/selfsubjectaccessreviews"), paths).await.is(201);
    assert_eq!(paths["status"]["allowed"], true);
}

async fn impersonation_needs_a_right(api: &Api, clerk: &Api) {
    let who = |api: &Api| {
        let client = api.client.clone();
        async move {
            let request = http::Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews")
                .header("content-type", "application/json")
                .header("impersonate-user", "jane")
                .header("impersonate-group", "readers")
                .body(json!({}).to_string().into_bytes());
            client.request::<Value>(request.unwrap()).await
        }
    };
    let jane = who(api).await.unwrap();
    assert_eq!(jane["status"]["userInfo"]["username"], "jane");
    let groups = &jane["status"]["userInfo"]["groups"];
    assert_eq!(*groups, json!(["readers", "system:authenticated"]));
    let refused = who(clerk).await.unwrap_err().to_string();
    assert!(refused.contains("cannot impersonate"), "{refused}");
}

/// Before anything else, and whatever is asked for.
async fn strangers_are_refused(api: &Api) {
    let stranger = api.holder_of("no.such.token");
    for path in ["/api/v1/nodes", "/version", "/no/such/path"] {
        let body = stranger.get(path).await.is(401);
        let said = fields(&body, &["/kind", "/reason", "/message", "/code"]);
        assert_eq!(said, json!(["Status", "Unauthorized", "Unauthorized", 401]));
    }
}

async fn allowed(api: &Api, path: &str) {
    eventually("the binding is known", PATIENCE, || async {
        (api.get(path).await.code() == 200).then_some(())
    })
    .await;
}

fn subject() -> Value {
    json!({"kind": "ServiceAccount", "namespace": "default", "name": "clerk"})
}

const USER: &str = "system:serviceaccount:default:clerk";
