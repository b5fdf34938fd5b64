//! The promise of what writes into kubeconfigs of others, for [`crate::fuzzing`].

use serde_json::Value;

use super::merge::merge;

/// A file into which ours is merged is read again with every entry of before, and merged once more it
/// stays as it is.
pub(crate) fn kubeconfig(bytes: &[u8]) {
    let file = &*String::from_utf8_lossy(bytes);
    let Ok(merged) = merge(file, OURS, None, false) else { return };
    let Some(after) = merged.text else { return assert_eq!(merged.added + merged.changed, 0) };
    assert!(merged.added + merged.changed > 0 || file.trim().is_empty());
    let again = merge(&after, OURS, None, false).expect("what was written can be read");
    assert_eq!((again.text, again.added, again.changed), (None, 0, 0), "{after}");
    let names = |text: &str, list: &str| -> Vec<Value> {
        let file: Value = serde_saphyr::from_str(text).unwrap_or_default();
        let entries = file[list].as_array().cloned().unwrap_or_default();
        entries.iter().map(|entry| entry["name"].clone()).collect()
    };
    for list in ["clusters", "users", "contexts"] {
        let kept = names(&after, list);
        assert!(names(file, list).iter().all(|name| kept.contains(name)), "{list} in {after}");
    }
}

const OURS: &str = r#"{
  "apiVersion": "v1", "kind": "Config",
  "clusters": [{"name": "edge-1", "cluster": {"server": "https://hub/edge-1", "certificate-authority-data": "Q0E="}}],
  "users": [{"name": "edge-1", "user": {"token": "t"}}],
  "contexts": [{"name": "edge-1", "context": {"cluster": "edge-1", "user": "edge-1"}}]
}"#;
