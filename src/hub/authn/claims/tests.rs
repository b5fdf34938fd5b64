use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const NOW: u64 = 1_800_000_000;

fn good() -> Value {
    json!({
        "iss": "https://kubernetes.default.svc",
        "sub": "system:serviceaccount:apps:reader",
        "aud": ["https://kubernetes.default.svc", "other"],
        "exp": NOW + 600, "nbf": NOW, "iat": NOW, "jti": "x",
        "kubernetes.io": {
            "namespace": "apps",
            "serviceaccount": { "name": "reader", "uid": "u" },
            "pod": { "name": "p", "uid": "v" }, "node": { "name": "n", "uid": "" },
            "warnafter": NOW + 300,
        },
    })
}

fn legacy() -> Value {
    json!({
        "iss": LEGACY_ISSUER,
        "sub": "system:serviceaccount:apps:reader",
        "kubernetes.io/serviceaccount/namespace": "apps",
        "kubernetes.io/serviceaccount/secret.name": "reader-token-x",
        "kubernetes.io/serviceaccount/service-account.name": "reader",
        "kubernetes.io/serviceaccount/service-account.uid": "u",
    })
}

fn with(change: impl FnOnce(&mut Value)) -> Value {
    let mut claims = good();
    change(&mut claims);
    claims
}

fn run(payload: &[u8], config: &AuthnConfig) -> Result<Subject, AuthnError> {
    let (issuers, audiences) = (
        ["https://kubernetes.default.svc".to_owned()],
        ["https://kubernetes.default.svc".to_owned()],
    );
    let accepted = Accepted { issuers: &issuers, audiences: &audiences };
    check(payload, accepted, config, moment(NOW))
}

fn outcome(claims: &Value) -> Result<Subject, AuthnError> {
    run(claims.to_string().as_bytes(), &AuthnConfig::default())
}

fn refusal(claims: &Value) -> Option<AuthnError> {
    outcome(claims).err()
}

#[test]
fn a_bound_token_is_its_service_account() {
    let subject = outcome(&good()).unwrap();
    assert_eq!(subject.user, "system:serviceaccount:apps:reader");
    assert_eq!(subject.expires, Some(moment(NOW + 661)));
    assert_eq!(subject.account_uid.as_deref(), Some("u"));
    assert!(subject.bound, "it names a Pod and a Node");
    let unbound = with(|claims| {
        let bound = claims["kubernetes.io"].as_object_mut().unwrap();
        bound.remove("pod");
        bound.remove("node");
    });
    assert!(!outcome(&unbound).unwrap().bound);
    // One of the three is enough.
    for kind in ["pod", "node", "secret"] {
        let bound_to = with(|claims| {
            let bound = claims["kubernetes.io"].as_object_mut().unwrap();
            bound.retain(|name, _| name == "namespace" || name == "serviceaccount");
            bound.insert(kind.to_owned(), json!({"name": "s", "uid": "w"}));
        });
        assert!(outcome(&bound_to).unwrap().bound, "{kind}");
    }
    assert!(
        outcome(&with(|claims| claims["aud"] = json!("https://kubernetes.default.svc"))).is_ok()
    );
}

#[test]
fn issuer_and_audience_match_exactly() {
    for issuer in
        ["https://kubernetes.default.svc/", "https://Kubernetes.default.svc", "https://c2", ""]
    {
        let claims = with(|claims| claims["iss"] = json!(issuer));
        assert_eq!(refusal(&claims), Some(Refusal::Issuer.into()), "{issuer}");
    }
    let many = |others: usize| -> Vec<String> {
        let others = (0..others).map(|number| number.to_string());
        others.chain(["https://kubernetes.default.svc".to_owned()]).collect()
    };
    assert!(outcome(&with(|claims| claims["aud"] = json!(many(63)))).is_ok());
    for audience in [
        json!(null),
        json!([]),
        json!("other"),
        json!(["https://kubernetes.default.svc/"]),
        json!(many(64)),
        json!(many(999)),
    ] {
        let claims = with(|claims| claims["aud"] = audience.clone());
        assert_eq!(refusal(&claims), Some(Refusal::Audience.into()), "{audience}");
    }
    for claim in ["iss", "sub", "exp", "aud", "kubernetes.io"] {
        let claims = with(|claims| {
            claims.as_object_mut().unwrap().remove(claim);
        });
        assert!(refusal(&claims).is_some(), "{claim}");
    }
}

#[test]
fn times_have_one_minute_of_leeway() {
    let times = |name: &str, value: Value| refusal(&with(|claims| claims[name] = value));
    assert_eq!(times("exp", json!(NOW - 60)), None);
    assert_eq!(times("exp", json!(NOW - 61)), Some(Refusal::Expired.into()));
    for name in ["nbf", "iat"] {
        assert_eq!(times(name, json!(NOW + 60)), None);
        assert_eq!(times(name, json!(NOW + 61)), Some(Refusal::NotYetValid.into()));
        assert_eq!(times(name, json!(u64::MAX)), Some(Refusal::NotYetValid.into()));
    }
    assert_eq!(times("exp", json!(u64::MAX)), None);
    assert_eq!(times("exp", json!(null)), Some(Refusal::Claims.into()));
    for name in ["exp", "nbf", "iat"] {
        for wrong in
            [json!("never"), json!("9999999999"), json!(1.5), json!(-1), json!([1]), json!(true)]
        {
            assert_eq!(times(name, wrong.clone()), Some(Refusal::Claims.into()), "{name} {wrong}");
        }
        let huge = good()
            .to_string()
            .replace(&format!("\"{name}\":"), &format!("\"{name}\":1e400,\"x{name}\":"));
        assert_eq!(run(huge.as_bytes(), &AuthnConfig::default()), Err(Refusal::Claims.into()));
    }
}

#[test]
fn the_subject_is_the_account_of_the_claims() {
    for subject in [
        "system:serviceaccount:apps:other",
        "system:serviceaccount:other:reader",
        "system:admin",
        "system:serviceaccount:apps",
        "system:serviceaccount:apps:reader:x",
        "reader",
        "",
        "system:serviceaccount::reader",
        "System:serviceaccount:apps:reader",
    ] {
        let claims = with(|claims| claims["sub"] = json!(subject));
        assert_eq!(refusal(&claims), Some(Refusal::Subject.into()), "{subject}");
    }
    let claims = with(|claims| claims["kubernetes.io"]["namespace"] = json!("other"));
    assert_eq!(refusal(&claims), Some(Refusal::Subject.into()));
    let claims = with(|claims| claims["kubernetes.io"]["pod"] = json!({"name": "", "uid": "x"}));
    assert_eq!(refusal(&claims), Some(Refusal::Subject.into()));
    let claims = with(|claims| claims["kubernetes.io"]["pod"] = json!("p"));
    assert_eq!(refusal(&claims), Some(Refusal::Claims.into()));
}

/// The claims of `name` in `namespace`, consistent in themselves.
fn account(namespace: &str, name: &str) -> Value {
    with(|claims| {
        claims["sub"] = json!(format!("system:serviceaccount:{namespace}:{name}"));
        claims["kubernetes.io"]["namespace"] = json!(namespace);
        claims["kubernetes.io"]["serviceaccount"]["name"] = json!(name);
    })
}

#[test]
fn namespace_and_name_are_such_as_kubernetes_makes() {
    let (longest_label, longest_name) = ("n".repeat(63), "s".repeat(253));
    for (namespace, name) in [
        ("apps", "reader"),
        ("a-0", "r-9.z"),
        (longest_label.as_str(), "reader"),
        ("apps", longest_name.as_str()),
    ] {
        assert!(outcome(&account(namespace, name)).is_ok(), "{namespace} {name}");
    }
    let (long_label, long_name) = ("n".repeat(64), "s".repeat(254));
    for (namespace, name) in [
        ("", "reader"),
        ("apps", ""),
        ("Apps", "reader"),
        ("apps", "Reader"),
        ("ap.ps", "reader"),
        ("apps", "rea_der"),
        ("ap ps", "reader"),
        ("apps", "rea/der"),
        (long_label.as_str(), "reader"),
        ("apps", long_name.as_str()),
    ] {
        let refused = refusal(&account(namespace, name));
        assert_eq!(refused, Some(Refusal::Subject.into()), "{namespace:?} {name:?}");
    }
}

#[test]
fn a_uid_has_a_largest_size() {
    let uid = |length: usize| {
        with(|claims| {
            claims["kubernetes.io"]["serviceaccount"]["uid"] = json!("u".repeat(length));
        })
    };
    assert!(outcome(&uid(128)).is_ok());
    assert_eq!(refusal(&uid(129)), Some(Refusal::Subject.into()));
}

#[test]
fn nothing_stands_twice_and_nothing_is_deep() {
    let text = good().to_string();
    assert!(run(text.as_bytes(), &AuthnConfig::default()).is_ok());
    let broken = [
        text.replacen('{', r#"{"exp":9999999999,"#, 1),
        text.replacen('{', r#"{"x":1,"x":2,"#, 1),
        text.replace(r#""namespace":"apps""#, r#""namespace":"apps","namespace":"apps""#),
        text.replacen('{', &format!(r#"{{"x":{}{},"#, "[".repeat(10_000), "]".repeat(10_000)), 1),
        format!("{text}{text}"),
        format!("[{text}]"),
        String::new(),
    ];
    for payload in broken {
        assert_eq!(run(payload.as_bytes(), &AuthnConfig::default()), Err(Refusal::Claims.into()));
    }
}

#[test]
fn legacy_tokens_are_refused_by_name_unless_allowed() {
    let legacy_text = legacy().to_string();
    let refused = run(legacy_text.as_bytes(), &AuthnConfig::default());
    assert_eq!(refused, Err(AuthnError::Explained(Explanation::LegacyToken)));
    let allowed = AuthnConfig { allow_legacy_tokens: true, ..AuthnConfig::default() };
    let subject = run(legacy_text.as_bytes(), &allowed).unwrap();
    assert_eq!(
        (subject.user.as_str(), subject.expires),
        ("system:serviceaccount:apps:reader", None)
    );

    // Whatever it says of itself has to be one account, and nothing of today's tokens.
    for (claim, value) in [
        ("kubernetes.io/serviceaccount/service-account.name", json!("other")),
        ("kubernetes.io/serviceaccount/service-account.name", json!(null)),
        ("kubernetes.io/serviceaccount/namespace", json!("other")),
        ("kubernetes.io/serviceaccount/namespace", json!(null)),
        ("kubernetes.io/serviceaccount/secret.name", json!("")),
        ("kubernetes.io/serviceaccount/secret.name", json!(null)),
        ("kubernetes.io", good()["kubernetes.io"].clone()),
    ] {
        let mut other = legacy();
        other[claim] = value;
        let refused = run(other.to_string().as_bytes(), &allowed);
        assert_eq!(refused, Err(Refusal::Subject.into()), "{other}");
    }
    // Allowing them does not let a token of today do without an end.
    let endless = with(|claims| {
        claims.as_object_mut().unwrap().remove("exp");
    });
    assert_eq!(run(endless.to_string().as_bytes(), &allowed), Err(Refusal::Claims.into()));
}

#[test]
fn managed_only_means_one_namespace() {
    let only = |namespace: &str| AuthnConfig {
        managed_only: Some(namespace.to_owned()),
        ..AuthnConfig::default()
    };
    let text = good().to_string();
    assert!(run(text.as_bytes(), &only("apps")).is_ok());
    let refused = run(text.as_bytes(), &only("managed"));
    assert_eq!(refused, Err(AuthnError::Explained(Explanation::NotManaged)));
}

#[test]
fn a_proof_is_for_one_audience_and_one_account() {
    let user = "system:serviceaccount:apps:reader";
    let proof = |aud: Value| with(|claims| claims["aud"] = aud).to_string();
    assert!(is_proof(proof(json!(["random"])).as_bytes(), "random", user));
    assert!(is_proof(proof(json!("random")).as_bytes(), "random", user));
    assert!(!is_proof(proof(json!("other")).as_bytes(), "random", user));
    assert!(!is_proof(proof(json!(["random", "x"])).as_bytes(), "random", user));
    assert!(!is_proof(proof(json!(["other"])).as_bytes(), "random", user));
    assert!(!is_proof(
        proof(json!(["random"])).as_bytes(),
        "random",
        "system:serviceaccount:apps:x"
    ));
}

proptest! {
    #[test]
    fn never_panics(payload in "\\PC{0,200}", exp in any::<u64>(), nbf in any::<i64>()) {
        let _ = run(payload.as_bytes(), &AuthnConfig::default());
        let _ = outcome(&with(|claims| {
            claims["exp"] = json!(exp);
            claims["nbf"] = json!(nbf);
        }));
    }
}
