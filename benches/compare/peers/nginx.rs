//! nginx as two plain hops: no tunnel, the hub dials the agent. One process of one thread each.

use std::path::Path;
use std::process::{Command, Stdio};

use super::{CIPHER, Peer};
use crate::support::client::Client;
use crate::support::process::{Process, free_port};
use crate::support::processes::Pair;

pub(super) fn start(pair: &Pair, program: &Path) -> Peer {
    let (user, middle) = (free_port(), free_port());
    let hub = hop(
        "nginx-hub",
        user,
        "",
        middle,
        "proxy_ssl_trusted_certificate ../c1/hub-ca.crt;
        proxy_ssl_certificate ../agent.pem;
        proxy_ssl_certificate_key ../agent.pem;",
    );
    let client_certificates = "ssl_verify_client on; ssl_client_certificate ../hub/agent-ca.crt;";
    let agent = hop(
        "nginx-agent",
        middle,
        client_certificates,
        pair.api.address.port(),
        "proxy_ssl_trusted_certificate ../api-ca.crt;",
    );
    let [hub, agent] = [("nginx-hub", hub), ("nginx-agent", agent)].map(|(name, config)| {
        // Its temporary files lie below the prefix, and paths of a configuration beside it.
        let prefix = pair.directory().join(name);
        std::fs::create_dir(&prefix).unwrap();
        let file = prefix.join("nginx.conf");
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new(program);
        command.arg("-p").arg(&prefix).arg("-c").arg(&file).stdin(Stdio::null());
        Process::spawn(name, pair.directory(), command)
    });
    let client = Client::new(([127, 0, 0, 1], user).into(), pair.ca_pem.as_bytes());
    Peer::of_two("nginx", hub, agent, client.token(&pair.api.token("test")))
}

/// Bodies are passed on as they come, in memory: nginx's default is to collect them in files.
fn hop(name: &str, listen: u16, server: &str, upstream: u16, trust: &str) -> String {
    format!(
        "daemon off;
master_process off;
pid {name}.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    keepalive_requests 1000000000;
    upstream next {{
        server 127.0.0.1:{upstream};
        keepalive 512;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{listen} ssl http2;
        ssl_certificate ../hub.pem;
        ssl_certificate_key ../hub.pem;
        ssl_protocols TLSv1.3;
        ssl_conf_command Ciphersuites {CIPHER};
        {server}
        client_max_body_size 0;
        location / {{
            proxy_pass https://next;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_set_header Host $http_host;
            proxy_request_buffering off;
            proxy_max_temp_file_size 0;
            proxy_ssl_protocols TLSv1.3;
            proxy_ssl_conf_command Ciphersuites {CIPHER};
            proxy_ssl_verify on;
            proxy_ssl_verify_depth 3;
            proxy_ssl_server_name on;
            proxy_ssl_name localhost;
            {trust}
        }}
    }}
}}
"
    )
}
