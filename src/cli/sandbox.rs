//! `sandbox`: flags of the one-command trial.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use futures_util::FutureExt;

use crate::name::ClusterName;
use crate::sandbox::apiserver::ApiServers;
use crate::sandbox::apiserver::real::Assets;
use crate::sandbox::{self, SandboxConfig, SandboxError};

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

    /// The clusters' API servers: small ones in this process, or kube-apiserver and etcd
    #[arg(long, value_name = "KIND", default_value = "embedded")]
    apiserver: Kind,

    /// Folder with kube-apiserver and etcd, for `--apiserver real`
    #[arg(long, env = "KUBEBUILDER_ASSETS", value_name = "DIR")]
    assets: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    Embedded,
    Real,
}

/// Runs the sandbox until SIGINT or SIGTERM.
pub(crate) async fn run(args: SandboxArgs) -> anyhow::Result<ExitCode> {
    let stop = super::stop_signal()?.map(drop);
    let api_servers = match args.apiserver {
        Kind::Embedded => ApiServers::Embedded,
        Kind::Real => {
            ApiServers::Real(Assets::find(args.assets.as_deref()).map_err(SandboxError::from)?)
        }
    };
    let config = SandboxConfig {
        directory: args.dir,
        port: args.port,
        clusters: args.clusters,
        api_servers,
    };
    sandbox::run(config, stop, super::print).await?;
    Ok(ExitCode::SUCCESS)
}
