//! What the hub's API server has of ClusterProfiles: whether, in which version, with which lists.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionVersion,
};
use kube::{Api, Client};

use super::api::{CONDITIONS, DEFINITION, GROUP, PLURAL, PROVIDERS, VERSIONS};
use crate::kubernetes::in_time;

/// How ClusterProfiles are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Surface {
    /// Version to read and write.
    pub(super) version: String,
    /// Whether `accessProviders` is a map by name, so that each publisher can own its entry.
    pub(super) keyed: bool,
    /// Whether `conditions` is a map by type. Where it is not, an apply of one condition is an apply of
    /// all.
    pub(super) keyed_conditions: bool,
    /// Whether a status without `conditions` is refused.
    pub(super) conditions_required: bool,
    /// Whether we may read the definition.
    pub(super) definition_known: bool,
}

/// Looks. `None`: there are no ClusterProfiles, or in no version that we know.
///
/// # Errors
/// When the API server does not answer.
pub(super) async fn look(client: &Client) -> Result<Option<Surface>, kube::Error> {
    let groups = in_time(client.list_api_groups()).await?;
    let Some(group) = groups.groups.into_iter().find(|group| group.name == GROUP) else {
        return Ok(None);
    };
    let served: Vec<String> = group.versions.into_iter().map(|version| version.version).collect();
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    match in_time(definitions.get(DEFINITION)).await {
        Ok(definition) => Ok(choose(&served, &definition.spec.versions)),
        // Read-modify-write is right with any lists, so that this right is not needed to go on.
        Err(kube::Error::Api(status)) if [403, 404].contains(&status.code) => {
            plain(&served, client).await
        }
        Err(error) => Err(error),
    }
}

/// The version in which objects are stored, where we know it: whoever writes in another one loses
/// what that has no field for. Else the first that we know.
fn choose(served: &[String], versions: &[CustomResourceDefinitionVersion]) -> Option<Surface> {
    let usable = |version: &&CustomResourceDefinitionVersion| {
        VERSIONS.contains(&version.name.as_str()) && served.contains(&version.name)
    };
    let mut usable: Vec<_> = versions.iter().filter(usable).collect();
    usable.sort_by_key(|version| {
        (!version.storage, VERSIONS.iter().position(|known| *known == version.name))
    });
    let version = usable.first()?;
    let schema = version.schema.as_ref().and_then(|schema| schema.open_api_v3_schema.as_ref());
    let status = schema.and_then(|schema| schema.properties.as_ref()?.get("status"));
    let keyed = |list: &str, key: &str| {
        let list = status.and_then(|status| status.properties.as_ref()?.get(list));
        list.is_some_and(|list| {
            list.x_kubernetes_list_type.as_deref() == Some("map")
                && list.x_kubernetes_list_map_keys.as_deref() == Some(&[key.to_owned()])
        })
    };
    let required = status.and_then(|status| status.required.as_ref());
    Some(Surface {
        version: version.name.clone(),
        keyed: keyed(PROVIDERS, "name"),
        keyed_conditions: keyed(CONDITIONS, "type"),
        definition_known: true,
        conditions_required: required
            .is_some_and(|names| names.iter().any(|one| one == "conditions")),
    })
}

/// Without the definition: the first version that we know.
async fn plain(served: &[String], client: &Client) -> Result<Option<Surface>, kube::Error> {
    for version in VERSIONS {
        if !served.iter().any(|one| one == version) {
            continue;
        }
        let group_version = format!("{GROUP}/{version}");
        let resources = client.list_api_group_resources(&group_version);
        let resources = in_time(resources).await?;
        if resources.resources.iter().any(|resource| resource.name == PLURAL) {
            let version = version.to_owned();
            return Ok(Some(Surface {
                version,
                keyed: false,
                keyed_conditions: false,
                conditions_required: false,
                definition_known: false,
            }));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn version(name: &str, storage: bool, status: &Value) -> CustomResourceDefinitionVersion {
        let schema = json!({"type": "object", "properties": {"status": status}});
        serde_json::from_value(json!({
            "name": name, "served": true, "storage": storage,
            "schema": {"openAPIV3Schema": schema},
        }))
        .unwrap()
    }

    fn names(versions: &[&str]) -> Vec<String> {
        versions.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn the_stored_version_and_its_lists() {
        let list = |kind: &str, key: &str| {
            json!({"type": "array", "x-kubernetes-list-type": kind,
                "x-kubernetes-list-map-keys": [key]})
        };
        let status =
            |list: Value| json!({"type": "object", "properties": {"accessProviders": list}});
        let keyed = status(list("map", "name"));
        let plain = status(json!({"type": "array"}));
        let both = [version("v1alpha2", false, &keyed), version("v1alpha1", true, &plain)];
        let chosen = choose(&names(&["v1alpha1", "v1alpha2"]), &both).unwrap();
        assert_eq!((chosen.version.as_str(), chosen.keyed), ("v1alpha1", false));
        let chosen = choose(&names(&["v1alpha2"]), &both).unwrap();
        assert_eq!((chosen.version.as_str(), chosen.keyed), ("v1alpha2", true));
        let later = [version("v1", true, &keyed), version("v1alpha2", false, &keyed)];
        let chosen = choose(&names(&["v1", "v1alpha2"]), &later).unwrap();
        assert_eq!(chosen.version, "v1alpha2");
        assert_eq!(choose(&names(&["v1"]), &later), None);
        for other in [list("map", "id"), list("set", "name"), list("atomic", "name")] {
            let versions = [version("v1alpha1", true, &status(other))];
            assert!(!choose(&names(&["v1alpha1"]), &versions).unwrap().keyed);
        }
    }

    #[test]
    fn each_list_has_keys_of_its_own() {
        let list =
            |key| json!({"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]});
        for (conditions, keyed) in
            [(list("type"), true), (list("name"), false), (json!({"type": "array"}), false)]
        {
            let lists =
                json!({"properties": {"accessProviders": list("name"), "conditions": conditions}});
            let chosen = choose(&names(&["v1alpha1"]), &[version("v1alpha1", true, &lists)]);
            let chosen = chosen.unwrap();
            assert_eq!((chosen.keyed, chosen.keyed_conditions), (true, keyed), "{lists}");
        }
    }

    #[test]
    fn a_schema_may_require_conditions() {
        for (required, expected) in [(json!(["conditions"]), true), (json!(["version"]), false)] {
            let status = json!({"type": "object", "required": required});
            let chosen = choose(&names(&["v1alpha1"]), &[version("v1alpha1", true, &status)]);
            assert_eq!(chosen.unwrap().conditions_required, expected);
        }
    }
}
