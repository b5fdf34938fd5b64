//! Everybody whom a hub lets in, as kubectl shows them, and what the RBAC of a cluster makes of them:
//! one suite on in-memory and on real API servers.

use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};

use crate::apis::Apis;
use crate::fleet::Fleet;
use crate::support::issuer::{CLIENT, Issuer};
use crate::support::process::{Kubectl, command, run, text};
use crate::support::{PATIENCE, eventually};

#[tokio::test]
async fn before_embedded_api_servers() {
    identities("before_embedded_api_servers", Apis::Embedded).await;
}

#[tokio::test]
async fn before_real_api_servers() {
    let test = "before_real_api_servers";
    let Some(apis) = Apis::real(test) else { return };
    identities(test, apis).await;
}

/// A user of the hub whose token is no JSON Web Token, whom no rule lets in: RBAC of the hub's own
/// cluster says which clusters, and that of the cluster what there.
#[tokio::test]
async fn a_user_of_the_hub_goes_where_rbac_of_the_hub_lets_them() {
    let test = "a_user_of_the_hub_goes_where_rbac_of_the_hub_lets_them";
    let Some(apis) = Apis::real(test) else { return };
    let flags = ["--allow-opaque-tokens", "--delegate-authorization"].map(str::to_owned).to_vec();
    let Some(mut fleet) = Fleet::with(test, apis, |_| flags).await else { return };
    let hub = fleet.admin("hub");
    let visitors = json!([
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": "visitors"},
            "rules": [
                {"apiGroups": ["cluster-proxy"], "resources": ["clusters"],
                    "resourceNames": ["c1"], "verbs": ["get", "list", "create"]},
                // Who may not even read what there is gets no message out of kubectl.
                {"apiGroups": ["cluster-proxy"], "resources": ["clusters"],
                    "resourceNames": ["c2"], "verbs": ["get"]},
            ]},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": "visitors"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
                "name": "visitors"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "kate"}]},
    ]);
    let list = json!({"apiVersion": "v1", "kind": "List", "items": visitors});
    hub.run_with(&["apply", "--filename", "-"], &list.to_string());
    let role = ["create", "clusterrole", "cluster-readers", "--verb=get,list,watch"];
    for cluster in ["c1", "c2"] {
        let admin = fleet.admin(cluster);
        admin.run(&[&role[..], &["--resource=pods,configmaps"]].concat());
        let binding = ["create", "clusterrolebinding", "kate", "--clusterrole=cluster-readers"];
        admin.run(&[&binding[..], &["--user=cluster:hub:kate"]].concat());
    }
    let (c1, c2) = (fleet.kubectl("c1"), fleet.kubectl("c2"));
    let kate = As("--token=opaque-kate-of-hub".to_owned());
    let me = kate.whoami(c1).await;
    assert_eq!(
        (&me["username"], &me["uid"]),
        (&json!("cluster:hub:kate"), &json!("cluster:hub:kate-uid"))
    );
    assert!(groups(&me).contains(&"cluster:hub:dev"), "{me}");
    kate.does(c1, &["get", "pods"]);
    // The cluster's RBAC, the hub's RBAC for another verb, and for another cluster.
    kate.is_refused(c1, &["get", "secrets"], "cannot list resource");
    kate.is_refused(
        c1,
        &["delete", "configmap", "x"],
        "a rule there would be: delete clusters of c1",
    );
    kate.is_refused(c2, &["get", "pods"], "a rule there would be: list clusters of c2");
    kate.is_refused(c1, &["get", "pods", "--as=jane"], "cannot impersonate others");
    // Somebody of the cluster by such a token: it is never sent there.
    As("--token=opaque-kate-of-c1".to_owned()).is_refused(c1, &["get", "pods"], "Unauthorized");

    let check = |verb, cluster| {
        [
            "auth",
            "check",
            cluster,
            verb,
            "pods",
            "--as",
            "cluster:hub:kate",
            "--delegate-authorization",
            "--hub-kubeconfig",
            "hub.api/kubeconfig",
        ]
    };
    let said = run(fleet.directory(), &check("list", "c1"));
    let yes = "yes: the hub's API server lets kate list clusters of c1 in API group cluster-proxy";
    assert!(said.starts_with(yes) && said.contains("visitors"), "{said}");
    let output = command(fleet.directory(), &check("list", "c2")).output().unwrap();
    let said = text(&output);
    let no = said.contains("does not let kate list clusters of c2");
    assert!(!output.status.success() && no, "{said}");
    fleet.stop().await;
}

/// RBAC that lets the agent speak for others only where they read, whatever they may do themselves:
/// constrained impersonation (KEP-5284).
#[tokio::test]
async fn an_agent_with_constrained_impersonation_only_reads_for_others() {
    let test = "an_agent_with_constrained_impersonation_only_reads_for_others";
    let Some(apis) = Apis::real(test) else { return };
    let issuer = Issuer::start().await;
    let flags = |directory: &Path| configure(directory, &issuer);
    let Some(mut fleet) = Fleet::with(test, apis, flags).await else { return };
    let (admin, c1) = (fleet.admin("c1"), fleet.kubectl("c1"));
    let role = ["create", "clusterrole", "cluster-writers", "--verb=get,list,watch,create"];
    admin.run(&[&role[..], &["--resource=pods,configmaps"]].concat());
    admin.run(&["create", "clusterrolebinding", "dev", "--clusterrole=cluster-writers", DEV]);
    let jane = issuer.token("jane", 600, &json!({"groups": ["dev"]}));
    let jane = As(format!("--token={jane}"));
    let create = |name| ["create", "configmap", name];
    jane.whoami(c1).await;
    jane.does(c1, &create("before"));

    let patch = r#"[{"op": "test", "path": "/rules/4/verbs/0", "value": "impersonate"},
        {"op": "test", "path": "/rules/5/verbs/0", "value": "impersonate"},
        {"op": "remove", "path": "/rules/5"}, {"op": "remove", "path": "/rules/4"}]"#;
    admin.run(&["patch", "clusterrole", "cluster-proxy-agent", "--type=json", "--patch", patch]);
    // What an API server has allowed a moment ago it may allow again.
    eventually("nobody is impersonated", PATIENCE, || {
        let refused = text(&jane.output(c1, &["get", "pods"]));
        let refused = refused.contains("(Forbidden)");
        async move { refused.then_some(()) }
    })
    .await;
    admin.run(&["apply", "--filename", CONSTRAINED]);
    let me = jane.whoami(c1).await;
    assert_eq!(me["username"], "cluster:oidc:jane");
    jane.does(c1, &["get", "configmap", "before"]);
    jane.does(c1, &["auth", "can-i", "create", "configmaps"]);
    jane.is_refused(c1, &create("after"), "impersonate-on:user-info:create");
    jane.is_refused(c1, &["get", "secrets"], "cannot list resource");
    fleet.stop().await;
}

async fn identities(test: &str, apis: Apis) {
    let issuer = Issuer::start().await;
    let flags = |directory: &Path| configure(directory, &issuer);
    let Some(mut fleet) = Fleet::with(test, apis, flags).await else { return };
    let hub = fleet.admin("hub");
    hub.run(&["create", "namespace", "ops"]);
    hub.run(&["create", "serviceaccount", "deployer", "--namespace", "ops"]);
    let token = hub.run(&["create", "token", "deployer", "--namespace", "ops"]);
    for (name, subject) in [("deployer", format!("--user={DEPLOYER}")), ("dev", DEV.to_owned())] {
        let args = ["create", "clusterrolebinding", name, "--clusterrole=cluster-readers"];
        fleet.admin("c1").run(&[&args[..], &[&subject]].concat());
    }
    let args = ["create", "clusterrole", "cluster-readers", "--verb=get,list,watch"];
    fleet.admin("c1").run(&[&args[..], &["--resource=pods,configmaps"]].concat());
    let (c1, c2) = (fleet.kubectl("c1"), fleet.kubectl("c2"));

    // A ServiceAccount of the hub's own cluster.
    let deployer = As(format!("--token={}", token.trim()));
    let me = deployer.whoami(c1).await;
    assert_eq!(me["username"], DEPLOYER);
    assert!(me["uid"].as_str().unwrap().starts_with("cluster:hub:"), "{me}");
    assert!(groups(&me).contains(&"cluster:hub:system:serviceaccounts:ops"), "{me}");
    let extra = me["extra"].as_object().unwrap();
    assert!(extra.keys().all(|key| key.starts_with("cluster-proxy/hub/")), "{me}");
    deployer.does(c1, &["get", "pods"]);
    deployer.is_refused(c1, &["get", "secrets"], "cannot list resource");
    deployer.is_refused(c2, &["get", "pods"], "no rule of the hub's policy");
    deployer.is_refused(c1, &["get", "pods", "--as=jane"], "cannot impersonate others");

    // A user of an issuer, by a group.
    let jane = |issuer: &Issuer| {
        As(format!("--token={}", issuer.token("jane", 600, &json!({"groups": ["dev"]}))))
    };
    let me = jane(&issuer).whoami(c1).await;
    assert_eq!(me["username"], "cluster:oidc:jane");
    assert_eq!(groups(&me), ["cluster:oidc:dev", "system:authenticated"]);
    jane(&issuer).does(c1, &["get", "pods"]);
    jane(&issuer).is_refused(c1, &["get", "secrets"], "cannot list resource");
    jane(&issuer).is_refused(c2, &["get", "pods"], "cannot list resource");
    jane(&issuer).is_refused(c1, &["get", "pods", "--as=joe"], "cannot impersonate others");
    let stranger = issuer.token("jane", -3600, &json!({"groups": ["dev"]}));
    As(format!("--token={stranger}")).is_refused(c1, &["get", "pods"], "Unauthorized");
    issuer.rotate();
    jane(&issuer).whoami(c1).await;

    // An account of the cluster itself, whose RBAC lets it be others.
    let me: Value = serde_json::from_str(&c1.run(&WHOAMI)).unwrap();
    let name = me["status"]["userInfo"]["username"].as_str().unwrap().to_owned();
    assert!(name.starts_with("system:serviceaccount:"), "{me}");
    let other = c1.run(&[&WHOAMI[..], &["--as=jane"]].concat());
    let other: Value = serde_json::from_str(&other).unwrap();
    assert_eq!(other["status"]["userInfo"]["username"], "jane");
    let own = std::fs::read_to_string(fleet.directory().join("c2.api/tokens/test")).unwrap();
    let elsewhere = As(format!("--token={}", own.trim()));
    elsewhere.does(c2, &["get", "pods"]);
    elsewhere.is_refused(c1, &["get", "pods"], "Unauthorized");
    fleet.stop().await;
}

/// Somebody else than the kubeconfig's user.
struct As(String);

// === impl As ===

impl As {
    /// Who the cluster says that they are, as soon as it says so: the hub reads keys and agents
    /// report themselves in their own time.
    async fn whoami(&self, cluster: &Kubectl) -> Value {
        let said = eventually("they are let in", PATIENCE, || {
            let output = cluster.output(&[&WHOAMI[..], &[self.0.as_str()]].concat());
            async move { output.status.success().then_some(output.stdout) }
        });
        let said: Value = serde_json::from_slice(&said.await).unwrap();
        said["status"]["userInfo"].clone()
    }

    fn output(&self, cluster: &Kubectl, args: &[&str]) -> Output {
        cluster.output(&[args, &[self.0.as_str()]].concat())
    }

    fn does(&self, cluster: &Kubectl, args: &[&str]) {
        cluster.run(&[args, &[self.0.as_str()]].concat());
    }

    fn is_refused(&self, cluster: &Kubectl, args: &[&str], why: &str) {
        let output = self.output(cluster, args);
        let said = text(&output);
        assert!(!output.status.success() && said.contains(why), "{args:?}: {said}");
    }
}

/// Writes a policy and a list of issuers; the flags that name them.
fn configure(directory: &Path, issuer: &Issuer) -> Vec<String> {
    let policy = json!({"rules": [
        {"users": [DEPLOYER], "clusters": ["c1"]},
        // Who may not even read what there is gets no message out of kubectl.
        {"users": [DEPLOYER], "clusters": ["c2"], "nonResourceURLs": ["/api*", "/version"]},
        {"groups": ["cluster:oidc:dev"], "clusters": ["*"]},
    ]});
    let issuers = json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration",
        "jwt": [{
            "issuer": {
                "url": issuer.url, "audiences": [CLIENT], "certificateAuthority": issuer.ca_pem,
            },
            "claimMappings": {
                "username": {"claim": "sub", "prefix": "cluster:oidc:"},
                "groups": {"claim": "groups", "prefix": "cluster:oidc:"},
            },
        }],
    });
    let mut flags = Vec::new();
    for (flag, file, content) in
        [("--policy", "policy.json", policy), ("--authentication-config", "issuers.json", issuers)]
    {
        std::fs::write(directory.join(file), content.to_string()).unwrap();
        flags.extend([flag.to_owned(), file.to_owned()]);
    }
    flags
}

fn groups(user: &Value) -> Vec<&str> {
    user["groups"].as_array().unwrap().iter().flat_map(Value::as_str).collect()
}

const WHOAMI: [&str; 4] = ["auth", "whoami", "-o", "json"];

const DEPLOYER: &str = "cluster:hub:system:serviceaccount:ops:deployer";

const CONSTRAINED: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/agent-impersonation-constrained.yaml");

const DEV: &str = "--group=cluster:oidc:dev";
