//! Kubeconfigs that we write for others.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use zeroize::Zeroizing;

/// One context of a kubeconfig, with a cluster and a user of the same name.
#[derive(Clone)]
pub struct Context {
    /// Name of context, cluster and user.
    pub name: String,
    /// URL of the API server, with the path prefix where it has one.
    pub server: String,
    /// CA bundle of the server, PEM.
    pub ca_pem: Vec<u8>,
    /// Bearer token.
    pub token: Zeroizing<String>,
}

/// The YAML of a kubeconfig with `contexts`, the first of which is current. It holds the tokens:
/// write it to a file of mode 0600.
pub fn kubeconfig(contexts: &[Context]) -> Zeroizing<String> {
    let file = File {
        api_version: "v1",
        kind: "Config",
        clusters: contexts
            .iter()
            .map(|context| NamedCluster {
                name: &context.name,
                cluster: Cluster {
                    server: &context.server,
                    certificate_authority_data: STANDARD.encode(&context.ca_pem),
                },
            })
            .collect(),
        users: contexts
            .iter()
            .map(|context| NamedUser { name: &context.name, user: User { token: &context.token } })
            .collect(),
        contexts: contexts
            .iter()
            .map(|context| NamedContext {
                name: &context.name,
                context: Pair { cluster: &context.name, user: &context.name },
            })
            .collect(),
        current_context: contexts.first().map_or("", |context| &context.name),
    };
    // Structures of text and lists have a form in YAML whatever they hold.
    let text = serde_saphyr::to_string(&file).expect("text and lists can always be written");
    Zeroizing::new(text)
}

#[derive(Serialize)]
struct File<'a> {
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    kind: &'static str,
    clusters: Vec<NamedCluster<'a>>,
    users: Vec<NamedUser<'a>>,
    contexts: Vec<NamedContext<'a>>,
    #[serde(rename = "current-context")]
    current_context: &'a str,
}

#[derive(Serialize)]
struct NamedCluster<'a> {
    name: &'a str,
    cluster: Cluster<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster<'a> {
    server: &'a str,
    certificate_authority_data: String,
}

#[derive(Serialize)]
struct NamedUser<'a> {
    name: &'a str,
    user: User<'a>,
}

#[derive(Serialize)]
struct User<'a> {
    token: &'a str,
}

#[derive(Serialize)]
struct NamedContext<'a> {
    name: &'a str,
    context: Pair<'a>,
}

#[derive(Serialize)]
struct Pair<'a> {
    cluster: &'a str,
    user: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::{ApiServer, Credentials};

    #[test]
    fn what_we_write_is_what_we_read() {
        let context = |name: &str, token: &str| Context {
            name: name.to_owned(),
            server: format!("https://{name}.example.com:9092"),
            ca_pem: format!("-----BEGIN {name}\n").repeat(50).into_bytes(),
            token: Zeroizing::new(token.to_owned()),
        };
        // Names and tokens that YAML would rather read as numbers, truths and comments.
        let written = [
            context("c1", "eyJ.a.b"),
            context("0x10", "true # no: {comment"),
            context("no", "1e3"),
        ];
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), kubeconfig(&written).as_bytes()).unwrap();
        for context in &written {
            let read = ApiServer::from_kubeconfig(file.path(), Some(&context.name)).unwrap();
            assert_eq!(read.authority(), format!("{}.example.com:9092", context.name));
            assert_eq!(read.ca_pem, context.ca_pem);
            let Credentials::Token(token) = read.credentials else { panic!("no token") };
            assert_eq!(token, context.token);
        }
        let current = ApiServer::from_kubeconfig(file.path(), None).unwrap();
        assert_eq!(current.host, "c1.example.com");
    }
}
