//! SIGHUP: what changed is used, what is broken is not, and nobody is cut.

use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio_rustls::rustls::pki_types::CertificateDer;

use crate::support::api::access::kubeconfig as kubeconfig_for;
use crate::support::client::{Client, empty};
use crate::support::process::{run, signal};
use crate::support::processes::Pair;
use crate::support::token::{AUDIENCE, claims};
use crate::support::{PATIENCE, eventually};

async fn served(client: &Client) -> CertificateDer<'static> {
    let stream = client.connect(b"http/1.1").await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

#[tokio::test]
async fn a_hangup_reloads_and_cuts_nothing() {
    let mut pair = Pair::start().await;
    let client = pair.client();
    let log = "/c1/api/v1/namespaces/default/pods/p/log?follow=true";
    let mut log = client.open(client.request("GET", log, empty())).await.unwrap().into_body();
    assert!(log.frame().await.unwrap().is_ok());

    let before = served(&client).await;
    run(pair.directory(), &["pki", "renew", "--dir", "hub"]);
    // As whoever rotates logs does.
    let moved = pair.directory().join("access.log.1");
    std::fs::rename(pair.directory().join("access.log"), &moved).unwrap();
    signal(pair.hub.id(), "HUP");
    pair.hub.wait_for("SIGHUP", PATIENCE).await;
    eventually("the new certificate is served", PATIENCE, || async {
        (served(&client).await != before).then_some(())
    })
    .await;

    eventually("the access log is a new file", PATIENCE, || async {
        client.get("/c1/api/v1/pods?after=the-move").await;
        pair.access_log().contains("/c1/api/v1/pods").then_some(())
    })
    .await;
    let old = std::fs::read_to_string(moved).unwrap();
    assert!(old.contains("/c1/version"), "what was written before is still there: {old}");

    let kubeconfig = pair.directory().join("c1/kubeconfig");
    let good = std::fs::read(&kubeconfig).unwrap();
    std::fs::write(&kubeconfig, "nonsense: [").unwrap();
    signal(pair.agent.id(), "HUP");
    pair.agent.wait_for("keeping the access", PATIENCE).await;
    assert_eq!(client.get("/c1/version").await.status, 200);
    std::fs::write(&kubeconfig, good).unwrap();
    signal(pair.agent.id(), "HUP");
    pair.agent.wait_for("is the same", PATIENCE).await;
    // Its own token, another one, as a kubelet renews it: tunnels, and watches in them, stay.
    let watch = "/c1/api/v1/configmaps?watch=true&halves";
    let mut watch = client.open(client.request("GET", watch, empty())).await.unwrap().into_body();
    let renew = async |claims: &Value| {
        let token = pair.api.sign(claims);
        pair.api.accept(&token, "system:serviceaccount:cluster-proxy:agent");
        let server = format!("https://{}", pair.api.address);
        let text = kubeconfig_for(&server, &pair.api.ca_pem, &token);
        std::fs::write(&kubeconfig, text).unwrap();
        let count = |text: &str| pair.agent.log().matches(text).count();
        let [changed, greeted] = [count(CHANGED), count(GREETED)];
        signal(pair.agent.id(), "HUP");
        eventually("the agent has another token", PATIENCE, || {
            let changes = count(CHANGED);
            async move { (changes > changed).then_some(()) }
        })
        .await;
        greeted
    };
    let mut claims = claims("cluster-proxy", "agent", 7_200);
    let greeted = renew(&claims).await;
    assert_eq!(client.get("/c1/version").await.status, 200);
    assert!(log.frame().await.unwrap().is_ok(), "the log of before goes on");
    // Longer than a watch stays that was told to move.
    for _ in 0..110 {
        assert!(watch.frame().await.is_some_and(|frame| frame.is_ok()), "the watch goes on");
    }
    // Audiences are in the hello: there the hub is greeted again.
    claims["aud"] = json!([AUDIENCE, "another"]);
    assert_eq!(renew(&claims).await, greeted, "no tunnel was made anew before");
    eventually("the hub is greeted again", PATIENCE, || {
        let again = pair.agent.log().matches(GREETED).count() > greeted;
        async move { again.then_some(()) }
    })
    .await;
    assert!(log.frame().await.unwrap().is_ok(), "the log of before goes on");
}

const CHANGED: &str = "using the changed access";
const GREETED: &str = "the hub greeted us";
