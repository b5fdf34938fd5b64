//! Services of a cluster as operator and owner expose them, to web servers outside of it: one suite on
//! in-memory and on real API servers.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use cluster_proxy::pki::ca::Authority;

use crate::apis::Apis;
use crate::fleet::Fleet;
use crate::support::client::Client;
use crate::support::process::{Kubectl, text};
use crate::support::shop::{Shop, certified};
use crate::support::{PATIENCE, eventually, skipped};

#[tokio::test]
async fn of_clusters_with_embedded_api_servers() {
    let loopback = Ipv4Addr::LOCALHOST.into();
    services("of_clusters_with_embedded_api_servers", Apis::Embedded, loopback).await;
}

#[tokio::test]
async fn of_clusters_with_real_api_servers() {
    let test = "of_clusters_with_real_api_servers";
    let Some(apis) = Apis::real(test) else { return };
    let Some(address) = own_address() else {
        skipped(test, "this machine has no address but loopback", "ip address");
        return;
    };
    services(test, apis, address).await;
}

async fn services(test: &str, apis: Apis, address: IpAddr) {
    let real = matches!(apis, Apis::Real(_));
    let flags = |directory: &Path| {
        std::fs::write(directory.join("services.yaml"), LIST).unwrap();
        vec!["--exposed-services=services.yaml".to_owned()]
    };
    let Some(mut fleet) = Fleet::with(test, apis, flags).await else { return };
    let authority = Authority::create("authority of services", LIFE).unwrap();
    let file = fleet.directory().join("service-ca.crt");
    std::fs::write(file, authority.certificate_pem()).unwrap();
    let plain = Shop::start_on(address, "plain", None).await;
    let safe = certified(&authority, "web.shop.svc");
    let safe = Shop::start_on(address, "safe", Some(safe)).await;
    let admin = fleet.admin("c1");
    expose(&admin, &plain, &safe);
    if real {
        let mut slice = slice(&plain, &safe);
        slice["metadata"]["name"] = "web-2".into();
        slice["endpoints"][0]["addresses"] = json!(["127.0.0.1"]);
        let file = fleet.directory().join("slice.json");
        std::fs::write(&file, slice.to_string()).unwrap();
        let refused = text(&admin.output(&["create", "-f", file.to_str().unwrap()]));
        assert!(refused.contains("loopback"), "an API server of its own accord: {refused}");
    }

    let user = fleet.url().strip_prefix("https://").unwrap().parse().unwrap();
    let ca = std::fs::read(fleet.directory().join("hub/serving-ca.crt")).unwrap();
    let client = Client::new(user, ca);
    let token = std::fs::read_to_string(fleet.directory().join("c1.api/tokens/test")).unwrap();
    let own = client.token(token.trim());
    let message = own.get(&path("http:web:80", "/")).await.assert_status(403, "Forbidden");
    assert!(message.contains("agent --expose-service"), "{message}");

    let mut flags = vec!["--expose-service=shop/web", "--additional-service-ca=service-ca.crt"];
    if !real {
        flags.push("--expose-loopback-services");
    }
    fleet.restart_agent("c1", &flags).await;
    eventually("c1 is served", PATIENCE, || async {
        (own.get("/c1/version").await.status == 200).then_some(())
    })
    .await;
    for (segment, server) in [("http:web:80", "plain"), ("http:web:http", "plain"), ("web", "safe")]
    {
        let answer = own.get(&path(segment, "/a%2Fb?c")).await;
        assert_eq!(answer.status, 200, "{segment}: {}", answer.text());
        let head = answer.json();
        assert_eq!((&head["server"], &head["target"]), (&server.into(), &"/a%2Fb?c".into()));
        assert_eq!(own.post(&path(segment, "/echo"), "said").await.text(), "said");
    }

    // The cluster's own word about a token, as nothing behind a service looks at it.
    admin.run(&["create", "serviceaccount", "leaver", "-n", "shop"]);
    let leaver = admin.run(&["create", "token", "leaver", "-n", "shop"]);
    let leaver = client.token(leaver.trim());
    assert_eq!(leaver.get(&path("web", "/")).await.status, 200);
    admin.run(&["delete", "serviceaccount", "leaver", "-n", "shop"]);
    eventually("the account is refused", PATIENCE, || async {
        (leaver.get(&path("web", "/")).await.status == 401).then_some(())
    })
    .await;
    assert_eq!(own.get(&path("web", "/")).await.status, 200);
    admin.run(&["delete", "endpointslice", "web-1", "-n", "shop"]);
    eventually("the service has no pod", PATIENCE, || async {
        (own.get(&path("web", "/")).await.status == 404).then_some(())
    })
    .await;
    fleet.stop().await;
}

/// Makes the Service, says where it is, and lets the agent read that, as its chart does.
fn expose(admin: &Kubectl, plain: &Shop, safe: &Shop) {
    admin.run(&["create", "namespace", "shop"]);
    for (role, verb, resource) in [
        ("agent-services", "get", "services"),
        ("agent-slices", "list", "endpointslices.discovery.k8s.io"),
    ] {
        let (verb, resource) = (format!("--verb={verb}"), format!("--resource={resource}"));
        admin.run(&["create", "role", role, "-n", "shop", &verb, &resource]);
        let role_flag = format!("--role={role}");
        admin.run(&["create", "rolebinding", role, "-n", "shop", &role_flag, AGENT]);
    }
    let ports = json!([{"name": "http", "port": 80}, {"name": "https", "port": 443}]);
    let service = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "web", "namespace": "shop"}, "spec": {"ports": ports}});
    for object in [service, slice(plain, safe)] {
        admin.run_with(&["create", "-f", "-"], &object.to_string());
    }
}

fn slice(plain: &Shop, safe: &Shop) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "web-1", "namespace": "shop",
            "labels": {"kubernetes.io/service-name": "web"}},
        "endpoints": [{"addresses": [plain.address.ip()]}],
        "ports": [{"name": "http", "port": plain.address.port()},
            {"name": "https", "port": safe.address.port()}],
    })
}

fn path(segment: &str, behind: &str) -> String {
    format!("/c1/api/v1/namespaces/shop/services/{segment}/proxy-service{behind}")
}

/// An address of this machine that others reach, where it has one. Nothing is sent.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

const LIST: &str = "- {namespace: shop, service: web}";

const AGENT: &str = "--serviceaccount=open-cluster-management-cluster-proxy:cluster-proxy-agent";

/// Longer than a test.
const LIFE: Duration = Duration::from_secs(3600);
