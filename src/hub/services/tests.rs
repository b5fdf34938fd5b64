use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::Method;
use serde_json::{Value, json};

use super::*;
use crate::hub::testing::Answering;
use crate::telemetry::testing::assert_metrics_written;

const WEB: &str = "- {namespace: shop, service: web}";
const WEB_WITH_TOKEN: &str = "- {namespace: shop, service: web, passToken: true}";
const API: &str = "- {namespace: shop, service: api}";
const BROKEN: &str = "- {namespace: shop}";

fn cluster() -> ClusterName {
    ClusterName::parse("c1").unwrap()
}

fn target(name: &str) -> ServiceTarget {
    format!("https:shop/{name}:443").parse().unwrap()
}

fn is_exposed(services: &Services, name: &str) -> bool {
    services.decide(&cluster(), &target(name)).is_ok()
}

fn value(registry: &Registry, metric: &str) -> f64 {
    let families = registry.gather();
    let series = families.iter().filter(|family| family.name() == metric);
    series
        .flat_map(|family| family.get_metric())
        .map(|one| one.get_counter().get_value() + one.get_gauge().get_value())
        .sum()
}

struct File {
    folder: tempfile::TempDir,
    registry: Registry,
}

impl File {
    fn new(text: &str) -> Self {
        let file = Self { folder: tempfile::tempdir().unwrap(), registry: Registry::new() };
        file.write(text);
        file
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("services.yaml")
    }

    fn write(&self, text: &str) {
        std::fs::write(self.path(), text).unwrap();
    }

    fn load(&self) -> Result<Services, HubError> {
        Services::load(Source::File(self.path()), None, &self.registry)
    }
}

/// The hub's API server, with one ConfigMap or what it answers instead.
struct Api(Mutex<(u16, Value)>);

impl Answering for Api {
    async fn answer(&self, method: Method, path: &str, _: Bytes) -> Option<(u16, Bytes)> {
        assert_eq!((method, path), (Method::GET, "/api/v1/namespaces/hub/configmaps/exposed"));
        let (status, body) = self.0.lock().unwrap().clone();
        (status > 0).then(|| (status, body.to_string().into()))
    }
}

#[test]
fn nothing_is_exposed_without_a_list() {
    let services = Services::load(Source::None, None, &Registry::new()).unwrap();
    assert_eq!(services.decide(&cluster(), &target("web")), Err(NotExposed::NoList));
}

#[test]
fn a_hub_does_not_start_with_a_broken_file() {
    for text in [BROKEN, "services", &" ".repeat(1 << 21)] {
        assert!(File::new(text).load().is_err(), "{text:.20}");
    }
    assert!(File::new(WEB).load().is_ok());
    let file = File::new(WEB);
    std::fs::remove_file(file.path()).unwrap();
    let error = file.load().err().unwrap().to_string();
    assert!(error.contains("services.yaml) cannot be read"), "{error}");
}

/// Waits in real time: the file is read on another thread.
async fn soon(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}");
}

/// U47, and what a change ends.
#[tokio::test]
async fn a_changed_file_is_taken_over_and_a_broken_one_is_not() {
    let file = File::new(WEB_WITH_TOKEN);
    let services = file.load().unwrap();
    let task = tokio::spawn(services.list().clone().follow());
    let (c1, web) = (cluster(), target("web"));
    let with_token = services.decide(&c1, &web).unwrap();
    assert!(with_token.pass_token && !is_exposed(&services, "api"));
    assert_eq!(value(&file.registry, "cluster_proxy_service_decisions_total"), 2.0);
    let without = Allowed { pass_token: false };
    let mut token_withdrawn = Box::pin(services.withdrawn(&c1, &web, with_token));
    let mut withdrawn = Box::pin(services.withdrawn(&c1, &web, without));

    file.write(BROKEN);
    services.list().ask();
    let failures = "cluster_proxy_exposed_services_reload_failures_total";
    soon("it is counted", || value(&file.registry, failures) >= 1.0).await;
    assert!(is_exposed(&services, "web"), "the last good one is kept");
    assert!((&mut token_withdrawn).now_or_never().is_none());

    file.write(WEB);
    services.list().ask();
    token_withdrawn.await;
    assert!((&mut withdrawn).now_or_never().is_none(), "it needs no token");

    // Nobody asks this time.
    file.write(API);
    withdrawn.await;
    assert!(is_exposed(&services, "api") && !is_exposed(&services, "web"));
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn a_config_map_is_followed_and_a_missing_one_exposes_nothing() {
    let map = |data: Value| json!({"kind": "ConfigMap", "data": data});
    let api = Arc::new(Api(Mutex::new((0, Value::Null))));
    let say = |status: u16, body: Value| *api.0.lock().unwrap() = (status, body);
    let source = Source::ConfigMap { namespace: "hub".to_owned(), name: "exposed".to_owned() };
    let registry = Registry::new();
    let services = Services::load(source, Some(api.clone()), &registry).unwrap();
    let look = || tokio::time::sleep(Duration::from_secs(3));
    let task = tokio::spawn(services.list().clone().follow());
    let decided = || services.decide(&cluster(), &target("web"));
    assert_eq!(decided(), Err(NotExposed::Unread));
    look().await;
    say(403, Value::Null);
    look().await;
    assert_eq!(decided(), Err(NotExposed::Unread), "an outage says nothing");

    say(404, Value::Null);
    look().await;
    assert!(matches!(decided(), Err(NotExposed::NotListed { .. })));
    say(200, map(json!({"team-a": API, "team-b": WEB})));
    look().await;
    assert!(decided().is_ok() && is_exposed(&services, "api"));
    assert_eq!(value(&registry, "cluster_proxy_exposed_services"), 2.0);

    let failures = || value(&registry, "cluster_proxy_exposed_services_reload_failures_total");
    let before = failures();
    say(200, map(json!({"team-a": API, "team-b": BROKEN})));
    look().await;
    assert!(decided().is_ok(), "the last good one is kept");
    for outage in [0, 500] {
        say(outage, Value::Null);
        look().await;
        assert!(decided().is_ok(), "{outage}");
    }
    assert_eq!(failures(), before + 3.0, "each once");
    say(200, json!({"kind": "ConfigMap"}));
    look().await;
    assert!(matches!(decided(), Err(NotExposed::NotListed { .. })));
    say(200, map(json!({"team-b": WEB})));
    look().await;
    assert!(decided().is_ok());
    say(404, Value::Null);
    look().await;
    assert!(matches!(decided(), Err(NotExposed::NotListed { .. })), "it was deleted");
    task.abort();
}

#[test]
fn the_page_says_every_metric_of_services() {
    let registry = Registry::new();
    let Metrics { decisions, of_list } = Metrics::register(&registry).unwrap();
    let FollowMetrics { size, failures } = of_list;
    assert_metrics_written("services", &registry, &[&decisions, &size, &failures]);
}
