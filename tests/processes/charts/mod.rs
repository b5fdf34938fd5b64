//! The charts as an operator installs them: rendered by Helm, taken by a real API server, and the
//! binary run with exactly their flags and their ServiceAccounts.

mod monitoring;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use zeroize::Zeroizing;

use cluster_proxy::kubernetes::ApiServer;
use cluster_proxy::sandbox::apiserver::real::{Assets, RealApi};
use cluster_proxy::sandbox::provision;

use crate::support::client::{Client, plain_get};
use crate::support::process::{Kubectl, Process, fails, free_port, run, text};
use crate::support::{PATIENCE, assets, eventually, skipped};

const HUB: &str = "cluster-proxy-hub";
const AGENT: &str = "cluster-proxy-agent";
const HUB_NAMESPACE: &str = "cluster-proxy";
const AGENT_NAMESPACE: &str = "open-cluster-management-cluster-proxy";
const MANAGED: &str = "open-cluster-management-managed-serviceaccount";
const LEASES: &str = "coordination.k8s.io";
const DISCOVERY: &str = "discovery.k8s.io";
const IMAGE: &str = "image.repository=registry.example/cluster-proxy";
/// Well formed, and of no authority.
const CA_HASH: &str =
    "caHash=sha256:0000000000000000000000000000000000000000000000000000000000000000";

/// Helm with the charts of this tree.
struct Helm(PathBuf);

// === impl Helm ===

impl Helm {
    /// `$HELM`, the one that `tests/helm/build` made, or the one in PATH; in this order.
    fn find(test: &str) -> Option<Self> {
        let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/helm/helm");
        let named = std::env::var_os("HELM").map(PathBuf::from);
        let works = |program: &PathBuf| {
            let version = Command::new(program).arg("version").output();
            version.is_ok_and(|output| output.status.success())
        };
        let found = named.into_iter().chain([built, PathBuf::from("helm")]).find(works);
        if found.is_none() {
            skipped(test, "there is no Helm", "tests/helm/build");
        }
        found.map(Self)
    }

    fn output(&self, words: &[&str], chart: &str, values: &[&str]) -> Output {
        let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/charts").join(chart);
        let mut command = Command::new(&self.0);
        command.args(words).arg(chart);
        for value in values {
            command.args(["--set", value]);
        }
        command.output().unwrap()
    }

    /// The manifests of a chart in `namespace`.
    fn template(&self, chart: &str, namespace: &str, values: &[&str]) -> String {
        let output = self.output(&["template", "test", "-n", namespace], chart, values);
        assert!(output.status.success(), "{chart} {values:?}: {}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    }
}

fn agent_values() -> Vec<&'static str> {
    vec![IMAGE, "hubs={hub.example:8091}", CA_HASH]
}

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

#[tokio::test]
async fn hub_and_agent_run_with_the_flags_and_rights_of_the_charts() {
    let test = "hub_and_agent_run_with_the_flags_and_rights_of_the_charts";
    let (Some(helm), Some(folder)) = (Helm::find(test), assets::folder(test)) else { return };
    let folder_of_test = tempfile::tempdir().unwrap();
    let directory = folder_of_test.path();
    let assets = Assets::find(Some(&folder)).unwrap();
    let api = RealApi::start(&assets, "hub", &directory.join("real")).await.unwrap();
    let admin = provision::admin_token(&kube_client(&api)).await.unwrap();
    write_kubeconfig(directory, "admin", api.server(), admin);
    let Some(kubectl) = Kubectl::new(test, &directory.join("admin.kubeconfig")) else { return };
    for namespace in [HUB_NAMESPACE, AGENT_NAMESPACE] {
        kubectl.run(&["create", "namespace", namespace]);
    }

    // The hub, from nothing.
    apply(&kubectl, &helm.template(HUB, HUB_NAMESPACE, &[IMAGE, "tokenReviews=true"]));
    log_in(directory, &kubectl, api.server(), HUB_NAMESPACE, HUB);
    log_in(directory, &kubectl, api.server(), HUB_NAMESPACE, "default");
    let pod = pod(&kubectl, HUB_NAMESPACE, HUB);
    let init = arguments(&pod, "/initContainers/0", &[]);
    let as_account = |account: &str, words: &[String]| -> Vec<String> {
        let more = format!("--hub-kubeconfig={account}.kubeconfig");
        words.iter().cloned().chain([more]).collect()
    };
    let nobody = as_account("default", &init);
    let said = fails(directory, &words(&nobody));
    assert!(said.contains("orbidden"), "{said}");
    let init = as_account(HUB, &init);
    run(directory, &words(&init));
    assert!(run(directory, &words(&init)).contains("there already"));

    let [user, agents, metrics] = [(); 3].map(|()| format!("127.0.0.1:{}", free_port()));
    let flags = arguments(
        &pod,
        "/containers/0",
        &[("--listen=", &user), ("--agent-listen=", &agents), ("--metrics-address=", &metrics)],
    );
    let mut flags = as_account(HUB, &flags);
    flags.extend(["--admin-address=127.0.0.1:0", "--access-log=off"].map(str::to_owned));
    let mut hub = Process::start("hub", directory, &words(&flags));
    eventually("the hub is ready", PATIENCE, || async {
        (plain_get(metrics.parse().unwrap(), "/readyz").await.ok()? == "ok\n").then_some(())
    })
    .await;

    // A token, then the agent by what its chart says.
    let address = agents.replace("127.0.0.1", "localhost");
    let home = format!("--state-namespace={HUB_NAMESPACE}");
    let token = as_account(
        HUB,
        &["join", "token", "c1", "-o", "json", "--hub-itself", "--hub", &address, &home]
            .map(str::to_owned),
    );
    let token: Value = serde_json::from_str(&run(directory, &words(&token))).unwrap();
    let (hubs, ca_hash) =
        (format!("hubs={{{address}}}"), format!("caHash={}", token["caHash"].as_str().unwrap()));
    kubectl.run(&["create", "namespace", "shop"]);
    let exposed = "exposeServices={shop/web:8080,shop/api}";
    apply(&kubectl, &helm.template(AGENT, AGENT_NAMESPACE, &[IMAGE, &hubs, &ca_hash, exposed]));
    log_in(directory, &kubectl, api.server(), AGENT_NAMESPACE, AGENT);
    let pod = self::pod(&kubectl, AGENT_NAMESPACE, AGENT);
    let mut enrol = arguments(&pod, "/initContainers/0", &[("--dir=", "c1")]);
    enrol.push(format!("--token={}", token["token"].as_str().unwrap()));
    for expected in ["enrolled c1", "enrolled already"] {
        let said = run(directory, &words(&enrol));
        assert!(said.contains(expected), "{said}");
    }
    let mut flags =
        arguments(&pod, "/containers/0", &[("--dir=", "c1"), ("--admin-address=", "127.0.0.1:0")]);
    flags.push(format!("--kubeconfig={AGENT}.kubeconfig"));
    let mut agent = Process::start("agent", directory, &words(&flags));

    kubectl.run(&["create", "serviceaccount", "caller", "-n", MANAGED]);
    let caller = kubectl.run(&["create", "token", "caller", "-n", MANAGED]);
    let ca_pem = kubectl.run(&[
        "get",
        "secret",
        "cluster-proxy-serving-ca-certificate",
        "-n",
        HUB_NAMESPACE,
        "-o",
        r#"go-template={{index .data "serving-ca.crt" | base64decode}}"#,
    ]);
    let client = Client::new(user.parse().unwrap(), ca_pem).token(caller.trim());
    eventually("c1 is served", PATIENCE, || async {
        let answer = client.try_get("/c1/version").await.ok()?;
        answer.status.is_success().then_some(())
    })
    .await;
    rights(&kubectl);
    let counted = plain_get(metrics.parse().unwrap(), "/metrics").await.unwrap();
    let missing = |line: &&str| {
        line.starts_with("cluster_proxy_agent_right_missing{") && line.ends_with(" 1")
    };
    assert_eq!(counted.lines().find(missing), None);
    for log in [hub.log(), agent.log()] {
        assert!(!log.contains("orbidden"), "{log}");
    }

    assert!(agent.stop(PATIENCE).await.success());
    assert!(hub.stop(PATIENCE).await.success());
    api.stop().await;
}

/// What the accounts may do, as the API server decides it, each beside what they may not. That a
/// feature needs these rights is shown by the tests of the feature.
fn rights(kubectl: &Kubectl) {
    let hub = format!("system:serviceaccount:{HUB_NAMESPACE}:{HUB}");
    let agent = format!("system:serviceaccount:{AGENT_NAMESPACE}:{AGENT}");
    let profiles = "multicluster.x-k8s.io";
    let reviews = "authentication.k8s.io";
    for (user, namespace, group, resource, allowed, refused) in [
        (&hub, HUB_NAMESPACE, "", "secrets", "get list create patch delete", "watch update"),
        (&hub, "default", "", "secrets", "", "get list create patch delete"),
        (&hub, HUB_NAMESPACE, LEASES, "leases", "get list create update patch delete", "watch"),
        (&hub, "default", LEASES, "leases", "", "get create update"),
        (&hub, "default", profiles, "clusterprofiles", "get list watch", "create patch update"),
        (&hub, "default", profiles, "clusterprofiles/status", "patch", "update"),
        (&hub, "default", "events.k8s.io", "events", "create patch", "list delete"),
        (&hub, "", reviews, "tokenreviews", "create", "list"),
        (&hub, "", "", "users", "", "impersonate"),
        (&agent, "", reviews, "tokenreviews", "create", "list"),
        (&agent, AGENT_NAMESPACE, "", "serviceaccounts", "list watch", "get create patch delete"),
        (&agent, AGENT_NAMESPACE, "", "serviceaccounts/token", "", "create"),
        (&agent, AGENT_NAMESPACE, "", "secrets", "", "get list"),
        (&agent, MANAGED, "", "serviceaccounts", "get list watch create patch delete", "update"),
        (&agent, MANAGED, "", "serviceaccounts/token", "create", "get"),
        (&agent, MANAGED, "", "configmaps//kube-root-ca.crt", "get", "list update"),
        (&agent, MANAGED, "", "configmaps//another", "", "get"),
        (&agent, "", "", "namespaces//kube-system", "get", "list update"),
        (&agent, "", "", "namespaces//default", "", "get"),
        (&agent, "", "", "users", "", "impersonate"),
        (&agent, "shop", "", "services//web", "get", "list watch update"),
        (&agent, "shop", "", "services//api", "get", "delete"),
        (&agent, "shop", "", "services//other", "", "get"),
        (&agent, "shop", DISCOVERY, "endpointslices", "list", "get watch create update"),
        (&agent, "default", "", "services//web", "", "get"),
        (&agent, "default", DISCOVERY, "endpointslices", "", "list"),
    ] {
        let mut parts = resource.split('/');
        let mut next = || parts.next().unwrap_or_default();
        let (resource, subresource, name) = (next(), next(), next());
        for (verbs, expected) in [(allowed, "true"), (refused, "false")] {
            for verb in verbs.split_whitespace() {
                let review = json!({
                    "apiVersion": "authorization.k8s.io/v1",
                    "kind": "SubjectAccessReview",
                    "spec": {"user": user, "resourceAttributes": {
                        "namespace": namespace, "group": group, "resource": resource,
                        "subresource": subresource, "name": name, "verb": verb,
                    }},
                });
                let ask = ["create", "-f", "-", "-o", "jsonpath={.status.allowed}"];
                let answer = kubectl.run_with(&ask, &review.to_string());
                assert_eq!(answer, expected, "{review}");
            }
        }
    }
}

fn kube_client(api: &RealApi) -> kube::Client {
    cluster_proxy::kubernetes::client(api.server()).unwrap()
}

fn words(owned: &[String]) -> Vec<&str> {
    owned.iter().map(String::as_str).collect()
}

/// Tried on the server first, as an operator would, then made.
fn apply(kubectl: &Kubectl, manifests: &str) {
    // Objects of a namespace that the same manifests make cannot be tried before it is there.
    if manifests.contains("kind: Namespace") {
        kubectl.run(&["create", "namespace", MANAGED]);
    }
    let tried = ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-"];
    kubectl.run_with(&tried, manifests);
    kubectl.run_with(&["apply", "--server-side", "--force-conflicts", "-f", "-"], manifests);
}

/// Writes ACCOUNT.kubeconfig with a token of that ServiceAccount.
fn log_in(directory: &Path, kubectl: &Kubectl, server: &ApiServer, namespace: &str, account: &str) {
    if account == "default" {
        // A controller's work, which no API server does by itself.
        kubectl.run(&["create", "serviceaccount", account, "-n", namespace]);
    }
    let token = kubectl.run(&["create", "token", account, "-n", namespace]);
    write_kubeconfig(directory, account, server, token.trim().to_owned().into());
}

fn write_kubeconfig(directory: &Path, name: &str, server: &ApiServer, token: Zeroizing<String>) {
    let text = provision::kubeconfig(server, name, token);
    std::fs::write(directory.join(format!("{name}.kubeconfig")), text.as_bytes()).unwrap();
}

/// The pod's specification in a Deployment, as the API server holds it.
fn pod(kubectl: &Kubectl, namespace: &str, deployment: &str) -> Value {
    let shown = kubectl.run(&["get", "deployment", deployment, "-n", namespace, "-o", "json"]);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let pod = shown["spec"]["template"]["spec"].clone();
    assert_eq!(pod["serviceAccountName"], deployment);
    pod
}

/// The arguments of a container, with other values for flags that name places of this machine.
fn arguments(pod: &Value, container: &str, instead: &[(&str, &str)]) -> Vec<String> {
    let arguments = pod.pointer(container).unwrap()["args"].as_array().unwrap();
    let mut arguments: Vec<_> =
        arguments.iter().map(|word| word.as_str().unwrap().to_owned()).collect();
    for (flag, value) in instead {
        let word = arguments.iter_mut().find(|word| word.starts_with(flag)).unwrap();
        *word = format!("{flag}{value}");
    }
    arguments
}
