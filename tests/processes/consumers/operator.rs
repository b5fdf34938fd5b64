//! An operator on multicluster-runtime that learns of its clusters from ClusterProfiles.

use aws_lc_rs::digest;
use serde_json::{Value, json};

use super::program::{PATIENCE, Program};
use super::world::{ACCOUNT, MANAGED, PROFILES, Plugin, World};
use crate::apis::Apis;
use crate::fleet::CLUSTERS;
use crate::support::eventually;
use crate::support::process::run;

#[tokio::test]
async fn an_operator_goes_on_whatever_happens_to_its_fleet() {
    let test = "an_operator_goes_on_whatever_happens_to_its_fleet";
    let Some(world) = World::start(test).await else { return };
    goes_on(world, Plugin::Upstream).await;
}

#[tokio::test]
async fn an_operator_goes_on_whatever_happens_to_its_real_fleet() {
    let test = "an_operator_goes_on_whatever_happens_to_its_real_fleet";
    let Some(apis) = Apis::real(test) else { return };
    let Some(world) = World::on(test, apis).await else { return };
    goes_on(world, Plugin::Ours).await;
}

async fn goes_on(mut world: World, plugin: Plugin) {
    let providers = world.providers(plugin);
    let args = ["-clusterprofile-provider-file", providers, "-namespace", PROFILES];
    let operator = Operator(world.program("operator", &args));
    for cluster in CLUSTERS {
        operator.reconciles(&world, cluster, "first").await;
    }

    // A token that is minted again is nothing to a consumer until it asks for one.
    let old = world.token(PROFILES, "c1-consumer");
    world.hub.run(&["delete", "secret", ACCOUNT, "--namespace", "c1"]);
    let new = another_token(&world, "c1", &old).await;
    operator.reconciles(&world, "c1", "another token").await;

    // A leaf, which a consumer sees when it connects anew: any write to a profile has it do so.
    let before = operator.last("certificate", "c1");
    world.pki(&["renew"]);
    eventually("the operator is shown another leaf", PATIENCE, || {
        world.touch("c1", operator.count("engaged", "c1"));
        let now = operator.last("certificate", "c1");
        let changed = now["serial"] != before["serial"];
        async move { changed.then_some(()) }
    })
    .await;
    operator.reconciles(&world, "c1", "another leaf").await;

    // An authority beside the old one; a consumer that reads it asks for a token, too.
    operator.reads_again(&world, &["rotate-ca", "serving"]).await;
    for cluster in CLUSTERS {
        operator.reconciles(&world, cluster, "two authorities").await;
    }
    assert_eq!(operator.last("token", "c1")["sha256"], sha256(&new));
    assert_eq!(operator.0.failures(), [json!(null); 0]);

    // An account that is made anew: no token of the old one is worth anything.
    world.fleet.admin("c1").run(&["delete", "serviceaccount", ACCOUNT, "--namespace", MANAGED]);
    another_token(&world, "c1", &new).await;
    operator.0.wait("the old token is refused", |event| event["status"] == 401).await;
    operator.reconciles(&world, "c1", "another account").await;

    // A spoke that leaves, changes and returns.
    world.fleet.stop_agent("c2").await;
    operator.0.wait("c2 is away", |event| event["status"] == 503).await;
    world.write("c2", OBJECT, "while away");
    operator.reconciles(&world, "c1", "alone").await;
    world.fleet.start_agent("c2");
    operator.reconciled("c2", "while away").await;

    // The end of the old authority.
    let failures = operator.0.failures();
    operator.reads_again(&world, &["rotate-ca", "serving", "--finish", "--force"]).await;
    for cluster in CLUSTERS {
        operator.reconciles(&world, cluster, "one authority").await;
    }
    assert_eq!(operator.0.failures(), failures);

    // A spoke that leaves for good.
    let before = operator.count("disengaged", "c2");
    run(world.fleet.directory(), &["clusters", "remove", "c2", "--dir", "hub"]);
    eventually("the operator lets go of c2", PATIENCE, || {
        let more = operator.count("disengaged", "c2") > before;
        async move { more.then_some(()) }
    })
    .await;
    world.write("c2", OBJECT, "nobody looks");
    operator.reconciles(&world, "c1", "the last").await;
    let unseen = reconciled("c2", "nobody looks");
    assert!(!operator.0.events().contains(&unseen));
    drop(operator);
    world.fleet.stop().await;
}

struct Operator(Program);

// === impl Operator ===

impl Operator {
    /// A change in a cluster reaches the reconciler, and its own write comes back.
    async fn reconciles(&self, world: &World, cluster: &str, value: &str) {
        world.write(cluster, OBJECT, value);
        self.reconciled(cluster, value).await;
    }

    async fn reconciled(&self, cluster: &str, value: &str) {
        let wanted = reconciled(cluster, value);
        self.0.wait(&format!("the operator says {wanted}"), |event| *event == wanted).await;
    }

    /// Changes the hub's authorities: it makes a cluster anew of each profile that says so.
    async fn reads_again(&self, world: &World, rotation: &[&str]) {
        let before = CLUSTERS.map(|cluster| self.count("engaged", cluster));
        world.pki(rotation);
        for (cluster, before) in CLUSTERS.into_iter().zip(before) {
            world.authority_published(cluster).await;
            eventually("the operator has read the profile", PATIENCE, || {
                let again = self.count("engaged", cluster) > before;
                async move { again.then_some(()) }
            })
            .await;
        }
    }

    /// How many events of one kind there were from a cluster.
    fn count(&self, kind: &str, cluster: &str) -> usize {
        self.from(kind, cluster).len()
    }

    /// The last one.
    fn last(&self, kind: &str, cluster: &str) -> Value {
        self.from(kind, cluster).pop().unwrap()
    }

    fn from(&self, kind: &str, cluster: &str) -> Vec<Value> {
        let mut events = self.0.all(kind);
        events.retain(|event| event["cluster"] == name(cluster));
        events
    }
}

fn reconciled(cluster: &str, value: &str) -> Value {
    json!({"event": "reconciled", "cluster": name(cluster), "name": OBJECT, "value": value})
}

/// The operator's name of a cluster: its profile.
fn name(cluster: &str) -> String {
    format!("{PROFILES}/{cluster}")
}

/// Waits until the hub has another token for the account, beside the profile too.
async fn another_token(world: &World, cluster: &str, old: &str) -> String {
    let copy = format!("{cluster}-{ACCOUNT}");
    eventually("the hub has minted another token", PATIENCE, || {
        let new = world.token(PROFILES, &copy);
        async move { (new != old).then_some(new) }
    })
    .await
}

fn sha256(token: &str) -> String {
    let sum = digest::digest(&digest::SHA256, token.as_bytes());
    sum.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The ConfigMap that is reconciled.
const OBJECT: &str = "object";
