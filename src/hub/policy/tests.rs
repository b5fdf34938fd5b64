use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt as _;
use http::HeaderMap;

use super::*;
use crate::hub::authn::{Impersonated, Voucher};
use crate::telemetry::testing::assert_metrics_written;

fn asked(user: &str, cluster: &str) -> Asked {
    let impersonation =
        Impersonated { groups: Vec::new(), headers: HeaderMap::new(), by: Voucher::Hub, own: None };
    Asked {
        identity: Arc::new(Identity {
            user: user.to_owned(),
            impersonation: Some(impersonation),
            account_uid: None,
            bound: true,
            expires: Some(SystemTime::UNIX_EPOCH),
        }),
        cluster: ClusterName::parse(cluster).unwrap(),
        method: Method::GET,
        target: PathAndQuery::from_static("/api/v1/namespaces/a/pods"),
    }
}

struct World {
    folder: tempfile::TempDir,
    registry: Registry,
}

impl World {
    fn new(text: &str) -> Self {
        let world = Self { folder: tempfile::tempdir().unwrap(), registry: Registry::new() };
        world.write(text);
        world
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("policy.yaml")
    }

    fn write(&self, text: &str) {
        std::fs::write(self.file(), text).unwrap();
    }

    fn load(&self) -> Result<Policies, HubError> {
        Policies::load(Source::File(self.file()), false, None, &self.registry)
    }

    fn value(&self, metric: &str) -> f64 {
        let families = self.registry.gather();
        let series = families.iter().filter(|family| family.name() == metric);
        series
            .flat_map(|family| family.get_metric())
            .map(|one| one.get_counter().get_value() + one.get_gauge().get_value())
            .sum()
    }
}

const JANE: &str = "rules: [{users: [jane], clusters: [c1]}]";
const JOE: &str = "rules: [{users: [joe], clusters: [c1]}, {users: [joe], clusters: [c2]}]";

#[test]
fn spoke_tokens_pass_and_nobody_else_without_a_policy() {
    let policies = Policies::load(Source::None, false, None, &Registry::new()).unwrap();
    let jane = asked("jane", "c1");
    assert_eq!(decide(&policies, &jane), Err(Denied::NoPolicy));
    let identity = Identity { impersonation: None, ..(*jane.identity).clone() };
    assert_eq!(decide(&policies, &Asked { identity: Arc::new(identity), ..jane }), Ok(()));
}

#[test]
fn a_refusal_names_all_that_a_rule_would_need() {
    let world = World::new(JANE);
    let policies = world.load().unwrap();
    assert_eq!(decide(&policies, &asked("jane", "c1")), Ok(()));
    let denied = decide(&policies, &asked("jane", "c2")).unwrap_err().to_string();
    let expected = "no rule of the hub's policy (--policy, --policy-configmap) lets jane list pods in namespace a on cluster c2";
    assert_eq!(denied, expected);
    assert_eq!(world.value("cluster_proxy_authorizations_total"), 2.0);
    assert_eq!(world.value("cluster_proxy_policy_rules"), 1.0);
}

#[test]
fn a_hub_does_not_start_with_a_broken_policy() {
    for text in ["", "rules", "rules: [{users: [jane]}]", &" ".repeat(1 << 21)] {
        assert!(World::new(text).load().is_err(), "{text:.20}");
    }
    let world = World::new(JANE);
    std::fs::remove_file(world.file()).unwrap();
    let error = world.load().err().unwrap().to_string();
    assert!(error.contains("policy.yaml) cannot be read"), "{error}");
}

/// Nobody is asked who would let one wait.
fn decide(policies: &Policies, asked: &Asked) -> Result<(), Denied> {
    policies.decide(asked).now_or_never().unwrap()
}

/// Waits in real time: the file is read on another thread.
async fn soon(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..500 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}");
}

#[tokio::test]
async fn a_changed_policy_is_taken_over_and_a_broken_one_is_not() {
    let world = World::new(JANE);
    let policies = world.load().unwrap();
    let task = tokio::spawn(policies.policy().clone().follow());
    let (jane, joe) = (asked("jane", "c1"), asked("joe", "c2"));
    let mut withdrawn = Box::pin(policies.withdrawn(&jane));
    assert!((&mut withdrawn).now_or_never().is_none());

    world.write("rules: [{users: [joe]}]");
    policies.policy().ask();
    soon("it is counted", || world.value("cluster_proxy_policy_reload_failures_total") >= 1.0)
        .await;
    assert!(decide(&policies, &jane).is_ok(), "the last good one is kept");
    assert!((&mut withdrawn).now_or_never().is_none());

    world.write(JOE);
    policies.policy().ask();
    soon("the new one is in force", || decide(&policies, &joe).is_ok()).await;
    assert!(decide(&policies, &jane).is_err());
    withdrawn.await;
    assert_eq!(world.value("cluster_proxy_policy_rules"), 2.0);

    // Nobody asks this time.
    world.write(JANE);
    soon("a change is seen by itself", || decide(&policies, &jane).is_ok()).await;
    task.abort();
}

#[test]
fn the_page_says_every_metric_of_the_policy() {
    let registry = Registry::new();
    let Metrics { decisions, of_policy } = Metrics::register(&registry).unwrap();
    let FollowMetrics { size, failures } = of_policy;
    assert_metrics_written("policy", &registry, &[&decisions, &size, &failures]);
}
