//! What a sandbox says when it is ready. Pure.

use std::path::Path;

use super::apiserver::ApiServers;
use super::demo;
use crate::name::ClusterName;

/// A line that starts with `ready`, then commands to try.
pub(super) fn text(directory: &Path, clusters: &[ClusterName], api_servers: &ApiServers) -> String {
    let names: Vec<&str> = clusters.iter().map(ClusterName::as_str).collect();
    let first = names.first().copied().unwrap_or_default();
    let (every, have) = match names.len() {
        1 => ("", "cluster"),
        _ => ("s", "clusters"),
    };
    let service = match api_servers {
        ApiServers::Embedded => {
            format!("  # a Service of the cluster, instead of /version: {}\n", demo::path())
        }
        ApiServers::Real(_) => String::new(),
    };
    let directory = quoted(&directory.display().to_string());
    format!(
        "\
ready: {have} {list} behind one hub; every answer came through a tunnel that the agent{every} dialled

  export KUBECONFIG={directory}/kubeconfig
  kubectl --context {first} get nodes
  kubectl --context {first} get pods -A -w
  kubectl --context {first} logs -f hello
  kubectl --context {first} exec -it hello -- sh
  curl --cacert {directory}/ca.crt -H \"Authorization: Bearer $(cat {directory}/tokens/{first})\" \\
    \"$(sed -n 's/.*\"user\": \"\\(.*\\)\".*/\\1/p' {directory}/urls.json)/{first}/version\"
{service}
`exec` starts real processes of this machine: it is a trial, not isolation. Control-C ends it all.
",
        list = names.join(", "),
    )
}

/// The text as one word of a shell.
fn quoted(text: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-+:@%,".contains(letter);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_can_be_copied() {
        let names = ["c1", "c2"].map(|name| ClusterName::parse(name).unwrap());
        let text = text(Path::new("/tmp/it's here"), &names, &ApiServers::Embedded);
        assert!(text.starts_with("ready: clusters c1, c2 "));
        assert!(text.contains("export KUBECONFIG='/tmp/it'\\''s here'/kubeconfig\n"), "{text}");
        assert!(text.contains("--context c1 get nodes\n"));
    }
}
