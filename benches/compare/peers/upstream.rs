//! Open Cluster Management's cluster-proxy: user-server and proxy-server at the hub, proxy-agent
//! and service-proxy in the cluster, with its add-on's flags and nothing of its own switched off.
//!
//! Two of them want port 8000 and one asks `kubernetes.default.svc:443`, whatever their flags are:
//! the user-server has a network of its own, and all three of them names and files of their own.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use cluster_proxy::pki::ca::{Authority, Issued};

use super::Peer;
use crate::support::api::access::kubeconfig;
use crate::support::client::Client;
use crate::support::part::Part;
use crate::support::process::{Process, free_port};
use crate::support::processes::Pair;
use crate::support::{PATIENCE, eventually};

/// What the folder must hold.
const PROGRAMS: [&str; 3] = ["cluster-proxy", "proxy-server", "proxy-agent"];

/// Why it cannot be started here, or the folder of its programs.
pub(super) fn find() -> Result<PathBuf, String> {
    let folder = std::env::var_os("UPSTREAM").ok_or("UPSTREAM=folder names none")?;
    // Its processes run elsewhere than this one.
    let folder = fs::canonicalize(&folder).map_err(|error| format!("{folder:?}: {error}"))?;
    if let Some(missing) = PROGRAMS.iter().find(|name| !folder.join(name).is_file()) {
        return Err(format!("{} has no {missing}", folder.display()));
    }
    let unshared = Command::new("unshare")
        .args(["--net", "--mount", "ip", "link"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !unshared.is_ok_and(|status| status.success()) {
        return Err("it needs root, and unshare, nsenter and ip".to_owned());
    }
    Ok(folder)
}

pub(super) async fn start(pair: &Pair, programs: &Path) -> Peer {
    let directory = pair.directory().join("upstream");
    write_files(pair, &directory);
    let [user, frontend, agents] = [(); 3].map(|()| free_port().to_string());
    let program = |name: &str| programs.join(name);

    let mut user_server = pod(&directory, NETWORK, &program("cluster-proxy"));
    user_server.arg("user-server");
    flags(
        &mut user_server,
        &[
            ("host", HERE),
            ("port", &frontend),
            ("proxy-ca-cert", "ca.crt"),
            ("proxy-cert", "client.crt"),
            ("proxy-key", "client.key"),
            ("server-cert", "../hub/serving.crt"),
            ("server-key", "../hub/serving.key"),
            ("server-port", &user),
            ("service-proxy-ca-cert", "ca.crt"),
        ],
    );
    user_server.env("KUBECONFIG", "kubeconfig");
    let user_server = Process::spawn("upstream-user-server", pair.directory(), user_server);
    let listener = eventually("the user-server's network is up", PATIENCE, || async {
        TcpListener::bind((HERE, 443)).ok()
    })
    .await;
    let serving = pair.api.serving();
    let api = Part::start("api-upstream", move || async move {
        listener.set_nonblocking(true).unwrap();
        serving(tokio::net::TcpListener::from_std(listener).unwrap()).await;
    });

    let mut proxy_server = Command::new(program("proxy-server"));
    proxy_server.current_dir(&directory).stdin(Stdio::null());
    let [health, admin] = [(); 2].map(|()| free_port().to_string());
    flags(
        &mut proxy_server,
        &[
            ("server-count", "1"),
            ("proxy-strategies", "destHost"),
            ("server-ca-cert", "ca.crt"),
            ("server-cert", "server.crt"),
            ("server-key", "server.key"),
            ("cluster-ca-cert", "ca.crt"),
            ("cluster-cert", "server.crt"),
            ("cluster-key", "server.key"),
            ("server-bind-address", HERE),
            ("server-port", &frontend),
            ("agent-bind-address", "127.0.0.1"),
            ("agent-port", &agents),
            ("health-bind-address", "127.0.0.1"),
            ("health-port", &health),
            ("admin-port", &admin),
        ],
    );
    let proxy_server = Process::spawn("upstream-proxy-server", pair.directory(), proxy_server);

    let mut proxy_agent = pod(&directory, "", &program("proxy-agent"));
    let [health, admin] = [(); 2].map(|()| free_port().to_string());
    flags(
        &mut proxy_agent,
        &[
            ("proxy-server-host", "127.0.0.1"),
            ("proxy-server-port", &agents),
            ("agent-identifiers", &format!("host={HOST}")),
            ("ca-cert", "ca.crt"),
            ("agent-cert", "client.crt"),
            ("agent-key", "client.key"),
            ("health-server-host", "127.0.0.1"),
            ("health-server-port", &health),
            ("admin-server-port", &admin),
        ],
    );
    let proxy_agent = Process::spawn("upstream-proxy-agent", pair.directory(), proxy_agent);

    let mut service_proxy = pod(&directory, "", &program("cluster-proxy"));
    service_proxy.arg("service-proxy");
    flags(
        &mut service_proxy,
        &[("cert", "server.crt"), ("key", "server.key"), ("hub-kubeconfig", "kubeconfig")],
    );
    service_proxy.env("KUBERNETES_SERVICE_HOST", API).env("KUBERNETES_SERVICE_PORT", "443");
    let service_proxy = Process::spawn("upstream-service-proxy", pair.directory(), service_proxy);

    let address = format!("{THERE}:{user}").parse().unwrap();
    let client = Client::new(address, pair.ca_pem.as_bytes()).token(&pair.api.token("test"));
    assert_authenticates(&client).await;
    Peer {
        name: "upstream",
        hub: vec![user_server, proxy_server],
        agent: vec![proxy_agent, service_proxy],
        client,
        prefix: "/c1",
        _api: Some(api),
    }
}

/// Who sends a bad token is sent away by the service-proxy, not by the API server behind it.
async fn assert_authenticates(client: &Client) {
    eventually("upstream serves", PATIENCE, || async {
        let answer = client.try_get("/c1/version").await.ok()?;
        answer.status.is_success().then_some(())
    })
    .await;
    let refused = client.token("garbage").get("/c1/api/v1/nodes").await;
    assert_eq!(refused.status, 401);
    let said = String::from_utf8_lossy(&refused.body);
    assert!(said.contains("neither valid for managed cluster nor hub cluster"), "{said}");
}

/// Its own authority, for the names it has; what a Pod has of its ServiceAccount; and names.
fn write_files(pair: &Pair, directory: &Path) {
    let account = directory.join("serviceaccount");
    fs::create_dir_all(&account).unwrap();
    let authority = Authority::create("upstream", DAY).unwrap();
    let names = [HOST, "localhost", "127.0.0.1", HERE].map(str::to_owned);
    let server = authority.issue_server(&names, DAY).unwrap();
    let client = authority.issue_client("open-cluster-management:cluster-proxy", None, DAY);
    let write = |name: &str, text: &str| fs::write(directory.join(name), text).unwrap();
    let pair_of = |name: &str, issued: &Issued| {
        write(&format!("{name}.crt"), &issued.chain_pem);
        write(&format!("{name}.key"), &issued.key_pem);
    };
    pair_of("server", &server);
    pair_of("client", &client.unwrap());
    write("ca.crt", &authority.certificate_pem());
    write("hosts", &format!("127.0.0.1 localhost {HOST}\n{HERE} {API}\n"));
    let token = pair.api.token_for("open-cluster-management", "cluster-proxy", 86_400);
    write("serviceaccount/token", &token);
    write("serviceaccount/ca.crt", &pair.api.ca_pem);
    write("kubeconfig", &kubeconfig(&format!("https://{API}"), &pair.api.ca_pem, &token));
}

/// `program` with the names and files of a Pod, after `network`, of which this makes a command
/// that becomes the program: its process id is the program's.
fn pod(directory: &Path, network: &str, program: &Path) -> Command {
    let mut command = Command::new("unshare");
    if !network.is_empty() {
        command.arg("--net");
    }
    command.args(["--mount", "sh", "-ec", &format!("{network}\n{FILES}"), "sh"]).arg(program);
    command.current_dir(directory).stdin(Stdio::null());
    command.env("POD_NAMESPACE", "open-cluster-management");
    command
}

fn flags(command: &mut Command, flags: &[(&str, &str)]) {
    command.args(flags.iter().map(|(name, value)| format!("--{name}={value}")));
}

/// A cable from the new network to the one of its parent. It goes as the program ends.
const NETWORK: &str = "
ip link set lo up
ip link add eth0 type veth peer name upstream$$ netns $PPID
ip addr add 198.18.0.2/30 dev eth0
ip link set eth0 up
nsenter --target $PPID --net ip addr add 198.18.0.1/30 dev upstream$$
nsenter --target $PPID --net ip link set upstream$$ up
";
const FILES: &str = r#"
mount --bind hosts /etc/hosts
mount -t tmpfs tmpfs /var/run
mkdir -p /var/run/secrets/kubernetes.io
cp -r serviceaccount /var/run/secrets/kubernetes.io/
exec "$@"
"#;
/// Both ends of the cable: addresses for measuring (RFC 2544, appendix C.2.2).
const HERE: &str = "198.18.0.1";
const THERE: &str = "198.18.0.2";
/// What the service-proxy always asks, on port 443.
const API: &str = "kubernetes.default.svc";
/// How the user-server calls the cluster `c1`: of the SHA-256 of its name.
const HOST: &str =
    "cluster-d0f631ca1ddba8db3bcfcb9e057cdc98d0379f1bee00e75a.open-cluster-management.proxy";
const DAY: Duration = Duration::from_secs(86_400);
