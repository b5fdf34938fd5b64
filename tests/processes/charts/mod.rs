//! The charts as an operator installs them: rendered by Helm, taken by real API servers, and the
//! binary run with exactly their flags and their ServiceAccounts.

pub(crate) mod audit;
mod grants;
pub(crate) mod helm;
mod monitoring;
mod rights;
mod scenes;
pub(crate) mod world;

use helm::{AGENT, HUB, Helm, IMAGE, agent_values};

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use cluster_proxy::hub::authn::UnprefixedNames;

use crate::support::process::text;

#[test]
fn charts_are_sound_and_refuse_what_they_do_not_know() {
    let Some(helm) = Helm::find("charts_are_sound_and_refuse_what_they_do_not_know") else {
        return;
    };
    for (chart, values) in [(HUB, vec![IMAGE]), (AGENT, agent_values())] {
        let linted = helm.output(&["lint", "--strict"], chart, &values);
        assert!(linted.status.success(), "{}", text(&linted));
        helm.template(chart, "n", &values);
        for (more, complaint) in [
            ("unknownValue=1", "additional properties 'unknownValue' not allowed"),
            ("image.unknownValue=1", "additional properties 'unknownValue' not allowed"),
            ("drainTimeoutSeconds=0", "/drainTimeoutSeconds"),
        ] {
            let refused = helm.output(&["template", "t"], chart, &[&values[..], &[more]].concat());
            assert!(!refused.status.success(), "{chart} takes {more}");
            assert!(text(&refused).contains(complaint), "{}", text(&refused));
        }
        let without_image = helm.output(&["template", "t"], chart, &values[1..]);
        assert!(text(&without_image).contains("/image/repository"), "{}", text(&without_image));
    }
}

#[test]
fn wide_rights_are_there_only_where_they_are_asked_for() {
    let Some(helm) = Helm::find("wide_rights_are_there_only_where_they_are_asked_for") else {
        return;
    };
    const WIDE: &str = "THE WIDE RULE";
    assert!(!helm.template(HUB, "n", &[IMAGE]).contains(WIDE));
    assert!(helm.template(HUB, "n", &[IMAGE, "accounts.enabled=true"]).contains(WIDE));

    let agent = |more: &[&str]| helm.template(AGENT, "n", &[&agent_values()[..], more].concat());
    let fails = |more: &[&str]| {
        let values = [&agent_values()[..], more].concat();
        let output = helm.output(&["template", "t", "-n", "n"], AGENT, &values);
        assert!(!output.status.success(), "{more:?}");
        text(&output)
    };
    let on = "impersonation.enabled=true";
    let plain = agent(&[]);
    assert!(!plain.contains("impersonate") && plain.contains("--impersonation=off"), "{plain}");
    assert!(fails(&[on]).contains("name the users"));
    let named = agent(&[on, "impersonation.users={cluster:hub:u}"]);
    assert!(named.contains("- cluster:hub:u") && !named.contains(WIDE), "{named}");
    assert!(agent(&[on, "impersonation.unnamed=true"]).contains(WIDE));
    // The hub could ask for the agent's own token there.
    assert!(fails(&["managedAccounts.namespace=n"]).contains("the agent's own"));
    agent(&["managedAccounts.namespace=other"]);
}

/// Rules are a value or somebody else's ConfigMap, and RBAC of the hub's cluster is asked on demand.
#[test]
fn identities_of_the_hub_are_let_in_where_values_say_so() {
    let test = "identities_of_the_hub_are_let_in_where_values_say_so";
    let Some(helm) = Helm::find(test) else { return };
    let hub =
        |more: &[&str]| text(&helm.output(&["template", "t"], HUB, &[&[IMAGE], more].concat()));
    let plain = hub(&[]);
    for flag in ["--policy", "--delegate-authorization"] {
        assert!(!plain.contains(flag), "{plain}");
    }
    let listed = hub(&["policy=rules: []"]);
    assert!(listed.contains("--policy=/etc/cluster-proxy/policy.yaml"), "{listed}");
    assert!(listed.contains(r#"policy.yaml: "rules: []""#), "{listed}");
    let named = hub(&["policyConfigMap=theirs", "delegateAuthorization=true"]);
    for part in ["--policy-configmap=theirs", "--delegate-authorization", "[theirs]"] {
        assert!(named.contains(part), "{named}");
    }
    assert!(hub(&["policy=rules: []", "policyConfigMap=theirs"]).contains("one or the other"));

    // Names without a prefix are in a file that the hub takes, and a change of them starts pods anew.
    let names =
        hub(&[r"unprefixedNames.users.jane@example\.com=jane", "unprefixedNames.groups.g=dev"]);
    assert!(names.contains("--unprefixed-names=/etc/cluster-proxy-names/names.yaml"), "{names}");
    assert!(!plain.contains("unprefixed-names") && !plain.contains("hub-names"), "{plain}");
    let checksum = |text: &str| {
        let line = text.lines().find(|line| line.contains("checksum/unprefixed-names: "));
        line.map(str::to_owned)
    };
    let others = hub(&["unprefixedNames.users.joe=joe", "policy=rules: []"]);
    assert!(checksum(&names).is_some() && checksum(&names) != checksum(&others));
    for volume in ["name: policy, mountPath: /etc/cluster-proxy,", "name: names, mountPath"] {
        assert!(others.contains(volume), "{others}");
    }
    let maps = names.split("---\n").find(|one| one.contains("name: cluster-proxy-hub-names"));
    let map: Value = serde_saphyr::from_str(maps.unwrap()).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), map["data"]["names.yaml"].as_str().unwrap()).unwrap();
    let told = UnprefixedNames::read(file.path()).unwrap().told();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told.iter().any(|one| one.contains("jane@example.com")), "{told:?}");

    // The agent refuses names that do not begin with a prefix of its own, unless it is told.
    let users = "impersonation.users={cluster:hub:a,jane}";
    let groups = "impersonation.groups={cluster:hub:g,dev}";
    let values = [&agent_values()[..], &["impersonation.enabled=true", users, groups]].concat();
    let agent = helm.template(AGENT, "n", &values);
    let exact: Vec<_> =
        agent.lines().map(str::trim).filter(|line| line.contains("--impersonation-")).collect();
    assert_eq!(exact, [r#"- "--impersonation-user=jane""#, r#"- "--impersonation-group=dev""#]);
}

/// Whoever opens values.yaml finds every value, and the schema says what each is for.
#[test]
fn every_value_is_described_and_has_a_default() {
    for chart in [HUB, AGENT] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/charts").join(chart);
        let read = |file: &str| std::fs::read_to_string(folder.join(file)).unwrap();
        let schema: Value = serde_json::from_str(&read("values.schema.json")).unwrap();
        let values: Value = serde_saphyr::from_str(&read("values.yaml")).unwrap();
        described(chart, &schema, Some(&values));
    }
}

fn described(place: &str, schema: &Value, values: Option<&Value>) {
    for (name, value) in schema["properties"].as_object().into_iter().flatten() {
        let place = format!("{place}.{name}");
        // Helm's own.
        if name == "global" {
            continue;
        }
        // Of an entry of a list there is none.
        let default = values.map(|values| {
            values.get(name).unwrap_or_else(|| panic!("{place} is not in values.yaml"))
        });
        let is_named = value["description"].as_str().is_some_and(|text| text.ends_with('.'));
        // An entry of a list that has a name alone.
        assert!(is_named || place.ends_with("imagePullSecrets[].name"), "{place} says nothing");
        described(&place, value, default);
        described(&format!("{place}[]"), &value["items"], None);
    }
}

/// A list of values is a ConfigMap that the hub may read; one of somebody else is only named.
#[test]
fn services_are_exposed_where_values_say_so() {
    let Some(helm) = Helm::find("services_are_exposed_where_values_say_so") else { return };
    let flag = "--exposed-services-configmap";
    let hub = |more: &[&str]| helm.template(HUB, "n", &[&[IMAGE], more].concat());
    assert!(!hub(&[]).contains(flag));
    let web = "exposedServices[0].namespace=shop,exposedServices[0].service=web";
    let port = "exposedServices[0].port=8080,exposedServices[0].clusters={edge-*}";
    let listed = hub(&[web, port]);
    for expected in [
        format!("{flag}=cluster-proxy-exposed-services"),
        "resourceNames: [cluster-proxy-exposed-services]".to_owned(),
        r#"services: "- clusters:\n  - edge-*\n  namespace: shop\n  port: 8080\n  service: web""#
            .to_owned(),
    ] {
        assert!(listed.contains(&expected), "{expected}: {listed}");
    }
    let named = hub(&["exposedServicesConfigMap=theirs"]);
    assert!(
        named.contains(&format!("{flag}=theirs")) && !named.contains("services: \""),
        "{named}"
    );

    let agent = |more: &[&str]| {
        let values = [&agent_values()[..], more].concat();
        helm.output(&["template", "t", "-n", "n"], AGENT, &values)
    };
    assert!(!text(&agent(&[])).contains("expose-service"));
    let exposed = text(&agent(&["exposeServices={shop/web:8080}"]));
    assert!(exposed.contains("--expose-service=shop/web:8080"), "{exposed}");
    assert!(!exposed.contains("--additional-service-ca"), "{exposed}");
    let believed = text(&agent(&["additionalServiceCAConfigMap=theirs"]));
    let file = "--additional-service-ca=/etc/cluster-proxy/services/ca.crt";
    assert!(believed.contains(file) && believed.contains("name: theirs"), "{believed}");
    for (chart, more, complaint) in [
        (HUB, vec![web, "exposedServicesConfigMap=theirs"], "one or the other"),
        (HUB, vec!["exposedServices[0].namespace=shop"], "/exposedServices/0"),
        (HUB, vec![web, "exposedServices[0].unknown=1"], "'unknown' not allowed"),
        (AGENT, vec!["exposeServices={web}"], "/exposeServices/0"),
    ] {
        let values = [if chart == HUB { vec![IMAGE] } else { agent_values() }, more].concat();
        let refused = helm.output(&["template", "t"], chart, &values);
        assert!(!refused.status.success(), "{values:?}");
        assert!(text(&refused).contains(complaint), "{}", text(&refused));
    }
}

/// `plain_manifests_are_what_the_charts_say` has it that these are the charts'.
#[test]
fn s118_pods_have_no_more_than_they_need() {
    for file in ["hub.yaml", "agent.yaml"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/manifests").join(file);
        let objects: Vec<Value> =
            serde_saphyr::from_multiple(&std::fs::read_to_string(path).unwrap()).unwrap();
        let deployments = objects.iter().filter(|object| object["kind"] == "Deployment");
        let pods: Vec<&Value> =
            deployments.map(|deployment| &deployment["spec"]["template"]["spec"]).collect();
        assert_eq!(pods.len(), 1, "{file}");
        let pod = pods[0];
        let context = &pod["securityContext"];
        assert_eq!(context["runAsNonRoot"], true, "{file}");
        assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault", "{file}");
        for kind in ["hostNetwork", "hostPID", "hostIPC"] {
            assert!(pod[kind].is_null(), "{file} {kind}");
        }
        let containers = ["initContainers", "containers"].map(|kind| pod[kind].as_array());
        let containers: Vec<&Value> = containers.into_iter().flatten().flatten().collect();
        assert_eq!(containers.len(), 2, "{file}");
        for container in containers {
            let expected = json!({
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": {"drop": ["ALL"]},
            });
            assert_eq!(container["securityContext"], expected, "{file} {}", container["name"]);
        }
    }
}

#[test]
fn plain_manifests_are_what_the_charts_say() {
    let Some(helm) = Helm::find("plain_manifests_are_what_the_charts_say") else { return };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/manifests");
    let rendered = tempfile::tempdir().unwrap();
    let output = Command::new(folder.join("render"))
        .arg(rendered.path())
        .env("HELM", helm.program())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    for file in ["hub.yaml", "agent.yaml"] {
        let read = |folder: &Path| std::fs::read_to_string(folder.join(file)).unwrap();
        let is_the_same = read(&folder) == read(rendered.path());
        assert!(is_the_same, "deploy/manifests/{file} is stale: run deploy/manifests/render");
    }
}
