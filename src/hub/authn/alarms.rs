//! Which alarms have been told: a conflict that stays is read again every minute, and a log that
//! repeats it hides the next one. The metric goes on counting.

use std::collections::HashMap;
use std::sync::Mutex;

use super::key_sets::lock;
use super::ownership::Owner;
use crate::name::ClusterName;

/// The conflicts that stand, by cluster and thumbprint. As many as clusters publish keys, which
/// the size of a key set bounds.
#[derive(Default)]
pub(super) struct Alarms(Mutex<HashMap<ClusterName, HashMap<String, Owner>>>);

// === impl Alarms ===

impl Alarms {
    /// Notes that `cluster` publishes a key of `owner`; returns whether that is news.
    pub(super) fn raise(&self, cluster: &ClusterName, thumbprint: &str, owner: &Owner) -> bool {
        let mut standing = lock(&self.0);
        let standing = standing.entry(cluster.clone()).or_default();
        standing.insert(thumbprint.to_owned(), owner.clone()).as_ref() != Some(owner)
    }

    /// Forgets those of `cluster` that `stands` no longer knows: when they return, that is news.
    pub(super) fn keep(&self, cluster: &ClusterName, stands: impl Fn(&str) -> bool) {
        let mut standing = lock(&self.0);
        if let Some(of_cluster) = standing.get_mut(cluster) {
            of_cluster.retain(|thumbprint, _| stands(thumbprint));
            if of_cluster.is_empty() {
                standing.remove(cluster);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conflict_is_news_once_per_change() {
        let (one, two) = (ClusterName::parse("c1").unwrap(), ClusterName::parse("c2").unwrap());
        let alarms = Alarms::default();
        assert!(alarms.raise(&one, "k", &Owner::Hub));
        assert!(!alarms.raise(&one, "k", &Owner::Hub));
        assert!(alarms.raise(&one, "other", &Owner::Hub), "another key");
        assert!(alarms.raise(&two, "k", &Owner::Hub), "another cluster");
        assert!(alarms.raise(&one, "k", &Owner::Cluster(two.clone())), "another owner");
        alarms.keep(&one, |thumbprint| thumbprint == "k");
        assert!(!alarms.raise(&one, "k", &Owner::Cluster(two)));
        assert!(alarms.raise(&one, "other", &Owner::Hub), "it was gone for a while");
        alarms.keep(&one, |_| false);
        assert!(!lock(&alarms.0).contains_key(&one));
    }
}
