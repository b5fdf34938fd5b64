//! From an account to its token, and back.

use std::time::Duration;

use http::Method;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use serde_json::json;
use tokio::time::sleep;

use super::super::api::{MANAGED, MANAGED_NAMESPACE, ManagedServiceAccount, REQUESTED};
use super::super::token::Claims;
use super::world::{World, eventually, keys};

#[tokio::test(start_paused = true)]
async fn an_account_becomes_a_token() {
    let world = World::start(&["c1"]).await;
    world.account("c1", "app", json!({})).await;
    let token = world.ready("c1", "app").await;
    let account = world.service_account("c1", "app").await.unwrap();
    assert_eq!(account.metadata.labels.unwrap()[MANAGED], "true");
    let claims = Claims::of(&token).unwrap();
    assert_eq!(claims.subject, format!("system:serviceaccount:{MANAGED_NAMESPACE}:app"));
    assert_eq!(Some(claims.account), account.metadata.uid);

    let secret = world.secret("c1", "app").await.unwrap();
    assert_eq!(keys(&secret), ["ca.crt", "cluster-proxy-ca.crt", "token"].into());
    let data = secret.data.unwrap();
    assert_eq!(data["cluster-proxy-ca.crt"].0, b"serving CA");
    assert!(data["ca.crt"].0.starts_with(b"-----BEGIN CERTIFICATE"));
    let owner = secret.metadata.owner_references.unwrap().remove(0);
    let account: ManagedServiceAccount = world.hub.get("c1", "app").await.unwrap();
    assert_eq!(Some(owner.uid), account.metadata.uid);
    let status = account.status.unwrap();
    assert!(status.conditions.iter().all(|condition| condition.observed_generation == Some(1)));
    assert_eq!(status.token_secret_ref.unwrap().name, "app");
    assert_eq!(status.expiration_timestamp, Some(claims.expires.to_string()));
    let writes: Vec<_> = world.hub.writes().into_iter().map(|(_, path)| path).collect();
    let [secret, status] = &writes[..] else { panic!("{writes:?}") };
    assert!(secret.contains("/secrets/app") && status.contains("/app/status"), "{writes:?}");
    assert_eq!(world.minted("c1"), 1);
}

#[tokio::test(start_paused = true)]
async fn validity_and_audiences_are_asked_for_and_a_change_is_a_new_token() {
    let world = World::start(&["c1"]).await;
    let annotations = json!({"cluster-proxy/audiences": "vault"});
    let more = json!({"metadata": {"annotations": annotations},
        "spec": {"rotation": {"validity": "1h30m"}}});
    world.account("c1", "app", more).await;
    let first = world.ready("c1", "app").await;
    let claims = Claims::of(&first).unwrap();
    assert_eq!(claims.expires.as_second() - claims.issued.as_second(), 5400);
    let secret = world.secret("c1", "app").await.unwrap();
    let requested = &secret.metadata.annotations.unwrap()[REQUESTED];
    assert_eq!(requested, "{\"seconds\":5400,\"audiences\":[\"vault\"]}");

    let patch = json!({"spec": {"rotation": {"validity": "15m"}}});
    world.hub.merge::<ManagedServiceAccount>("c1", "app", patch).await;
    let second = eventually("a new token", || async {
        world.token("c1", "app").await.filter(|token| *token != first)
    })
    .await;
    let claims = Claims::of(&second).unwrap();
    assert_eq!(claims.expires.as_second() - claims.issued.as_second(), 900);
}

#[tokio::test(start_paused = true)]
async fn a_validity_that_is_none_is_refused_and_a_good_one_heals() {
    let world = World::start(&["c1"]).await;
    for (at, bad) in ["soon", "5m", "99999999999999999999999999h"].into_iter().enumerate() {
        let name = format!("app{at}");
        world.account("c1", &name, json!({"spec": {"rotation": {"validity": bad}}})).await;
        let condition =
            eventually("a condition", || world.condition("c1", &name, "TokenReported")).await;
        assert_eq!(
            (condition.status.as_str(), condition.reason.as_str()),
            ("False", "InvalidRequest")
        );
        let patch = json!({"spec": {"rotation": {"validity": "10m"}}});
        world.hub.merge::<ManagedServiceAccount>("c1", &name, patch).await;
        world.ready("c1", &name).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_deleted_service_account_is_made_again_with_a_fresh_token() {
    let world = World::start(&["c1"]).await;
    world.account("c1", "app", json!({})).await;
    let first = world.ready("c1", "app").await;
    world.spoke("c1").delete::<ServiceAccount>(MANAGED_NAMESPACE, "app").await;
    let second = eventually("a new token", || async {
        world.token("c1", "app").await.filter(|token| *token != first)
    })
    .await;
    let account = world.service_account("c1", "app").await.unwrap();
    assert_eq!(Some(Claims::of(&second).unwrap().account), account.metadata.uid);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(world.minted("c1"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_token_whose_secret_cannot_be_written_is_kept_for_the_next_try() {
    const WRITE: &str = "/secrets/app?&force=true&fieldManager=cluster-proxy-accounts";
    let world = World::start(&["c1"]).await;
    let forbid = |path| *world.hub.forbidden.lock().unwrap() = path;
    let tries = || world.hub.count(&Method::PATCH, WRITE);
    let is_tried = |least: usize| async move { (tries() >= least).then_some(()) };
    forbid(Some(WRITE));
    world.account("c1", "app", json!({})).await;
    eventually("it is tried again", || is_tried(3)).await;
    assert!(world.secret("c1", "app").await.is_none());
    forbid(None);
    let first = world.ready("c1", "app").await;
    assert_eq!(world.minted("c1"), 1);

    // It is of no use for a ServiceAccount that was made anew.
    sleep(Duration::from_secs(60)).await;
    forbid(Some(WRITE));
    let before = tries();
    world.hub.delete::<Secret>("c1", "app").await;
    eventually("another is held", || is_tried(before + 2)).await;
    assert_eq!(world.minted("c1"), 2);
    world.spoke("c1").delete::<ServiceAccount>(MANAGED_NAMESPACE, "app").await;
    eventually("a third one", || async { (world.minted("c1") == 3).then_some(()) }).await;
    forbid(None);
    let third = eventually("a Secret", || world.token("c1", "app")).await;
    let account = world.service_account("c1", "app").await.unwrap();
    assert_eq!(Some(Claims::of(&third).unwrap().account), account.metadata.uid);
    assert_ne!(third, first);
    assert_eq!(world.minted("c1"), 3);
}

#[tokio::test(start_paused = true)]
async fn an_edited_secret_is_repaired() {
    let world = World::start(&["c1"]).await;
    world.account("c1", "app", json!({})).await;
    let first = world.ready("c1", "app").await;
    let is_good = || async {
        let secret = world.secret("c1", "app").await?;
        let data = secret.data.as_ref()?;
        let has_all = keys(&secret).len() == 3 && data["ca.crt"].0.starts_with(b"-----BEGIN");
        let labelled = secret.metadata.labels.clone()?.contains_key(MANAGED);
        let token = String::from_utf8(data.get("token")?.0.clone()).ok()?;
        (has_all && labelled && Claims::of(&token).is_some()).then_some(token)
    };
    // What needs no new token gets none.
    for patch in [
        json!({"data": {"ca.crt": "AAAA"}}),
        json!({"data": {"cluster-proxy-ca.crt": null}}),
        json!({"metadata": {"labels": {MANAGED: null}}}),
    ] {
        world.hub.merge::<Secret>("c1", "app", patch.clone()).await;
        let token = eventually(&format!("repaired: {patch}"), is_good).await;
        assert_eq!(token, first, "{patch}");
    }
    assert_eq!(world.minted("c1"), 1);
    for patch in [json!({"data": {"token": "AAAA"}}), json!({"data": null})] {
        let before = world.minted("c1");
        world.hub.merge::<Secret>("c1", "app", patch.clone()).await;
        eventually(&format!("repaired: {patch}"), is_good).await;
        assert_eq!(world.minted("c1"), before + 1, "{patch}");
    }
    // A token that only its API server can tell from a good one.
    sleep(Duration::from_secs(60)).await;
    let good = world.token("c1", "app").await.unwrap();
    let (signed, _) = good.rsplit_once('.').unwrap();
    let forged = format!("{signed}.{}", "A".repeat(86));
    world.hub.merge::<Secret>("c1", "app", json!({"stringData": {"token": forged}})).await;
    eventually("not the forged one", || async {
        world.token("c1", "app").await.filter(|token| *token != forged)
    })
    .await;
    world.hub.delete::<Secret>("c1", "app").await;
    eventually("made again", is_good).await;
}

#[tokio::test(start_paused = true)]
async fn a_deleted_account_is_cleaned_on_both_sides() {
    let world = World::start(&["c1"]).await;
    for name in ["app", "other"] {
        world.account("c1", name, json!({})).await;
        world.ready("c1", name).await;
    }
    world.hub.delete::<ManagedServiceAccount>("c1", "app").await;
    eventually("both sides are clean", || async {
        let is_clean = world.secret("c1", "app").await.is_none()
            && world.service_account("c1", "app").await.is_none();
        is_clean.then_some(())
    })
    .await;
    sleep(Duration::from_secs(60)).await;
    assert!(world.secret("c1", "app").await.is_none(), "and stay so");
    assert!(world.secret("c1", "other").await.is_some());
    assert!(world.service_account("c1", "other").await.is_some());
}

#[tokio::test(start_paused = true)]
async fn an_account_with_a_limited_life_is_deleted_after_it() {
    let world = World::start(&["c1"]).await;
    world.account("c1", "app", json!({"spec": {"ttlSecondsAfterCreation": 300}})).await;
    world.ready("c1", "app").await;
    sleep(Duration::from_secs(290)).await;
    assert!(world.secret("c1", "app").await.is_some());
    eventually("it is gone", || async {
        let is_gone = world.hub.get::<ManagedServiceAccount>("c1", "app").await.is_none()
            && world.secret("c1", "app").await.is_none()
            && world.service_account("c1", "app").await.is_none();
        is_gone.then_some(())
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_token_is_renewed_before_its_end() {
    let world = World::start(&["c1"]).await;
    world.account("c1", "app", json!({"spec": {"rotation": {"validity": "1h"}}})).await;
    let first = world.ready("c1", "app").await;
    sleep(Duration::from_secs(3600 * 7 / 10)).await;
    assert_eq!(world.token("c1", "app").await.as_ref(), Some(&first));
    sleep(Duration::from_secs(3600 / 10 + 10)).await;
    assert_ne!(world.token("c1", "app").await.as_ref(), Some(&first));
    assert!(world.minted("c1") > 1);
}

#[tokio::test(start_paused = true)]
async fn a_new_authority_is_in_every_secret_without_new_tokens() {
    let world = World::start(&["c1"]).await;
    world.account("c1", "app", json!({})).await;
    let token = world.ready("c1", "app").await;
    world.serving_ca.send_replace("another".into());
    eventually("the new authority", || async {
        let data = world.secret("c1", "app").await?.data?;
        (data["cluster-proxy-ca.crt"].0 == b"another").then_some(())
    })
    .await;
    assert_eq!(world.token("c1", "app").await, Some(token));
}

#[tokio::test(start_paused = true)]
async fn ten_idle_minutes_write_nothing_and_then_a_change_acts_at_once() {
    let world = World::start(&["c1", "c2"]).await;
    for cluster in ["c1", "c2"] {
        world.account(cluster, "app", json!({})).await;
        world.ready(cluster, "app").await;
    }
    sleep(Duration::from_secs(30)).await;
    let (hub, c1) = (world.hub.writes().len(), world.spoke("c1").writes().len());
    sleep(Duration::from_secs(600)).await;
    assert_eq!(world.hub.writes().len(), hub, "{:?}", world.hub.writes());
    let reviews = world.spoke("c1").count(&Method::POST, "/tokenreviews");
    assert!(world.spoke("c1").writes().len() - c1 <= reviews);
    let before = tokio::time::Instant::now();
    let first = world.token("c1", "app").await;
    world.hub.delete::<Secret>("c1", "app").await;
    eventually("a new token", || async {
        world.token("c1", "app").await.filter(|token| Some(token) != first.as_ref())
    })
    .await;
    assert!(before.elapsed() < Duration::from_secs(1), "{:?} of simulated time", before.elapsed());
}
