use k8s_openapi::ByteString;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use proptest::prelude::*;

use super::super::testing::{account, at};
use super::*;

/// Where all clusters are enrolled.
fn plan(
    sources: &[Source],
    profiles: &[Profile],
    copies: &[Arc<Secret>],
    is_others: impl Fn(&str) -> bool,
) -> Plan {
    super::plan(sources, profiles, copies, is_others, |_| true)
}

/// An account that asks for copies, made at `created`.
fn source(cluster: &str, name: &str, created: i64) -> Source {
    let mut account = account(cluster, name);
    account.metadata.creation_timestamp = Some(Time(at(created)));
    account.labels_mut().insert(SYNC.to_owned(), "true".to_owned());
    let data = [("token".to_owned(), ByteString(format!("token of {name}").into_bytes()))];
    let secret = Secret { data: Some(data.into()), ..Secret::default() };
    Source::of(&account, Some(Arc::new(secret))).unwrap()
}

fn profile(namespace: &str, cluster: &str) -> Profile {
    Profile {
        api_version: "multicluster.x-k8s.io/v1alpha1".to_owned(),
        namespace: namespace.to_owned(),
        name: format!("profile-of-{cluster}"),
        uid: format!("uid-{namespace}-{cluster}"),
        cluster: cluster.to_owned(),
    }
}

fn none(_: &str) -> bool {
    false
}

/// What is there after a plan was carried out.
fn after(mut copies: Vec<Arc<Secret>>, plan: Plan) -> Vec<Arc<Secret>> {
    let gone: Vec<_> = plan.delete.iter().map(|copy| place(copy)).collect();
    copies.retain(|copy| !gone.contains(&place(copy)));
    for new in plan.create.into_iter().chain(plan.replace) {
        copies.retain(|copy| place(copy) != place(&new));
        copies.push(Arc::new(new));
    }
    copies
}

fn is_idle(plan: &Plan) -> bool {
    plan.create.is_empty() && plan.replace.is_empty() && plan.delete.is_empty()
}

#[test]
fn a_copy_is_as_consumers_look_for_it() {
    let plan = plan(&[source("c1", "app", 0)], &[profile("ns", "c1")], &[], none);
    let copy = serde_json::to_value(&plan.create[0]).unwrap();
    assert_eq!(copy["metadata"]["name"], "c1-app");
    assert_eq!(copy["metadata"]["labels"][SYNCED_FROM], "c1-app");
    assert_eq!(copy["metadata"]["ownerReferences"][0]["controller"], true);
    assert_eq!(copy["metadata"]["ownerReferences"][0]["name"], "profile-of-c1");
    assert_eq!(copy["type"], "Opaque");
    assert_eq!(copy["data"]["token"], "dG9rZW4gb2YgYXBw");
}

#[test]
fn long_names_get_a_label_all_the_same() {
    let source = source("c1", &"x".repeat(100), 0);
    let long = plan(std::slice::from_ref(&source), &[profile("ns", "c1")], &[], none);
    let labels = long.create[0].labels();
    assert_eq!(labels[SYNCED_FROM].len(), 63);
    assert!(labels[SYNCED_FROM].bytes().all(|byte| byte.is_ascii_hexdigit()));
    let source = self::source("c1", &"x".repeat(253), 0);
    let longest = plan(std::slice::from_ref(&source), &[profile("ns", "c1")], &[], none);
    assert!(longest.create.is_empty() && longest.refused.contains_key(&source.key()));
}

#[test]
fn only_asked_for_and_only_where() {
    let mut account = account("c1", "a");
    assert!(Source::of(&account, None).is_none(), "no label");
    account.labels_mut().insert(SYNC.to_owned(), "yes".to_owned());
    assert!(Source::of(&account, None).is_none(), "another value");
    account.labels_mut().insert(SYNC.to_owned(), "true".to_owned());
    account.annotations_mut().insert(NAMESPACES.to_owned(), "b, c".to_owned());
    let mut source = Source::of(&account, None).unwrap();
    source.secret = self::source("c1", "a", 0).secret;
    let profiles = ["a", "b", "c"].map(|namespace| profile(namespace, "c1"));
    let there = plan(&[source], &profiles, &[], none);
    let namespaces: Vec<_> = there.create.iter().filter_map(ResourceExt::namespace).collect();
    assert_eq!(namespaces, ["b", "c"]);
}

#[test]
fn of_two_accounts_with_one_name_the_first_has_it() {
    let (early, late) = (source("a-b", "c", 1), source("a", "b-c", 2));
    let profiles = [profile("ns", "a-b"), profile("ns", "a")];
    let first = plan(&[late.clone(), early.clone()], &profiles, &[], none);
    assert_eq!(first.create[0].annotations()[COPIED_FROM], "a-b/c");
    assert_eq!(first.refused[&late.key()], "the Secret ns/a-b-c is the copy of a-b/c");
    // Who has it keeps it, even from one that is older.
    let copies = after(vec![], plan(std::slice::from_ref(&late), &profiles, &[], none));
    let second = plan(&[late.clone(), early.clone()], &profiles, &copies, none);
    assert!(is_idle(&second) && second.refused.contains_key(&early.key()));
    // And leaves it to the other when it goes.
    let third = plan(std::slice::from_ref(&early), &profiles, &copies, none);
    assert_eq!(third.replace[0].annotations()[COPIED_FROM], "a-b/c");
    assert!(third.refused.is_empty());
}

#[test]
fn what_is_not_wanted_goes_and_what_is_others_stays() {
    let (source, profiles) = (source("c1", "a", 0), [profile("ns", "c1")]);
    let copies = after(vec![], plan(std::slice::from_ref(&source), &profiles, &[], none));
    assert_eq!(plan(&[], &profiles, &copies, none).delete.len(), 1, "the account is gone");
    let there = std::slice::from_ref(&source);
    assert_eq!(plan(there, &[], &copies, none).delete.len(), 1, "the profile is gone");
    assert!(is_idle(&plan(&[], &[], &copies, |cluster| cluster == "c1")), "others serve it");
    let mut theirs = Secret::clone(&copies[0]);
    theirs.metadata.annotations = None;
    let theirs = [Arc::new(theirs)];
    assert!(is_idle(&plan(&[], &[], &theirs, none)), "upstream's copy");
    assert_eq!(plan(there, &profiles, &theirs, none).replace.len(), 1, "taken over");
    let mut waiting = source.clone();
    waiting.secret = None;
    assert!(is_idle(&plan(&[waiting], &profiles, &copies, none)), "the Secret comes back");
}

#[test]
fn an_edited_copy_is_mended_and_what_others_added_to_it_stays() {
    let (source, profiles) = (source("c1", "a", 0), [profile("ns", "c1")]);
    let sources = std::slice::from_ref(&source);
    let copies = after(vec![], plan(sources, &profiles, &[], none));
    assert!(is_idle(&plan(sources, &profiles, &copies, none)));
    let mut edited = Secret::clone(&copies[0]);
    edited.data.as_mut().unwrap().insert("more".into(), ByteString(vec![]));
    edited.labels_mut().insert("team".into(), "x".into());
    edited.metadata.resource_version = Some("7".into());
    let mended = plan(sources, &profiles, &[Arc::new(edited)], none);
    let mended = &mended.replace[0];
    assert_eq!(mended.data, copies[0].data);
    assert_eq!(mended.labels()["team"], "x");
    assert_eq!(mended.resource_version().as_deref(), Some("7"), "or a conflict");
}

proptest! {
    /// Whatever there is: carried out once, there is nothing more to do, nobody has the copy of
    /// somebody else, and who has none is told so.
    #[test]
    fn one_round_is_enough(
        names in prop::collection::btree_set(("[ab](-[ab])?", "[ab](-[ab])?"), 0..8),
        places in prop::collection::btree_set(("[xy]", "[ab](-[ab])?"), 0..8),
        before in prop::collection::btree_set(("[ab](-[ab])?", "[ab](-[ab])?"), 0..8),
    ) {
        let make = |names: &BTreeSet<(String, String)>| -> Vec<Source> {
            let indexed = names.iter().enumerate();
            indexed.map(|(at, (cluster, name))| source(cluster, name, at as i64)).collect()
        };
        let profiles: Vec<_> =
            places.iter().map(|(namespace, cluster)| profile(namespace, cluster)).collect();
        let copies = after(vec![], plan(&make(&before), &profiles, &[], none));
        let sources = make(&names);
        let copies = after(copies.clone(), plan(&sources, &profiles, &copies, none));
        let again = plan(&sources, &profiles, &copies, none);
        prop_assert!(is_idle(&again));
        for source in &sources {
            for profile in profiles.iter().filter(|profile| profile.cluster == source.cluster) {
                let place = (profile.namespace.clone(), source.copy_name());
                let copy = copies.iter().find(|copy| super::place(copy) == place).unwrap();
                let has_it = copy.annotations()[COPIED_FROM] == source.path();
                prop_assert!(has_it || again.refused.contains_key(&source.key()));
                let data = &source.secret.as_ref().unwrap().data;
                prop_assert!(!has_it || copy.data == *data);
            }
        }
    }
}
