//! Least rights: what hub and agent asked of real API servers while everything was done with them,
//! beside what their charts allow. Each right was needed, and none was missing.

use std::collections::BTreeSet;

use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use kube::Api;
use kube::api::PostParams;
use serde_json::json;

use cluster_proxy::accounts::api::MANAGED_NAMESPACE;

use super::audit::{Asked, Call, Speaking};
use super::grants::{Roles, uncovered, witness};
use super::helm::{self, AGENT, HUB};
use super::scenes::{
    DEPLOYER, accept, accepted_again, accounts, define, define_on_spoke, deployer, publish,
    read_as, service, watch,
};
use super::world::{AGENT_NAMESPACE, Cluster, HUB_NAMESPACE, World};
use crate::support::client::plain_get;
use crate::support::{PATIENCE, eventually};

#[tokio::test]
async fn every_right_of_the_charts_as_they_come_is_needed_and_none_is_missing() {
    let test = "every_right_of_the_charts_as_they_come_is_needed_and_none_is_missing";
    let Some(mut world) = World::install(test, &[], &[], |hub, _| define(hub)).await else {
        return;
    };
    publish(&world.ground.hub_cluster.kubectl).await;
    world.comes_and_goes("c2");
    not_more(&world).await;
    no_right_is_missed(&world).await;
    world.stop_programs().await;
    // The agent's rights for managed service accounts wait for a hub that has such: below.
    judge(&world.ground.hub_cluster, HUB_NAMESPACE, HUB, Speaking::Plain, 0, |_| true).await;
    world.ground.stop().await;
}

#[tokio::test]
async fn every_right_of_the_charts_with_everything_on_is_needed_and_none_is_missing() {
    let test = "every_right_of_the_charts_with_everything_on_is_needed_and_none_is_missing";
    let hub_values = [
        "accounts.enabled=true",
        "openClusterManagement=true",
        "tokenReviews=true",
        "exposedServicesConfigMap=services",
        "policyConfigMap=policy",
        "delegateAuthorization=true",
        "monitoring.serviceMonitor=true",
        "monitoring.prometheusRule=true",
        "monitoring.dashboard=true",
    ];
    let named = format!("impersonation.users={{{DEPLOYER}}}");
    let groups = ["", ":ops"].map(|of| format!("cluster:hub:system:serviceaccounts{of}"));
    let groups =
        format!("impersonation.groups={{{},cluster:hub:system:authenticated}}", groups.join(","));
    let exposed = "exposeServices={shop/web:8080}";
    let podmonitor = "monitoring.podMonitor=true";
    let agent_values = ["impersonation.enabled=true", &named, &groups, exposed, podmonitor];
    let world = World::install(test, &hub_values, &agent_values, |hub, spoke| {
        define(hub);
        accept(hub, &["c1", "c2"]);
        define_on_spoke(spoke);
        let list = "--from-literal=a=[{namespace: shop, service: web}]";
        hub.run(&["create", "configmap", "services", "-n", HUB_NAMESPACE, list]);
        let rules = format!("--from-literal=a=rules: [{{users: [{DEPLOYER:?}], clusters: [c1]}}]");
        hub.run(&["create", "configmap", "policy", "-n", HUB_NAMESPACE, &rules]);
    });
    let Some(mut world) = world.await else { return };
    let (hub, spoke) = (&world.ground.hub_cluster.kubectl, &world.ground.spoke.kubectl);
    // Controllers' work, which no API server does by itself.
    let authority = "--from-literal=ca.crt=".to_owned() + &world.hub.ca_pem;
    let create = ["create", "configmap", "kube-root-ca.crt", "-n", MANAGED_NAMESPACE, &authority];
    spoke.run(&create);

    publish(hub).await;
    accounts(hub, spoke).await;
    let deployer = deployer(hub, spoke);
    let client = world.client(&deployer);
    eventually("an account of the hub reads", PATIENCE, || async {
        let answer = client.try_get("/c1/api/v1/namespaces/default/pods").await.ok()?;
        answer.status.is_success().then_some(())
    })
    .await;
    // No rule speaks of this one, and RBAC of the hub's cluster neither.
    client.get("/c9/version").await.assert_status(403, "Forbidden");
    world.comes_and_goes("c2");
    watch(&world).await;
    service(&world).await;
    no_right_is_missed(&world).await;
    let plain = world.ground.spoke.audit.end();
    judge(&world.ground.spoke, AGENT_NAMESPACE, AGENT, Speaking::Plain, 0, |_| true).await;

    // The same agent, which may now only read for others.
    let values = [&helm::agent_values()[..], &agent_values, &["impersonation.constrained=true"]];
    world.ground.apply(AGENT, &values.concat());
    read_as(&world, &deployer).await;
    let is_of_impersonation = |role: &str| role.contains("impersonate");
    judge(
        &world.ground.spoke,
        AGENT_NAMESPACE,
        AGENT,
        Speaking::Constrained,
        plain,
        is_of_impersonation,
    )
    .await;

    accepted_again(&world, &deployer).await;
    world.stop_programs().await;
    // Every Secret of the cluster is wider than those of the hub's own namespace, which are
    // needed without this: above.
    let is_not_of_state =
        |rule: &str| !(rule.starts_with("cluster-proxy-hub {") && rule.contains("secrets"));
    judge(&world.ground.hub_cluster, HUB_NAMESPACE, HUB, Speaking::Plain, 0, is_not_of_state).await;
    world.ground.stop().await;
}

/// The hub knows of none that an agent lacks.
async fn no_right_is_missed(world: &World) {
    let counted = plain_get(world.hub.metrics.parse().unwrap(), "/metrics").await.unwrap();
    let missing = |line: &&str| {
        line.starts_with("cluster_proxy_agent_right_missing{") && line.ends_with(" 1")
    };
    assert_eq!(counted.lines().find(missing), None);
}

/// What an account of a chart asked until now is what its roles allow, on the real API server too:
/// without any one of the rules that `counts` says yes to, something is refused.
async fn judge(
    cluster: &Cluster,
    namespace: &str,
    account: &str,
    speaking: Speaking,
    begin: usize,
    counts: impl Fn(&str) -> bool,
) {
    let user = format!("system:serviceaccount:{namespace}:{account}");
    let Asked { calls, refused } = cluster.audit.asked(&user, begin, speaking);
    assert_eq!(refused, BTreeSet::new(), "{account} lacks rights");
    let roles = Roles::of(&cluster.kubectl, account);
    let grants = roles.grants();
    let beyond: Vec<_> =
        uncovered(&grants, &calls).into_iter().filter(|call| !is_for_everybody(call)).collect();
    assert_eq!(beyond, Vec::<&Call>::new(), "{account} has rights from elsewhere");

    let counted = grants.iter().filter(|grant| counts(&roles.shown(grant.rule)));
    let idle = counted.filter(|grant| witness(&grants, grant, &calls).is_none());
    let idle: Vec<_> = idle.map(ToString::to_string).collect();
    assert_eq!(idle, Vec::<String>::new(), "rights that {account} never needed");

    // Each rule taken away, for a user of its own.
    let taken: Vec<_> =
        roles.rules().map(|(rule, _)| rule).filter(|rule| counts(&roles.shown(*rule))).collect();
    let user_of = |place: usize| format!("{account}-without-{place}-at-{begin}");
    let manifests = taken.iter().enumerate();
    let manifests: Vec<_> =
        manifests.flat_map(|(place, rule)| roles.without(*rule, &user_of(place))).collect();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": manifests});
    cluster.kubectl.run_with(&["apply", "--server-side", "-f", "-"], &list.to_string());
    let client = cluster.client();
    let groups = groups(namespace);
    for (place, rule) in taken.iter().enumerate() {
        let mut of_rule = grants.iter().filter(|grant| grant.rule == *rule);
        let needs = of_rule.find_map(|grant| witness(&grants, grant, &calls)).unwrap();
        let others = grants.iter().filter(|grant| grant.rule != *rule);
        let kept = others.clone().find_map(|grant| witness(&grants, grant, &calls));
        let without_it = user_of(place);
        if let Some(kept) = kept {
            eventually("roles are known", PATIENCE, || may(&client, &without_it, &[], kept)).await;
        }
        let still = may(&client, &without_it, &[], needs).await;
        assert_eq!(still, None, "{} is not what allows {needs:?}", roles.shown(*rule));
        assert_eq!(may(&client, &user, &groups, needs).await, Some(()), "{user}: {needs:?}");
    }
}

/// Whether the API server lets `user` do this.
async fn may(client: &kube::Client, user: &str, groups: &[String], call: &Call) -> Option<()> {
    let mut spec = json!({"user": user, "groups": groups});
    if call.path.is_empty() {
        let (resource, sub) = call.resource.split_once('/').unwrap_or((&call.resource, ""));
        spec["resourceAttributes"] = json!({
            "verb": call.verb, "namespace": call.namespace, "group": call.group,
            "resource": resource, "subresource": sub, "name": call.name,
        });
    } else {
        spec["nonResourceAttributes"] = json!({"verb": call.verb, "path": call.path});
    }
    let review = json!({"metadata": {}, "spec": spec});
    let review: SubjectAccessReview = serde_json::from_value(review).unwrap();
    let reviews = Api::<SubjectAccessReview>::all(client.clone());
    let answer = reviews.create(&PostParams::default(), &review).await.unwrap();
    answer.status.unwrap().allowed.then_some(())
}

/// Some of what nobody gave them, as the API server decides it.
async fn not_more(world: &World) {
    let (hub, spoke) = (world.ground.hub_cluster.client(), world.ground.spoke.client());
    for (client, namespace, account, refused) in [
        (&hub, HUB_NAMESPACE, HUB, "get default secrets"),
        (&hub, HUB_NAMESPACE, HUB, "watch cluster-proxy secrets"),
        (&hub, HUB_NAMESPACE, HUB, "create default serviceaccounts/token"),
        (&hub, HUB_NAMESPACE, HUB, "impersonate - users"),
        (&spoke, AGENT_NAMESPACE, AGENT, "get open-cluster-management-cluster-proxy secrets"),
        (
            &spoke,
            AGENT_NAMESPACE,
            AGENT,
            "create open-cluster-management-cluster-proxy serviceaccounts/token",
        ),
        (
            &spoke,
            AGENT_NAMESPACE,
            AGENT,
            "get open-cluster-management-managed-serviceaccount configmaps",
        ),
        (&spoke, AGENT_NAMESPACE, AGENT, "impersonate - users"),
    ] {
        let words: Vec<_> =
            refused.split(' ').map(|word| word.trim_matches('-').to_owned()).collect();
        let call = Call {
            verb: words[0].clone(),
            namespace: words[1].clone(),
            resource: words[2].clone(),
            ..Call::default()
        };
        let user = format!("system:serviceaccount:{namespace}:{account}");
        assert_eq!(may(client, &user, &groups(namespace), &call).await, None, "{refused}");
    }
}

/// Those of a ServiceAccount.
fn groups(namespace: &str) -> [String; 3] {
    let groups = ["serviceaccounts", &format!("serviceaccounts:{namespace}"), "authenticated"];
    groups.map(|group| format!("system:{group}"))
}

/// What every account may ask: which kinds there are.
fn is_for_everybody(call: &Call) -> bool {
    call.verb == "get" && ["/api", "/apis"].iter().any(|start| call.path.starts_with(start))
}
