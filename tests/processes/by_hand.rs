//! Hub and agents started by hand, with every command that an operator types on the way.

use std::path::Path;

use serde_json::Value;

use crate::fleet::{CLUSTERS, Fleet, join, start_agent, start_hub, write_kubeconfig};
use crate::support::api::FakeApi;
use crate::support::process::{Kubectl, run, text};
use crate::support::{PATIENCE, eventually};

#[tokio::test]
async fn pki_join_hub_agent_kubeconfig_revoke() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path();
    let (mut hub, addresses) = start_hub(directory);
    hub.wait_for("listening", PATIENCE).await;
    let (first, second) = (FakeApi::start("c1").await, FakeApi::start("c2").await);
    let mut agents = Vec::new();
    for api in [&first, &second] {
        join(directory, &api.name, &addresses.agents);
        api.write_kubeconfig(&directory.join(format!("{}.kubeconfig", api.name)));
        agents.push(start_agent(directory, &api.name, &addresses.agents));
        write_kubeconfig(directory, &addresses.user, &api.name, &api.token("test"));
    }
    let listed = run(directory, &["clusters", "list", "--dir", "hub"]);
    assert!(listed.contains("c1") && listed.contains("c2"), "{listed}");
    let metrics = crate::support::client::plain_get(addresses.admin.parse().unwrap(), "/metrics");
    assert!(metrics.await.unwrap().contains("# TYPE"));

    let file = |name: &str| directory.join(format!("{name}.user.kubeconfig"));
    let test = "pki_join_hub_agent_kubeconfig_revoke";
    let Some(c1) = Kubectl::new(test, &file("c1")) else { return };
    let c2 = Kubectl::new(test, &file("c2")).unwrap();
    for kubectl in [&c1, &c2] {
        eventually("kubectl is served", PATIENCE, || {
            let output = kubectl.output(&["get", "--raw", "/version"]);
            async move { output.status.success().then_some(()) }
        })
        .await;
    }

    // A stolen key is worth nothing any more (how soon: `spine outages::`), and nobody else is concerned.
    run(directory, &["clusters", "revoke", "c1", "--dir", "hub"]);
    eventually("c1 is gone", PATIENCE, || {
        let output = c1.output(&["get", "--raw", "/version"]);
        async move { (!output.status.success()).then_some(()) }
    })
    .await;
    let still = c2.output(&["get", "--raw", "/version"]);
    assert!(still.status.success(), "{}", text(&still));
    for agent in &mut agents {
        agent.stop(PATIENCE).await;
    }
    assert!(hub.stop(PATIENCE).await.success());
}

#[tokio::test]
async fn kubectl_works_through_a_hub_by_hand_on_miniapi_processes() {
    let test = "kubectl_works_through_a_hub_by_hand_on_miniapi_processes";
    let Some(mut fleet) = Fleet::start(test).await else { return };
    for cluster in CLUSTERS {
        let kubectl = fleet.kubectl(cluster);
        discovers(kubectl, &fleet.directory().join("access.log"), cluster).await;
        for http1 in [false, true] {
            crate::verbs::all(&kubectl.http1(http1));
        }
    }

    // What people leave running: a watch that is started again whenever it ends.
    let kubectl = fleet.kubectl("c1").clone();
    let seen = fleet.directory().join("seen");
    let mut looped = kubectl.looped(&["get", "configmaps", "-w", "-o", "name"], &seen);
    for (round, name) in ["stopped", "killed"].into_iter().enumerate() {
        if round == 0 {
            assert!(fleet.hub.stop(PATIENCE).await.success());
        } else {
            fleet.hub.kill();
        }
        fleet.start_hub().await;
        eventually("the agents are back", PATIENCE, || {
            let output = kubectl.output(&["create", "configmap", name]);
            // Made, and the answer lost with the old hub.
            let is_there = text(&output).contains("already exists");
            async move { (output.status.success() || is_there).then_some(()) }
        })
        .await;
        eventually("the watch shows what is new", PATIENCE, || {
            let seen = std::fs::read_to_string(&seen).unwrap();
            async move { seen.contains(&format!("configmap/{name}")).then_some(()) }
        })
        .await;
    }
    looped.kill();
    fleet.stop().await;
}

/// Two requests tell kubectl everything that the single lists say.
async fn discovers(kubectl: &Kubectl, log: &Path, cluster: &str) {
    let get = |path: &str| -> Value {
        serde_json::from_str(&kubectl.run(&["get", "--raw", path])).unwrap()
    };
    let groups = get("/apis");
    assert_eq!(groups["kind"], "APIGroupList");
    let groups = groups["groups"].as_array().unwrap();
    let versions = groups.iter().map(|group| {
        let version = group["preferredVersion"]["groupVersion"].as_str().unwrap();
        (format!(".{}", group["name"].as_str().unwrap()), get(&format!("/apis/{version}")))
    });
    let mut listed = Vec::new();
    for (group, list) in versions.chain([(String::new(), get("/api/v1"))]) {
        let names = list["resources"].as_array().unwrap().iter();
        let names = names.map(|one| one["name"].as_str().unwrap());
        listed
            .extend(names.filter(|name| !name.contains('/')).map(|name| format!("{name}{group}")));
    }
    listed.sort();

    // A request is logged a moment after its answer: the one before is waited for, then ours.
    let asked = || -> Vec<String> {
        let log = std::fs::read_to_string(log).unwrap();
        let of_discovery = |line: &str| {
            let line: Value = serde_json::from_str(line).ok()?;
            let path = line["path"].as_str()?.trim_start_matches(&format!("/{cluster}"));
            let known = line["cluster"] == cluster && path.starts_with("/api");
            known.then(|| path.to_owned())
        };
        log.lines().filter_map(of_discovery).collect()
    };
    let before = groups.len() + 2;
    let logged = || async { (asked().len() >= before).then_some(()) };
    eventually("the single lists are logged", PATIENCE, logged).await;
    assert_eq!(asked().len(), before);
    let said = kubectl.run(&["api-resources", "-o", "name"]);
    let mut names: Vec<&str> = said.lines().collect();
    names.sort_unstable();
    assert_eq!(names, listed);
    let logged = || async { (asked().len() >= before + 2).then_some(()) };
    eventually("discovery is logged", PATIENCE, logged).await;
    let mut paths = asked().split_off(before);
    paths.sort();
    assert_eq!(paths, ["/api", "/apis"]);
}

#[tokio::test]
async fn a_start_that_cannot_work_names_the_flag_and_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    run(directory, &["pki", "init", "--dir", "hub", "--name", "localhost"]);
    #[rustfmt::skip]
    let cases: [(&[&str], &[&str]); 5] = [
        (&["hub", "--dir", "missing"], &["--dir", "missing", "pki init"]),
        (&["hub", "--dir", "hub", "--listen", &taken, "--agent-listen", "127.0.0.1:0",
           "--admin-address", "127.0.0.1:0"], &["--listen", &taken]),
        (&["agent", "--hub", "localhost:1", "--dir", "missing"], &["--dir", "missing", "join"]),
        (&["pki", "init", "--dir", "hub"], &["serving-ca.crt", "--dir"]),
        (&["pki", "rotate-ca", "serving", "--finish", "--dir", "hub"], &["agents", "--force"]),
    ];
    for (args, words) in cases {
        let said = crate::support::process::fails(directory, args);
        for word in words {
            assert!(said.contains(word), "{args:?} does not say {word}: {said}");
        }
        // The log may have said before that the machine allows few open files.
        let error = said.trim().lines().skip_while(|line| !line.starts_with("error: "));
        assert_eq!(error.count(), 1, "one line: {said}");
    }
    run(directory, &["pki", "rotate-ca", "serving", "--finish", "--force", "--dir", "hub"]);
}
