//! Tokens of a cluster's own accounts: what a signature may look like, and for whom they speak.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::support::client::{Answer, Client, full};
use crate::support::fleet::Fleet;
use crate::world::World;

/// An integer of DER (X.690, section 8.3).
fn integer(bytes: &[u8]) -> Vec<u8> {
    let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len() - 1);
    let mut content = bytes[start..].to_vec();
    if content[0] & 0x80 != 0 {
        content.insert(0, 0);
    }
    let mut der = vec![2, u8::try_from(content.len()).unwrap()];
    der.append(&mut content);
    der
}

/// Security case 61. The API server would let each one in, and is looked at.
#[tokio::test]
async fn s61_a_signature_of_another_form_is_none() {
    let fleet = Fleet::start(&["c1"]).await;
    let api = &fleet.spoke("c1").api;
    let good = api.token("test");
    let (message, signature) = good.rsplit_once('.').unwrap();
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    assert_eq!(signature.len(), 64, "r and s of ES256 (RFC 7518, section 3.4)");
    let (r, s) = signature.split_at(32);
    let (zero, mut der) = ([0; 32], [integer(r), integer(s)].concat());
    der.splice(0..0, [0x30, u8::try_from(der.len()).unwrap()]);
    let path = "/c1/api/v1/namespaces/default/services/x/proxy/echo";
    for (what, changed) in [
        ("r and s are 0", [zero, zero].concat()),
        ("r is 0", [&zero, s].concat()),
        ("s is 0", [r, &zero].concat()),
        ("r and s are as large as can be", vec![0xff; 64]),
        ("as DER", der),
        ("a byte less", signature[..63].to_vec()),
        ("a byte more", [&signature[..], &[0]].concat()),
        ("padded to the length of ES384", [&[0; 16], r, &[0; 16], s].concat()),
        ("exchanged", [s, r].concat()),
    ] {
        let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(&changed));
        api.accept(&token, "system:serviceaccount:default:test");
        let answer = fleet.anonymous().token(&token).get(path).await;
        assert_eq!(answer.status, 401, "{what}: {}", answer.text());
        assert_eq!(fleet.anonymous().token(&good).get(path).await.status, 200, "{what}");
    }
}

async fn whoami(client: &Client, user: Option<&str>) -> Answer {
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let path = "/c1/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let mut request = client.request("POST", path, full(review.to_string()));
    let headers = request.headers_mut();
    headers.insert("content-type", "application/json".parse().unwrap());
    if let Some(user) = user {
        headers.insert("impersonate-user", user.parse().unwrap());
    }
    client.send(request).await
}

/// Upstream's case 6: the cluster's RBAC alone says who may speak for others.
#[tokio::test]
async fn u6_an_account_of_the_cluster_is_somebody_else_where_its_rbac_lets_it() {
    let world = World::start().await;
    for name in ["master", "clerk"] {
        world.account(name).await;
    }
    world.bind("master").await;
    let master = world.client("master", Value::Null).await;
    let clerk = world.client("clerk", Value::Null).await;
    let who = |answer: &Answer| answer.json()["status"]["userInfo"]["username"].clone();
    let own = "system:serviceaccount:default:clerk";
    assert_eq!(who(&whoami(&clerk, None).await), own);
    let refused = whoami(&clerk, Some("jane")).await.assert_status(403, "Forbidden");
    assert!(refused.contains("cannot impersonate"), "{refused}");
    assert_eq!(who(&whoami(&master, Some("jane")).await), "jane");
}
