//! A hub and a spoke on real API servers, installed by the charts: manifests applied, and the binary
//! run with the flags, environment and ServiceAccounts that they give.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;
use zeroize::Zeroizing;

use cluster_proxy::accounts::api::MANAGED_NAMESPACE as MANAGED;
use cluster_proxy::kubernetes::{self, ApiServer};
use cluster_proxy::sandbox::apiserver::real::RealApi;
use cluster_proxy::sandbox::provision;

use super::audit::Audit;
use super::helm::{AGENT, HUB, Helm, IMAGE};
use crate::support::client::{Client, plain_get};
use crate::support::process::{Kubectl, Process, command, free_port, run, text};
use crate::support::{PATIENCE, assets, eventually};

pub(crate) const HUB_NAMESPACE: &str = "cluster-proxy";
pub(crate) const AGENT_NAMESPACE: &str = "open-cluster-management-cluster-proxy";

/// A real API server, what is asked of it, and somebody with all rights there.
pub(crate) struct Cluster {
    pub(crate) api: RealApi,
    pub(crate) audit: Audit,
    pub(crate) kubectl: Kubectl,
    /// Of that somebody.
    pub(crate) kubeconfig: PathBuf,
}

/// Where a hub is to be, and a cluster for it to serve.
pub(crate) struct Ground {
    pub(crate) helm: Helm,
    pub(crate) hub_cluster: Cluster,
    pub(crate) spoke: Cluster,
    folder: TempDir,
}

/// A hub that runs.
pub(crate) struct Hub {
    pub(crate) process: Process,
    /// Of its listeners.
    pub(crate) user: String,
    /// By its name in the certificate.
    pub(crate) agents: String,
    pub(crate) metrics: String,
    pub(crate) ca_pem: String,
}

// === impl Cluster ===

impl Cluster {
    async fn start(test: &str, directory: &Path, name: &str) -> Option<Self> {
        let folder = assets::folder(test)?;
        let (assets, audit) = Audit::assets(&folder, &directory.join(format!("{name}.assets")));
        let api = RealApi::start(&assets, name, &directory.join(format!("{name}.api"))).await;
        let api = api.unwrap();
        let admin = provision::admin_token(&client(&api)).await.unwrap();
        let kubeconfig = write_kubeconfig(directory, &format!("{name}-admin"), api.server(), admin);
        let kubectl = Kubectl::new(test, &kubeconfig)?;
        Some(Self { api, audit, kubectl, kubeconfig })
    }

    pub(crate) fn client(&self) -> kube::Client {
        client(&self.api)
    }

    /// Writes ACCOUNT.kubeconfig with a token of that ServiceAccount.
    fn log_in(&self, directory: &Path, namespace: &str, account: &str) {
        let token = self.kubectl.run(&["create", "token", account, "-n", namespace]);
        write_kubeconfig(directory, account, self.api.server(), token.trim().to_owned().into());
    }

    /// The pod's specification in a Deployment, as the API server holds it.
    fn pod(&self, namespace: &str, deployment: &str) -> Value {
        let get = ["get", "deployment", deployment, "-n", namespace, "-o", "json"];
        let shown: Value = serde_json::from_str(&self.kubectl.run(&get)).unwrap();
        let pod = shown["spec"]["template"]["spec"].clone();
        assert_eq!(pod["serviceAccountName"], deployment);
        pod
    }
}

// === impl Ground ===

impl Ground {
    /// Says that `test` is skipped where a program is missing.
    pub(crate) async fn start(test: &str) -> Option<Self> {
        let helm = Helm::find(test)?;
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path();
        let (hub_cluster, spoke) = tokio::join!(
            Cluster::start(test, directory, "hub"),
            Cluster::start(test, directory, "c1"),
        );
        Some(Self { helm, hub_cluster: hub_cluster?, spoke: spoke?, folder })
    }

    pub(crate) fn directory(&self) -> &Path {
        self.folder.path()
    }

    /// Applies a chart on its cluster.
    pub(crate) fn apply(&self, chart: &str, values: &[&str]) {
        let (cluster, namespace) = match chart {
            HUB => (&self.hub_cluster, HUB_NAMESPACE),
            _ => (&self.spoke, AGENT_NAMESPACE),
        };
        let values = [&[IMAGE], values].concat();
        apply(&cluster.kubectl, &self.helm.template(chart, namespace, &values));
    }

    /// Runs the hub that its cluster has a Deployment of, from nothing.
    pub(crate) async fn run_hub(&self) -> Hub {
        let directory = self.directory();
        // A controller's work, which no API server does by itself.
        let nobody = ["create", "serviceaccount", "default", "-n", HUB_NAMESPACE];
        self.hub_cluster.kubectl.run(&nobody);
        for account in [HUB, "default"] {
            self.hub_cluster.log_in(directory, HUB_NAMESPACE, account);
        }
        let pod = self.hub_cluster.pod(HUB_NAMESPACE, HUB);
        let state = json!([{"name": "CLUSTER_PROXY_STATE_NAMESPACE", "value": HUB_NAMESPACE}]);
        for containers in ["initContainers", "containers"] {
            assert_eq!(pod[containers][0]["env"], state);
        }
        let init = arguments(&pod, "/initContainers/0", &[]);
        let said = text(&self.in_pod("default", &init).output().unwrap());
        assert!(said.contains("orbidden"), "{said}");
        for expected in ["created two authorities", "there already"] {
            let said = text(&self.in_pod(HUB, &init).output().unwrap());
            assert!(said.contains(expected), "{said}");
        }

        let [user, agents, metrics] = [(); 3].map(|()| format!("127.0.0.1:{}", free_port()));
        let mut elsewhere = vec![
            ("--listen=", &*user),
            ("--agent-listen=", &agents),
            ("--metrics-address=", &metrics),
        ];
        elsewhere.extend(self.policy().then_some(("--policy=", POLICY)));
        let mut flags = arguments(&pod, "/containers/0", &elsewhere);
        flags.extend(["--admin-address=127.0.0.1:0", "--access-log=off"].map(str::to_owned));
        let process = Process::spawn("hub", directory, self.in_pod(HUB, &flags));
        eventually("the hub is ready", PATIENCE, || async {
            (plain_get(metrics.parse().unwrap(), "/readyz").await.ok()? == "ok\n").then_some(())
        })
        .await;
        let get = ["get", "secret", "cluster-proxy-serving-ca-certificate", "-n", HUB_NAMESPACE];
        let show = ["-o", r#"go-template={{index .data "serving-ca.crt" | base64decode}}"#];
        let ca_pem = self.hub_cluster.kubectl.run(&[&get[..], &show].concat());
        Hub { process, user, agents: agents.replace("127.0.0.1", "localhost"), metrics, ca_pem }
    }

    /// Runs the agent that the spoke has a Deployment of, with its key in the folder `home`.
    pub(crate) fn run_agent(&self, home: &str, cluster: &str) -> Process {
        let directory = self.directory();
        self.spoke.log_in(directory, AGENT_NAMESPACE, AGENT);
        let pod = self.spoke.pod(AGENT_NAMESPACE, AGENT);
        let enrol = arguments(&pod, "/initContainers/0", &[("--dir=", home)]);
        let token = pod.pointer("/initContainers/0/env/0/valueFrom/secretKeyRef").unwrap();
        let show =
            format!("go-template={{{{.data.{} | base64decode}}}}", token["key"].as_str().unwrap());
        let get = ["get", "secret", token["name"].as_str().unwrap(), "-n", AGENT_NAMESPACE];
        let token = self.spoke.kubectl.run(&[&get[..], &["-o", &show]].concat());
        for expected in ["enrolled", "is enrolled already"] {
            let mut command = command(directory, &words(&enrol));
            let said = text(&command.env("CLUSTER_PROXY_JOIN_TOKEN", &token).output().unwrap());
            assert!(said.contains(expected) && said.contains(cluster), "{said}");
        }
        let elsewhere = [("--dir=", home), ("--admin-address=", "127.0.0.1:0")];
        let mut flags = arguments(&pod, "/containers/0", &elsewhere);
        flags.push(format!("--kubeconfig={AGENT}.kubeconfig"));
        Process::start("agent", directory, &words(&flags))
    }

    /// What `kubectl exec` in the hub's pod prints.
    pub(crate) fn in_hub(&self, command: &[&str]) -> String {
        let command: Vec<_> = command.iter().map(|word| (*word).to_owned()).collect();
        let output = self.in_pod(HUB, &command).output().unwrap();
        assert!(output.status.success(), "{command:?}: {}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// A command in the environment of the hub's pod, with the token of an account in its place.
    fn in_pod(&self, account: &str, arguments: &[String]) -> Command {
        let mut command = command(self.directory(), &words(arguments));
        command.envs(in_pod(account));
        command
    }

    /// Writes what the hub's pod has mounted; false where there is none.
    fn policy(&self) -> bool {
        let get = ["get", "configmap", "cluster-proxy-hub-policy", "-n", HUB_NAMESPACE];
        let show = ["--ignore-not-found", "-o", r"jsonpath={.data.policy\.yaml}"];
        let policy = self.hub_cluster.kubectl.run(&[&get[..], &show].concat());
        std::fs::write(self.directory().join(POLICY), &policy).unwrap();
        !policy.is_empty()
    }

    /// Stops the API servers.
    pub(crate) async fn stop(self) {
        tokio::join!(self.hub_cluster.api.stop(), self.spoke.api.stop());
    }
}

/// A hub and the agent of its cluster `c1`, both installed.
pub(crate) struct World {
    pub(crate) ground: Ground,
    pub(crate) hub: Hub,
    agent: Process,
}

// === impl World ===

impl World {
    /// With these values, after `prepare` has made what hub's cluster and spoke have before.
    pub(crate) async fn install(
        test: &str,
        hub_values: &[&str],
        agent_values: &[&str],
        prepare: impl FnOnce(&Kubectl, &Kubectl),
    ) -> Option<Self> {
        let ground = Ground::start(test).await?;
        let (hub_cluster, spoke) = (&ground.hub_cluster.kubectl, &ground.spoke.kubectl);
        for (kubectl, namespace) in
            [(hub_cluster, HUB_NAMESPACE), (spoke, AGENT_NAMESPACE), (spoke, MANAGED)]
        {
            kubectl.run(&["create", "namespace", namespace]);
        }
        prepare(hub_cluster, spoke);
        ground.apply(HUB, hub_values);
        let hub = ground.run_hub().await;

        let (token, ca_hash) = token(&ground, &hub, "c1");
        let token = format!("--from-literal=token={token}");
        let secret = ["create", "secret", "generic", "cluster-proxy-join", "-n", AGENT_NAMESPACE];
        spoke.run(&[&secret[..], &[&token]].concat());
        let (hubs, ca_hash) = (format!("hubs={{{}}}", hub.agents), format!("caHash={ca_hash}"));
        ground.apply(AGENT, &[&[&*hubs, &*ca_hash], agent_values].concat());
        let agent = ground.run_agent("c1", "c1");
        let world = Self { ground, hub, agent };
        world.is_served().await;
        Some(world)
    }

    /// A client of the hub with this token.
    pub(crate) fn client(&self, token: &str) -> Client {
        Client::new(self.hub.user.parse().unwrap(), self.hub.ca_pem.clone()).token(token)
    }

    /// Enrols a cluster that no agent comes from, and lets it go.
    pub(crate) fn comes_and_goes(&self, cluster: &str) {
        let (token, ca_hash) = token(&self.ground, &self.hub, cluster);
        #[rustfmt::skip]
        run(self.ground.directory(), &[
            "join", "enrol", "--dir", cluster, "--hub", &self.hub.agents, "--ca-hash", &ca_hash,
            "--token", &token,
        ]);
        self.ground.in_hub(&["clusters", "remove", cluster]);
    }

    /// A caller of the spoke itself gets through.
    async fn is_served(&self) {
        let kubectl = &self.ground.spoke.kubectl;
        kubectl.run(&["create", "serviceaccount", "caller", "-n", "default"]);
        let caller = kubectl.run(&["create", "token", "caller", "-n", "default"]);
        let client = self.client(caller.trim());
        eventually("c1 is served", PATIENCE, || async {
            let answer = client.try_get("/c1/version").await.ok()?;
            answer.status.is_success().then_some(())
        })
        .await;
    }

    /// Stops hub and agent kindly; neither was refused anything.
    pub(crate) async fn stop_programs(&mut self) {
        for program in [&mut self.agent, &mut self.hub.process] {
            assert!(program.stop(PATIENCE).await.success());
            let log = program.log();
            assert!(!log.contains("orbidden"), "{log}");
        }
    }
}

/// A join token, and the hash that goes with it.
fn token(ground: &Ground, hub: &Hub, cluster: &str) -> (String, String) {
    let token = ground.in_hub(&["join", "token", cluster, "-o", "json", "--hub", &hub.agents]);
    let token: Value = serde_json::from_str(&token).unwrap();
    let said = |name: &str| token[name].as_str().unwrap().to_owned();
    (said("token"), said("caHash"))
}

/// The environment of the hub's pod, with the token of an account in its place.
pub(crate) fn in_pod(account: &str) -> [(&'static str, String); 2] {
    [
        ("CLUSTER_PROXY_STATE_NAMESPACE", HUB_NAMESPACE.to_owned()),
        ("CLUSTER_PROXY_HUB_KUBECONFIG", format!("{account}.kubeconfig")),
    ]
}

fn client(api: &RealApi) -> kube::Client {
    kubernetes::client(api.server()).unwrap()
}

fn words(owned: &[String]) -> Vec<&str> {
    owned.iter().map(String::as_str).collect()
}

/// Tried on the server first, as an operator would, then made.
fn apply(kubectl: &Kubectl, manifests: &str) {
    let tried = ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-"];
    kubectl.run_with(&tried, manifests);
    kubectl.run_with(&["apply", "--server-side", "--force-conflicts", "-f", "-"], manifests);
}

fn write_kubeconfig(
    directory: &Path,
    name: &str,
    server: &ApiServer,
    token: Zeroizing<String>,
) -> PathBuf {
    let file = directory.join(format!("{name}.kubeconfig"));
    let text = provision::kubeconfig(server, name, token);
    std::fs::write(&file, text.as_bytes()).unwrap();
    file
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

const POLICY: &str = "policy.yaml";
