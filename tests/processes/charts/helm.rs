//! Helm, and what every installation gives its charts.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::process::text;
use crate::support::skipped;

pub(crate) const HUB: &str = "cluster-proxy-hub";
pub(crate) const AGENT: &str = "cluster-proxy-agent";
pub(crate) const IMAGE: &str = "image.repository=registry.example/cluster-proxy";
/// Well formed, and of no authority.
const CA_HASH: &str =
    "caHash=sha256:0000000000000000000000000000000000000000000000000000000000000000";

pub(crate) fn agent_values() -> Vec<&'static str> {
    vec![IMAGE, "hubs={hub.example:8091}", CA_HASH]
}

/// Helm with the charts of this tree.
pub(crate) struct Helm(PathBuf);

// === impl Helm ===

impl Helm {
    /// `$HELM`, the one that `tests/helm/build` made, or the one in PATH; in this order.
    pub(crate) fn find(test: &str) -> Option<Self> {
        let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/helm/helm");
        let named = std::env::var_os("HELM").map(PathBuf::from);
        let works = |program: &PathBuf| {
            let version = Command::new(program).arg("version").output();
            version.is_ok_and(|output| output.status.success())
        };
        let found = named.into_iter().chain([built, PathBuf::from("helm")]).find(works);
        if found.is_none() {
            skipped(test, "there is no Helm", "tests/helm/build");
        }
        found.map(Self)
    }

    /// Where it is, or its name in PATH.
    pub(crate) fn program(&self) -> &Path {
        &self.0
    }

    pub(crate) fn output(&self, words: &[&str], chart: &str, values: &[&str]) -> Output {
        let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/charts").join(chart);
        let mut command = Command::new(&self.0);
        command.args(words).arg(chart);
        for value in values {
            command.args(["--set", value]);
        }
        command.output().unwrap()
    }

    /// The manifests of a chart in `namespace`.
    pub(crate) fn template(&self, chart: &str, namespace: &str, values: &[&str]) -> String {
        let output = self.output(&["template", "test", "-n", namespace], chart, values);
        assert!(output.status.success(), "{chart} {values:?}: {}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    }
}
