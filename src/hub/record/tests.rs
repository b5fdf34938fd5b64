//! What strangers, callers and clusters can make of metrics and log lines.

use std::collections::BTreeMap;

use prometheus::{Histogram, IntCounter};

use super::*;
use crate::hub::acceptance::Acceptance;
use crate::hub::config::AccessLog;
use crate::hub::live::LiveStreams;
use crate::state::Enrolment;

/// Records of a hub with two clusters.
struct World {
    recorder: Arc<Recorder>,
    collected: prometheus::Registry,
    trace: TraceId,
}

impl World {
    fn new(log: &AccessLog) -> Self {
        let collected = prometheus::Registry::new();
        let metrics = Metrics::new(&collected).unwrap();
        let registry = Registry::new(LiveStreams::new(&collected, 4).unwrap());
        let log = AccessLogger::open(log, IntCounter::new("a", "b").unwrap()).unwrap();
        let trace = crate::telemetry::trace::Step::start(&http::HeaderMap::new()).trace_id();
        let recorder = Arc::new(Recorder { metrics, log, registry });
        let world = Self { recorder, collected, trace };
        world.enrol(&["c1", "c2"]);
        world
    }

    /// From now on these are enrolled and no others.
    fn enrol(&self, names: &[&str]) {
        let enrolment = Enrolment {
            key_sha256: String::new(),
            enrolled_at: 0,
            certificate_expires: 0,
            cluster_uid: None,
            hub_itself: false,
            revoked: false,
            replaces: None,
        };
        let all = names.iter().map(|name| (cluster(name), enrolment.clone()));
        let gone =
            self.recorder.registry.sync(&all.collect::<BTreeMap<_, _>>(), &Acceptance::default());
        gone.iter().for_each(|name| self.recorder.metrics.forget(name));
    }

    fn start(&self, method: &Method, path: &str) -> Box<Record> {
        let id = HeaderValue::from_static("id");
        let client = IpAddr::from([192, 0, 2, 1]);
        Record::start(self.recorder.clone(), id, self.trace, client, method, path)
    }

    /// How many series a scrape has.
    fn series(&self) -> usize {
        self.collected.gather().iter().map(|family| family.get_metric().len()).sum()
    }

    fn text(&self) -> String {
        prometheus::TextEncoder::new().encode_to_string(&self.collected.gather()).unwrap()
    }
}

fn cluster(name: &str) -> ClusterName {
    ClusterName::parse(name).unwrap()
}

fn identity(user: String) -> Arc<Identity> {
    Arc::new(Identity { user, impersonation: None, account_uid: None, bound: false, expires: None })
}

fn kind(method: &Method, target: &str) -> RequestKind {
    RequestKind::of(method, &target.parse().unwrap())
}

/// One of everything that a request can be and become, for one cluster.
fn everything(world: &World, name: &str) {
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "BREW"] {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        for target in [
            "/version",
            "/api/v1/pods",
            "/api/v1/pods?watch=1",
            "/api/v1/namespaces/a/pods/b",
            "/api/v1/namespaces/a/pods/b/exec",
            "/api/v1/namespaces/a/pods/b/log?follow=1",
            "/api/v1/namespaces/a/services/b/proxy/c",
        ] {
            let kind = kind(&method, target);
            for code in 100..1000 {
                let mut record = world.start(&method, target);
                record.admitted(&cluster(name), &identity("user".to_owned()), kind);
                let took = Some(Duration::from_millis(1));
                record.answered(StatusCode::from_u16(code).unwrap(), kind, took);
            }
        }
    }
}

#[test]
fn a_million_paths_users_and_clusters_are_no_series() {
    let world = World::new(&AccessLog::Off);
    let known = |index: u32| {
        let method = Method::from_bytes(format!("M{index}").as_bytes()).unwrap();
        let target = format!("/api/v1/namespaces/n{index}/things{index}/x");
        let mut record = world.start(&method, &target);
        let kind = kind(&method, &target);
        record.admitted(&cluster("c1"), &identity(format!("user-{index}")), kind);
        record.answered(StatusCode::OK, kind, None);
    };
    let unknown = |index: u32| {
        let mut record = world.start(&Method::GET, &format!("/cluster-{index}/api"));
        let missing = crate::hub::authn::Refusal::Missing.into();
        record.failed(&Failure::Authn(missing), StatusCode::UNAUTHORIZED);
    };
    known(0);
    unknown(0);
    let before = world.series();
    for index in 1..500_000 {
        known(index);
        unknown(index);
    }
    assert_eq!(world.series(), before);
    let text = world.text();
    assert!(text.contains(r#"code="401",hop="hub-authentication",verb="other"} 500000"#), "{text}");
    for name in ["user-", "cluster-", "/api", "things"] {
        assert!(!text.contains(name), "{name} in {text}");
    }
}

#[test]
fn a_cluster_has_a_fixed_number_of_series_and_leaves_none() {
    let world = World::new(&AccessLog::Off);
    let before = world.series();
    everything(&world, "c1");
    let one = world.series();
    everything(&world, "c1");
    assert_eq!(world.series(), one, "each is there already");
    assert!(one - before <= SERIES_OF_A_CLUSTER, "{} series", one - before);
    everything(&world, "c2");
    assert!(world.series() > one);

    // A request that outlives its cluster brings nothing back.
    let kind = kind(&Method::GET, "/api/v1/pods?watch=1");
    let mut late = world.start(&Method::GET, "/api/v1/pods");
    late.admitted(&cluster("c2"), &identity("user".to_owned()), kind);
    late.answered(StatusCode::OK, kind, None);
    world.enrol(&["c1"]);
    late.traffic.add_sent(1);
    drop(late);
    assert!(!world.text().contains("c2"), "{}", world.text());
    assert!(world.text().contains("c1"));
}

/// Verbs by codes, with room for hops; all of it only when a cluster answers with every code there
/// is.
const SERIES_OF_A_CLUSTER: usize = 500;

#[test]
fn legs_are_those_of_requests_that_end() {
    let world = World::new(&AccessLog::Off);
    let count = |leg: &Histogram| leg.get_sample_count();
    let legs = &world.recorder.metrics.legs;
    let run = |target: &str, upstream| {
        let kind = kind(&Method::GET, target);
        let mut record = world.start(&Method::GET, target);
        record.admitted(&cluster("c1"), &identity("user".to_owned()), kind);
        record.answered(StatusCode::OK, kind, upstream);
    };
    run("/api/v1/pods", Some(Duration::MAX));
    assert!(legs.api_server.get_sample_sum() < 60.0, "no longer than the request took");
    assert_eq!([count(&legs.tunnel), count(&legs.api_server)], [1, 1]);
    assert_eq!([count(&legs.body), count(&legs.total)], [1, 1]);
    run("/api/v1/pods?watch=1", Some(Duration::ZERO));
    assert_eq!([count(&legs.tunnel), count(&legs.authentication)], [2, 2]);
    assert_eq!([count(&legs.body), count(&legs.total)], [1, 1], "a watch is no latency");
    // An agent that does not say: the two legs cannot be told apart.
    run("/api/v1/pods", None);
    assert_eq!([count(&legs.tunnel), count(&legs.api_server), count(&legs.total)], [2, 2, 2]);
}

#[test]
fn control_and_8_bit_bytes_are_escaped_in_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    let world = World::new(&AccessLog::File(file.clone()));
    let mut record = world.start(&Method::GET, "/c1/\u{1b}[2J\u{9b}é\u{7f}");
    record.ended(Hop::Client, "line\r\nbreak \u{202e}");
    drop(record);
    world.recorder.log.flush();
    let log = std::fs::read_to_string(file).unwrap();
    assert_eq!(log.lines().count(), 1);
    let body = log.trim_end_matches('\n');
    assert!(body.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{body:?}");
    let line: serde_json::Value = serde_json::from_str(&log).unwrap();
    assert_eq!(line["path"], "/c1/\u{1b}[2J\u{9b}é\u{7f}");
    assert_eq!(line["reason"], "line\r\nbreak \u{202e}");
}
