//! cluster-inventory-api's access library, and the credential plugin of managed-serviceaccount.

use std::process::Output;

use serde_json::{Value, json};

use super::program::Program;
use super::world::{ACCOUNT, PROFILES, Plugin, World};
use crate::apis::Apis;
use crate::fleet::CLUSTERS;
use crate::support::process::{run, text};

#[tokio::test]
async fn a_profile_leads_the_published_library_to_its_cluster() {
    let test = "a_profile_leads_the_published_library_to_its_cluster";
    let Some(world) = World::start(test).await else { return };
    leads_to_its_cluster(world).await;
}

#[tokio::test]
async fn a_profile_leads_the_published_library_to_a_real_cluster() {
    let test = "a_profile_leads_the_published_library_to_a_real_cluster";
    let Some(apis) = Apis::real(test) else { return };
    let Some(world) = World::on(test, apis).await else { return };
    leads_to_its_cluster(world).await;
}

async fn leads_to_its_cluster(mut world: World) {
    for plugin in [Plugin::Upstream, Plugin::Ours] {
        for cluster in CLUSTERS {
            lists(&world, plugin, cluster).await;
        }
    }

    // With the new authority alone, which consumers have from the profile.
    world.pki(&["rotate-ca", "serving"]);
    world.pki(&["rotate-ca", "serving", "--finish", "--force"]);
    world.authority_published("c1").await;
    lists(&world, Plugin::Upstream, "c1").await;
    for plugin in [Plugin::Upstream, Plugin::Ours] {
        example_lists(&world, plugin, "c1");
    }

    // What has left the fleet is no cluster any more, and the other still is.
    run(world.fleet.directory(), &["clusters", "remove", "c1", "--dir", "hub"]);
    world.published("c1", false).await;
    let mut refused = start(&world, Plugin::Ours, "c1");
    assert!(!refused.end().await, "{:?}", refused.events());
    let reason = refused.all("error")[0]["reason"].to_string();
    assert!(reason.contains("no matching cluster accessor"), "{reason}");
    lists(&world, Plugin::Ours, "c2").await;
    let said = text(&example(&world, Plugin::Ours, "c1"));
    assert!(said.contains("no matching cluster accessor"), "{said}");
    example_lists(&world, Plugin::Ours, "c2");
    world.fleet.stop().await;
}

fn start(world: &World, plugin: Plugin, cluster: &str) -> Program {
    world.program("profile", &arguments(world, plugin, cluster))
}

/// Runs the published example to its end.
fn example(world: &World, plugin: Plugin, cluster: &str) -> Output {
    let mut command = Program::command("controller-example", world.fleet.directory());
    command.args(arguments(world, plugin, cluster)).output().unwrap()
}

/// Of the published example, and of ours.
fn arguments<'a>(world: &World, plugin: Plugin, cluster: &'a str) -> [&'a str; 6] {
    let providers = world.providers(plugin);
    #[rustfmt::skip]
    let arguments = [
        "-clusterprofile-provider-file", providers,
        "-namespace", PROFILES, "-clusterprofile", cluster,
    ];
    arguments
}

/// Both clients list the Pods of that cluster.
async fn lists(world: &World, plugin: Plugin, cluster: &str) {
    let pods = pods(world, cluster);
    let mut program = start(world, plugin, cluster);
    let succeeded = program.end().await;
    let server = format!("{}/{cluster}", world.fleet.url());
    let listed = |by| json!({"event": "listed", "by": by, "pods": pods});
    let wanted = [
        json!({"event": "configured", "server": server}),
        listed("client-go"),
        listed("controller-runtime"),
    ];
    assert!(succeeded, "{plugin:?}: {:?}", program.events());
    assert_eq!(program.events(), wanted, "{plugin:?}");
}

/// The same, by the published example.
fn example_lists(world: &World, plugin: Plugin, cluster: &str) {
    let output = example(world, plugin, cluster);
    let said = text(&output);
    assert!(output.status.success(), "{plugin:?}: {said}");
    let pods = pods(world, cluster);
    for client in ["client-go", "controller-runtime"] {
        let mark = format!("[{client}] pod: ");
        let listed: Vec<_> =
            said.lines().filter_map(|line| Some(line.split_once(&mark)?.1)).collect();
        assert_eq!(listed, pods, "{plugin:?}: {said}");
    }
}

/// The Pods of a cluster, as its own API server lists them.
fn pods(world: &World, cluster: &str) -> Vec<String> {
    let names = "jsonpath={range .items[*]}{.metadata.namespace}/{.metadata.name} {end}";
    let pods = world.fleet.admin(cluster).run(&["get", "pods", "--all-namespaces", "-o", names]);
    let pods: Vec<_> = pods.split_whitespace().map(String::from).collect();
    assert!(!pods.is_empty());
    pods
}

#[tokio::test]
async fn upstreams_plugin_reads_our_secrets_and_ours_the_same_ones() {
    let test = "upstreams_plugin_reads_our_secrets_and_ours_the_same_ones";
    let Some(mut world) = World::start(test).await else { return };
    let account = format!("--managed-serviceaccount={ACCOUNT}");
    for cluster in CLUSTERS {
        let [upstream, ours] = [Plugin::Upstream, Plugin::Ours]
            .map(|plugin| asks(&world, plugin, cluster, &[&account]));
        let [upstream, mut ours]: [Value; 2] =
            [upstream, ours].map(|said| serde_json::from_str(&said.unwrap()).unwrap());
        let secret = format!("{cluster}-{ACCOUNT}");
        assert_eq!(upstream["status"]["token"], world.token(PROFILES, &secret), "to the letter");
        // One thing more: client-go asks for the next token before this one ends.
        let status = ours["status"].as_object_mut().unwrap();
        assert!(status.remove("expirationTimestamp").unwrap().is_string());
        assert_eq!(ours, upstream);
    }
    for plugin in [Plugin::Upstream, Plugin::Ours] {
        for (cluster, args, reason) in [
            ("c3", &[account.as_str()][..], "failed to get synced credential secret"),
            ("c1", &["--managed-serviceaccount=nobody"], "failed to get synced credential secret"),
            ("c1", &[], "--managed-serviceaccount flag is required"),
        ] {
            let said = asks(&world, plugin, cluster, args).unwrap_err();
            assert!(said.contains(reason), "{plugin:?}: {said}");
        }
    }
    world.fleet.stop().await;
}

/// Asks a plugin as client-go does: what it prints, or what it complains of.
fn asks(world: &World, plugin: Plugin, cluster: &str, args: &[&str]) -> Result<String, String> {
    let mut command = match plugin {
        Plugin::Upstream => Program::command("cp-creds", world.fleet.directory()),
        Plugin::Ours => {
            let mut command = Program::ours(world.fleet.directory());
            command.arg("credential");
            command
        }
    };
    let question = json!({
        "kind": "ExecCredential", "apiVersion": "client.authentication.k8s.io/v1",
        "spec": {"interactive": false, "cluster": {
            "server": format!("{}/{cluster}", world.fleet.url()),
            "config": {"clusterName": cluster},
        }},
    });
    command.args(args).env("NAMESPACE", PROFILES);
    let output = command.env("KUBERNETES_EXEC_INFO", question.to_string()).output().unwrap();
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout).unwrap()),
        false => Err(text(&output)),
    }
}
