use proptest::prelude::*;

use super::*;
use crate::kubernetes::{Context, ContextUser, kubeconfig};

/// A file of ours for clusters of a hub, which is `hub`.
fn ours(hub: &str, clusters: &[&str], token: Option<&str>) -> String {
    let context = |name: &&str| Context {
        name: (*name).to_owned(),
        server: format!("https://{hub}:9092/{name}"),
        ca_pem: format!("CA of {hub}").into_bytes(),
        user: match token {
            Some(token) => ContextUser::Token(token.to_owned().into()),
            None => ContextUser::Plugin {
                cluster: name.parse().unwrap(),
                command: "/bin/cluster-proxy".to_owned(),
                args: vec!["credential".to_owned()],
            },
        },
    };
    kubeconfig(&clusters.iter().map(context).collect::<Vec<_>>()).to_string()
}

fn read(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}

fn merged(file: &str, ours: &str) -> Value {
    read(&merge(file, ours, None, false).unwrap().text.unwrap())
}

/// As people have them: quoting, flow style, a comment, fields of other programs.
const THEIRS: &str = "\
# by hand
apiVersion: v1
kind: Config
current-context: mine
preferences: {colors: true}
clusters:
- name: mine
  cluster: {server: 'https://127.0.0.1:6443', certificate-authority: pki/ca.crt, proxy-url: socks5://p}
contexts:
- name: mine
  context: {cluster: mine, user: 'me', namespace: \"0x10\"}
users:
- name: me
  user: {token: '1e3', as-user-extra: {a: [b]}}
x-of-another-program: [1, 1.5, null, {deep: 'no'}]
";

#[test]
fn what_was_there_stays_and_ours_comes() {
    let new = ours("hub", &["c1", "c2"], None);
    let after = merged(THEIRS, &new);
    let before = read(THEIRS);
    for field in ["current-context", "preferences", "x-of-another-program", "kind", "apiVersion"] {
        assert_eq!(after[field], before[field], "{field}");
    }
    for list in ["clusters", "contexts", "users"] {
        assert_eq!(after[list][0], before[list][0], "{list}");
        assert_eq!(after[list].as_array().unwrap()[1..], *read(&new)[list].as_array().unwrap());
    }
    assert_eq!(after["users"][0]["user"]["token"], "1e3");
}

#[test]
fn a_file_of_nothing_becomes_ours() {
    let new = ours("hub", &["c1"], Some("t"));
    for empty in ["", "\n", "---\n", "null\n", "# a comment\n"] {
        assert_eq!(merged(empty, &new), read(&new), "{empty:?}");
    }
    let lists = merged("clusters: null\nusers: []\n", &new);
    assert_eq!(lists["clusters"], read(&new)["clusters"]);
    assert_eq!(lists["current-context"], Value::Null, "nobody asked for another");
}

#[test]
fn a_second_time_only_what_is_new_changes() {
    let (old, new) = (ours("hub", &["c1"], Some("old")), ours("hub", &["c1"], Some("new")));
    let mut file = merged(THEIRS, &old);
    file["clusters"][1]["cluster"]["tls-server-name"] = "kept".into();
    file["contexts"][1]["context"]["namespace"] = "kept".into();
    file["users"][1]["user"]["extensions"] = json!([{"name": "kept", "extension": null}]);
    let text = serde_saphyr::to_string(&file).unwrap();
    assert_eq!(merge(&text, &old, None, false), Ok(Merged::default()));
    file["users"][1]["user"]["token"] = "new".into();
    let next = merge(&text, &new, None, false).unwrap();
    assert_eq!((next.added, next.changed), (0, 1));
    assert_eq!(read(next.text.as_deref().unwrap()), file);
}

#[test]
fn one_credential_takes_the_place_of_another() {
    let (token, plugin) = (ours("hub", &["c1"], Some("t")), ours("hub", &["c1"], None));
    let mut file = read(&plugin);
    file["users"][0]["user"]["exec"]["env"] = json!([{"name": "A", "value": "b"}]);
    file["users"][0]["user"]["client-key"] = "k".into();
    file["clusters"][0]["cluster"]["insecure-skip-tls-verify"] = true.into();
    let other = json!({"name": "other", "extension": {}});
    file["clusters"][0]["cluster"]["extensions"].as_array_mut().unwrap().insert(0, other.clone());
    let text = serde_saphyr::to_string(&file).unwrap();
    let same = merged(&text, &plugin);
    assert_eq!(same["users"][0]["user"]["exec"]["env"][0]["name"], "A");
    assert_eq!(same["users"][0]["user"].as_object().unwrap().len(), 1);
    assert_eq!(same["clusters"][0]["cluster"]["insecure-skip-tls-verify"], Value::Null);
    assert_eq!(same["clusters"][0]["cluster"]["extensions"][0], other);
    assert_eq!(same["clusters"][0]["cluster"]["extensions"].as_array().unwrap().len(), 2);
    assert_eq!(merged(&text, &token)["users"][0]["user"], json!({"token": "t"}));
}

#[test]
fn names_that_lead_elsewhere_are_taken() {
    let new = ours("hub", &["mine", "c1", "me"], Some("t"));
    let taken = MergeError::Taken(vec!["mine".to_owned(), "me".to_owned()]);
    assert_eq!(merge(THEIRS, &new, None, false), Err(taken));
    let forced = merge(THEIRS, &new, None, true).unwrap();
    assert_eq!(read(forced.text.as_deref().unwrap())["users"][0]["user"]["token"], "t");
    assert_eq!((forced.added, forced.changed), (1, 2));
    // Another hub's cluster of the same name.
    let file =
        merge(THEIRS, &ours("hub-1", &["c1"], Some("t")), None, false).unwrap().text.unwrap();
    let other = ours("hub-2", &["c1"], Some("t"));
    assert_eq!(merge(&file, &other, None, false), Err(MergeError::Taken(vec!["c1".to_owned()])));
}

#[test]
fn the_way_to_the_hub_is_not_replaced() {
    let hub = MergeError::HubItself("mine".to_owned());
    for name in ["mine", "me"] {
        let new = ours("hub", &[name], Some("t"));
        assert_eq!(merge(THEIRS, &new, Some("mine"), true).as_ref(), Err(&hub), "{name}");
        assert!(merge(THEIRS, &new, None, true).is_ok());
    }
    assert!(merge(THEIRS, &ours("hub", &["c1"], None), Some("mine"), false).is_ok());
}

#[test]
fn what_is_no_kubeconfig_is_left_alone() {
    let new = ours("hub", &["c1"], Some("t"));
    for bad in [
        "token: [hunter2",
        "hunter2",
        "- a",
        "kind: Secret",
        "clusters: {}",
        "a: 1\n---\nb: 2\n",
        "a: 1\na: 2\n",
        "users: [{name: c1, user: hunter2}]",
        "contexts: [{name: c1}, {name: c1}]",
    ] {
        let error = merge(bad, &new, None, true).unwrap_err().to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }
    assert!(merge("users: [{name: c2, user: odd}, 7]", &new, None, true).is_ok(), "not ours");
}

/// Values as they may stand in a file, with texts that YAML could take for something else.
fn value() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        "[ -~]{0,12}",
        "[a-z]{1,6}\n[ -~]{0,6}",
        Just("no".to_owned()),
        Just("~".to_owned()),
        Just("0o17".to_owned()),
        Just("1_000".to_owned()),
        Just("2026-01-01".to_owned()),
        Just("<<".to_owned()),
        Just("\u{e9}\u{2028}\t".to_owned()),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        text.prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z-]{1,8}", inner, 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// A kubeconfig with entries named as ours and otherwise.
fn file() -> impl Strategy<Value = Value> {
    let entries = |body: &'static str| {
        let one =
            prop::collection::btree_map("[a-z]{1,8}|server|token|cluster|user", value(), 0..4);
        prop::collection::btree_map("c[1-4]", one, 0..4).prop_map(move |entries| {
            let entry = |(name, fields)| json!({"name": name, body: fields, "beside": 1});
            Value::Array(entries.into_iter().map(entry).collect())
        })
    };
    let lists = (entries("cluster"), entries("user"), entries("context"));
    (lists, "[a-z0-9]{0,4}", value()).prop_map(|((clusters, users, contexts), current, other)| {
        json!({"apiVersion": "v1", "kind": "Config", "current-context": current, "other": other,
            "clusters": clusters, "users": users, "contexts": contexts})
    })
}

proptest! {
    #[test]
    fn nothing_of_others_is_lost_and_twice_is_once(before in file(), force: bool, token: bool) {
        let new = ours("hub", &["c1", "c2"], token.then_some("t"));
        let text = serde_saphyr::to_string(&before).unwrap();
        prop_assert_eq!(&read(&text), &before, "what is written is what is read");
        let Ok(first) = merge(&text, &new, None, force) else {
            prop_assert!(!force, "only names keep ours out");
            return Ok(());
        };
        let after_text = first.text.unwrap_or(text);
        let after = read(&after_text);
        for (field, value) in before.as_object().unwrap() {
            let others = |list: &Value| -> Option<Vec<Value>> {
                let ours = |entry: &&Value| entry["name"] == "c1" || entry["name"] == "c2";
                Some(list.as_array()?.iter().filter(|entry| !ours(entry)).cloned().collect())
            };
            match field.as_str() {
                "clusters" | "users" | "contexts" => {
                    prop_assert_eq!(others(value), others(&after[field]), "{}", field);
                }
                _ => prop_assert_eq!(value, &after[field], "{}", field),
            }
        }
        for name in ["c1", "c2"] {
            let of = |list: &str| after[list].as_array().unwrap().iter().find(|one| one["name"] == name);
            let server = format!("https://hub:9092/{name}");
            prop_assert_eq!(&of("clusters").unwrap()["cluster"]["server"], &server);
            prop_assert_eq!(&of("contexts").unwrap()["context"]["user"], name);
        }
        let again = merge(&after_text, &new, None, force);
        prop_assert_eq!(again, Ok(Merged::default()), "twice is once");
        let other = merge(&after_text, &ours("hub", &["c1", "c2"], Some("t2")), None, false).unwrap();
        prop_assert_eq!((other.added, other.changed), (0, 2), "a new token needs no force");
    }
}
