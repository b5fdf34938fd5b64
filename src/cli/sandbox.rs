//! `sandbox`: flags of the one-command trial.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use futures_util::FutureExt;

use crate::name::ClusterName;
use crate::sandbox::{self, SandboxConfig};

/// Flags of `sandbox`.
#[derive(Debug, Args)]
pub(crate) struct SandboxArgs {
    /// Where the sandbox keeps its kubeconfig, certificates and state
    #[arg(long, value_name = "DIR", default_value = "cluster-proxy-sandbox")]
    dir: PathBuf,

    /// Port of the hub's user listener; every other listener takes a free one
    #[arg(long, value_name = "PORT", default_value = "9092")]
    port: u16,

    /// Names of the clusters
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "cluster1,cluster2")]
    clusters: Vec<ClusterName>,
}

/// Runs the sandbox until SIGINT or SIGTERM.
pub(crate) async fn run(args: SandboxArgs) -> anyhow::Result<ExitCode> {
    let stop = super::stop_signal()?.map(drop);
    let config = SandboxConfig { directory: args.dir, port: args.port, clusters: args.clusters };
    sandbox::run(config, stop, super::print).await?;
    Ok(ExitCode::SUCCESS)
}
