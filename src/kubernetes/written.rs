//! Kubeconfigs that we write for others.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::name::ClusterName;

/// One context of a kubeconfig, with a cluster and a user of the same name.
#[derive(Clone)]
pub struct Context {
    /// Name of context, cluster and user.
    pub name: String,
    /// URL of the API server, with the path prefix where it has one.
    pub server: String,
    /// CA bundle of the server, PEM.
    pub ca_pem: Vec<u8>,
    /// How its user gets a token.
    pub user: ContextUser,
}

/// How a user of a kubeconfig gets a token.
#[derive(Clone)]
pub enum ContextUser {
    /// It is in the file.
    Token(Zeroizing<String>),
    /// A plugin gives it when it is needed.
    Plugin {
        /// The cluster that the plugin is told.
        cluster: ClusterName,
        /// The program; an absolute path, because kubectl runs anywhere.
        command: String,
        /// Its arguments.
        args: Vec<String>,
    },
}

/// The YAML of a kubeconfig with `contexts`, the first of which is current. It may hold tokens:
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
                    extensions: context.user.extensions(),
                },
            })
            .collect(),
        users: contexts
            .iter()
            .map(|context| NamedUser { name: &context.name, user: context.user.written() })
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
    #[serde(skip_serializing_if = "Option::is_none")]
    extensions: Option<[NamedExtension<'a>; 1]>,
}

/// What client-go hands to the plugin as `spec.cluster.config`.
#[derive(Serialize)]
struct NamedExtension<'a> {
    name: &'static str,
    extension: Extension<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Extension<'a> {
    cluster_name: &'a ClusterName,
}

#[derive(Serialize)]
struct NamedUser<'a> {
    name: &'a str,
    user: User<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum User<'a> {
    Token(&'a str),
    Exec(Exec<'a>),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Exec<'a> {
    api_version: &'static str,
    command: &'a str,
    args: &'a [String],
    interactive_mode: &'static str,
    provide_cluster_info: bool,
}

// === impl ContextUser ===

impl ContextUser {
    fn extensions(&self) -> Option<[NamedExtension<'_>; 1]> {
        let Self::Plugin { cluster, .. } = self else { return None };
        let extension = Extension { cluster_name: cluster };
        Some([NamedExtension { name: "client.authentication.k8s.io/exec", extension }])
    }

    fn written(&self) -> User<'_> {
        match self {
            Self::Token(token) => User::Token(token),
            Self::Plugin { command, args, .. } => User::Exec(Exec {
                api_version: "client.authentication.k8s.io/v1",
                command,
                args,
                interactive_mode: "Never",
                provide_cluster_info: true,
            }),
        }
    }
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
            user: ContextUser::Token(Zeroizing::new(token.to_owned())),
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
            let ContextUser::Token(written) = &context.user else { panic!("no token") };
            assert_eq!(token, *written);
        }
        let current = ApiServer::from_kubeconfig(file.path(), None).unwrap();
        assert_eq!(current.host, "c1.example.com");
    }

    #[test]
    fn a_plugin_is_told_its_cluster() {
        let context = Context {
            name: "c1".to_owned(),
            server: "https://hub/c1".to_owned(),
            ca_pem: b"ca".to_vec(),
            user: ContextUser::Plugin {
                cluster: "c1".parse().unwrap(),
                command: "/opt/cluster proxy".to_owned(),
                args: vec!["credential".to_owned(), "--dir=a: b".to_owned()],
            },
        };
        let read: serde_json::Value = serde_saphyr::from_str(&kubeconfig(&[context])).unwrap();
        let extension = serde_json::json!({"name": "client.authentication.k8s.io/exec",
            "extension": {"clusterName": "c1"}});
        assert_eq!(read["clusters"][0]["cluster"]["extensions"], serde_json::json!([extension]));
        let exec = serde_json::json!({"exec": {
            "apiVersion": "client.authentication.k8s.io/v1", "command": "/opt/cluster proxy",
            "args": ["credential", "--dir=a: b"], "interactiveMode": "Never",
            "provideClusterInfo": true}});
        assert_eq!(read["users"][0]["user"], exec);
    }
}
