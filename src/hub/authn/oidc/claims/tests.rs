use serde_json::json;

use super::super::config::Url;
use super::*;

const NOW: u64 = 1_800_000_000;

fn issuer() -> IssuerConfig {
    let url = Url::parse("https://id.example").unwrap();
    IssuerConfig::new(url, vec!["kubernetes".to_owned(), "other".to_owned()])
}

/// The claims of a good token, changed.
fn claims(changes: &Value) -> Vec<u8> {
    let mut claims = json!({
        "iss": "https://id.example", "aud": "kubernetes", "sub": "jane", "exp": NOW + 600,
        "iat": NOW, "email": "jane@example.com", "groups": ["dev", "ops"], "uid": "7",
    });
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims.as_object_mut().unwrap().retain(|_, value| *value != json!("absent"));
    claims.to_string().into_bytes()
}

fn checked(issuer: &IssuerConfig, changes: &Value) -> Result<Person, Refusal> {
    check(&claims(changes), issuer, moment(NOW))
}

fn user(issuer: &IssuerConfig, changes: &Value) -> Result<String, Refusal> {
    checked(issuer, changes).map(|person| person.user)
}

#[test]
fn the_subject_is_the_user_and_there_are_no_groups() {
    let person = checked(&issuer(), &json!({})).unwrap();
    assert_eq!(person.user, "https://id.example#jane");
    assert_eq!((person.groups.len(), person.uid), (0, None));
    assert_eq!(person.expires, moment(NOW + 601) + LEEWAY);
}

#[test]
fn tokens_of_other_issuers_audiences_and_times() {
    let refused = |changes: Value| checked(&issuer(), &changes).unwrap_err();
    for iss in ["https://id.example/", "https://ID.example", "http://id.example", "absent"] {
        let expected = if iss == "absent" { Refusal::Claims } else { Refusal::Issuer };
        assert_eq!(refused(json!({"iss": iss})), expected);
    }
    for aud in [json!("absent"), json!(""), json!("Kubernetes"), json!([]), json!(["x"]), json!({})]
    {
        assert_eq!(refused(json!({"aud": aud})), Refusal::Audience);
    }
    assert_eq!(refused(json!({"aud": vec!["kubernetes"; 65]})), Refusal::Audience);
    assert!(checked(&issuer(), &json!({"aud": ["x", "other"]})).is_ok());

    for exp in [json!("absent"), json!("never"), json!(-1), json!(null)] {
        assert_eq!(refused(json!({"exp": exp})), Refusal::Claims);
    }
    assert_eq!(refused(json!({"exp": NOW - 61})), Refusal::Expired);
    assert!(checked(&issuer(), &json!({"exp": NOW - 60})).is_ok(), "clocks differ");
    assert!(checked(&issuer(), &json!({"exp": (NOW + 5) as f64 + 0.5})).is_ok());
    assert!(checked(&issuer(), &json!({"exp": 1e300})).is_ok(), "far away, and nothing overflows");
    for claim in ["nbf", "iat"] {
        assert_eq!(refused(json!({claim: NOW + 61})), Refusal::NotYetValid);
        assert!(checked(&issuer(), &json!({claim: NOW + 60})).is_ok());
    }
    let twice = br#"{"iss":"https://id.example","iss":"https://id.example"}"#;
    assert_eq!(check(twice, &issuer(), moment(NOW)), Err(Refusal::Claims));
}

#[test]
fn addresses_are_believed_unless_they_are_denied() {
    let by_email = |prefix| {
        let mut issuer = issuer();
        issuer.username = ClaimMapping::username("email", prefix, &issuer.url);
        issuer
    };
    let plain = by_email(None);
    assert_eq!(user(&plain, &json!({})).unwrap(), "jane@example.com");
    assert_eq!(user(&plain, &json!({"email_verified": true})).unwrap(), "jane@example.com");
    for denied in [json!(false), json!("true"), json!(null), json!(1)] {
        assert_eq!(user(&plain, &json!({"email_verified": denied})), Err(Refusal::Subject));
    }
    assert!(user(&issuer(), &json!({"email_verified": false})).is_ok(), "of no use here");
    assert_eq!(user(&by_email(Some("oidc:")), &json!({})).unwrap(), "oidc:jane@example.com");
    for bad in [json!("absent"), json!(""), json!(7), json!(["jane"])] {
        assert_eq!(user(&plain, &json!({"email": bad})), Err(Refusal::Claims));
    }
}

#[test]
fn groups_are_a_name_or_a_list_of_names() {
    let mut issuer = issuer();
    issuer.groups = Some(ClaimMapping { claim: "groups".to_owned(), prefix: "oidc:".to_owned() });
    issuer.uid = Some("uid".to_owned());
    let groups = |changes| checked(&issuer, &changes).map(|person| person.groups);
    assert_eq!(groups(json!({})).unwrap(), ["oidc:dev", "oidc:ops"]);
    assert_eq!(groups(json!({"groups": "dev"})).unwrap(), ["oidc:dev"]);
    for none in [json!("absent"), json!([]), json!(null)] {
        assert!(groups(json!({"groups": none})).unwrap().is_empty());
    }
    for bad in [json!(["dev", 7]), json!(["dev", ""]), json!({"dev": true}), json!(7), json!("")] {
        assert_eq!(groups(json!({"groups": bad})), Err(Refusal::Claims), "{bad}");
    }
    assert_eq!(checked(&issuer, &json!({})).unwrap().uid.as_deref(), Some("7"));
    assert_eq!(checked(&issuer, &json!({"uid": "absent"})), Err(Refusal::Claims));
    let many = json!({"groups": vec!["g".repeat(60); 1_000]});
    assert!(groups(many).is_ok());
    assert_eq!(groups(json!({"groups": vec!["g".repeat(60); 1_100]})), Err(Refusal::Claims));
}

#[test]
fn names_of_kubernetes_are_nobodys() {
    let mut issuer = issuer();
    issuer.username.prefix = String::new();
    issuer.groups = Some(ClaimMapping { claim: "groups".to_owned(), prefix: String::new() });
    let admin = json!({"sub": "system:admin"});
    let masters = json!({"groups": ["dev", "system:masters"]});
    assert_eq!(user(&issuer, &admin), Err(Refusal::Subject));
    assert_eq!(user(&issuer, &masters), Err(Refusal::Subject));
    assert!(user(&issuer, &json!({"sub": "systems"})).is_ok());

    issuer.reserved = vec!["root".to_owned()];
    assert!(user(&issuer, &admin).is_ok(), "the operator's list replaces ours");
    assert_eq!(user(&issuer, &json!({"sub": "root:x"})), Err(Refusal::Subject));
    issuer.reserved.clear();
    assert!(user(&issuer, &masters).is_ok());
    // What counts is the name that the spoke sees.
    issuer.reserved = vec!["system:".to_owned()];
    issuer.username.prefix = "sys".to_owned();
    assert_eq!(user(&issuer, &json!({"sub": "tem:admin"})), Err(Refusal::Subject));
}

#[test]
fn required_claims_have_exactly_their_value() {
    let mut issuer = issuer();
    issuer.required = vec![("hd".to_owned(), "example.com".to_owned())];
    assert!(user(&issuer, &json!({"hd": "example.com"})).is_ok());
    for bad in [json!("absent"), json!("example.org"), json!(["example.com"]), json!("Example.com")]
    {
        assert_eq!(user(&issuer, &json!({"hd": bad})), Err(Refusal::RequiredClaim));
    }
}
