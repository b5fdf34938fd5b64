//! `kubeconfig`: writes a kubeconfig for clusters behind the hub.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{ArgGroup, Args};
use http::Uri;
use zeroize::Zeroizing;

use crate::credential::hub::Pinned;
use crate::kubernetes::{self, Context, ContextUser};
use crate::name::ClusterName;

/// Flags of `kubeconfig`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("from").required(true))]
pub(crate) struct KubeconfigArgs {
    /// The hub as clients reach it, for example https://hub.example.com:9092
    #[arg(long, value_name = "URL", value_parser = server)]
    server: String,

    /// CA certificate of the hub's user listener, PEM (`serving-ca.crt` of the hub's folder)
    #[arg(long, value_name = "FILE")]
    ca: PathBuf,

    /// A cluster, which becomes a context of that name; repeat it for several
    #[arg(long = "cluster", value_name = "NAME", required = true, value_delimiter = ',')]
    clusters: Vec<ClusterName>,

    /// A managed service account, whose current token `cluster-proxy credential` gets for kubectl from
    /// the hub's API, whenever one is needed
    #[arg(long = "managed-serviceaccount", value_name = "NAME", group = "from", value_parser = super::credential::account)]
    account: Option<String>,

    /// Namespace of ClusterProfiles with a copy of the account's Secret [default: the account's own
    /// Secret, in the namespace that has the cluster's name]
    #[arg(long, value_name = "NAMESPACE", requires = "account", conflicts_with_all = ["dir", "token_file"])]
    namespace: Option<String>,

    /// Kubeconfig of the hub's own cluster, for that; its path is written down [default: what kubectl
    /// takes now; in a pod the pod's account]
    #[arg(long, value_name = "FILE", requires = "account", conflicts_with_all = ["dir", "token_file"])]
    hub_kubeconfig: Option<PathBuf>,

    /// Context in it [default: its current one; written down as well]
    #[arg(long, value_name = "NAME", requires = "account", conflicts_with_all = ["dir", "token_file"])]
    hub_context: Option<String>,

    /// Folder of a sandbox, from whose `tokens/` `cluster-proxy credential` reads for kubectl
    #[arg(long, value_name = "DIR", group = "from")]
    dir: Option<PathBuf>,

    /// File with a bearer token that is put into the kubeconfig and is never renewed, or `-` for
    /// standard input; there is no flag for the token itself, because everybody on a machine can read
    /// command lines
    #[arg(long, value_name = "FILE", group = "from")]
    token_file: Option<PathBuf>,

    /// File to write, mode 0600 [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Replace a file that exists
    #[arg(long, requires = "output")]
    force: bool,
}

/// Writes the kubeconfig.
pub(crate) async fn run(args: KubeconfigArgs) -> anyhow::Result<ExitCode> {
    let text = render(&args)?;
    match &args.output {
        None => super::print(&text)?,
        Some(path) => write(path, &text, args.force)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn render(args: &KubeconfigArgs) -> anyhow::Result<Zeroizing<String>> {
    let ca_pem = File::open(&args.ca)
        .and_then(read)
        .with_context(|| format!("--ca: cannot read `{}`", args.ca.display()))?;
    if !ca_pem.contains("-----BEGIN CERTIFICATE-----") {
        bail!("--ca: `{}` holds no PEM certificate", args.ca.display());
    }
    let user = Credentials::of(args)?;
    let contexts: Vec<Context> = args
        .clusters
        .iter()
        .map(|cluster| Context {
            name: cluster.to_string(),
            server: format!("{}/{cluster}", args.server),
            ca_pem: ca_pem.as_bytes().to_vec(),
            user: user.of_cluster(cluster),
        })
        .collect();
    Ok(kubernetes::kubeconfig(&contexts))
}

/// How every user of the file gets a token.
enum Credentials {
    Token(Zeroizing<String>),
    Plugin { command: String, args: Vec<String> },
}

// === impl Credentials ===

impl Credentials {
    fn of(args: &KubeconfigArgs) -> anyhow::Result<Self> {
        let mut plugin = vec!["credential".to_owned()];
        match (&args.account, &args.dir, &args.token_file) {
            (Some(account), ..) => {
                plugin.push(format!("--managed-serviceaccount={account}"));
                plugin.push(match &args.namespace {
                    Some(namespace) => format!("--namespace={namespace}"),
                    None => "--cluster-namespace".to_owned(),
                });
                plugin.extend(hub_access(args)?);
            }
            (None, Some(dir), _) => {
                let dir =
                    dir.canonicalize().with_context(|| format!("--dir: no `{}`", dir.display()))?;
                plugin.push(format!("--dir={}", text(&dir)?));
            }
            (None, None, Some(file)) => return token(file).map(Self::Token),
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

/// The arguments that pin the way to the hub's API: what kubectl takes then may be this very file.
fn hub_access(args: &KubeconfigArgs) -> anyhow::Result<Vec<String>> {
    let pinned = Pinned::find(args.hub_kubeconfig.clone(), args.hub_context.clone())?;
    let Some(Pinned { kubeconfig, context }) = pinned else { return Ok(Vec::new()) };
    let same = |output: &PathBuf| match (output.canonicalize(), kubeconfig.canonicalize()) {
        (Ok(output), Ok(kubeconfig)) => output == kubeconfig,
        _ => false,
    };
    if args.output.as_ref().is_some_and(same) {
        bail!("--output: this is the hub's kubeconfig, without which no token can be had");
    }
    Ok(vec![format!("--hub-kubeconfig={}", text(&kubeconfig)?), format!("--hub-context={context}")])
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().with_context(|| format!("a kubeconfig cannot hold the path {path:?}"))
}

fn token(file: &Path) -> anyhow::Result<Zeroizing<String>> {
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

fn write(path: &Path, text: &str, force: bool) -> anyhow::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    if !force {
        // Refuses a symbolic link too, wherever it points.
        let opened = options.create_new(true).open(path);
        if opened.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists) {
            bail!("--output: `{}` exists; use --force to replace it", path.display());
        }
        return opened
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(|| format!("--output: cannot write `{}`", path.display()));
    }
    // Beside it and then over it: never half written, and never with the mode of the old one.
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let temporary = folder.join(format!(".kubeconfig-{}", uuid::Uuid::new_v4()));
    let written = options
        .create_new(true)
        .open(&temporary)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| std::fs::rename(&temporary, path));
    if written.is_err() {
        // What is left of it is of no use to anybody; the error that counts is the first.
        let _ = std::fs::remove_file(&temporary);
    }
    written.with_context(|| format!("--output: cannot write `{}`", path.display()))
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

#[cfg(test)]
mod tests;
