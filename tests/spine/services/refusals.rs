//! Who reaches no service, and which services nobody reaches: at the hub, at the agent, and in the
//! cluster. Each beside a success that differs in one thing.

use std::net::SocketAddr;

use serde_json::{Value, json};

use cluster_proxy::agent::Exposure;

use super::ground::{Ground, SERVICES, exposure, path, slice};
use crate::support::client::{Answer, Client};
use crate::support::shop::Shop;
use crate::support::{PATIENCE, eventually};
use crate::world::ACCOUNTS;

const LIST: &str = "- {namespace: shop, service: web}";

/// What the client of `path` is told, as a hop and a code; nobody was asked.
async fn refused(ground: &Ground, client: &Client, path: &str) -> (u16, String) {
    let before = ground.requests();
    let answer = client.get(path).await;
    assert_eq!(ground.requests(), before, "{path}");
    let message = answer.json()["message"].as_str().unwrap_or_default().to_owned();
    (answer.status.as_u16(), message)
}

async fn reached(client: &Client, path: &str) -> Answer {
    let answer = client.get(path).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer
}

#[tokio::test]
async fn at_the_hub_by_caller_and_list() {
    let list = "
- {namespace: shop, service: web, port: 80, protocol: http}
- {namespace: shop, service: web, port: 8080, clusters: [c2]}
";
    let ground = Ground::start(list, &["shop/web"]).await;
    let web = path("http:web:80", "/");
    reached(&ground.client, &web).await;
    reached(&ground.of_hub, &web).await;
    let anonymous = ground.world.fleet.anonymous();
    let (own, of_hub) = (&ground.client, &ground.of_hub);
    let elsewhere = web.replace("/c1/", "/c2/");
    for (client, path, code, says) in [
        (&anonymous, web.clone(), 401, "Unauthorized"),
        (&anonymous, path("no such name", "/").replace(' ', "%20"), 401, "Unauthorized"),
        (own, elsewhere.clone(), 401, "Unauthorized"),
        (of_hub, elsewhere, 404, "no cluster c2"),
        (own, path("http:web:8080", "/"), 403, "is not in the hub's list"),
        (own, path("http:web:http", "/"), 403, "is not in the hub's list"),
        (own, path("https:web:80", "/"), 403, "is not in the hub's list"),
        (own, path("http:other:80", "/"), 403, "is not in the hub's list"),
        (own, web.replace("/shop/", "/shop2/"), 403, "is not in the hub's list"),
        (of_hub, web.replace("/shop/", "/shop2/"), 403, "no rule of the hub's policy"),
        (own, path("http:web:0", "/"), 400, "names no service"),
        (own, path("http:web.shop:80", "/"), 400, "names no service"),
        (own, path("http:127.0.0.1:80", "/"), 400, "names no service"),
    ] {
        let (status, message) = refused(&ground, client, &path).await;
        assert_eq!(status, code, "{path}: {message}");
        assert!(message.contains(says), "{path}: {message}");
    }
    let (status, _) =
        refused(&ground, own, &web.replace("shop", "default").replace("web", "kubernetes")).await;
    assert_eq!(status, 403);
    reached(own, &web).await;
}

#[tokio::test]
async fn at_the_agent_by_its_owners_list() {
    let mut ground = Ground::start(LIST, &["shop/web:80"]).await;
    reached(&ground.client, &path("http:web:80", "/")).await;
    // The owner's list compares a port as it is written.
    for segment in ["http:web:8080", "http:web:http"] {
        let (code, message) = refused(&ground, &ground.client, &path(segment, "/")).await;
        assert_eq!(code, 403, "{message}");
        assert!(message.starts_with("cluster-proxy: agent: "), "{message}");
        assert!(message.contains("agent --expose-service"), "{message}");
    }
    ground.expose(exposure(&["shop/web:admin", "shop/web:http"])).await;
    reached(&ground.client, &path("http:web:admin", "/")).await;
    let (code, message) = refused(&ground, &ground.client, &path("http:web:80", "/")).await;
    assert_eq!(code, 403, "{message}");
    ground.expose(Exposure::default()).await;
    let (code, message) = refused(&ground, &ground.client, &path("http:web:admin", "/")).await;
    assert_eq!(code, 403, "{message}");
}

/// Security case 102: what the cluster says a service is.
#[tokio::test]
async fn addresses_that_no_service_may_have() {
    let mut ground = Ground::start(LIST, &["shop/web"]).await;
    let web = path("http:web:80", "/");
    let forbidden = |(code, message): (u16, String)| {
        assert_eq!(code, 403, "{message}");
        assert!(message.starts_with("cluster-proxy: agent: "), "{message}");
    };
    let server = &ground.world.spoke.server;
    let api_server = SocketAddr::new(server.host.parse().unwrap(), server.port);
    let metadata = SocketAddr::from(([169, 254, 169, 254], 80));
    reached(&ground.client, &web).await;
    for address in [api_server, metadata] {
        ground.place(&[("http", address)]).await;
        // What was looked up is used for some seconds.
        eventually("the new address is looked up", PATIENCE, || async {
            (ground.client.get(&web).await.status != 200).then_some(())
        })
        .await;
        forbidden(refused(&ground, &ground.client, &web).await);
        ground.place(&[("http", ground.front.address)]).await;
        eventually("the pod is there again", PATIENCE, || async {
            (ground.client.get(&web).await.status == 200).then_some(())
        })
        .await;
    }

    // Another name for a host that somebody chose.
    let external = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"type": "ExternalName", "externalName": "localhost",
            "ports": [{"name": "http", "port": 80}]}});
    let plain = ground.world.spoke.admin.get(&format!("{SERVICES}/web")).await.json();
    ground.world.delete(&format!("{SERVICES}/web")).await;
    ground.world.create(SERVICES, external).await;
    ground.expose(exposure(&["shop/web"])).await;
    forbidden(refused(&ground, &ground.client, &web).await);
    ground.world.delete(&format!("{SERVICES}/web")).await;
    let mut again = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}});
    again["spec"] = plain["spec"].clone();
    ground.world.create(SERVICES, again).await;
    ground.expose(exposure(&["shop/web"])).await;
    reached(&ground.client, &web).await;

    // The agent's own host, unless its owner says otherwise.
    ground.expose(Exposure { loopback: false, ..exposure(&["shop/web"]) }).await;
    forbidden(refused(&ground, &ground.client, &web).await);
}

/// In the cluster: no Service, no port, no pod, none that is ready, none that listens.
#[tokio::test]
async fn services_that_are_not_there() {
    let mut ground = Ground::start(LIST, &["shop/web"]).await;
    let web = path("http:web:80", "/");
    let there = slice(&[("http", ground.front.address)]);
    let mut unready = there.clone();
    unready["endpoints"][0]["conditions"]["ready"] = false.into();
    let mut empty = there.clone();
    empty["endpoints"] = json!([]);
    let mut unnamed = there.clone();
    unnamed["ports"][0]["name"] = "other".into();
    let mut of_other = there.clone();
    of_other["metadata"]["labels"]["kubernetes.io/service-name"] = "other".into();
    let gone = Shop::start("gone").await.address;
    for (what, slice, code, says) in [
        ("not ready", unready, 404, "a pod behind it is ready"),
        ("no endpoints", empty, 404, "a pod behind it is ready"),
        ("another port", unnamed, 404, "that it has this port"),
        ("another Service's", of_other, 404, "a pod behind it is ready"),
        ("nobody listens", slice(&[("http", gone)]), 502, "what its pods listen on"),
    ] {
        ground.write_slice(slice).await;
        ground.expose(exposure(&["shop/web"])).await;
        let (status, message) = refused(&ground, &ground.client, &web).await;
        assert_eq!(status, code, "{what}: {message}");
        assert!(message.starts_with("cluster-proxy: service: "), "{what}: {message}");
        assert!(message.contains(says), "{what}: {message}");
    }
    ground.write_slice(there).await;
    eventually("the pod is there", PATIENCE, || async {
        (ground.client.get(&web).await.status == 200).then_some(())
    })
    .await;
    ground.world.delete(&format!("{SERVICES}/web")).await;
    ground.expose(exposure(&["shop/web"])).await;
    let (status, message) = refused(&ground, &ground.client, &web).await;
    assert_eq!(status, 404, "{message}");
}

/// The agent's RBAC is what lets it look services up.
#[tokio::test]
async fn an_agent_that_may_not_look_services_up_says_so() {
    const BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/shop/rolebindings";

    let mut ground = Ground::start(LIST, &["shop/web"]).await;
    let web = path("http:web:80", "/");
    reached(&ground.client, &web).await;
    let name = "cluster-proxy-agent-services";
    let binding = ground.world.spoke.admin.get(&format!("{BINDINGS}/{name}")).await.json();
    ground.world.delete(&format!("{BINDINGS}/{name}")).await;
    ground.expose(exposure(&["shop/web"])).await;
    let (status, message) = refused(&ground, &ground.client, &web).await;
    assert_eq!(status, 502, "{message}");
    assert!(message.contains("may not look services up"), "{message}");
    let mut again = json!({"apiVersion": binding["apiVersion"], "kind": binding["kind"]});
    again["metadata"] = json!({ "name": name });
    (again["roleRef"], again["subjects"]) =
        (binding["roleRef"].clone(), binding["subjects"].clone());
    ground.world.create(BINDINGS, again).await;
    reached(&ground.client, &web).await;
}

/// Security case 73, and a cluster that is not connected.
#[tokio::test]
async fn a_token_that_is_gone_and_a_cluster_that_is_offline() {
    let mut ground = Ground::start(LIST, &["shop/web"]).await;
    let web = path("http:web:80", "/");
    ground.world.account("leaver").await;
    let leaver = ground.world.client("leaver", Value::Null).await;
    reached(&leaver, &web).await;
    ground.world.delete(&format!("{ACCOUNTS}/leaver")).await;
    eventually("the account is refused", BOUND, || async {
        (leaver.get(&web).await.status == 401).then_some(())
    })
    .await;
    reached(&ground.client, &web).await;

    ground.world.spoke.kill_agent();
    ground.world.fleet.hub.wait_tunnels("c1", 0, PATIENCE).await;
    let (status, message) = refused(&ground, &ground.client, &web).await;
    assert_eq!(status, 503, "{message}");
    ground.expose(exposure(&["shop/web"])).await;
    reached(&ground.client, &web).await;
    // The list is the hub's, and followed.
    ground.list("[]");
    eventually("the list is in force", PATIENCE, || async {
        (ground.client.get(&web).await.status == 403).then_some(())
    })
    .await;
}

/// Ten seconds of our own, and as many of the API server, which caches a good token too.
const BOUND: std::time::Duration = std::time::Duration::from_secs(20);
