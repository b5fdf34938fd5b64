//! `kubeconfig`: writes a kubeconfig for clusters behind the hub.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use http::Uri;
use zeroize::Zeroizing;

use crate::kubernetes::{self, Context};
use crate::name::ClusterName;

/// Flags of `kubeconfig`.
#[derive(Debug, Args)]
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

    /// File with the bearer token, or `-` for standard input; there is no flag for the token
    /// itself, because everybody on a machine can read command lines
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,

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
    let token = if args.token_file == Path::new("-") {
        read(io::stdin().lock()).context("--token-file: cannot read standard input")?
    } else {
        File::open(&args.token_file)
            .and_then(read)
            .with_context(|| format!("--token-file: cannot read `{}`", args.token_file.display()))?
    };
    let token = Zeroizing::new(token.trim().to_owned());
    // The grammar of RFC 6750 section 2.1 and a little more: nothing that would split a header.
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        bail!("--token-file: expected one token and nothing else");
    }
    let contexts: Vec<Context> = args
        .clusters
        .iter()
        .map(|cluster| Context {
            name: cluster.to_string(),
            server: format!("{}/{cluster}", args.server),
            ca_pem: ca_pem.as_bytes().to_vec(),
            token: token.clone(),
        })
        .collect();
    Ok(kubernetes::kubeconfig(&contexts))
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
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: KubeconfigArgs,
    }

    fn args(folder: &Path, more: &[&str]) -> KubeconfigArgs {
        std::fs::write(folder.join("ca"), "-----BEGIN CERTIFICATE-----\n").unwrap();
        let at = |name: &str| folder.join(name).display().to_string();
        let (ca, token, output) = (at("ca"), at("token"), at("output"));
        let line = [
            "x",
            "--server",
            "https://hub:9092/",
            "--ca",
            &ca,
            "--token-file",
            &token,
            "--output",
            &output,
            "--cluster",
            "c1",
        ];
        Line::try_parse_from(line.iter().chain(more)).unwrap().args
    }

    #[tokio::test]
    async fn a_context_per_cluster_in_a_private_file_that_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("output");
        std::fs::write(folder.path().join("token"), "one\n").unwrap();
        run(args(folder.path(), &["--cluster", "c2"])).await.unwrap();
        let text = std::fs::read_to_string(&output).unwrap();
        assert!(
            text.contains("server: https://hub:9092/c1\n")
                && text.contains("server: https://hub:9092/c2\n"),
            "{text}"
        );
        assert_eq!(std::fs::metadata(&output).unwrap().permissions().mode() & 0o777, 0o600);

        std::fs::write(folder.path().join("token"), "two").unwrap();
        let error = run(args(folder.path(), &[])).await.unwrap_err();
        assert!(format!("{error:#}").contains("--force"), "{error:#}");
        assert_eq!(std::fs::read_to_string(&output).unwrap(), text);
        std::fs::set_permissions(&output, std::fs::Permissions::from_mode(0o644)).unwrap();
        run(args(folder.path(), &["--force"])).await.unwrap();
        assert!(std::fs::read_to_string(&output).unwrap().contains("token: two\n"));
        assert_eq!(std::fs::metadata(&output).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[tokio::test]
    async fn a_token_file_holds_one_token() {
        let folder = tempfile::tempdir().unwrap();
        for (token, works) in [
            ("a.b.c\n", true),
            ("", false),
            ("\n", false),
            ("a b", false),
            ("a\nb", false),
            ("\u{e9}", false),
        ] {
            std::fs::write(folder.path().join("token"), token).unwrap();
            assert_eq!(run(args(folder.path(), &["--force"])).await.is_ok(), works, "{token:?}");
        }
    }

    #[test]
    fn a_server_is_https_without_a_path() {
        assert_eq!(
            server("https://hub.example.com:9092/").as_deref(),
            Ok("https://hub.example.com:9092")
        );
        for good in ["https://hub", "https://127.0.0.1:9092", "https://[::1]:9092"] {
            assert_eq!(server(good).as_deref(), Ok(good));
        }
        for bad in [
            "http://hub",
            "hub:9092",
            "https://hub/c1",
            "https://",
            "https://hub?x",
            "https://u@hub",
        ] {
            assert!(server(bad).is_err(), "{bad}");
        }
    }
}
