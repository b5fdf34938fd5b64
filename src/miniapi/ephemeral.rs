//! Ephemeral containers: what `kubectl debug` adds to a Pod that runs. Pure.

use serde_json::Value;

use super::admission;
use super::object;
use super::response::MiniStatus;

/// The ephemeral containers of a Pod.
pub(super) fn of(pod: &Value) -> &[Value] {
    pod["spec"]["ephemeralContainers"].as_array().map_or(&[], Vec::as_slice)
}

/// The Pod `current` with the ephemeral containers of `next`, for a write of the subresource.
///
/// # Errors
/// 422 unless `next` has every container that is there already, as it is, and new ones that can be
/// told apart.
pub(super) fn added(next: &Value, current: &Value) -> Result<Value, MiniStatus> {
    let mut containers = match &next["spec"]["ephemeralContainers"] {
        Value::Null => Vec::new(),
        Value::Array(containers) => containers.clone(),
        _ => return Err(MiniStatus::bad_request("spec.ephemeralContainers: must be a list")),
    };
    let invalid = |why: String| {
        let why = format!("spec.ephemeralContainers: {why}");
        Err(MiniStatus::invalid("Pod", object::name(current), &why))
    };
    for container in &mut containers {
        let name = object::text(container, "/name").to_owned();
        if name.is_empty() || object::text(container, "/image").is_empty() {
            return invalid("Required value: name and image".to_owned());
        }
        admission::container_defaults(container);
        match of(current).iter().find(|known| known["name"] == name.as_str()) {
            Some(known) if known == container => {}
            Some(_) => {
                let why = "existing ephemeral containers may not be changed";
                return invalid(format!("Forbidden: {name}: {why}"));
            }
            None => {}
        }
    }
    let named =
        |list: &[Value], name: &Value| list.iter().filter(|one| one["name"] == *name).count();
    for kept in of(current) {
        if named(&containers, &kept["name"]) == 0 {
            let why = "existing ephemeral containers may not be removed";
            return invalid(format!("Forbidden: {}: {why}", object::text(kept, "/name")));
        }
    }
    for container in &containers {
        let name = &container["name"];
        let others = ["containers", "initContainers"]
            .map(|field| current["spec"][field].as_array().map_or(0, |list| named(list, name)));
        if named(&containers, name) + others.iter().sum::<usize>() > 1 {
            return invalid(format!("Duplicate value: {name}"));
        }
    }
    let mut pod = current.clone();
    pod["spec"]["ephemeralContainers"] = containers.into();
    Ok(pod)
}

/// Refuses ephemeral containers where they cannot come from: they are added by their subresource.
///
/// # Errors
/// 422 when `pod` has others than `current`, or any at its creation (`None`).
pub(super) fn unchanged(pod: &Value, current: Option<&Value>) -> Result<(), MiniStatus> {
    if of(pod) == current.map_or(&[][..], of) {
        return Ok(());
    }
    let why =
        "spec.ephemeralContainers: Forbidden: only the subresource ephemeralcontainers adds them";
    Err(MiniStatus::invalid("Pod", object::name(pod), why))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A Pod with one container and such ephemeral ones.
    fn pod(ephemeral: &[Value]) -> Value {
        json!({
            "metadata": {"name": "p"},
            "spec": {"containers": [{"name": "main"}], "ephemeralContainers": ephemeral},
            "status": {"phase": "Running"},
        })
    }

    fn container(name: &str) -> Value {
        json!({"name": name, "image": "busybox"})
    }

    #[test]
    fn they_are_added_and_never_changed() {
        let one = added(&pod(&[container("a")]), &pod(&[])).unwrap();
        assert_eq!(one["spec"]["ephemeralContainers"][0]["imagePullPolicy"], "IfNotPresent");
        // Nothing else of the Pod is taken.
        let mut next = pod(&[container("a"), container("b")]);
        next["status"] = json!({"phase": "Failed"});
        next["spec"]["containers"][0]["name"] = "other".into();
        let two = added(&next, &one).unwrap();
        assert_eq!(of(&two).len(), 2);
        assert_eq!(
            (&two["status"], &two["spec"]["containers"]),
            (&one["status"], &one["spec"]["containers"])
        );
        assert_eq!(added(&two, &two).unwrap(), two);

        let other = json!({"name": "a", "image": "other"});
        for refused in [
            vec![],
            vec![container("b")],
            vec![other],
            vec![container("a"), container("a")],
            vec![container("a"), container("main")],
            vec![container("a"), json!({"name": "b"})],
            vec![container("a"), json!({"image": "busybox"})],
            vec![container("a"), json!("b")],
        ] {
            assert!(added(&pod(&refused), &one).is_err(), "{refused:?}");
        }
        assert!(added(&json!({"spec": {"ephemeralContainers": "a"}}), &pod(&[])).is_err());
        assert!(added(&json!({"spec": 1}), &pod(&[])).is_ok_and(|same| of(&same).is_empty()));
    }

    #[test]
    fn they_come_by_their_subresource_only() {
        let (none, one) = (pod(&[]), pod(&[container("a")]));
        assert!(unchanged(&none, None).is_ok() && unchanged(&one, Some(&one)).is_ok());
        assert!(unchanged(&json!({"spec": {}}), Some(&none)).is_ok());
        for (pod, current) in [(&one, None), (&one, Some(&none)), (&none, Some(&one))] {
            assert!(unchanged(pod, current).is_err());
        }
    }
}
