//! `cluster-proxy miniapi`: the in-memory Kubernetes API on its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;

use crate::drain::Drain;
use crate::kubernetes;
use crate::miniapi::{MiniApi, MiniApiConfig};
use crate::name::ClusterName;
use crate::sandbox::provision;
use crate::state;

/// Flags of `miniapi`.
#[derive(Debug, clap::Args)]
pub(crate) struct MiniapiArgs {
    /// Where to listen: a loopback address, for exec into a Pod runs processes of this machine
    #[arg(long, default_value = "127.0.0.1:6443", value_name = "IP:PORT")]
    address: SocketAddr,

    /// Folder for kubeconfigs, tokens and what the API keeps
    #[arg(long, default_value = "miniapi", value_name = "DIR")]
    dir: PathBuf,

    /// Name of the cluster
    #[arg(long, default_value = "miniapi", value_name = "NAME")]
    name: ClusterName,
}

/// Serves until SIGINT or SIGTERM.
pub(crate) async fn run(args: MiniapiArgs) -> anyhow::Result<ExitCode> {
    let config = MiniApiConfig {
        directory: Some(args.dir.clone()),
        ..MiniApiConfig::new(args.name.as_str(), args.address)
    };
    let api = MiniApi::bind(config).await.context("--address or --dir cannot be used")?;
    let kubeconfig = args.dir.join("kubeconfig");
    let agent = args.dir.join("agent.kubeconfig");
    let token = args.dir.join("tokens").join(TEST_ACCOUNT);
    let stop = super::stop_signal()?;
    let drain = Drain::new();
    let (url, server) = (api.url(), api.server());
    let serving = drain.spawn(api.run(drain.clone()));

    let client = kubernetes::client(&server)?;
    let write = |path: &Path, text: &str| {
        let written = state::replace(path, text.as_bytes());
        written.with_context(|| format!("--dir: cannot write {}", path.display()))
    };
    let admin = provision::admin_token(&client).await?;
    write(&kubeconfig, &provision::kubeconfig(&server, args.name.as_str(), admin))?;
    write(&agent, &provision::agent(&client, &server).await?)?;
    // What `agent --expose-service default/web` looks up.
    provision::services(&client, "default").await?;
    write(&args.dir.join("ca.crt"), &String::from_utf8_lossy(&server.ca_pem))?;
    write(&token, &provision::managed_token(&client, TEST_ACCOUNT, TOKEN_LIFE).await?)?;
    announce(&url, &[("kubectl", &kubeconfig), ("agent", &agent), ("token", &token)])?;
    stop.await;
    drain.finish(PATIENCE).await;
    serving.await.context("the server ended early")?;
    Ok(ExitCode::SUCCESS)
}

fn announce(url: &str, files: &[(&str, &Path)]) -> anyhow::Result<()> {
    let mut text = format!("ready {url}\n");
    for (what, path) in files {
        text.push_str(&format!("ready {what} {}\n", path.display()));
    }
    super::print(&text)?;
    Ok(())
}

/// ServiceAccount with all rights, for trying the hub by hand.
const TEST_ACCOUNT: &str = "test";

/// As long as a managed ServiceAccount's token usually lives.
const TOKEN_LIFE: Duration = Duration::from_secs(30 * 86_400);

/// Watches and logs end at once; what is left after this is a client that does not read.
const PATIENCE: Duration = Duration::from_secs(2);
