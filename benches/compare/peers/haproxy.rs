//! HAProxy's reverse HTTP: the agent dials the hub, as ours does.

use std::path::Path;
use std::process::{Command, Stdio};

use super::{CIPHER, Peer};
use crate::support::client::Client;
use crate::support::process::{Process, free_port};
use crate::support::processes::Pair;

pub(super) fn start(pair: &Pair, program: &Path) -> Peer {
    let (user, agents) = (free_port(), free_port());
    let hub = hub(user, agents);
    let agent = agent(agents, pair.api.address.port());
    let [hub, agent] = [("haproxy-hub", hub), ("haproxy-agent", agent)].map(|(name, config)| {
        let file = format!("{name}.cfg");
        std::fs::write(pair.directory().join(&file), config).unwrap();
        let mut command = Command::new(program);
        command.args(["-db", "-f", &file]).current_dir(pair.directory()).stdin(Stdio::null());
        Process::spawn(name, pair.directory(), command)
    });
    let client = Client::new(([127, 0, 0, 1], user).into(), pair.ca_pem.as_bytes());
    Peer::of_two("haproxy", hub, agent, client.token(&pair.api.token("test")))
}

/// As many threads as our hub has workers.
fn hub(user: u16, agents: u16) -> String {
    let threads = std::thread::available_parallelism().unwrap();
    let global = global(threads.get());
    format!(
        "{global}
frontend agents
    bind 127.0.0.1:{agents} ssl crt hub.pem verify required ca-file hub/agent-ca.crt alpn h2
    tcp-request session attach-srv tunnels/c1
backend tunnels
    http-reuse always
    server c1 rhttp@
frontend users
    bind 127.0.0.1:{user} ssl crt hub.pem alpn h2,http/1.1
    default_backend tunnels
"
    )
}

/// One thread, as our agent.
fn agent(agents: u16, api: u16) -> String {
    let global = global(1);
    let trust = "sni str(localhost) verify required verifyhost localhost";
    format!(
        "{global}
backend hub
    server hub 127.0.0.1:{agents} ssl crt agent.pem {trust} ca-file c1/hub-ca.crt alpn h2
frontend tunnels
    bind rhttp@hub/hub nbconn 2
    default_backend api
backend api
    http-reuse always
    server api 127.0.0.1:{api} ssl {trust} ca-file api-ca.crt alpn http/1.1
"
    )
}

/// With the default of 100 streams per tunnel the larger work would wait in line.
fn global(threads: usize) -> String {
    format!(
        "global
    nbthread {threads}
    maxconn 8192
    expose-experimental-directives
    tune.h2.max-concurrent-streams 1000
    ssl-default-bind-ciphersuites {CIPHER}
    ssl-default-server-ciphersuites {CIPHER}
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
"
    )
}
