//! A service of each cluster to try: the web server of its Pod `hello`.
//!
//! Only in-memory API servers have it. It is at a loopback address, which a real one lets no
//! EndpointSlice have.

use crate::agent::{ExposedService, Exposure};

/// What its owner exposes at the agent.
pub(super) fn exposure() -> Exposure {
    let exposed = format!("{NAMESPACE}/{NAME}").parse::<ExposedService>();
    Exposure { services: exposed.into_iter().collect(), loopback: true, additional_ca: None }
}

/// What the operator of the hub exposes.
pub(super) fn list() -> String {
    format!(
        "\
# Which services of clusters callers reach. Read again when it changes; a cluster's owner decides as well,
# by what its agent exposes: here this one alone.
- {{namespace: {NAMESPACE}, service: {NAME}}}
"
    )
}

/// Where it is, below a cluster.
pub(super) fn path() -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/services/{NAME}/proxy-service/")
}

pub(super) const NAMESPACE: &str = "default";

/// Of the Service, which [`crate::miniapi`] has from the start.
const NAME: &str = "web";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_expose_the_same_one() {
        assert_eq!(exposure().services, ["default/web".parse().unwrap()]);
        assert!(list().contains("{namespace: default, service: web}"));
    }
}
