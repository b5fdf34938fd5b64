use http::Method;
use http::uri::PathAndQuery;
use proptest::prelude::*;

use super::*;
use crate::hub::policy::request::Request;

const DEPLOYER: &str = "cluster:hub:system:serviceaccount:ops:deployer";

fn policy(rules: &str) -> Policy {
    Policy::parse([("", &*format!("rules:\n{rules}"))]).unwrap()
}

/// Asks with a line `CLUSTER METHOD TARGET`.
fn ask(policy: &Policy, user: &str, groups: &[&str], line: &str) -> bool {
    let words: Vec<&str> = line.split(' ').collect();
    let cluster = ClusterName::parse(words[0]).unwrap();
    let (method, target): (Method, PathAndQuery) =
        (words[1].parse().unwrap(), words[2].parse().unwrap());
    let groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
    policy.allows(user, &groups, &cluster, Request::new(&method, &target).wanted())
}

#[test]
fn nobody_may_what_no_rule_allows() {
    assert!(!ask(&Policy::default(), DEPLOYER, &[], "c1 GET /version"));
    let policy = policy(
        "- users: ['cluster:hub:system:serviceaccount:ops:deployer']
  clusters: [c1, 'edge-*']
- groups: ['cluster:hub:system:serviceaccounts:ci*']
  clusters: ['*']
  verbs: [get]
",
    );
    for line in ["c1 GET /version", "edge-7 POST /api/v1/namespaces", "edge-a DELETE /x"] {
        assert!(ask(&policy, DEPLOYER, &[], line), "{line}");
    }
    for line in ["c2 GET /version", "c11 GET /version", "edge GET /version"] {
        assert!(!ask(&policy, DEPLOYER, &[], line), "{line}");
    }
    assert!(!ask(&policy, "cluster:hub:system:serviceaccount:ops:deployer2", &[], "c1 GET /x"));
    let ci = "cluster:hub:system:serviceaccounts:ci-7";
    assert!(ask(&policy, "x", &["y", ci], "c9 GET /api/v1/nodes/n"));
    assert!(!ask(&policy, "x", &["y", ci], "c9 GET /api/v1/nodes"), "a list is no get");
    assert!(!ask(&policy, ci, &["y"], "c9 GET /api/v1/nodes/n"), "a user is no group");
    assert!(!ask(&policy, "x", &["cluster:hub:system:serviceaccounts:c"], "c9 GET /version"));
}

#[test]
fn resources_namespaces_and_paths_as_in_rbac() {
    let everywhere = |rule: &str| policy(&format!("- users: ['*']\n  clusters: ['*']\n{rule}"));
    let reader = everywhere(
        "  verbs: [get, list]
  apiGroups: ['', apps]
  resources: [pods, pods/log, '*/scale']
  namespaces: [team-*, shared]
",
    );
    for (allowed, line) in [
        (true, "c1 GET /api/v1/namespaces/team-a/pods"),
        (true, "c1 GET /api/v1/namespaces/shared/pods/p/log"),
        (true, "c1 GET /apis/apps/v1/namespaces/shared/deployments/d/scale"),
        (false, "c1 GET /apis/apps/v1/namespaces/shared/deployments/d"),
        (false, "c1 GET /apis/batch/v1/namespaces/shared/pods"),
        (false, "c1 GET /api/v1/namespaces/shared/pods/p/exec"),
        (false, "c1 GET /api/v1/namespaces/shared/pods?watch=1"),
        (false, "c1 POST /api/v1/namespaces/shared/pods"),
        (false, "c1 GET /api/v1/namespaces/other/pods"),
        (false, "c1 GET /api/v1/pods"),
        (false, "c1 GET /version"),
        (false, "c1 GET /api/v1/watch"),
    ] {
        assert_eq!(ask(&reader, "u", &[], line), allowed, "{line}");
    }
    let paths = everywhere("  nonResourceURLs: [/version, '/api*']\n  verbs: [get]\n");
    for (allowed, line) in [
        (true, "c1 GET /version"),
        (true, "c1 GET /apis/apps/v1"),
        (false, "c1 POST /version"),
        (false, "c1 GET /versions"),
        (false, "c1 GET /api/v1/pods"),
    ] {
        assert_eq!(ask(&paths, "u", &[], line), allowed, "{line}");
    }
    let anything = everywhere("  verbs: ['*']\n  resources: ['*']\n");
    assert!(ask(&anything, "u", &[], "c1 POST /api/v1/namespaces/a/pods/p/exec"));
    assert!(!ask(&anything, "u", &[], "c1 GET /version"));
}

#[test]
fn a_rule_may_be_about_some_objects() {
    let some = policy(
        "- users: ['*']
  clusters: ['*']
  resources: [services/proxy-service, pods]
  resourceNames: [web, 'api-*']
",
    );
    for (allowed, line) in [
        (true, "c1 GET /api/v1/namespaces/a/services/web/proxy-service"),
        (true, "c1 GET /api/v1/namespaces/a/pods/api-1"),
        (false, "c1 GET /api/v1/namespaces/a/services/web2/proxy-service"),
        (false, "c1 GET /api/v1/namespaces/a/services/web"),
        (false, "c1 GET /api/v1/namespaces/a/pods"),
        (false, "c1 POST /api/v1/namespaces/a/pods"),
    ] {
        assert_eq!(ask(&some, "u", &[], line), allowed, "{line}");
    }
    let any = policy("- {users: ['*'], clusters: ['*'], resourceNames: ['*']}\n");
    assert!(ask(&any, "u", &[], "c1 GET /api/v1/namespaces/a/pods/p"));
    assert!(!ask(&any, "u", &[], "c1 GET /api/v1/namespaces/a/pods"), "a list names none");
    assert!(!ask(&any, "u", &[], "c1 GET /version"), "it is about objects");
}

#[test]
fn what_is_wrong_is_said_with_the_number_of_the_rule() {
    let good = "- {users: [a], clusters: [c1]}\n";
    for (rule, why) in [
        ("{clusters: [c1]}", "neither users nor groups"),
        ("{users: [a]}", "names no clusters"),
        ("{users: [''], clusters: [c1]}", "users: \"\" is neither"),
        ("{users: ['a*b'], clusters: [c1]}", "users: \"a*b\" is neither"),
        ("{users: ['a**'], clusters: [c1]}", "users: \"a**\" is neither"),
        ("{users: ['system:serviceaccount:a:b'], clusters: [c1]}", "begins with cluster:hub:"),
        ("{groups: ['system:*'], clusters: [c1]}", "begins with cluster:hub:"),
        ("{users: [a], clusters: [C1]}", "clusters: "),
        ("{users: [a], clusters: [c1], verbs: [GET]}", "verbs: \"GET\" is no verb"),
        ("{users: [a], clusters: [c1], nonResourceURLs: [version]}", "does not begin with"),
    ] {
        let error = Policy::parse([("", &*format!("rules:\n{good}- {rule}\n"))]);
        let error = error.unwrap_err().to_string();
        assert!(error.starts_with("rule 2: ") && error.contains(why), "{rule}: {error}");
    }
    for text in [
        "",
        "rules: {}",
        "rule: []",
        "rules: [{users: [a], clusters: [c1], resourceName: [x]}]",
        "rules: [{users: [a], users: [b], clusters: [c1]}]",
        "rules: [{users: a, clusters: [c1]}]",
    ] {
        let error = Policy::parse([("", text)]).unwrap_err();
        assert!(matches!(error, PolicyError::Shape { .. }), "{text}: {error}");
        assert!(!error.to_string().contains('\n'), "{error}");
    }
    let json = r#"{"rules": [{"users": ["a"], "clusters": ["c1"], "apiGroups": [""]}]}"#;
    assert_eq!(Policy::parse([("", json)]).unwrap().len(), 1);
    assert_eq!(Policy::parse([("", "rules: []")]).unwrap().len(), 0);
}

#[test]
fn rules_under_several_keys_all_count_and_keep_their_names() {
    let rule = |user: &str| format!("{{users: [{user}], clusters: ['*']}}");
    let text = |users: &[&str]| {
        let rules: Vec<String> = users.iter().map(|user| rule(user)).collect();
        format!("rules: [{}]", rules.join(", "))
    };
    let (a, b, c) = (text(&["anna", "ben"]), text(&[]), text(&["cleo"]));
    let policy = Policy::parse([("a", &*a), ("b", &*b), ("c", &*c)]).unwrap();
    let find = |user: &str| {
        let (cluster, method) = (ClusterName::parse("c1").unwrap(), Method::GET);
        let wanted = Wanted::Path { method: &method, path: "/version" };
        policy.find(user, &[], &cluster, wanted).map(|rule| rule.to_string())
    };
    for (user, rule) in [
        ("anna", Some("rule 1 under key a")),
        ("ben", Some("rule 2 under key a")),
        ("cleo", Some("rule 1 under key c")),
        ("dora", None),
    ] {
        assert_eq!(find(user).as_deref(), rule, "{user}");
    }
    let error = Policy::parse([("a", &*a), ("b", "rules: [{users: [x]}]")]).unwrap_err();
    assert!(error.to_string().starts_with("key b: rule 1: it names no clusters"), "{error}");
}

proptest! {
    /// The index decides as a look at each rule would.
    #[test]
    fn the_index_changes_nothing(
        rules in prop::collection::vec((
            ("[ab]{1,2}\\*?", "[ab]{1,2}\\*?"), "[cd]{1,2}\\*?", "get|list|\\*", "([ef]{1,2}\\*?)?",
        ), 0..12),
        user in "[ab]{1,3}",
        group in "[ab]{1,3}",
        cluster in "[cd]{1,3}",
        namespace in "[ef]{0,2}",
    ) {
        let text: String = rules
            .iter()
            .map(|((users, groups), clusters, verb, namespaces)| {
                let namespaces = if namespaces.is_empty() { String::new() } else { format!("'{namespaces}'") };
                format!("- {{users: ['{users}'], groups: ['{groups}'], clusters: ['{clusters}'], verbs: ['{verb}'], namespaces: [{namespaces}]}}\n")
            })
            .collect();
        let end = if rules.is_empty() { "  []\n" } else { "" };
        let policy = Policy::parse([("", &*format!("rules:\n{text}{end}"))]).unwrap();
        let matches = |pattern: &str, name: &str| is_one_of(&[pattern.into()], name);
        let expected = rules.iter().any(|((users, groups), clusters, verb, namespaces)| {
            (matches(users, &user) || matches(groups, &group))
                && matches(clusters, &cluster)
                && (verb == "*" || verb == "list")
                && (namespaces.is_empty() || !namespace.is_empty() && matches(namespaces, &namespace))
        });
        let target = match namespace.as_str() {
            "" => "/api/v1/pods".to_owned(),
            namespace => format!("/api/v1/namespaces/{namespace}/pods"),
        };
        let line = format!("{cluster} GET {target}");
        prop_assert_eq!(ask(&policy, &user, &[&group], &line), expected);
    }
}
