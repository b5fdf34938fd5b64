//! Which clusters a command is about: those that it names, or those whose ClusterProfiles the hub's
//! own API has.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use futures_util::{StreamExt as _, TryStreamExt as _};
use kube::Api;
use kube::api::{ListParams, PartialObjectMeta};
use kube::core::DynamicObject;

use crate::accounts::api::ManagedServiceAccount;
use crate::cli::progress::patiently;
use crate::credential::hub::HubApi;
use crate::inventory::api::{CLUSTER_LABEL, GROUP, KIND};
use crate::kubernetes::describe;
use crate::name::ClusterName;

/// Flags that choose clusters.
#[derive(Debug, Args)]
#[group(id = "which", multiple = false)]
pub(crate) struct Which {
    /// A cluster; repeat it for several
    #[arg(long = "cluster", value_name = "NAME", value_delimiter = ',')]
    pub(crate) clusters: Vec<ClusterName>,

    /// Every cluster that has a ClusterProfile in the hub's own API
    #[arg(long)]
    pub(crate) all: bool,

    /// Clusters whose ClusterProfiles have these labels, as kubectl takes them
    #[arg(long, short = 'l', value_name = "LABELS")]
    pub(crate) selector: Option<String>,
}

/// A hub's own API, within a time.
pub(crate) struct Profiles<'a> {
    pub(crate) hub: &'a HubApi,
    /// All of them where `None`.
    pub(crate) namespace: Option<&'a str>,
}

// === impl Which ===

impl Which {
    /// Whether nothing was chosen.
    pub(crate) fn is_empty(&self) -> bool {
        self.clusters.is_empty() && !self.asks()
    }

    /// Whether the hub's own API has to be asked.
    pub(crate) fn asks(&self) -> bool {
        self.all || self.selector.is_some()
    }
}

// === impl Profiles ===

impl Profiles<'_> {
    /// The clusters that are chosen, by name, each once.
    ///
    /// # Errors
    /// When the hub's API does not say, or says none.
    pub(crate) async fn choose(&self, which: &Which) -> anyhow::Result<Vec<ClusterName>> {
        let found = self.within(self.labelled(which.selector.as_deref())).await?;
        if found.is_empty() {
            let labels = which.selector.as_ref().map(|labels| format!(" with labels {labels}"));
            bail!(
                "the hub's API server {} has no ClusterProfile{} that names a cluster by its label {CLUSTER_LABEL}",
                self.hub.server,
                labels.unwrap_or_default()
            );
        }
        Ok(found.into_iter().collect())
    }

    /// The one managed service account that each of `clusters` has.
    ///
    /// # Errors
    /// When there is none, or several: whose rights to take is not ours to choose.
    pub(crate) async fn account(&self, clusters: &[ClusterName]) -> anyhow::Result<String> {
        let lists = futures_util::stream::iter(clusters).map(|cluster| async move {
            let api = Api::namespaced(self.hub.client.clone(), cluster.as_str());
            self.names::<ManagedServiceAccount>(&api).await
        });
        let lists: Vec<Vec<String>> =
            self.within(async { lists.buffered(AT_ONCE).try_collect().await }).await?;
        match one_of_all(&lists) {
            Ok(name) => Ok(name),
            Err(names) if names.is_empty() => bail!(
                "there is no managed service account that {} has: create one, or name --token-file",
                if clusters.len() == 1 { "this cluster" } else { "each of these clusters" }
            ),
            Err(names) => {
                bail!("name one with --managed-serviceaccount: {}", names.join(", "))
            }
        }
    }

    async fn labelled(&self, labels: Option<&str>) -> anyhow::Result<BTreeSet<ClusterName>> {
        let group = kube::discovery::group(&self.hub.client, GROUP).await;
        let group = group.map_err(|error| self.failed("ClusterProfiles", &error))?;
        let (resource, _) = group
            .recommended_kind(KIND)
            .with_context(|| format!("the hub's API server {} has no {KIND}", self.hub.server))?;
        let api: Api<DynamicObject> = match self.namespace {
            Some(namespace) => Api::namespaced_with(self.hub.client.clone(), namespace, &resource),
            None => Api::all_with(self.hub.client.clone(), &resource),
        };
        let mut found = BTreeSet::new();
        let mut page = ListParams { limit: Some(PAGE), ..ListParams::default() };
        page.label_selector = labels.map(str::to_owned);
        loop {
            let list = api.list_metadata(&page).await;
            let list = list.map_err(|error| self.failed("ClusterProfiles", &error))?;
            found.extend(list.items.iter().filter_map(cluster));
            match list.metadata.continue_.filter(|next| !next.is_empty()) {
                Some(next) if found.len() < MOST => page.continue_token = Some(next),
                Some(_) => bail!("more than {MOST} clusters: choose some with --selector"),
                None => return Ok(found),
            }
        }
    }

    async fn names<K>(&self, api: &Api<K>) -> anyhow::Result<Vec<String>>
    where
        K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
    {
        let page = ListParams { limit: Some(PAGE), ..ListParams::default() };
        let list = api.list_metadata(&page).await;
        let list = list.map_err(|error| self.failed("managed service accounts", &error))?;
        Ok(list.items.into_iter().filter_map(|object| object.metadata.name).collect())
    }

    async fn within<T>(&self, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        let late = || {
            let (server, patience) = (&self.hub.server, PATIENCE.as_secs());
            anyhow::anyhow!("the hub's API server {server} has not answered within {patience} s")
        };
        let work = tokio::time::timeout(PATIENCE, work);
        patiently("asking the hub's API server", work).await.map_err(|_| late())?
    }

    fn failed(&self, what: &str, error: &kube::Error) -> anyhow::Error {
        let (server, why) = (&self.hub.server, describe(error));
        anyhow::anyhow!("cannot list {what} of the hub's API server {server}: {why}")
    }
}

/// By the label that the hub's publisher goes by. The profile's own name may be another's.
fn cluster(profile: &PartialObjectMeta<DynamicObject>) -> Option<ClusterName> {
    let name = profile.metadata.labels.as_ref()?.get(CLUSTER_LABEL)?;
    ClusterName::parse(name).ok()
}

/// The only name that is in every list, else all that are.
fn one_of_all(lists: &[Vec<String>]) -> Result<String, Vec<String>> {
    let mut counts = BTreeMap::<&str, usize>::new();
    for name in lists.iter().flatten() {
        *counts.entry(name).or_default() += 1;
    }
    let everywhere = counts.into_iter().filter(|(_, count)| *count == lists.len());
    let mut names: Vec<String> = everywhere.map(|(name, _)| name.to_owned()).collect();
    if names.len() == 1 { Ok(names.remove(0)) } else { Err(names) }
}

/// A person waits.
const PATIENCE: Duration = Duration::from_secs(30);
/// Objects in an answer.
const PAGE: u32 = 500;
/// Clusters in a file that people still open.
const MOST: usize = 10_000;
/// Requests under way.
const AT_ONCE: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_account_that_all_have_is_taken() {
        let lists = |lists: &[&[&str]]| -> Vec<Vec<String>> {
            lists.iter().map(|list| list.iter().map(|&name| name.to_owned()).collect()).collect()
        };
        assert_eq!(one_of_all(&lists(&[&["a", "b"], &["b", "c"]])), Ok("b".to_owned()));
        assert_eq!(one_of_all(&lists(&[&["a"], &["b"]])), Err(vec![]));
        let both = Err(vec!["a".to_owned(), "b".to_owned()]);
        assert_eq!(one_of_all(&lists(&[&["a", "b"], &["b", "a"]])), both);
        assert_eq!(one_of_all(&lists(&[&[]])), Err(vec![]));
    }

    #[test]
    fn a_profile_names_its_cluster_by_a_label() {
        let profile = |label: &str, name: &str| -> PartialObjectMeta<DynamicObject> {
            let labels = serde_json::json!({label: name});
            serde_json::from_value(serde_json::json!({
                "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
                "metadata": {"name": "p", "labels": labels},
            }))
            .unwrap()
        };
        let named = |label: &str, name: &str| cluster(&profile(label, name));
        assert_eq!(named(CLUSTER_LABEL, "c1").unwrap().as_str(), "c1");
        assert_eq!(named(CLUSTER_LABEL, "../c1"), None);
        assert_eq!(named("other", "c1"), None);
    }
}
