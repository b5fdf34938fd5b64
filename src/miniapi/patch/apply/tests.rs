use super::*;
use crate::miniapi::query::Query;
use crate::miniapi::resources;
use crate::miniapi::store::Store;

fn deployment() -> std::sync::Arc<Resource> {
    resources::find(&Store::new(1), "apps", "v1", "deployments").unwrap()
}

fn manager(name: &str) -> Manager {
    let query = Query::parse(&format!("fieldManager={name}"));
    Manager::of(&query, &http::HeaderMap::new(), "")
}

fn run(live: &Value, who: &str, force: bool, spec: Value) -> Result<Value, MiniStatus> {
    let config = json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "d"}, "spec": spec});
    apply(&deployment(), live, &config, &manager(who), force)
}

fn owned(object: &Value, who: &str) -> Vec<String> {
    let entries = owners::read(object);
    let entries = entries.iter().filter(|entry| entry.manager.name == who);
    entries.flat_map(|entry| entry.paths.iter().map(|path| fields::text(path))).collect()
}

#[test]
fn what_a_manager_no_longer_sends_goes() {
    let live = run(&json!({}), "a", false, json!({"replicas": 1, "paused": true})).unwrap();
    assert_eq!(owned(&live, "a"), [".spec.paused", ".spec.replicas"]);
    let next = run(&live, "a", false, json!({"replicas": 2})).unwrap();
    assert_eq!(next["spec"], json!({"replicas": 2}));
    let live = run(&live, "b", false, json!({"paused": true})).unwrap();
    let next = run(&live, "a", false, json!({"replicas": 2})).unwrap();
    assert_eq!(next["spec"], json!({"replicas": 2, "paused": true}), "b owns it too");
}

#[test]
fn conflict_unless_equal_or_forced() {
    let live = run(&json!({}), "a", false, json!({"replicas": 1})).unwrap();
    let error = run(&live, "b", false, json!({"replicas": 2})).unwrap_err();
    assert_eq!((error.code, error.reason), (409, "Conflict"));
    assert_eq!(
        error.message,
        "Apply failed with 1 conflict: conflict with \"a\" using apps/v1: .spec.replicas"
    );
    let shared = run(&live, "b", false, json!({"replicas": 1})).unwrap();
    assert_eq!(owned(&shared, "a"), owned(&shared, "b"));
    let forced = run(&live, "b", true, json!({"replicas": 2})).unwrap();
    assert_eq!(forced["spec"]["replicas"], 2);
    assert!(owned(&forced, "a").is_empty());
}

#[test]
fn an_update_takes_what_it_changes() {
    let live = run(&json!({}), "a", false, json!({"replicas": 1, "paused": true})).unwrap();
    let mut next = live.clone();
    next["spec"]["replicas"] = 5.into();
    owners::updated(&deployment(), Some(&live), &mut next, &manager("scaler"));
    assert_eq!(owned(&next, "a"), [".spec.paused"]);
    assert_eq!(owned(&next, "scaler"), [".spec.replicas"]);
    assert_eq!(run(&next, "a", false, json!({"replicas": 1})).unwrap_err().code, 409);
}

#[test]
fn list_items_belong_to_those_who_want_them() {
    let containers = |names: &[&str]| {
        let items: Vec<Value> =
            names.iter().map(|name| json!({"name": name, "image": "i"})).collect();
        json!({"template": {"spec": {"containers": items}}})
    };
    let live = run(&json!({}), "a", false, containers(&["one", "two"])).unwrap();
    let live = run(&live, "b", false, containers(&["two", "three"])).unwrap();
    let next = run(&live, "a", false, containers(&["one"])).unwrap();
    let names = |object: &Value| -> Vec<String> {
        let items = object["spec"]["template"]["spec"]["containers"].as_array().unwrap();
        items.iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&next), ["one", "two", "three"]);
    let next = run(&next, "b", false, containers(&["three"])).unwrap();
    assert_eq!(names(&next), ["one", "three"]);
    let all = fields::of(&next, &Lists::BuiltIn);
    assert_eq!(fields::parse(&fields::tree(&all)), all);
}

#[test]
fn lists_of_a_custom_resource_merge_where_its_schema_says_so() {
    let keyed = json!({"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]});
    let schema = json!({"properties": {"status": {"properties": {"doors": keyed, "walls": {}}}}});
    for (schema, merged) in [(schema, true), (json!({}), false)] {
        let resource =
            Resource { custom: true, lists: Lists::of_schema(&schema), ..Resource::default() };
        let want = |live: &Value, who: &str, name: &str| {
            let items = json!([{"name": name, "open": true}]);
            let config =
                json!({"metadata": {"name": "d"}, "status": {"doors": items, "walls": items}});
            apply(&resource, live, &config, &manager(who), true).unwrap()
        };
        let live = want(&want(&json!({}), "a", "front"), "b", "back");
        let names = |object: &Value, list: &str| -> Vec<String> {
            let items = object["status"][list].as_array().unwrap().iter();
            items.map(|item| item["name"].as_str().unwrap().to_owned()).collect()
        };
        let both = if merged { vec!["front", "back"] } else { vec!["back"] };
        assert_eq!(names(&live, "doors"), both);
        assert_eq!(names(&live, "walls"), ["back"], "no word in the schema: replaced whole");
        let moved = want(&live, "a", "side");
        let both = if merged { vec!["back", "side"] } else { vec!["side"] };
        assert_eq!(names(&moved, "doors"), both, "what a no longer wants is gone");
    }
}
