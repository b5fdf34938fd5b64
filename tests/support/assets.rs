//! Real API servers, where they have been built.

use std::path::{Path, PathBuf};

use cluster_proxy::sandbox::apiserver::real::Assets;

use super::skipped;

/// `$KUBEBUILDER_ASSETS`, or what `tests/apiserver/build` made, with the fake kubelet of that; says
/// that `test` is skipped where there is neither.
pub(crate) fn folder(test: &str) -> Option<PathBuf> {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/apiserver");
    let named = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let works =
        |folder: &PathBuf| Assets::find(Some(folder)).is_ok_and(|found| found.has_kubelet());
    let found = named.into_iter().chain([built]).find(works);
    if found.is_none() {
        skipped(test, "there is no kube-apiserver with a kubelet", "tests/apiserver/build");
    }
    found
}
