//! What the publisher does without a right that it could use, and what it says of it.

use std::sync::Arc;

use serde_json::{Value, json};

use cluster_proxy::inventory::api;

use super::world::{World, own};

#[tokio::test]
async fn without_the_definition_whole_lists_are_written_and_the_log_says_why() {
    let profiles = json!({"apiGroups": [api::GROUP], "verbs": ["get", "list", "watch", "patch"],
        "resources": [api::PLURAL, format!("{}/status", api::PLURAL)]});
    let definition = json!({"apiGroups": ["apiextensions.k8s.io"], "verbs": ["get"],
        "resources": ["customresourcedefinitions"], "resourceNames": [api::DEFINITION]});
    let (operation, warnings) = published_with(std::slice::from_ref(&profiles)).await;
    assert_eq!((operation.as_str(), warnings), ("Update", 1));
    let (operation, warnings) = published_with(&[profiles, definition]).await;
    assert_eq!((operation.as_str(), warnings), ("Apply", 0));
}

/// Publishes with these rights: the kind of write that it took, and how often the log asked for a right.
async fn published_with(rules: &[Value]) -> (String, usize) {
    let log = tempfile::NamedTempFile::new().unwrap();
    let writer = Arc::new(log.reopen().unwrap());
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(writer).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let world = World::new().await;
    world.define(&own("v1alpha1", true).to_string()).await;
    world.profile("p", "c1").await;
    world.publish_with(rules).await;
    let profile = world.wait_published("p", "c1").await;
    let owners = profile.metadata.managed_fields.unwrap();
    let mut ours =
        owners.into_iter().filter(|owner| owner.manager.as_deref() == Some("cluster-proxy"));
    let operation = ours.next().unwrap().operation.unwrap();
    assert!(ours.next().is_none());
    let said = std::fs::read_to_string(log.path()).unwrap();
    let asks = format!("the hub may not read the CustomResourceDefinition {}", api::DEFINITION);
    let lines = said.lines().filter(|line| line.contains(" WARN ") && line.contains(&asks));
    (operation, lines.count())
}
