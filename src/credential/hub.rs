//! The way to the hub's own API server, for the plugin: that of the pod, or of a kubeconfig, whose
//! user may need a plugin too, but never this one.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use kube::Client;
use kube::client::AuthError;
use kube::config::{AuthInfo, ExecConfig, KubeConfigOptions, Kubeconfig};
use secrecy::SecretString;

use crate::kubernetes::{self, ApiServer, Credentials, EndpointError, describe};
use crate::pki::ca;

/// A kubeconfig and a context of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pinned {
    /// Absolute path.
    pub kubeconfig: PathBuf,
    /// Name of the context.
    pub context: String,
}

/// A client of the hub's API server.
pub struct HubApi {
    /// The client.
    pub client: Client,
    /// Where the API server is, for people.
    pub server: String,
    /// Namespace of the context.
    pub namespace: Option<String>,
}

/// Why there is no way.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// No pod, and no file.
    #[error("there is no kubeconfig of the hub's cluster: name one with --hub-kubeconfig")]
    NoKubeconfig,
    /// Several files are merged by rules that a pinned path cannot follow.
    #[error(
        "KUBECONFIG names several files: name the one of the hub's cluster with --hub-kubeconfig"
    )]
    Several,
    /// Not readable. The text of the mistake may be a secret, so that it is not shown.
    #[error("the hub's kubeconfig {0} cannot be read or is none")]
    Unreadable(PathBuf),
    /// The context, or what it names.
    #[error("the hub's kubeconfig {path} has no {what}")]
    Missing {
        /// Which file.
        path: PathBuf,
        /// What it lacks.
        what: String,
    },
    /// Would weaken us.
    #[error("the hub's kubeconfig {0} has insecure-skip-tls-verify, which is not supported")]
    Insecure(PathBuf),
    /// Would call itself for ever.
    #[error(
        "the hub's kubeconfig {path}, context {context:?}, gets its credentials from this very plugin: it leads to a cluster behind the hub; name the kubeconfig of the hub's own cluster with --hub-kubeconfig and --hub-context"
    )]
    Ourselves {
        /// Which file.
        path: PathBuf,
        /// Which context.
        context: String,
    },
    /// The hub's listener takes nothing else.
    #[error(
        "the user in the hub's kubeconfig {0} has no token (a certificate is none): name one with --token-file, for example of `kubectl create token`"
    )]
    NoToken(PathBuf),
    /// Its user's plugin failed. What that printed may hold a token.
    #[error("the credential plugin of the hub's kubeconfig failed")]
    Plugin,
    /// The pod's account.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// Everything else that keeps a client from being built.
    #[error("the hub's API server cannot be used: {0}")]
    Unusable(String),
}

// === impl Pinned ===

impl Pinned {
    /// What to write into the arguments of the plugin: `kubeconfig`, else the one that kubectl would
    /// use, and `context`, else its current one. `None` in a pod without either.
    pub fn find(
        kubeconfig: Option<PathBuf>,
        context: Option<String>,
    ) -> Result<Option<Self>, HubError> {
        let path = match kubeconfig {
            Some(path) => path,
            None if context.is_none() && in_pod() => return Ok(None),
            None => default_path()?,
        };
        let path = std::path::absolute(&path).map_err(|_| HubError::Unreadable(path))?;
        let file = read(&path)?;
        let context = match context.or_else(|| file.current_context.clone()) {
            Some(context) if !context.is_empty() => context,
            _ => return Err(HubError::Missing { path, what: "current-context".to_owned() }),
        };
        let pinned = Self { kubeconfig: path, context };
        pinned.check(&mut { file })?;
        Ok(Some(pinned))
    }

    /// Whether its kubeconfig is `file`.
    pub fn is_in(&self, file: &Path) -> bool {
        match (file.canonicalize(), self.kubeconfig.canonicalize()) {
            (Ok(file), Ok(kubeconfig)) => file == kubeconfig,
            _ => false,
        }
    }

    /// The configuration of a client, and the namespace of the context.
    async fn config(&self) -> Result<(kube::Config, Option<String>), HubError> {
        let mut file = read(&self.kubeconfig)?;
        let namespace = self.check(&mut file)?;
        let options = KubeConfigOptions {
            context: Some(self.context.clone()),
            ..KubeConfigOptions::default()
        };
        let config = kube::Config::from_custom_kubeconfig(file, &options).await;
        let config = config.map_err(|_| HubError::Unreadable(self.kubeconfig.clone()))?;
        Ok((config, namespace))
    }

    /// Refuses what cannot work, and marks the surroundings of a plugin that it starts. Returns the
    /// namespace of the context.
    fn check(&self, file: &mut Kubeconfig) -> Result<Option<String>, HubError> {
        let path = &self.kubeconfig;
        let missing = |what: String| HubError::Missing { path: path.clone(), what };
        let context = file.contexts.iter().find(|one| one.name == self.context);
        let context = context.and_then(|one| one.context.clone());
        let context = context.ok_or_else(|| missing(format!("context {:?}", self.context)))?;
        let cluster = file.clusters.iter().find(|one| one.name == context.cluster);
        let cluster = cluster.and_then(|one| one.cluster.as_ref());
        let cluster = cluster.ok_or_else(|| missing(format!("cluster {:?}", context.cluster)))?;
        if cluster.insecure_skip_tls_verify == Some(true) {
            return Err(HubError::Insecure(path.clone()));
        }
        let user = context.user.unwrap_or_default();
        let found = file.auth_infos.iter_mut().find(|one| one.name == user);
        let found = found.and_then(|one| one.auth_info.as_mut());
        let auth = found.ok_or_else(|| missing(format!("user {user:?}")))?;
        if let Some(exec) = &mut auth.exec {
            if is_ourselves(exec) {
                let context = self.context.clone();
                return Err(HubError::Ourselves { path: path.clone(), context });
            }
            let guard = [("name", GUARD), ("value", "1")];
            let guard = guard.map(|(key, value)| (key.to_owned(), value.to_owned()));
            exec.env.get_or_insert_default().push(HashMap::from(guard));
        }
        Ok(context.namespace)
    }
}

// === impl HubApi ===

impl HubApi {
    /// Connects as `pinned` says; without it, as the pod.
    pub async fn connect(pinned: Option<&Pinned>) -> Result<Self, HubError> {
        let Some(pinned) = pinned else {
            let server = ApiServer::in_cluster()?;
            let client = kubernetes::client(&server)?;
            return Ok(Self { client, server: server.authority(), namespace: None });
        };
        let (config, namespace) = pinned.config().await?;
        let server = config.cluster_url.to_string();
        Ok(Self { client: built(config)?, server, namespace })
    }
}

/// A client of the hub's own listener at `url`, whose certificate `ca_pem` verifies: with `token`,
/// else with the token, and nothing but the token, of the user of `pinned`, else of the pod's account.
///
/// # Errors
/// When there is no token, or no client can be built.
pub async fn listener(
    url: http::Uri,
    ca_pem: &[u8],
    pinned: Option<&Pinned>,
    token: Option<SecretString>,
) -> Result<Client, HubError> {
    let mut config = kube::Config::new(url);
    let roots = ca::certificates(ca_pem).map_err(|error| HubError::Unusable(error.to_string()))?;
    config.root_cert = Some(roots.into_iter().map(|root| root.to_vec()).collect());
    config.auth_info = match (token, pinned) {
        (Some(token), _) => AuthInfo { token: Some(token), ..AuthInfo::default() },
        (None, Some(pinned)) => {
            let AuthInfo { token, token_file, exec, auth_provider, .. } =
                pinned.config().await?.0.auth_info;
            let has_token = token.is_some() || token_file.is_some();
            if !has_token && exec.is_none() && auth_provider.is_none() {
                return Err(HubError::NoToken(pinned.kubeconfig.clone()));
            }
            AuthInfo { token, token_file, exec, auth_provider, ..AuthInfo::default() }
        }
        (None, None) => match ApiServer::in_cluster()?.credentials {
            Credentials::TokenFile(path) => {
                let token_file = Some(path.to_string_lossy().into_owned());
                AuthInfo { token_file, ..AuthInfo::default() }
            }
            // Invariant: a pod's account is a file with a token (`ApiServer::in_cluster`).
            _ => return Err(HubError::NoKubeconfig),
        },
    };
    built(config)
}

fn built(config: kube::Config) -> Result<Client, HubError> {
    Client::try_from(config).map_err(|error| match error {
        kube::Error::Auth(
            AuthError::AuthExecRun { .. }
            | AuthError::AuthExecParse(_)
            | AuthError::AuthExec(_)
            | AuthError::AuthExecStart(_)
            | AuthError::ExecPluginFailed,
        ) => HubError::Plugin,
        other => HubError::Unusable(describe(&other)),
    })
}

fn read(path: &Path) -> Result<Kubeconfig, HubError> {
    Kubeconfig::read_from(path).map_err(|_| HubError::Unreadable(path.to_owned()))
}

fn in_pod() -> bool {
    std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
}

/// The file that kubectl would take.
fn default_path() -> Result<PathBuf, HubError> {
    if let Some(paths) = std::env::var_os("KUBECONFIG") {
        let mut paths = std::env::split_paths(&paths).filter(|path| !path.as_os_str().is_empty());
        if let Some(path) = paths.next() {
            return if paths.next().is_none() { Ok(path) } else { Err(HubError::Several) };
        }
    }
    let path = std::env::home_dir().map(|home| home.join(".kube").join("config"));
    path.filter(|path| path.is_file()).ok_or(HubError::NoKubeconfig)
}

/// Whether a plugin is this one, by whatever path.
fn is_ourselves(exec: &ExecConfig) -> bool {
    let mut words = exec.args.iter().flatten().filter(|word| !word.starts_with('-'));
    let Some(command) = exec.command.as_deref().map(Path::new) else { return false };
    let own = std::env::current_exe().unwrap_or_default();
    let same_name = command
        .file_name()
        .is_some_and(|name| Some(name) == own.file_name() || name == "cluster-proxy");
    let same_file = || match (command.canonicalize(), own.canonicalize()) {
        (Ok(command), Ok(own)) => command == own,
        _ => false,
    };
    words.any(|word| word == "credential") && (same_name || same_file())
}

/// Set for plugins that we start: if one of them starts us, nobody would ever answer.
pub const GUARD: &str = "CLUSTER_PROXY_CREDENTIAL_RUNS";

#[cfg(test)]
mod tests {
    use super::*;

    fn file(user: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: hub\n\
             contexts:\n- {{name: hub, context: {{cluster: c, user: u, namespace: n}}}}\n\
             - {{name: open, context: {{cluster: o, user: u}}}}\n\
             - {{name: nobody, context: {{cluster: c, user: x}}}}\n\
             clusters:\n- {{name: c, cluster: {{server: 'https://127.0.0.1:1'}}}}\n\
             - {{name: o, cluster: {{server: 'https://127.0.0.1:1', insecure-skip-tls-verify: true}}}}\n\
             users:\n- {{name: u, user: {{{user}}}}}\n"
        );
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    fn find(path: &Path, context: Option<&str>) -> Result<Pinned, String> {
        let found = Pinned::find(Some(path.to_owned()), context.map(str::to_owned));
        found.map(Option::unwrap).map_err(|error| error.to_string())
    }

    #[test]
    fn the_current_context_is_pinned_by_name() {
        let (_folder, path) = file("token: secret");
        let pinned = find(&path, None).unwrap();
        assert_eq!(pinned, Pinned { kubeconfig: path.clone(), context: "hub".to_owned() });
        assert_eq!(pinned.check(&mut read(&path).unwrap()).unwrap().as_deref(), Some("n"));
        assert!(find(&path, Some("open")).unwrap_err().contains("insecure-skip-tls-verify"));
        assert!(find(&path, Some("nobody")).unwrap_err().contains("no user \"x\""));
        assert!(find(&path, Some("other")).unwrap_err().contains("no context \"other\""));
        std::fs::write(&path, "token: [secret").unwrap();
        let error = find(&path, None).unwrap_err();
        assert!(error.contains("cannot be read") && !error.contains("secret"), "{error}");
    }

    #[test]
    fn the_plugin_does_not_call_itself() {
        let own = std::env::current_exe().unwrap().display().to_string();
        let (folder, _) = file("token: t");
        let link = folder.path().join("other-name");
        std::os::unix::fs::symlink(&own, &link).unwrap();
        let link = link.display().to_string();
        for (command, args, refused) in [
            (own.as_str(), "credential, --managed-serviceaccount, a", true),
            (own.as_str(), "--log-level, info, credential", true),
            ("cluster-proxy", "credential", true),
            ("/elsewhere/cluster-proxy", "credential", true),
            (link.as_str(), "credential", true),
            ("aws", "eks, get-token", false),
            ("git", "credential", false),
        ] {
            let exec = format!("exec: {{command: '{command}', args: [{args}]}}");
            let (_folder, path) = file(&exec);
            let found = find(&path, None);
            assert_eq!(found.is_err(), refused, "{command}: {found:?}");
            assert!(found.is_ok() || found.unwrap_err().contains("--hub-kubeconfig"));
        }
    }

    #[test]
    fn a_plugin_that_we_start_is_told_so() {
        let (_folder, path) = file("exec: {command: aws, env: [{name: A, value: b}]}");
        let mut read = read(&path).unwrap();
        find(&path, None).unwrap().check(&mut read).unwrap();
        let exec = read.auth_infos[0].auth_info.as_ref().unwrap().exec.clone().unwrap();
        let names: Vec<_> = exec.env.iter().flatten().map(|one| one["name"].clone()).collect();
        assert_eq!(names, ["A", GUARD]);
    }

    #[tokio::test]
    async fn what_another_plugin_prints_is_not_told() {
        let script = "exec: {apiVersion: client.authentication.k8s.io/v1, command: sh, \
                      args: ['-c', 'echo secret; exit 1'], interactiveMode: Never}";
        let (_folder, path) = file(script);
        let error = HubApi::connect(Some(&find(&path, None).unwrap())).await.err().unwrap();
        assert_eq!(error.to_string(), "the credential plugin of the hub's kubeconfig failed");
    }
}
