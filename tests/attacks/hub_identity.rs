//! Identities of the hub: what a client may say beside them, what an agent and a spoke's API server
//! get to see, and tokens that only look like the hub's. Cases 42 to 44, 52 to 59 and 67.

use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderMap;
use serde_json::{Value, json};

use crate::agent::{HostileAgent, Script, reply};
use crate::scripted::{Scripted, line};
use crate::support::fleet::Fleet;
use crate::support::hub_api::HubApi;
use crate::support::token::{SigningKey, unsigned};
use crate::support::{PATIENCE, eventually};

/// A hub that lets its accounts in everywhere, and a token of one of them.
async fn hub() -> (HubApi, Fleet, String) {
    let api = HubApi::start().await;
    let token = api.account("default", "deployer").await;
    let everyone = "rules: [{groups: ['cluster:hub:system:serviceaccounts'], clusters: ['*']}]";
    let fleet = api.fleet(Some(everyone)).await;
    (api, fleet, token)
}

fn bearer(token: &str) -> String {
    format!("host: localhost\r\nconnection: close\r\nauthorization: Bearer {token}\r\n")
}

/// Whether a token, or a part of it that is worth stealing, stands in `text`.
fn holds(text: &str, token: &str) -> bool {
    let signature = token.rsplit('.').next().unwrap();
    text.contains(signature) || text.contains(&URL_SAFE_NO_PAD.encode(token))
}

#[tokio::test]
async fn s42_s43_s44_nobody_speaks_beside_an_identity_of_the_hub() {
    let (_api, fleet, token) = hub().await;
    let ground = Scripted::on(fleet).await;
    for (index, (code, name)) in [
        (403, "Impersonate-User"),
        (403, "IMPERSONATE-GROUP"),
        (403, "Impersonate-Uid"),
        (403, "Impersonate-Extra-%2f"),
        (403, "impersonate-anything"),
        (400, "Impersonate_User"),
        (400, "X_Remote-User"),
        (200, "X-Remote-User"),
        (200, "X-Remote-Group"),
        (200, "X-Remote-Extra-a"),
        (200, "x-mine"),
    ]
    .into_iter()
    .enumerate()
    {
        let case = format!("s42-{index}-");
        let lines = format!("{}{name}: system:masters\r\n", bearer(&token));
        let head = ground.bare("GET", &format!("/c1/{case}"), &lines);
        let reply = ground.closed(head).await;
        assert_eq!(reply.code(), code, "{name}: {}", reply.0);
        if code == 403 {
            assert!(reply.0.contains("cannot impersonate others"), "{}", reply.0);
        }
        let seen = ground.seen(&case);
        assert_eq!(seen.len(), usize::from(code == 200), "{name}");
        if let Some(head) = seen.first() {
            assert_eq!(head.contains("system:masters"), name == "x-mine", "{head}");
            let user = "cluster:hub:system:serviceaccount:default:deployer";
            assert_eq!(line(head, "impersonate-user"), Some(user), "{head}");
        }
    }
}

#[tokio::test]
async fn a_token_of_the_hub_stays_there() {
    let (_api, fleet, token) = hub().await;
    let ground = Scripted::on(fleet).await;
    let encoded = URL_SAFE_NO_PAD.encode(&token);
    let upgrade = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                   sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let protocol = format!("base64url.bearer.authorization.k8s.io.{encoded}, v4.channel.k8s.io");
    let host = "host: localhost\r\n";
    for (index, lines) in [
        bearer(&token),
        format!("{}connection: authorization\r\n", bearer(&token)),
        format!("{host}connection: close\r\nsec-websocket-protocol: {protocol}\r\n"),
        format!("{host}{upgrade}sec-websocket-protocol: {protocol}\r\n"),
        format!("{host}{upgrade}authorization: Bearer {token}\r\n"),
    ]
    .into_iter()
    .enumerate()
    {
        let case = format!("/c1/api/v1/namespaces/d/pods/stays-{index}-/exec?script=101");
        let case = if index < 3 { case.replace("?script=101", "") } else { case };
        let mut session = ground.fleet.anonymous().connect(b"http/1.1").await.unwrap();
        let head = ground.bare("GET", &case, &lines);
        tokio::io::AsyncWriteExt::write_all(&mut session, head.as_bytes()).await.unwrap();
        let marker = format!("stays-{index}-");
        let seen =
            eventually("the request arrives", PATIENCE, || async { ground.seen(&marker).pop() })
                .await;
        assert!(!holds(&seen, &token), "{seen}");
        let own = line(&seen, "authorization").unwrap();
        assert!(own.starts_with("Bearer ") && !own.contains(&ground.token), "the agent's: {seen}");
        let user = "cluster:hub:system:serviceaccount:default:deployer";
        assert_eq!(line(&seen, "impersonate-user"), Some(user));
        assert_eq!(seen.matches("impersonate-group: ").count(), 3, "{seen}");
        assert_eq!(line(&seen, "cluster-proxy-mode"), None, "{seen}");
    }
    for head in ground.seen("") {
        assert!(!holds(&head, &token), "{head}");
    }
}

#[tokio::test]
async fn s58_s59_s67_an_agent_that_publishes_every_key_never_sees_a_token_of_another() {
    let (api, mut fleet, token) = hub().await;
    fleet.add("c2").await;
    fleet.hub.wait_healthy("c2").await;
    let c2 = fleet.spoke("c2").api.token("test");
    let signer = SigningKey::generate("c1-key");
    let directory = fleet.dir.path().join("c1");
    fleet.hub.enrol("c1", &directory).await;
    let seen = Arc::<Mutex<Vec<HeaderMap>>>::default();
    let seeing = Arc::clone(&seen);
    let mut script = Script::new(&signer, move |request, respond| {
        seeing.lock().unwrap().push(request.headers().clone());
        reply(respond, "{}");
    });
    let mut keys = api.get("/openid/v1/jwks").await["keys"].as_array().unwrap().clone();
    keys.push(fleet.spoke("c2").api.key().jwk());
    keys.push(signer.jwk());
    script.jwks = json!({"keys": keys});
    let agent = HostileAgent::start(fleet.hub.addresses.agents, &directory, script).await;
    fleet.hub.wait_tunnels("c1", 1, PATIENCE).await;
    let own = signer.sign(&crate::support::token::claims("default", "test", 3600));
    let own = fleet.anonymous().token(&own);
    eventually("c1 is served", PATIENCE, || async {
        (own.get("/c1/own").await.status == 200).then_some(())
    })
    .await;
    seen.lock().unwrap().clear();

    for _ in 0..2 {
        assert_eq!(fleet.anonymous().token(&c2).get("/c1/s58").await.status, 401);
        assert_eq!(fleet.anonymous().token(&token).get("/c1/s59").await.status, 200);
        assert_eq!(fleet.anonymous().token(&c2).get("/c2/version").await.status, 200);
    }
    let heads = seen.lock().unwrap().clone();
    let callers: Vec<_> =
        heads.iter().filter(|head| head["cluster-proxy-mode"] != "agent").collect();
    assert_eq!(callers.len(), 2, "{callers:?}");
    for head in callers {
        assert_eq!(head["cluster-proxy-mode"], "impersonate");
        assert!(!head.contains_key("authorization"), "{head:?}");
    }
    for head in heads {
        for value in head.values() {
            let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
            assert!(!holds(&text, &token) && !holds(&text, &c2), "{text}");
        }
    }
    let conflicts = "cluster_proxy_key_conflicts_total";
    assert!(fleet.hub.metric(conflicts, &["cluster=\"c1\""]).await >= 2.0);
    drop(agent);
}

#[tokio::test]
async fn s52_to_s57_what_only_looks_like_the_hubs() {
    let (api, fleet, token) = hub().await;
    let ground = Scripted::on(fleet).await;
    let keys = api.get("/openid/v1/jwks").await;
    let id = keys["keys"][0]["kid"].as_str().unwrap().to_owned();
    let part = token.split('.').nth(1).unwrap();
    let good: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap();
    let stranger = SigningKey::generate(&id);
    let (head, signature) = token.rsplit_once('.').unwrap();
    let flipped = if signature.starts_with('A') { "B" } else { "A" };
    let elsewhere = api.token("default", "deployer", json!({"audiences": ["elsewhere"]})).await;
    let leaver = api.account("default", "leaver").await;
    let gone = "/api/v1/namespaces/default/serviceaccounts/leaver";
    api.delete(gone).await;
    for (what, bad) in [
        ("alg none", unsigned(&good)),
        ("HS256 with a public key", stranger.sign_hs256_with_public_key(&good)),
        ("a stranger's key under the hub's id", stranger.sign(&good)),
        ("another signature", format!("{head}.{flipped}{}", &signature[1..])),
        ("no signature", format!("{head}.")),
        ("another audience", elsewhere),
        ("an account that is gone", leaver),
    ] {
        let reply = ground.closed(ground.bare("GET", "/c1/s52-bad", &bearer(&bad))).await;
        assert_eq!(reply.code(), 401, "{what}: {}", reply.0);
        assert!(reply.0.contains("\"message\":\"Unauthorized\""), "{what}: {}", reply.0);
    }
    assert!(ground.seen("s52-bad").is_empty());
    let reply = ground.closed(ground.bare("GET", "/c1/s52-good", &bearer(&token))).await;
    assert_eq!(reply.code(), 200, "{}", reply.0);
    assert_eq!(ground.seen("s52-good").len(), 1);
}
