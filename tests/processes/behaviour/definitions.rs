//! Kinds that others define: the published ones where they are beside the checkout, and ours.

use std::path::Path;

use serde_json::{Value, json};

use cluster_proxy::sandbox::definitions::{cluster_profiles, managed_service_accounts};

use super::client::{Api, fields};
use crate::support::{PATIENCE, eventually, skipped};

pub(super) async fn all(api: &Api) {
    a_kind_comes_and_goes(api).await;
    let ours = ("our own", cluster_profiles("v1alpha1").to_string());
    let files = ["clusterprofiles.cluster-inventory-api.yaml", "clusterprofiles.ocm.yaml"];
    let published = files.iter().filter_map(|file| Some((*file, published(api.test, file)?)));
    for (name, definition) in std::iter::once(ours).chain(published) {
        define(api, &definition, PROFILES).await;
        status_is_another_door(api).await;
        if name == "clusterprofiles.ocm.yaml" {
            lists_without_keys_have_one_owner(api).await;
        } else {
            lists_with_keys_are_shared(api).await;
        }
        api.delete(&format!("{DEFINITIONS}/clusterprofiles.multicluster.x-k8s.io")).await.is(200);
        eventually("it is not served any more", PATIENCE, || async {
            (api.get(PROFILES).await.code() == 404).then_some(())
        })
        .await;
    }
}

async fn a_kind_comes_and_goes(api: &Api) {
    let group = "/apis/authentication.open-cluster-management.io/v1beta1";
    let path = format!("{group}/namespaces/default/managedserviceaccounts");
    api.get(&path).await.is(404);
    let definition = published(api.test, "managedserviceaccounts.yaml");
    let definition = definition.unwrap_or_else(|| managed_service_accounts().to_string());
    define(api, &definition, &path).await;
    let discovered = api.get(group).await.is(200);
    let resources = discovered["resources"].as_array().unwrap();
    let names: Vec<_> = resources.iter().map(|resource| &resource["name"]).collect();
    assert!(names.contains(&&json!("managedserviceaccounts/status")), "{names:?}");

    let account = |name: &str| {
        json!({"apiVersion": "authentication.open-cluster-management.io/v1beta1",
            "kind": "ManagedServiceAccount", "metadata": {"name": name},
            "spec": {"rotation": {"validity": "24h0m0s"}}})
    };
    let made = api.post(&path, account("one")).await.is(201);
    assert_eq!(made["metadata"]["generation"], 1);
    let patch = json!({"spec": {"rotation": {"validity": "1h"}}, "status": {"conditions": []}});
    let changed = api.patch("merge", &format!("{path}/one"), patch).await.is(200);
    assert_eq!(changed["metadata"]["generation"], 2);
    assert!(changed["status"]["conditions"].is_null(), "{changed}");
    let status = json!({"spec": {"rotation": {"validity": "2h"}}, "status": {"expirationTimestamp":
        "2026-01-01T00:00:00Z"}});
    let changed = api.patch("merge", &format!("{path}/one/status"), status).await.is(200);
    let seen = ["/metadata/generation", "/spec/rotation/validity", "/status/expirationTimestamp"];
    assert_eq!(fields(&changed, &seen), json!([2, "1h", "2026-01-01T00:00:00Z"]));
    // A strategic merge needs a type that is built in.
    let patch = api.patch("strategic-merge", &format!("{path}/one"), json!({})).await;
    patch.refused(415, "UnsupportedMediaType");
}

async fn status_is_another_door(api: &Api) {
    let mut profile = profile();
    profile["status"] = json!({"version": {"kubernetes": "v1.35.0"}});
    let made = api.post(PROFILES, profile.clone()).await.is(201);
    assert!(made["status"]["version"].is_null(), "{made}");
    profile["spec"]["displayName"] = "other".into();
    profile["metadata"]["resourceVersion"] = made["metadata"]["resourceVersion"].clone();
    let status = api.put(&format!("{ONE}/status"), profile.clone()).await.is(200);
    let seen = ["/spec/displayName", "/status/version/kubernetes", "/metadata/generation"];
    assert_eq!(fields(&status, &seen), json!(["one", "v1.35.0", 1]));
    api.put(&format!("{ONE}/status"), profile).await.refused(409, "Conflict");
}

/// Two publishers, each with an entry of its own.
async fn lists_with_keys_are_shared(api: &Api) {
    let (ours, theirs) =
        (entry("ours", "https://a.example:1"), entry("theirs", "https://b.example:1"));
    apply(api, "us", "", json!([ours])).await.is(200);
    let both = apply(api, "them", "", json!([theirs])).await.is(200);
    assert_eq!(both["status"]["accessProviders"], json!([ours, theirs]));
    let moved = entry("theirs", "https://c.example:1");
    let third = entry("third", "https://d.example:1");
    let conflict = apply(api, "us", "", json!([ours, moved])).await.refused(409, "Conflict");
    assert!(
        conflict.contains("conflict with \"them\"") && conflict.contains("theirs"),
        "{conflict}"
    );
    let forced = apply(api, "us", "&force=true", json!([ours, moved])).await.is(200);
    assert_eq!(forced["status"]["accessProviders"], json!([ours, moved]));
    // The rest of the status is nobody's business here.
    assert_eq!(forced["status"]["version"]["kubernetes"], "v1.35.0");
    let managers = forced["metadata"]["managedFields"].as_array().unwrap().iter();
    let us: Vec<_> = managers.filter(|manager| manager["manager"] == "us").collect();
    assert_eq!(us.len(), 1);
    assert_eq!(fields(us[0], &["/operation", "/subresource"]), json!(["Apply", "status"]));
    let owned = "/fieldsV1/f:status/f:accessProviders";
    let keys: Vec<_> = us[0].pointer(owned).unwrap().as_object().unwrap().keys().collect();
    assert_eq!(keys, [r#"k:{"name":"ours"}"#, r#"k:{"name":"theirs"}"#]);
    // Whoever applies without an entry gives it up.
    apply(api, "them", "", json!([])).await.is(200);
    apply(api, "them", "", json!([third])).await.is(200);
    apply(api, "them", "", json!([])).await.is(200);
    let left = apply(api, "us", "", json!([ours])).await.is(200);
    assert_eq!(left["status"]["accessProviders"], json!([ours]));
    let same = apply(api, "us", "", json!([ours])).await.is(200);
    assert_eq!(same["metadata"]["resourceVersion"], left["metadata"]["resourceVersion"]);
    let none = apply(api, "us", "", json!([])).await.is(200);
    assert_eq!(none["status"]["accessProviders"].as_array().map_or(0, Vec::len), 0);
}

/// A list that is replaced as a whole: whoever applies it has all of it.
async fn lists_without_keys_have_one_owner(api: &Api) {
    let (ours, theirs) =
        (entry("ours", "https://a.example:1"), entry("theirs", "https://b.example:1"));
    apply(api, "us", "", json!([ours])).await.is(200);
    let conflict = apply(api, "them", "", json!([theirs])).await.refused(409, "Conflict");
    assert!(conflict.contains(".status.accessProviders"), "{conflict}");
    let forced = apply(api, "them", "&force=true", json!([theirs])).await.is(200);
    assert_eq!(forced["status"]["accessProviders"], json!([theirs]));
}

async fn apply(api: &Api, manager: &str, more: &str, providers: Value) -> super::client::Answer {
    let patch = json!({
        "apiVersion": "multicluster.x-k8s.io/v1alpha1", "kind": "ClusterProfile",
        "metadata": {"name": "one"}, "status": {"accessProviders": providers},
    });
    api.patch("apply", &format!("{ONE}/status?fieldManager={manager}{more}"), patch).await
}

fn entry(name: &str, server: &str) -> Value {
    json!({"name": name, "cluster": {"server": server}})
}

fn profile() -> Value {
    json!({
        "apiVersion": "multicluster.x-k8s.io/v1alpha1", "kind": "ClusterProfile",
        "metadata": {"name": "one"},
        "spec": {"displayName": "one", "clusterManager": {"name": "open-cluster-management"}},
    })
}

/// Makes or replaces a definition, and waits until the kind is served at `path`.
async fn define(api: &Api, definition: &str, path: &str) {
    let documents: Vec<Value> = serde_saphyr::from_multiple(definition).unwrap();
    let definition = documents.into_iter().find(|one| !one.is_null()).unwrap();
    api.post(DEFINITIONS, definition).await.is(201);
    eventually("it is served", PATIENCE, || async {
        (api.get(path).await.code() == 200).then_some(())
    })
    .await;
}

fn published(test: &str, file: &str) -> Option<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/crds").join(file);
    std::fs::read_to_string(path)
        .map_err(|error| skipped(test, &format!("{file}: {error}"), "it with ../shared/crds"))
        .ok()
}

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const PROFILES: &str = "/apis/multicluster.x-k8s.io/v1alpha1/namespaces/default/clusterprofiles";
const ONE: &str = "/apis/multicluster.x-k8s.io/v1alpha1/namespaces/default/clusterprofiles/one";
