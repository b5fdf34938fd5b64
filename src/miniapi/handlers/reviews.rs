//! What is asked and not stored: tokens, who somebody is, what they may do.

use std::time::Duration;

use http::{Request, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Aim, Answer, Call, body};
use crate::miniapi::admission;
use crate::miniapi::auth::{self, Identity};
use crate::miniapi::object::{self, text};
use crate::miniapi::rbac::{self, Attributes};
use crate::miniapi::response::{MiniStatus, json_response};
use crate::miniapi::store::Key;
use crate::miniapi::tokens::{Kubernetes, Reference};

/// Answers a review.
pub(super) async fn create(call: &Call<'_>, aim: &Aim, request: Request<Incoming>) -> Answer {
    if call.info.verb != "create" || !aim.target.name.is_empty() {
        return Err(MiniStatus::method_not_allowed());
    }
    let mut review = body::object(request).await?;
    let status = match aim.resource.kind.as_str() {
        "TokenReview" => token_status(call, &review["spec"]),
        "SelfSubjectReview" => json!({ "userInfo": call.identity.to_value() }),
        "SelfSubjectRulesReview" => rules_status(call, text(&review, "/spec/namespace")),
        "SelfSubjectAccessReview" => access_status(call, &call.identity, &review["spec"]),
        _ => {
            let spec = &review["spec"];
            let groups = spec["groups"].as_array().into_iter().flatten();
            let identity = Identity {
                username: text(spec, "/user").to_owned(),
                groups: groups.filter_map(Value::as_str).map(str::to_owned).collect(),
                ..Identity::default()
            };
            access_status(call, &identity, spec)
        }
    };
    review["apiVersion"] = aim.resource.api_version().into();
    review["kind"] = aim.resource.kind.clone().into();
    review["status"] = status;
    object::metadata(&mut review).entry("creationTimestamp").or_insert(Value::Null);
    if review["kind"] == "SelfSubjectReview" {
        review["metadata"]["creationTimestamp"] = object::now().into();
    }
    Ok(json_response(StatusCode::CREATED, &review))
}

/// Answers a TokenRequest.
pub(super) async fn token(call: &Call<'_>, aim: &Aim, request: Request<Incoming>) -> Answer {
    if call.info.verb != "create" {
        return Err(MiniStatus::method_not_allowed());
    }
    let (namespace, name) = (&aim.target.namespace, &aim.target.name);
    let key = aim.resource.key(namespace, name);
    if call.cluster.store.get(&key).is_none() {
        return Err(MiniStatus::not_found(&key.label(), name));
    }
    let mut answer = body::object(request).await?;
    admission::check_shape(&answer)?;
    let spec = &mut answer["spec"];
    let seconds = spec["expirationSeconds"].as_u64().unwrap_or(DEFAULT_SECONDS);
    let wrong = if seconds < SHORTEST_SECONDS {
        Some("less than 10 minutes")
    } else if seconds > LONGEST_SECONDS {
        Some("larger than 2^32 seconds")
    } else {
        None
    };
    if let Some(wrong) = wrong {
        let why = format!(
            "spec.expirationSeconds: Invalid value: {seconds}: may not specify a duration {wrong}"
        );
        return Err(MiniStatus::invalid("TokenRequest", "", &why));
    }
    let audiences = spec["audiences"].as_array().into_iter().flatten();
    let mut audiences: Vec<String> =
        audiences.filter_map(Value::as_str).map(str::to_owned).collect();
    if audiences.is_empty() {
        audiences = call.cluster.tokens.audiences().to_vec();
    }
    spec["audiences"] = json!(audiences);
    spec["expirationSeconds"] = seconds.into();
    let mut subject = Kubernetes::of(namespace, call.cluster.account(namespace, name));
    if spec["boundObjectRef"].is_object() {
        bind(call, &mut subject, &spec["boundObjectRef"])?;
    }
    let lifetime = Duration::from_secs(seconds);
    let (token, expires) = call.cluster.tokens.sign(subject, audiences, lifetime);
    let expires = i64::try_from(expires).ok();
    let expires = expires.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    let expires = expires.and_then(|time| time.format(&Rfc3339).ok());
    answer["apiVersion"] = "authentication.k8s.io/v1".into();
    answer["kind"] = "TokenRequest".into();
    answer["metadata"] =
        json!({"name": name, "namespace": namespace, "creationTimestamp": object::now()});
    answer["status"] = json!({"token": token, "expirationTimestamp": expires});
    Ok(json_response(StatusCode::CREATED, &answer))
}

/// Binds a token to the object that a TokenRequest names, which must exist.
fn bind(call: &Call<'_>, subject: &mut Kubernetes, wanted: &Value) -> Result<(), MiniStatus> {
    let (kind, name) = (text(wanted, "/kind"), text(wanted, "/name").to_owned());
    let (plural, namespace, slot) = match kind {
        "Pod" => ("pods", subject.namespace.as_str(), &mut subject.pod),
        "Secret" => ("secrets", subject.namespace.as_str(), &mut subject.secret),
        "Node" => ("nodes", "", &mut subject.node),
        _ => {
            let message = format!("cannot bind token to object of type {kind:?}");
            return Err(MiniStatus::bad_request(message));
        }
    };
    let key = Key::new("", plural, namespace, &name);
    let found = call.cluster.store.get(&key);
    let found = found.ok_or_else(|| MiniStatus::not_found(&key.label(), &name))?;
    let (uid, own) = (object::uid(&found).to_owned(), &subject.serviceaccount.name);
    if kind == "Pod" && text(&found, "/spec/serviceAccountName") != own {
        let message = format!(
            "cannot bind token for serviceaccount {own:?} to pod running with different serviceaccount name."
        );
        return Err(MiniStatus::bad_request(message));
    }
    let asked = text(wanted, "/uid");
    if !asked.is_empty() && asked != uid {
        let why = format!(
            "the UID in the bound object reference ({asked}) does not match the UID in record. \
             The object might have been deleted and then recreated"
        );
        return Err(MiniStatus::conflict(&key.label(), &name, &why));
    }
    *slot = Some(Reference { name, uid });
    Ok(())
}

fn token_status(call: &Call<'_>, spec: &Value) -> Value {
    let asked = spec["audiences"].as_array().into_iter().flatten();
    let mut audiences: Vec<String> = asked.filter_map(Value::as_str).map(str::to_owned).collect();
    let tokens = &call.cluster.tokens;
    if audiences.is_empty() {
        audiences = tokens.audiences().to_vec();
    }
    match auth::review(&call.cluster.store, tokens, text(spec, "/token"), &audiences) {
        Some((identity, audiences)) => json!({
            "authenticated": true, "user": identity.to_value(), "audiences": audiences,
        }),
        None => json!({"user": {}, "error": "the token is not valid here"}),
    }
}

fn access_status(call: &Call<'_>, identity: &Identity, spec: &Value) -> Value {
    let wanted = |pointer: &str| text(spec, pointer).to_owned();
    let attributes = match spec.get("nonResourceAttributes").filter(|it| it.is_object()) {
        Some(_) => Attributes {
            verb: wanted("/nonResourceAttributes/verb"),
            path: wanted("/nonResourceAttributes/path"),
            ..Attributes::default()
        },
        None => Attributes {
            verb: wanted("/resourceAttributes/verb"),
            group: wanted("/resourceAttributes/group"),
            resource: wanted("/resourceAttributes/resource"),
            subresource: wanted("/resourceAttributes/subresource"),
            namespace: wanted("/resourceAttributes/namespace"),
            name: wanted("/resourceAttributes/name"),
            path: String::new(),
        },
    };
    json!({ "allowed": rbac::allowed(&call.cluster.store, identity, &attributes) })
}

fn rules_status(call: &Call<'_>, namespace: &str) -> Value {
    let rules = rbac::rules_for(&call.cluster.store, &call.identity, namespace);
    let (paths, resources): (Vec<Value>, Vec<Value>) =
        rules.into_iter().partition(|rule| rule.get("nonResourceURLs").is_some());
    json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false})
}

/// An hour, as kube-apiserver gives when nothing is asked for.
const DEFAULT_SECONDS: u64 = 3600;
/// The shortest life that kube-apiserver grants.
const SHORTEST_SECONDS: u64 = 600;
/// The longest that it grants where its operator sets no limit.
const LONGEST_SECONDS: u64 = 1 << 32;
