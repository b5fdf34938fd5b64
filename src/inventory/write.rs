//! How a plan reaches the API server.

use kube::api::{Patch, PatchParams};
use kube::core::DynamicObject;
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};

use super::api::{CONDITIONS, PROVIDERS, status_list};
use super::desired::Plan;
use super::surface::Surface;
use crate::kubernetes::{self, FIELD_MANAGER, in_time};

/// Writes `plan` to the status of `live`, and returns what came of it.
///
/// # Errors
/// With code 409 when somebody else wrote since `live` was read: read again and plan anew.
pub(super) async fn write(
    api: &Api<DynamicObject>,
    surface: &Surface,
    live: &DynamicObject,
    plan: &Plan,
) -> Result<DynamicObject, kube::Error> {
    // Lists with keys: each publisher owns its items, and what others write meanwhile is no conflict.
    // What is to go may have been written in another way, and then an apply leaves it there.
    let keyed = surface.keyed && (plan.claims.condition.is_none() || surface.keyed_conditions);
    if keyed && !plan.removes {
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let patch = Patch::Apply(applied(live, plan));
        return in_time(api.patch_status(&live.name_any(), &params, &patch)).await;
    }
    replace(api, surface, live, plan).await
}

/// Writes the lists of `plan` whole, on condition that nobody wrote since `live` was read.
pub(super) async fn replace(
    api: &Api<DynamicObject>,
    surface: &Surface,
    live: &DynamicObject,
    plan: &Plan,
) -> Result<DynamicObject, kube::Error> {
    let patch = Patch::Merge(merged(surface, live, plan));
    in_time(api.patch_status(&live.name_any(), &kubernetes::patch(), &patch)).await
}

/// All that we want to own, and nothing else.
fn applied(live: &DynamicObject, plan: &Plan) -> Value {
    let mut status = json!({PROVIDERS: plan.claims.entries});
    if let Some(condition) = &plan.claims.condition {
        status[CONDITIONS] = json!([condition]);
    }
    let types = live.types.clone().unwrap_or_default();
    json!({
        "apiVersion": types.api_version, "kind": types.kind,
        // A profile that was made anew meanwhile is another one.
        "metadata": {"name": live.name_any(), "namespace": live.namespace(), "uid": live.uid()},
        "status": status,
    })
}

/// The lists that change. Fields that are not named stay; null would delete one.
fn merged(surface: &Surface, live: &DynamicObject, plan: &Plan) -> Value {
    let mut status = json!({});
    if let Some(providers) = &plan.providers {
        status[PROVIDERS] = json!(providers);
    }
    if let Some(conditions) = &plan.conditions {
        status[CONDITIONS] = json!(conditions);
    } else if surface.conditions_required && status_list(live, CONDITIONS).is_empty() {
        status[CONDITIONS] = json!([]);
    }
    json!({
        "metadata": {"uid": live.uid(), "resourceVersion": live.resource_version()},
        "status": status,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::api;
    use crate::inventory::desired::Claims;

    #[test]
    fn conditions_are_never_null_and_only_there_where_they_must() {
        let mut live = DynamicObject::new("p", &api::resource("v1alpha1"));
        let surface = |conditions_required| Surface {
            version: "v1alpha1".to_owned(),
            keyed: false,
            keyed_conditions: false,
            conditions_required,
            definition_known: true,
        };
        let plan = Plan { providers: Some(vec![json!({"name": "a"})]), ..Plan::default() };
        for (data, required, conditions) in [
            (json!({}), false, None),
            (json!({}), true, Some(json!([]))),
            (json!({"status": {"conditions": null}}), true, Some(json!([]))),
            (json!({"status": {"conditions": [{"type": "Joined"}]}}), true, None),
        ] {
            live.data = data;
            let patch = merged(&surface(required), &live, &plan);
            assert_eq!(patch["status"].get("conditions"), conditions.as_ref(), "{patch}");
            assert_eq!(patch["status"]["accessProviders"], json!([{"name": "a"}]));
        }
    }

    #[test]
    fn an_apply_holds_what_is_ours_alone() {
        let mut live = DynamicObject::new("p", &api::resource("v1alpha1")).within("n");
        live.metadata.uid = Some("u".to_owned());
        let ours = json!({"name": "ours"});
        let plan = Plan {
            providers: Some(vec![json!({"name": "theirs"}), ours.clone()]),
            claims: Claims { entries: vec![ours.clone()], condition: None },
            ..Plan::default()
        };
        assert_eq!(
            applied(&live, &plan),
            json!({
                "apiVersion": "multicluster.x-k8s.io/v1alpha1", "kind": "ClusterProfile",
                "metadata": {"name": "p", "namespace": "n", "uid": "u"},
                "status": {"accessProviders": [ours]},
            })
        );
    }
}
