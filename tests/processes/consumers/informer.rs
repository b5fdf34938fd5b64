//! client-go's shared informer and typed client over the hub's URL, with tokens from our exec plugin.

use serde_json::json;

use super::program::{PATIENCE, Program};
use super::world::World;
use crate::support::eventually;

#[tokio::test]
async fn a_rotated_authority_fails_no_request_of_an_informer_with_the_old_one() {
    let test = "a_rotated_authority_fails_no_request_of_an_informer_with_the_old_one";
    let Some(mut world) = World::start(test).await else { return };
    world.kubeconfig("old.kubeconfig");
    let args = ["--from", "old.kubeconfig", "--context", "c1"];
    let informer = world.program("informer", &args);
    synced(&informer).await;
    world.write("c1", "object", "1");
    sees(&informer, "added", "1").await;

    // Another leaf, then another authority of it.
    let rotations: [&[&str]; 2] = [&["renew"], &["rotate-ca", "serving"]];
    for (rotation, value) in rotations.into_iter().zip(["2", "3"]) {
        let before = certificates(&informer);
        world.pki(rotation);
        eventually("new connections get a new certificate", PATIENCE, || {
            let now = certificates(&informer);
            async move { (now > before).then_some(()) }
        })
        .await;
        let goal = informer.all("answered").len() + 20;
        eventually("the client is answered on and on", PATIENCE, || {
            let now = informer.all("answered").len();
            async move { (now >= goal).then_some(()) }
        })
        .await;
        world.write("c1", "object", value);
        sees(&informer, "updated", value).await;
    }
    // Nor of one that starts only now.
    let second = world.program("informer", &args);
    synced(&second).await;
    assert_eq!(second.failures(), [json!(null); 0]);
    assert_eq!(informer.failures(), [json!(null); 0]);

    // At the end of the overlap it is refused, by itself: what failed would have been seen.
    world.kubeconfig("new.kubeconfig");
    world.pki(&["rotate-ca", "serving", "--finish", "--force"]);
    informer.wait("the old authority is not enough", |event| event["event"] == "failed").await;
    let third = world.program("informer", &["--from", "new.kubeconfig", "--context", "c1"]);
    synced(&third).await;
    assert_eq!(third.failures(), [json!(null); 0]);
    world.fleet.stop().await;
}

async fn synced(informer: &Program) {
    informer.wait("the informer is up to date", |event| event["event"] == "synced").await;
    informer.wait("the client is answered", |event| event["event"] == "answered").await;
}

async fn sees(informer: &Program, kind: &str, value: &str) {
    let wanted = json!({"event": kind, "name": "object", "data": {"v": value}});
    informer.wait(&format!("the informer sees {wanted}"), |event| *event == wanted).await;
}

/// How many different ones the client that connects anew has seen.
fn certificates(informer: &Program) -> usize {
    informer.all("certificate").iter().filter(|event| event["client"] == "typed").count()
}
