//! `kubeconfig`: writes a kubeconfig for clusters behind the hub.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod merge;
pub(super) mod select;
mod write;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{ArgGroup, Args};
use http::Uri;
use tokio::sync::OnceCell;
use zeroize::Zeroizing;

use self::select::{Profiles, Which};
pub(super) use self::write::temporary;
use crate::credential::hub::{HubApi, HubError, Pinned};
use crate::kubernetes::{self, Context, ContextUser, read_bounded};
use crate::name::ClusterName;

/// Flags of `kubeconfig`.
#[derive(Debug, Args)]
pub(crate) struct KubeconfigArgs {
    #[command(flatten)]
    way: WayArgs,

    #[command(flatten)]
    which: Which,

    /// Namespace in which --all and --selector look for ClusterProfiles [default: every one]
    #[arg(long, value_name = "NAMESPACE")]
    profile_namespace: Option<String>,

    /// Begin the names of contexts with this
    #[arg(long, value_name = "TEXT", default_value = "")]
    context_prefix: String,

    /// File to write, mode 0600 [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Add to a file that exists, or change what an earlier merge added, and keep everything else
    #[arg(long, requires = "output")]
    merge: bool,

    /// Replace a file that exists; with --merge, entries of the same names that lead elsewhere
    #[arg(long, requires = "output")]
    force: bool,
}

/// Flags that say where the hub is, and how a user of it gets tokens.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("from"))]
pub(crate) struct WayArgs {
    /// The hub as clients reach it, for example https://hub.example.com:9092
    #[arg(long, env = "CLUSTER_PROXY_SERVER", value_name = "URL", value_parser = server)]
    server: String,

    /// CA certificate of the hub's user listener, PEM (`serving-ca.crt` of the hub's folder)
    #[arg(long, env = "CLUSTER_PROXY_CA", value_name = "FILE")]
    ca: PathBuf,

    /// A managed service account, whose current token `cluster-proxy credential` gets for kubectl from
    /// the hub's API, whenever one is needed [default: the only one that each cluster has]
    #[arg(long = "managed-serviceaccount", visible_alias = "sa", value_name = "NAME", group = "from", value_parser = super::credential::account)]
    account: Option<String>,

    /// Namespace of ClusterProfiles with a copy of the account's Secret [default: the account's own
    /// Secret, in the namespace that has the cluster's name]
    #[arg(long, value_name = "NAMESPACE", requires = "account")]
    namespace: Option<String>,

    /// Kubeconfig of the hub's own cluster, for that; its path is written down [default: what kubectl
    /// takes now; in a pod the pod's account]
    #[arg(long, value_name = "FILE")]
    hub_kubeconfig: Option<PathBuf>,

    /// Context in it [default: its current one; written down as well]
    #[arg(long, value_name = "NAME")]
    hub_context: Option<String>,

    /// Folder of a sandbox, from whose `tokens/` `cluster-proxy credential` reads for kubectl
    #[arg(long, value_name = "DIR", group = "from")]
    dir: Option<PathBuf>,

    /// File with a bearer token that is put into the kubeconfig and is never renewed, or `-` for
    /// standard input; there is no flag for the token itself, because everybody on a machine can read
    /// command lines
    #[arg(long, value_name = "FILE", group = "from")]
    token_file: Option<PathBuf>,
}

/// Writes the kubeconfig.
pub(crate) async fn run(args: KubeconfigArgs) -> anyhow::Result<ExitCode> {
    if args.which.is_empty() {
        return Err(super::usage("name clusters with --cluster, or choose --all or --selector"));
    }
    let (way, which) = (&args.way, &args.which);
    if !way.asks_hub() && !which.asks() && way.names_hub() {
        return Err(super::usage(
            "--hub-kubeconfig and --hub-context are for --managed-serviceaccount, --all and --selector",
        ));
    }
    let hub = way.hub(which.asks())?;
    let clusters = match &hub {
        Some(hub) if which.asks() => {
            let namespace = args.profile_namespace.as_deref();
            Profiles { hub: hub.api().await?, namespace }.choose(which).await?
        }
        _ => which.clusters.clone(),
    };
    let user = Credentials::of(way, hub.as_ref(), &clusters).await?;
    let text = way.contexts(&clusters, &user, &args.context_prefix)?;
    match &args.output {
        None => super::print(&text)?,
        Some(path) if args.merge && path.exists() => {
            let keep = hub.and_then(|hub| hub.pinned).filter(|pinned| pinned.is_in(path));
            merge(path, &text, keep.map(|pinned| pinned.context).as_deref(), args.force).await?;
        }
        Some(path) if args.force && !args.merge => {
            // Without what is in it no token can be had.
            if hub.and_then(|hub| hub.pinned).is_some_and(|pinned| pinned.is_in(path)) {
                bail!("--output: this is the hub's kubeconfig; add to it with --merge");
            }
            write::replace(path, &text).with_context(|| cannot_write(path))?;
        }
        Some(path) => match write::create(path, &text) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => bail!(
                "--output: `{}` exists; use --merge to add to it or --force to replace it",
                path.display()
            ),
            written => written.with_context(|| cannot_write(path))?,
        },
    }
    Ok(ExitCode::SUCCESS)
}

async fn merge(path: &Path, text: &str, keep: Option<&str>, force: bool) -> anyhow::Result<()> {
    let name = path.display();
    let lock = write::Lock::take(path).await.with_context(|| {
        format!(
            "--output: cannot make `{name}.lock`, which keeps kubectl from writing at the same time"
        )
    })?;
    let file = read_bounded(path, MAX_FILE).and_then(|bytes| {
        String::from_utf8(bytes)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not UTF-8"))
    });
    let file = Zeroizing::new(file.with_context(|| format!("--output: cannot read `{name}`"))?);
    let merged = merge::merge(&file, text, keep, force)
        .map_err(|error| anyhow::anyhow!("--output: `{name}` {error}"))?;
    if let Some(text) = merged.text.map(Zeroizing::new) {
        write::rewrite(path, &text).with_context(|| cannot_write(path))?;
    }
    drop(lock);
    super::print(&format!("{name}: {} added, {} changed\n", merged.added, merged.changed))?;
    Ok(())
}

fn cannot_write(path: &Path) -> String {
    format!("--output: cannot write `{}`", path.display())
}

/// How the plugin will find the hub's own API.
pub(crate) struct Hub {
    pinned: Option<Pinned>,
    api: OnceCell<HubApi>,
}

// === impl Hub ===

impl Hub {
    /// That API. Its kubeconfig's own plugin runs only when it is used.
    pub(crate) async fn api(&self) -> Result<&HubApi, HubError> {
        self.api.get_or_try_init(|| HubApi::connect(self.pinned.as_ref())).await
    }
}

// === impl WayArgs ===

impl WayArgs {
    /// Whether users get their tokens from the hub's own API.
    fn asks_hub(&self) -> bool {
        self.dir.is_none() && self.token_file.is_none()
    }

    fn names_hub(&self) -> bool {
        self.hub_kubeconfig.is_some() || self.hub_context.is_some()
    }

    /// The hub's own API, where that or `names` asks for it.
    pub(crate) fn hub(&self, names: bool) -> anyhow::Result<Option<Hub>> {
        if !self.asks_hub() && !names {
            return Ok(None);
        }
        let pinned = Pinned::find(self.hub_kubeconfig.clone(), self.hub_context.clone());
        let pinned = match (pinned, &self.account, names) {
            (Err(error), None, false) => {
                return Err(anyhow::Error::new(error).context(
                    "tokens come from the hub's own API, unless --token-file or --dir is named",
                ));
            }
            (pinned, ..) => pinned?,
        };
        Ok(Some(Hub { pinned, api: OnceCell::new() }))
    }

    /// A kubeconfig with a context for each of `clusters`.
    pub(crate) fn contexts(
        &self,
        clusters: &[ClusterName],
        user: &Credentials,
        prefix: &str,
    ) -> anyhow::Result<Zeroizing<String>> {
        let ca_pem = authority(&self.ca)?;
        let context = |cluster: &ClusterName| Context {
            name: format!("{prefix}{cluster}"),
            server: format!("{}/{cluster}", self.server),
            ca_pem: ca_pem.as_bytes().to_vec(),
            user: user.of_cluster(cluster),
        };
        Ok(kubernetes::kubeconfig(&clusters.iter().map(context).collect::<Vec<_>>()))
    }
}

/// How every user of the file gets a token.
pub(crate) enum Credentials {
    Token(Zeroizing<String>),
    Plugin { command: String, args: Vec<String> },
}

// === impl Credentials ===

impl Credentials {
    pub(crate) async fn of(
        way: &WayArgs,
        hub: Option<&Hub>,
        clusters: &[ClusterName],
    ) -> anyhow::Result<Self> {
        let mut plugin = vec!["credential".to_owned()];
        match (&way.dir, &way.token_file, hub) {
            (Some(dir), ..) => {
                let dir =
                    dir.canonicalize().with_context(|| format!("--dir: no `{}`", dir.display()))?;
                plugin.push(format!("--dir={}", text(&dir)?));
            }
            (None, Some(file), _) => return token(file).map(Self::Token),
            (None, None, Some(hub)) => {
                let account = match &way.account {
                    Some(account) => account.clone(),
                    None => {
                        let hub = hub.api().await?;
                        Profiles { hub, namespace: None }.account(clusters).await?
                    }
                };
                plugin.push(format!("--managed-serviceaccount={account}"));
                plugin.push(match &way.namespace {
                    Some(namespace) => format!("--namespace={namespace}"),
                    None => "--cluster-namespace".to_owned(),
                });
                // Written down: what kubectl takes then may be this very file.
                if let Some(Pinned { kubeconfig, context }) = &hub.pinned {
                    plugin.push(format!("--hub-kubeconfig={}", text(kubeconfig)?));
                    plugin.push(format!("--hub-context={context}"));
                }
            }
            (None, None, None) => bail!("name --managed-serviceaccount, --dir or --token-file"),
        }
        let command = std::env::current_exe().context("cannot tell where this program is")?;
        Ok(Self::Plugin { command: text(&command)?.to_owned(), args: plugin })
    }

    fn of_cluster(&self, cluster: &ClusterName) -> ContextUser {
        match self {
            Self::Token(token) => ContextUser::Token(token.clone()),
            Self::Plugin { command, args } => ContextUser::Plugin {
                cluster: cluster.clone(),
                command: command.clone(),
                args: args.clone(),
            },
        }
    }
}

/// The CA bundle in the file of `--ca`.
pub(super) fn authority(file: &Path) -> anyhow::Result<Zeroizing<String>> {
    let ca_pem = File::open(file)
        .and_then(read)
        .with_context(|| format!("--ca: cannot read `{}`", file.display()))?;
    if !ca_pem.contains("-----BEGIN CERTIFICATE-----") {
        bail!("--ca: `{}` holds no PEM certificate", file.display());
    }
    Ok(ca_pem)
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().with_context(|| format!("a kubeconfig cannot hold the path {path:?}"))
}

/// The token in the file of `--token-file`.
pub(super) fn token(file: &Path) -> anyhow::Result<Zeroizing<String>> {
    let token = if file == Path::new("-") {
        read(io::stdin().lock()).context("--token-file: cannot read standard input")?
    } else {
        File::open(file)
            .and_then(read)
            .with_context(|| format!("--token-file: cannot read `{}`", file.display()))?
    };
    let token = Zeroizing::new(token.trim().to_owned());
    // The grammar of RFC 6750 section 2.1 and a little more: nothing that would split a header.
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        bail!("--token-file: expected one token and nothing else");
    }
    Ok(token)
}

fn read(from: impl Read) -> io::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    from.take(MAX_INPUT + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_INPUT {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("larger than {MAX_INPUT} bytes"),
        ));
    }
    Ok(text)
}

/// Accepts `https://HOST[:PORT]`, and drops a slash at its end.
pub(super) fn server(value: &str) -> Result<String, String> {
    let expected = || "expected https://HOST:PORT without a path".to_owned();
    let uri: Uri = value.parse().map_err(|_| expected())?;
    let plain = uri.scheme_str() == Some("https")
        && uri.host().is_some_and(|host| !host.is_empty())
        && matches!(uri.path(), "" | "/")
        && uri.query().is_none()
        && !value.contains(['@', '#']);
    if plain { Ok(value.trim_end_matches('/').to_owned()) } else { Err(expected()) }
}

/// Bytes of a token or a CA bundle: both fit many times.
const MAX_INPUT: u64 = 1 << 20;
/// Bytes of a kubeconfig that is added to: thousands of clusters.
const MAX_FILE: u64 = 64 << 20;

#[cfg(test)]
mod tests;
