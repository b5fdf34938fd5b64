//! A hub whose state is in Secrets, with every command that an operator types on the way.

use std::path::Path;
use std::time::Duration;

use crate::support::api::FakeApi;
use crate::support::client::{Client, plain_get};
use crate::support::hub_api::HubApi;
use crate::support::process::{Process, fails, free_port, run};
use crate::support::{PATIENCE, eventually};

/// Where the state is.
const HOME: [&str; 4] = ["--state-namespace", "kube-public", "--hub-kubeconfig", "hub.kubeconfig"];

/// A hub that runs.
struct Hub {
    process: Process,
    user: String,
    agents: String,
    admin: String,
}

// === impl Hub ===

impl Hub {
    async fn start(name: &str, directory: &Path) -> Self {
        let [user, agents, admin] = [(); 3].map(|()| format!("127.0.0.1:{}", free_port()));
        Self::start_at(name, directory, user, agents, admin).await
    }

    async fn start_at(
        name: &str,
        directory: &Path,
        user: String,
        agents: String,
        admin: String,
    ) -> Self {
        #[rustfmt::skip]
        let flags = [
            "hub", "--listen", &user, "--agent-listen", &agents, "--admin-address", &admin,
            "--access-log", "off", "--drain-timeout", "2s",
        ];
        let mut process = Process::start(name, directory, &[&flags[..], &HOME].concat());
        process.wait_for("listening", PATIENCE).await;
        Self { process, user, agents, admin }
    }

    async fn wait_ready(&self) {
        let admin = self.admin.parse().unwrap();
        eventually("the hub is ready", PATIENCE, || async {
            (plain_get(admin, "/readyz").await.ok()? == "ok\n").then_some(())
        })
        .await;
    }

    fn client(&self, ca_pem: &str, api: &FakeApi) -> Client {
        Client::new(self.user.parse().unwrap(), ca_pem).token(&api.token("test"))
    }
}

fn with_home(directory: &Path, args: &[&str]) -> String {
    run(directory, &[args, &HOME].concat())
}

async fn serves(client: &Client) {
    eventually("c1 is served", PATIENCE, || async {
        let answer = client.try_get("/c1/version").await.ok()?;
        answer.status.is_success().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_hub_without_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path();
    let hub_api = HubApi::start().await;
    hub_api.write_kubeconfig(&directory.join("hub.kubeconfig"));
    let said = fails(
        directory,
        &[
            &[
                "hub",
                "--access-log",
                "off",
                "--listen",
                "127.0.0.1:0",
                "--agent-listen",
                "127.0.0.1:0",
                "--admin-address",
                "127.0.0.1:0",
            ],
            &HOME[..],
        ]
        .concat(),
    );
    assert!(said.contains("pki init") && said.contains("--state-namespace"), "{said}");
    let said = with_home(directory, &["pki", "init", "--name", "localhost", "--name", "127.0.0.1"]);
    assert!(said.starts_with("namespace kube-public: created"), "{said}");
    let shown = with_home(directory, &["pki", "inspect"]);
    assert!(shown.contains("namespace kube-public/serving-ca.crt"), "{shown}");

    let mut hub = Hub::start("hub", directory).await;
    let token = ["join", "token", "c1", "--hub", &hub.agents];
    let printed = with_home(directory, &token).trim().replace("--dir agent", "--dir c1");
    let words: Vec<&str> = printed.split_whitespace().skip(1).collect();
    run(directory, &words);
    let api = FakeApi::start("c1").await;
    api.write_kubeconfig(&directory.join("c1/kubeconfig"));
    let second_agents = format!("127.0.0.1:{}", free_port());
    #[rustfmt::skip]
    let mut agent = Process::start("agent", directory, &[
        "agent", "--hub", &hub.agents, "--hub", &second_agents, "--dir", "c1",
        "--kubeconfig", "c1/kubeconfig", "--admin-address", "127.0.0.1:0", "--drain-timeout", "2s",
    ]);
    let ca_pem = hub_api
        .secret("kube-public", "cluster-proxy-serving-ca-certificate", "serving-ca.crt")
        .await;
    let client = hub.client(&ca_pem, &api);
    serves(&client).await;
    eventually("the hub says whom it serves", PATIENCE, || {
        let listed = with_home(directory, &["clusters", "list"]);
        async move { listed.contains("1 of 1").then_some(()) }
    })
    .await;

    // Killed and started again, it finds everything.
    hub.process.kill();
    let Hub { user, agents, admin, .. } = hub;
    let mut hub = Hub::start_at("hub", directory, user, agents, admin).await;
    serves(&client).await;

    // A second one sees the cluster and is ready once its agent has come.
    let [user, admin] = [(); 2].map(|()| format!("127.0.0.1:{}", free_port()));
    let mut second = Hub::start_at("second", directory, user, second_agents, admin).await;
    second.wait_ready().await;
    let through_second = second.client(&ca_pem, &api);
    serves(&through_second).await;
    eventually("both hubs have the cluster, and the killed one is off the list", PATIENCE, || {
        let listed = with_home(directory, &["clusters", "list"]);
        async move { listed.contains("2 of 2").then_some(()) }
    })
    .await;

    with_home(directory, &["clusters", "revoke", "c1"]);
    for client in [&client, &through_second] {
        eventually("c1 is gone", Duration::from_secs(10), || async {
            (client.try_get("/c1/version").await.ok()?.status == 503).then_some(())
        })
        .await;
    }
    assert!(!std::fs::exists(directory.join("certs")).unwrap());
    agent.stop(PATIENCE).await;
    for hub in [&mut hub, &mut second] {
        assert!(hub.process.stop(PATIENCE).await.success());
        let log = hub.process.log();
        assert!(!log.contains("BEGIN") && !log.contains("ERROR"), "{log}");
    }
    assert!(with_home(directory, &["clusters", "list"]).contains("0 of 0"));
}
