//! `kubeconfig` for many clusters and into files of others', and `kubectl`, on a sandbox.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::sandbox::World;
use crate::support::process::{Kubectl, Process, command as command_of, fails, run, signal, text};
use crate::support::{PATIENCE, eventually};

// === impl World ===

impl World {
    fn args<'a>(&'a self, command: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        #[rustfmt::skip]
        let args = [
            command, "--server", &self.server, "--ca", "box/ca.crt",
            "--hub-kubeconfig", "box/kubeconfig", "--hub-context", "hub",
        ];
        [&args, more].concat()
    }

    fn file(&self, name: &str) -> Kubectl {
        Kubectl::new("", &self.path().join(name)).unwrap()
    }

    /// `cluster-proxy kubectl` on cluster1.
    fn kubectl(&self, args: &[&str]) -> Command {
        let program = Kubectl::find().unwrap();
        let program = program.to_str().unwrap();
        let args = [&["--cluster", "cluster1", "--kubectl", program, "--"], args].concat();
        let mut command = command_of(self.path(), &self.args("kubectl", &args));
        command.env("HOME", self.path()).env("PATH", "/usr/bin:/bin");
        command
    }
}

fn is_served(kubectl: &Kubectl, cluster: &str) {
    let nodes = kubectl.run(&["get", "nodes"]);
    assert!(nodes.contains(&format!("{cluster}-control-plane")), "{nodes}");
}

#[tokio::test]
async fn all_clusters_beside_what_kubectl_had() {
    let Some(mut world) = World::start("all_clusters_beside_what_kubectl_had").await else {
        return;
    };
    // Made by kubectl: another cluster, with fields of its own, is current.
    let mine = world.file("config");
    for args in [
        &["set-cluster", "mine", "--server=https://127.0.0.1:1", "--tls-server-name=a"][..],
        &["set-credentials", "me", "--token=secret"],
        &["set-context", "mine", "--cluster=mine", "--user=me", "--namespace=shop"],
        &["use-context", "mine"],
    ] {
        mine.run(&[&["config"], args].concat());
    }
    let view = |kubectl: &Kubectl| -> Value {
        let view = kubectl.run(&["config", "view", "--raw", "-o", "json"]);
        serde_json::from_str(&view).unwrap()
    };
    let before = view(&mine);
    let merge = ["--all", "-o", "config", "--merge"];
    run(world.path(), &world.args("kubeconfig", &merge));
    let after = view(&mine);
    assert_eq!(after["current-context"], "mine");
    for list in ["clusters", "contexts", "users"] {
        let list_of = |view: &Value| view[list].as_array().unwrap().clone();
        let (old, new) = (list_of(&before), list_of(&after));
        assert!(old.iter().all(|one| new.contains(one)), "{list}: {old:?} {new:?}");
        assert_eq!(new.len(), 3, "{list}: {new:?}");
    }
    for cluster in ["cluster1", "cluster2"] {
        is_served(&mine.context(cluster), cluster);
    }
    let text = std::fs::read(world.path().join("config")).unwrap();
    run(world.path(), &world.args("kubeconfig", &merge));
    assert_eq!(std::fs::read(world.path().join("config")).unwrap(), text);

    // By label: of the two profiles one has it.
    let profile = ["clusterprofile", "cluster2", "-n", "cluster-inventory"];
    world.hub.run(&[&["label"], &profile[..], &["stage=test"]].concat());
    let labelled = ["--selector", "stage in (test)", "-o", "labelled"];
    run(world.path(), &world.args("kubeconfig", &labelled));
    let contexts = view(&world.file("labelled"))["contexts"].clone();
    assert_eq!(contexts.as_array().unwrap().len(), 1);
    is_served(&world.file("labelled"), "cluster2");
    let none = ["-l", "stage=prod", "-o", "none"];
    let said = fails(world.path(), &world.args("kubeconfig", &none));
    assert!(said.contains("stage=prod") && !world.path().join("none").exists(), "{said}");
    // Two accounts: whose rights to take is said by who asks.
    let second = "apiVersion: authentication.open-cluster-management.io/v1beta1\n\
                  kind: ManagedServiceAccount\nmetadata: {name: second, namespace: cluster1}\n\
                  spec: {rotation: {}}\n";
    world.hub.run_with(&["apply", "-f", "-"], second);
    let one = ["--cluster", "cluster1", "-o", "one"];
    let said = fails(world.path(), &world.args("kubeconfig", &one));
    assert!(said.contains("second, test"), "{said}");
    let named = [&one[..], &["--sa", "test"]].concat();
    run(world.path(), &world.args("kubeconfig", &named));
    assert!(world.sandbox.stop(PATIENCE).await.success());
}

#[tokio::test]
async fn kubectl_with_this_standard_input_and_its_exit_code() {
    let test = "kubectl_with_this_standard_input_and_its_exit_code";
    let Some(mut world) = World::start(test).await else { return };
    let output = world.kubectl(&["get", "nodes", "-o", "name"]).output().unwrap();
    assert_eq!(text(&output), "node/cluster1-control-plane\n", "nothing of ours is between");
    let refused = world.kubectl(&["get", "configmap", "none"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused).starts_with("Error from server (NotFound)"), "{}", text(&refused));
    let of_shell = world.kubectl(&["exec", "hello", "--", "sh", "-c", "exit 42"]).output().unwrap();
    assert_eq!(of_shell.status.code(), Some(42), "{}", text(&of_shell));

    let manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: from-stdin}\n";
    let applied = with_input(world.kubectl(&["apply", "-f", "-"]), manifest);
    assert_eq!(text(&applied), "configmap/from-stdin created\n");
    let echoed = with_input(world.kubectl(&["exec", "-i", "hello", "--", "cat"]), "a  b\n");
    assert_eq!(text(&echoed), "a  b\n");
    assert!(world.sandbox.stop(PATIENCE).await.success());
}

fn with_input(mut command: Command, input: &str) -> Output {
    use std::io::Write as _;
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[tokio::test]
async fn the_health_of_clusters_is_the_hubs_to_say() {
    let Some(mut world) = World::start("the_health_of_clusters_is_the_hubs_to_say").await else {
        return;
    };
    let ask = |command: &[&str], more: &[&str]| -> Output {
        let hub = ["--server", &world.server, "--ca", "box/ca.crt"];
        command_of(world.path(), &[command, &hub, more].concat()).output().unwrap()
    };
    let visitor = ["--token-file", "box/tokens/hub"];
    let said = eventually("both clusters are healthy", PATIENCE, || {
        let output = ask(&["health"], &visitor);
        async move { output.status.success().then(|| text(&output)) }
    })
    .await;
    assert!(said.contains("cluster1  healthy") && said.contains("cluster2  healthy"), "{said}");
    let listed = ask(&["clusters", "list", "-o", "json"], &visitor);
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(listed["clusters"][1]["name"], "cluster2");
    let missing = ask(&["health"], &[&visitor[..], &["--cluster", "cluster1,none"]].concat());
    assert_eq!(missing.status.code(), Some(1), "{}", text(&missing));
    // As the user of the hub's kubeconfig, for clusters by label.
    let hub = ["--hub-kubeconfig", "box/kubeconfig", "--hub-context", "hub"];
    let labelled = [&visitor[..], &hub, &["-l", "x-k8s.io/cluster-manager"]].concat();
    assert_eq!(ask(&["health"], &labelled).status.code(), Some(0));
    // A token of a cluster, and no token of the hub at all.
    let own = ask(&["health"], &["--token-file", "box/tokens/cluster1"]);
    assert_eq!(own.status.code(), Some(2), "{}", text(&own));
    assert!(text(&own).contains("does not take this token"), "{}", text(&own));
    assert!(world.sandbox.stop(PATIENCE).await.success());
}

#[tokio::test]
async fn a_signal_to_us_is_kubectls_and_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path();
    std::fs::write(directory.join("ca"), "-----BEGIN CERTIFICATE-----\n").unwrap();
    std::fs::write(directory.join("token"), "secret").unwrap();
    std::fs::create_dir(directory.join("tmp")).unwrap();
    for (name, trapped) in [("TERM", true), ("HUP", true), ("INT", true), ("TERM", false)] {
        let trap =
            if trapped { format!("trap 'echo heard; exit 7' {name}\n") } else { String::new() };
        let script = format!("{trap}ls -A tmp\necho started\nwhile :; do sleep 0.05; done");
        #[rustfmt::skip]
        let args = [
            "kubectl", "--server", "https://hub", "--ca", "ca", "--token-file", "token",
            "--cluster", "c1", "--kubectl", "/bin/sh", "--", "-c", &script,
        ];
        let ours = command_of(directory, &args);
        // A signal that is ignored stays so, and whoever runs the tests may ignore some: nohup does.
        let mut command = Command::new("/usr/bin/env");
        command.arg("--default-signal=TERM,HUP,INT").arg(ours.get_program()).args(ours.get_args());
        command.envs(ours.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.current_dir(directory);
        command.env("TMPDIR", directory.join("tmp")).env("PATH", "/usr/bin:/bin");
        // No terminal: what a terminal would send to both is ours to hand on.
        use std::os::unix::process::CommandExt as _;
        command.process_group(0);
        let mut running = Process::spawn("kubectl", directory, command);
        running.wait_for("started", PATIENCE).await;
        assert!(running.log().contains(".kubeconfig-"), "{}", running.log());
        signal(running.id(), name);
        let status = eventually("it ends", PATIENCE, || {
            let ended = running.ended();
            async move { ended }
        })
        .await;
        assert_eq!(status.code(), Some(if trapped { 7 } else { 128 + 15 }), "{name}");
        assert_eq!(running.log().contains("heard"), trapped);
        assert_eq!(std::fs::read_dir(directory.join("tmp")).unwrap().count(), 0, "{name}");
    }
}
