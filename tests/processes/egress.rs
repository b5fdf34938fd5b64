//! Agents that reach their hub through a proxy only, and what a first connection that fails says.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use crate::fleet::start_agent;
use crate::support::api::FakeApi;
use crate::support::client::{Client, plain_get};
use crate::support::process::{Process, command, free_port, run, text};
use crate::support::proxy::Proxy;
use crate::support::{PATIENCE, eventually, skipped};

/// The name by which the agent knows its hub. No resolver knows it: only the proxy does.
const NAME: &str = "hub.example";

struct Hub {
    process: Process,
    user: SocketAddr,
    agents: SocketAddr,
}

async fn hub(directory: &Path) -> Hub {
    hub_at(directory, IpAddr::from([127, 0, 0, 1])).await
}

/// A hub that takes agents at this address.
async fn hub_at(directory: &Path, address: IpAddr) -> Hub {
    let [user, admin] = [(); 2].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port())));
    let agents = SocketAddr::from((address, free_port()));
    let name = address.to_string();
    #[rustfmt::skip]
    run(directory, &[
        "pki", "init", "--dir", "hub", "--name", NAME, "--name", "localhost", "--name", &name,
    ]);
    #[rustfmt::skip]
    let process = Process::start("hub", directory, &[
        "hub", "--dir", "hub", "--listen", &user.to_string(), "--agent-listen", &agents.to_string(),
        "--admin-address", &admin.to_string(), "--access-log", "off", "--drain-timeout", "2s",
    ]);
    eventually("the hub listens", PATIENCE, || async {
        plain_get(admin, "/livez").await.ok().map(drop)
    })
    .await;
    Hub { process, user, agents }
}

/// The words by which c1 enrols at `hub`.
fn words(directory: &Path, hub: &str) -> Vec<String> {
    let printed = run(directory, &["join", "token", "c1", "--dir", "hub", "--hub", hub]);
    printed
        .trim()
        .replace("--dir agent", "--dir c1")
        .split(' ')
        .skip(1)
        .map(str::to_owned)
        .collect()
}

fn with(directory: &Path, words: &[String], proxy: &str) -> Command {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut command = command(directory, &words);
    command.env("HTTPS_PROXY", proxy);
    command
}

async fn serves(hub: &Hub, directory: &Path, api: &FakeApi) {
    let ca_pem = std::fs::read(directory.join("hub/serving-ca.crt")).unwrap();
    let client = Client::new(hub.user, ca_pem).token(&api.token("test"));
    eventually("c1 is served", PATIENCE, || async {
        let answer = client.try_get("/c1/version").await.ok()?;
        answer.status.is_success().then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_agent_joins_and_serves_through_a_proxy() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path();
    let mut hub = hub(directory).await;
    let proxy = Proxy::start(SocketAddr::from(([127, 0, 0, 1], 0)), hub.agents);
    let (good, bad) =
        (format!("http://jane:secret@{}", proxy.address), format!("http://{}", proxy.address));
    let enrol = words(directory, &format!("{NAME}:8091"));

    // Nothing was sent to the hub: the token is as good as before.
    let refused = text(&with(directory, &enrol, &bad).output().unwrap());
    assert!(refused.contains("wants credentials (407)"), "{refused}");
    let said = text(&with(directory, &enrol, &good).output().unwrap());
    assert!(said.contains("enrolled c1"), "{said}");

    let api = FakeApi::start("c1").await;
    api.write_kubeconfig(&directory.join("kubeconfig"));
    let hub_address = format!("{NAME}:8091");
    #[rustfmt::skip]
    let agent = [
        "agent", "--hub", &hub_address, "--dir", "c1", "--kubeconfig", "kubeconfig",
        "--admin-address", "127.0.0.1:0", "--drain-timeout", "2s",
    ].map(str::to_owned);
    let mut agent = Process::spawn("agent", directory, with(directory, &agent, &good));
    serves(&hub, directory, &api).await;
    assert!(proxy.asked().iter().all(|line| *line == format!("CONNECT {NAME}:8091 HTTP/1.1")));

    // A proxy that goes takes the tunnels with it, and one that returns brings them back.
    let address = proxy.address;
    drop(proxy);
    agent.wait_for("no connection to the proxy", PATIENCE).await;
    let proxy = Proxy::start(address, hub.agents);
    serves(&hub, directory, &api).await;
    assert!(!agent.log().contains("secret"), "{}", agent.log());
    assert!(agent.stop(PATIENCE).await.success());
    drop(proxy);
    assert!(hub.process.stop(PATIENCE).await.success());
}

#[tokio::test]
async fn an_agent_reaches_a_hub_over_ipv6() {
    let loopback = IpAddr::from(Ipv6Addr::LOCALHOST);
    if std::net::TcpListener::bind((loopback, 0)).is_err() {
        let remedy = "sysctl net.ipv6.conf.lo.disable_ipv6=0";
        return skipped("an_agent_reaches_a_hub_over_ipv6", "there is no IPv6 here", remedy);
    }
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path();
    let mut hub = hub_at(directory, loopback).await;
    let address = hub.agents.to_string();
    assert!(address.starts_with("[::1]:"), "{address}");
    let said = text(&with(directory, &words(directory, &address), "").output().unwrap());
    assert!(said.contains("enrolled c1"), "{said}");
    let api = FakeApi::start("c1").await;
    api.write_kubeconfig(&directory.join("c1.kubeconfig"));
    let mut agent = start_agent(directory, "c1", &address);
    serves(&hub, directory, &api).await;
    assert!(agent.stop(PATIENCE).await.success());
    assert!(hub.process.stop(PATIENCE).await.success());
}

#[tokio::test]
async fn each_way_that_a_first_connection_fails_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path();
    let mut hub = hub(directory).await;
    let closed = format!("localhost:{}", free_port());
    let enrol = words(directory, &format!("localhost:{}", hub.agents.port()));
    let place = |of: &str| enrol.iter().position(|word| word == of).unwrap() + 1;
    let other = |of: &str, value: &str| {
        let mut words = enrol.clone();
        words[place(of)] = value.to_owned();
        words
    };
    let gone = format!("http://{closed}");
    for (what, words, proxy, expected) in [
        ("name", other("--hub", "no-such-host.invalid:8091"), "", "cannot be resolved"),
        ("port", other("--hub", &closed), "", "check the port of --hub"),
        (
            "listener",
            other("--hub", &format!("localhost:{}", hub.user.port())),
            "",
            "the hub's agent listener",
        ),
        ("proxy", other("--hub", "hub.example:8091"), &gone, "no connection to the proxy"),
        ("proxy's URL", enrol.clone(), "socks5://127.0.0.1:1", "is no URL of an HTTP proxy"),
        (
            "CA hash",
            other("--ca-hash", &format!("sha256:{}", "0".repeat(64))),
            "",
            "is not the hub that --ca-hash names",
        ),
    ] {
        let output = with(directory, &words, proxy).output().unwrap();
        let said = text(&output);
        assert!(!output.status.success() && said.contains(expected), "{what}: {said}");
    }
    // None of them used the token up.
    let said = text(&with(directory, &enrol, "").output().unwrap());
    assert!(said.contains("enrolled c1"), "{said}");
    let again = text(&with(directory, &enrol, "").output().unwrap());
    assert!(again.contains("join token"), "{again}");
    assert!(hub.process.stop(PATIENCE).await.success());
}

#[tokio::test]
async fn an_agent_follows_the_addresses_of_its_hubs_name() {
    let test = "an_agent_follows_the_addresses_of_its_hubs_name";
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path();
    let hosts = directory.join("hosts");
    let name_is = |addresses: &[&str]| {
        let lines = addresses.iter().map(|address| format!("{address} {NAME}\n"));
        // In place: it is mounted over the agent's /etc/hosts.
        std::fs::write(&hosts, format!("127.0.0.1 localhost\n{}", lines.collect::<String>()))
            .unwrap();
    };
    name_is(&["127.0.0.2"]);
    let resolving = |words: &[&str]| {
        let inner = command(directory, words);
        let mut command = Command::new("unshare");
        let script = r#"mount --bind hosts /etc/hosts && exec "$@""#;
        command.args(["--mount", "sh", "-c", script, "sh"]).arg(inner.get_program()).args(words);
        command.current_dir(directory).env_clear().env("RUST_LOG", "info");
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command
    };
    if !resolving(&["--version"]).output().is_ok_and(|output| output.status.success()) {
        return skipped(test, "nothing can be mounted here", "it as root");
    }

    // Two hubs on one state and one port, of which the name knows one at first.
    let mut first = hub_at(directory, IpAddr::from([127, 0, 0, 2])).await;
    let port = first.agents.port();
    let mut second = second_hub(directory, IpAddr::from([127, 0, 0, 3]), port);
    second.wait_for("listening", PATIENCE).await;
    let address = format!("{NAME}:{port}");
    let enrol = words(directory, &address);
    let enrol: Vec<&str> = enrol.iter().map(String::as_str).collect();
    let said = text(&resolving(&enrol).output().unwrap());
    assert!(said.contains("enrolled c1"), "{said}");
    let api = FakeApi::start("c1").await;
    api.write_kubeconfig(&directory.join("kubeconfig"));
    #[rustfmt::skip]
    let mut agent = Process::spawn("agent", directory, resolving(&[
        "agent", "--hub", &address, "--dir", "c1", "--kubeconfig", "kubeconfig",
        "--admin-address", "127.0.0.1:0", "--drain-timeout", "2s",
    ]));
    serves(&first, directory, &api).await;
    let connected = async |hubs: usize| {
        eventually(&format!("connected to {hubs}"), 3 * PATIENCE, || {
            let listed = run(directory, &["clusters", "list", "--dir", "hub", "-o", "json"]);
            let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
            let found = listed[0]["connectedTo"].as_array().unwrap().len();
            async move { (found == hubs).then_some(()) }
        })
        .await;
    };
    connected(1).await;
    name_is(&["127.0.0.2", "127.0.0.3"]);
    connected(2).await;
    // The first moves away; its address is let go, and the cluster is served by the second.
    assert!(first.process.stop(PATIENCE).await.success());
    name_is(&["127.0.0.3"]);
    connected(1).await;
    assert!(agent.stop(PATIENCE).await.success());
    assert!(second.stop(PATIENCE).await.success());
}

/// Another hub on the same state.
fn second_hub(directory: &Path, address: IpAddr, port: u16) -> Process {
    let agents = SocketAddr::from((address, port)).to_string();
    #[rustfmt::skip]
    let hub = Process::start("second", directory, &[
        "hub", "--dir", "hub", "--listen", "127.0.0.1:0", "--agent-listen", &agents,
        "--admin-address", "127.0.0.1:0", "--access-log", "off", "--drain-timeout", "2s",
    ]);
    hub
}
