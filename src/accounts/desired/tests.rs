use proptest::prelude::*;

use super::super::testing::{account, at, reported, token as signed};
use super::*;

const SUBJECT: &str = "system:serviceaccount:managed:a";

fn authorities() -> Authorities {
    Authorities { spoke: "spoke".to_owned(), proxy: "proxy".to_owned() }
}

fn wanted() -> Wanted {
    Wanted { seconds: 1000, audiences: vec![] }
}

/// An account whose good token lives from 0 to 1000, and its Secret.
fn good() -> (ManagedServiceAccount, Secret) {
    let account = reported(account("c1", "a"), 0, 1000);
    let secret = secret(&account, &signed(SUBJECT, "u", 0, 1000), &wanted(), &authorities());
    (account, secret)
}

fn decide(account: &ManagedServiceAccount, secret: Option<&Secret>, now: i64) -> Decision {
    refresh(account, super::reported(account), secret, &wanted(), SUBJECT, Some("u"), at(now))
}

fn with_token(mut secret: Secret, token: &str) -> Secret {
    let data = secret.data.as_mut().unwrap();
    data.insert(TOKEN.to_owned(), ByteString(token.as_bytes().to_vec()));
    secret
}

#[test]
fn each_reason_is_one_difference_from_a_good_token() {
    let (account, secret) = good();
    let Decision::Keep(until) = decide(&account, Some(&secret), 1) else { panic!("not kept") };
    assert!(until >= at(750) && until <= at(800), "{until}");
    assert_eq!(decide(&account, Some(&secret), until.as_second() + 1), Decision::Mint(Why::Due));

    let without = |change: fn(&mut super::super::api::ManagedServiceAccountStatus)| {
        let mut account = account.clone();
        change(account.status.as_mut().unwrap());
        decide(&account, Some(&secret), 1)
    };
    assert_eq!(without(|status| status.token_secret_ref = None), Decision::Mint(Why::Unreported));
    assert_eq!(
        without(|status| status.expiration_timestamp = None),
        Decision::Mint(Why::Unreported)
    );
    assert_eq!(
        without(|status| status.expiration_timestamp = Some("never".into())),
        Decision::Mint(Why::Unreported)
    );

    let of = |token: &str| decide(&account, Some(&with_token(secret.clone(), token)), 1);
    assert_eq!(of("opaque"), Decision::Mint(Why::Malformed));
    assert_eq!(of(&signed("somebody", "u", 0, 1000)), Decision::Mint(Why::Foreign));
    assert_eq!(of(&signed(SUBJECT, "before", 0, 1000)), Decision::Mint(Why::Foreign));
    assert!(matches!(of(&signed(SUBJECT, "u", 0, 1000)), Decision::Keep(_)));
    assert_eq!(of(&signed(SUBJECT, "u", 0, 1)), Decision::Mint(Why::Due), "it ends earlier");

    assert_eq!(decide(&account, None, 1), Decision::Mint(Why::Missing));
    let mut empty = secret.clone();
    empty.data = None;
    assert_eq!(decide(&account, Some(&empty), 1), Decision::Mint(Why::Missing));
}

#[test]
fn a_changed_wish_is_a_new_token_and_a_secret_of_upstream_is_not() {
    let (account, mut secret) = good();
    let audience = Wanted { audiences: vec!["vault".into()], ..wanted() };
    let shorter = Wanted { seconds: 700, ..wanted() };
    let with = |secret: &Secret, wanted: &Wanted| {
        refresh(&account, super::reported(&account), Some(secret), wanted, SUBJECT, None, at(1))
    };
    for other in [&audience, &shorter] {
        assert_eq!(with(&secret, other), Decision::Mint(Why::Changed));
    }
    secret.metadata.annotations = None;
    assert_eq!(with(&secret, &audience), Decision::Mint(Why::Changed));
    assert!(matches!(with(&secret, &shorter), Decision::Keep(_)), "upstream does not say");
}

#[test]
fn a_status_of_the_future_does_not_postpone() {
    let (account, secret) = good();
    let account = reported(account, 900, 1_000_000);
    assert_eq!(decide(&account, Some(&secret), 801), Decision::Mint(Why::Due));
}

#[test]
fn usable_is_what_has_not_ended() {
    let (_, secret) = good();
    assert!(is_usable(Some(&secret), at(999)) && !is_usable(Some(&secret), at(1000)));
    assert!(!is_usable(None, at(0)) && !is_usable(Some(&with_token(secret, "x")), at(0)));
}

#[test]
fn a_secret_is_as_upstream_has_it() {
    let (account, secret) = good();
    let value = serde_json::to_value(&secret).unwrap();
    assert_eq!(value["type"], "Opaque");
    assert_eq!(value["metadata"]["labels"][MANAGED], "true");
    let owner = &value["metadata"]["ownerReferences"][0];
    assert_eq!(owner["kind"], "ManagedServiceAccount");
    assert_eq!(owner["uid"], account.uid().unwrap());
    assert_eq!(owner.get("controller"), None);
    let keys: Vec<_> = secret.data.as_ref().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, [SPOKE_CA, PROXY_CA, TOKEN]);
}

#[test]
fn what_others_add_is_no_difference_and_what_they_change_is() {
    let (_, wanted) = good();
    let mut more = wanted.clone();
    more.labels_mut().insert("team".into(), "a".into());
    more.data.as_mut().unwrap().insert("theirs".into(), ByteString(vec![1]));
    assert!(is_as(&more, &wanted));
    let changes: [fn(&mut Secret); 6] = [
        |secret| secret.type_ = Some("kubernetes.io/tls".to_owned()),
        |secret| drop(secret.labels_mut().remove(MANAGED)),
        |secret| drop(secret.annotations_mut().remove(REQUESTED)),
        |secret| secret.metadata.owner_references = None,
        |secret| drop(secret.data.as_mut().unwrap().remove(PROXY_CA)),
        |secret| drop(secret.data.take()),
    ];
    for change in changes {
        let mut changed = wanted.clone();
        change(&mut changed);
        assert!(!is_as(&changed, &wanted));
    }
}

#[test]
fn a_secret_is_managed_by_its_label_or_its_owner() {
    let (_, mut secret) = good();
    secret.metadata.labels = None;
    assert!(is_managed(&secret), "by its owner");
    secret.metadata.owner_references.as_mut().unwrap()[0].name = "other".to_owned();
    assert!(!is_managed(&secret));
    secret.labels_mut().insert(MANAGED.into(), "true".into());
    assert!(is_managed(&secret), "by its label");
    secret.labels_mut().insert(MANAGED.into(), "false".into());
    assert!(!is_managed(&secret));
}

#[test]
fn a_limited_life_ends() {
    let mut account = account("c1", "a");
    assert_eq!(end(&account), None);
    account.spec.ttl_seconds_after_creation = Some(60);
    assert_eq!(end(&account), Some(at(60)));
    account.spec.ttl_seconds_after_creation = Some(i64::MAX);
    assert_eq!(end(&account), None, "beyond all time");
}

proptest! {
    #[test]
    fn a_token_is_renewed_after_three_quarters_and_before_four_fifths(
        start in 0i64..4_000_000_000,
        life in 600i64..400_000_000,
    ) {
        let account = reported(account("c1", "a"), start, start + life);
        let secret = secret(
            &account,
            &signed(SUBJECT, "u", start, start + life),
            &wanted(),
            &authorities(),
        );
        let Decision::Keep(until) = decide(&account, Some(&secret), start) else {
            panic!("not kept");
        };
        let share = until.duration_since(at(start)).as_secs_f64() / life as f64;
        prop_assert!((0.7499..=0.8001).contains(&share), "{share}");
        prop_assert_eq!(decide(&account, Some(&secret), start), Decision::Keep(until), "steady");
    }

    #[test]
    fn any_times_are_decided(refreshed: i64, expires: i64, issued: i64, ends: i64, now: i64) {
        let bound = |second: i64| second % 200_000_000_000;
        let account = reported(account("c1", "a"), bound(refreshed), bound(expires));
        let token = signed(SUBJECT, "u", issued, ends);
        let secret = secret(&account, &token, &wanted(), &authorities());
        let decision = decide(&account, Some(&secret), bound(now));
        if let Decision::Keep(until) = decision {
            prop_assert!(until > at(bound(now)) && until <= at(ends));
        }
    }
}
