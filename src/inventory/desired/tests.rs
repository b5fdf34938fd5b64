use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::inventory::api;

fn publication() -> Publication {
    let entry = |name: &str, url: &str| (name.to_owned(), url.to_owned());
    Publication {
        entries: vec![
            entry("open-cluster-management", "https://cluster-proxy.ocm.svc:9092"),
            entry("external", "https://hub.example.com"),
        ],
        ca_pem: "pem".to_owned(),
    }
}

fn profile(value: &Value) -> DynamicObject {
    let mut value = value.clone();
    value["apiVersion"] = "multicluster.x-k8s.io/v1alpha1".into();
    value["kind"] = api::KIND.into();
    serde_json::from_value(value).unwrap()
}

fn now() -> Timestamp {
    "2026-11-01T12:00:00.5Z".parse().unwrap()
}

fn c1() -> ClusterName {
    "c1".parse().unwrap()
}

/// Each file of `golden/`: a profile, what is known of its cluster, and what has to be written.
#[test]
fn golden_files() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/inventory/desired/golden");
    let mut count = 0;
    for file in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let text = std::fs::read_to_string(&file).unwrap();
        let case: Value = serde_saphyr::from_str(&text).unwrap();
        let profile = profile(&case["profile"]);
        let cluster = cluster(&profile, "open-cluster-management").unwrap();
        let standing = match case["standing"].as_str() {
            Some("unknown") => Standing::Unknown,
            _ => Standing::Enrolled { reachable: case["reachable"].as_bool() },
        };
        let condition = match case["path-condition"] == true {
            true => PathCondition::On,
            false => PathCondition::Off,
        };
        let plan = plan(&profile, &publication(), &cluster, standing, condition, now());
        let expected = &case["expected"];
        let name = file.display();
        match plan {
            None => assert!(expected.is_null(), "{name}: nothing to do"),
            Some(plan) => {
                let list = |name: &str| expected.get(name).and_then(Value::as_array).cloned();
                assert_eq!(plan.providers, list("accessProviders"), "{name}");
                assert_eq!(plan.conditions, list("conditions"), "{name}");
                assert_eq!(plan.removes, expected["removes"] == true, "{name}");
            }
        }
        count += 1;
    }
    assert!(count >= 16, "only {count} files");
}

/// U23 and U24.
#[test]
fn profiles_of_others_are_not_ours() {
    let of = |labels: Value| {
        let profile = profile(&serde_json::json!({"metadata": {"name": "c9", "labels": labels}}));
        cluster(&profile, "open-cluster-management")
    };
    let manager = "open-cluster-management";
    for labels in [
        Value::Null,
        serde_json::json!({}),
        serde_json::json!({CLUSTER_LABEL: "c1"}),
        serde_json::json!({MANAGER_LABEL: "karmada", CLUSTER_LABEL: "c1"}),
        serde_json::json!({MANAGER_LABEL: manager}),
        serde_json::json!({MANAGER_LABEL: manager, CLUSTER_LABEL: ""}),
        serde_json::json!({MANAGER_LABEL: manager, CLUSTER_LABEL: "../c1"}),
    ] {
        assert_eq!(of(labels.clone()), None, "{labels}");
    }
    let both = serde_json::json!({MANAGER_LABEL: manager, CLUSTER_LABEL: "c1"});
    assert_eq!(of(both), Some(c1()), "by the label, not by the name");
}

const SERVERS: [&str; 2] = ["https://cluster-proxy.ocm.svc:9092/c1", "https://other/c1"];

fn item(key: &'static str, names: &'static [&'static str]) -> impl Strategy<Value = Value> {
    (prop::sample::select(names), prop::sample::select(&SERVERS[..]), any::<u8>()).prop_map(
        move |(name, url, more)| {
            serde_json::json!({key: name, "status": "True", "cluster": {"server": url}, "more": more})
        },
    )
}

prop_compose! {
    fn any_profile()(
        providers in prop::collection::vec(
            item("name", &["open-cluster-management", "external", "a", "b"]), 0..6),
        conditions in prop::collection::vec(
            item("type", &["Joined", PATH_CONDITION, "Other"]), 0..4),
    ) -> Value {
        serde_json::json!({"metadata": {"name": "p"},
            "status": {"accessProviders": providers, "conditions": conditions}})
    }
}

proptest! {
    /// After one write there is nothing left to write, and what is not ours is as it was.
    #[test]
    fn one_write_is_enough_and_takes_nothing_from_others(
        before in any_profile(),
        enrolled: bool,
        reachable: Option<bool>,
        on: bool,
    ) {
        let standing = if enrolled { Standing::Enrolled { reachable } } else { Standing::Unknown };
        let condition = if on { PathCondition::On } else { PathCondition::Off };
        let plan = |value: &Value| {
            plan(&profile(value), &publication(), &c1(), standing, condition, now())
        };
        let mut after = before.clone();
        if let Some(plan) = plan(&before) {
            if let Some(providers) = plan.providers {
                after["status"]["accessProviders"] = providers.into();
            }
            if let Some(conditions) = plan.conditions {
                after["status"]["conditions"] = conditions.into();
            }
        }
        prop_assert_eq!(plan(&after), None);
        let foreign = |value: &Value, list: &str, ours: &[&str]| -> Vec<Value> {
            let key = if list == "conditions" { "type" } else { "name" };
            let is_ours = |item: &Value| ours.contains(&item[key].as_str().unwrap());
            let items = value["status"][list].as_array().unwrap().iter();
            items.filter(|item| !is_ours(item)).cloned().collect()
        };
        for (list, ours) in [
            ("accessProviders", &["open-cluster-management", "external"][..]),
            ("conditions", &[PATH_CONDITION]),
        ] {
            prop_assert_eq!(foreign(&before, list, ours), foreign(&after, list, ours));
        }
    }
}
