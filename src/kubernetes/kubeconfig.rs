//! The part of a kubeconfig (`kubectl config`, apiVersion v1) that leads to one API server.
//!
//! Parsed with structures of our own: only what we honour is read, and what we must not honour is
//! named so that it can be refused instead of ignored.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Uri;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::endpoint::{ApiServer, Credentials, MAX_CREDENTIAL, read_bounded};

/// Reads `context` (the current one when `None`); `folder` is where relative paths start. The error
/// says what is wrong and what to do, and never shows a value of the user entry.
pub(super) fn parse(
    text: &[u8],
    folder: &Path,
    context: Option<&str>,
) -> Result<ApiServer, String> {
    let text = std::str::from_utf8(text).map_err(|_| "is not UTF-8".to_owned())?;
    // The parser's own message may quote the text around the mistake, and with it a token.
    let file: File =
        serde_saphyr::from_str(text).map_err(|_| "is not valid YAML of a kubeconfig".to_owned())?;
    let name = match (context, file.current_context.as_str()) {
        (Some(name), _) => name,
        (None, "") => return Err("has no current-context; name one".into()),
        (None, name) => name,
    };
    let context = named(&file.contexts, name, "context")?;
    let context = &context.context;
    let cluster = &named(&file.clusters, &context.cluster, "cluster")?.cluster;
    let user = &named(&file.users, &context.user, "user")?.user;
    refuse(cluster, user)?;

    let (host, port) = address(&cluster.server)?;
    let ca_file = cluster.certificate_authority.as_ref().map(|path| folder.join(path));
    let ca = cluster.certificate_authority_data.as_deref();
    let (ca_pem, ca_file) = match (ca, ca_file) {
        (Some(data), _) => (decode(data, "certificate-authority-data")?, None),
        (None, Some(path)) => (read(&path, "certificate-authority")?, Some(path)),
        (None, None) => {
            return Err(
                "names no certificate-authority; system roots are not used, so set it".into()
            );
        }
    };
    Ok(ApiServer {
        server_name: cluster.tls_server_name.clone().unwrap_or_else(|| host.clone()),
        host,
        port,
        ca_pem: ca_pem.into(),
        ca_file,
        credentials: credentials(user, folder)?,
    })
}

fn refuse(cluster: &Cluster, user: &User) -> Result<(), String> {
    if cluster.insecure_skip_tls_verify {
        return Err("insecure-skip-tls-verify is not supported; set certificate-authority".into());
    }
    if cluster.proxy_url.is_some() {
        return Err("proxy-url is not supported".into());
    }
    if user.exec.is_some() || user.auth_provider.is_some() {
        return Err("exec and auth-provider credentials are not supported; \
                    use a ServiceAccount's token (tokenFile) or a client certificate"
            .into());
    }
    if user.username.is_some() || user.act_as.is_some() {
        return Err("passwords and impersonation (as) are not supported; use a token".into());
    }
    Ok(())
}

/// As client-go, a token wins over a certificate, and inline data over a file, but the token file
/// over the inline token.
fn credentials(user: &User, folder: &Path) -> Result<Credentials, String> {
    if let Some(path) = &user.token_file {
        return Ok(Credentials::TokenFile(folder.join(path)));
    }
    if let Some(token) = &user.token {
        return Ok(Credentials::Token(token.clone()));
    }
    let chain = part(&user.client_certificate_data, &user.client_certificate, folder)
        .map_err(|problem| format!("client-certificate: {problem}"))?;
    let key = part(&user.client_key_data, &user.client_key, folder)
        .map_err(|problem| format!("client-key: {problem}"))?;
    match (chain, key) {
        (Some(chain), Some(key)) => Ok(Credentials::Certificate {
            chain_pem: Bytes::from(chain),
            key_pem: Zeroizing::new(key),
        }),
        (None, None) => Err("the user has neither a token nor a client certificate".into()),
        _ => Err("client-certificate and client-key must be set together".into()),
    }
}

fn part(
    data: &Option<Zeroizing<String>>,
    path: &Option<String>,
    folder: &Path,
) -> Result<Option<Vec<u8>>, String> {
    match (data, path) {
        (Some(data), _) => decode(data, "the inline data").map(Some),
        (None, Some(path)) => read(&folder.join(path), "the file").map(Some),
        (None, None) => Ok(None),
    }
}

fn decode(data: &str, what: &str) -> Result<Vec<u8>, String> {
    STANDARD.decode(data.trim()).map_err(|_| format!("{what} is not base64"))
}

fn read(path: &Path, what: &str) -> Result<Vec<u8>, String> {
    read_bounded(path, MAX_CREDENTIAL)
        .map_err(|error| format!("cannot read {what} {}: {error}", path.display()))
}

fn address(server: &str) -> Result<(String, u16), String> {
    let uri: Uri = server.parse().map_err(|_| format!("server {server:?} is not a URL"))?;
    if uri.scheme_str() != Some("https") {
        return Err(format!("server {server:?} must be an https URL"));
    }
    if !matches!(uri.path(), "" | "/") {
        return Err(format!("server {server:?} has a path, which is not supported"));
    }
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    if host.is_empty() {
        return Err(format!("server {server:?} names no host"));
    }
    Ok((host.to_owned(), uri.port_u16().unwrap_or(HTTPS_PORT)))
}

fn secret<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Zeroizing<String>>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.map(Zeroizing::new))
}

trait Named {
    fn name(&self) -> &str;
}

fn named<'a, T: Named>(entries: &'a [T], name: &str, kind: &str) -> Result<&'a T, String> {
    let found = entries.iter().find(|entry| entry.name() == name);
    found.ok_or_else(|| format!("has no {kind} {name:?}"))
}

#[derive(Deserialize)]
struct File {
    #[serde(rename = "current-context", default)]
    current_context: String,
    #[serde(default)]
    clusters: Vec<NamedCluster>,
    #[serde(default)]
    users: Vec<NamedUser>,
    #[serde(default)]
    contexts: Vec<NamedContext>,
}

#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority: Option<String>,
    certificate_authority_data: Option<String>,
    #[serde(default)]
    insecure_skip_tls_verify: bool,
    tls_server_name: Option<String>,
    proxy_url: Option<String>,
}

#[derive(Deserialize)]
struct NamedUser {
    name: String,
    user: User,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    #[serde(default, deserialize_with = "secret")]
    token: Option<Zeroizing<String>>,
    #[serde(rename = "tokenFile")]
    token_file: Option<String>,
    client_certificate: Option<String>,
    #[serde(default, deserialize_with = "secret")]
    client_certificate_data: Option<Zeroizing<String>>,
    client_key: Option<String>,
    #[serde(default, deserialize_with = "secret")]
    client_key_data: Option<Zeroizing<String>>,
    username: Option<serde::de::IgnoredAny>,
    #[serde(rename = "as")]
    act_as: Option<serde::de::IgnoredAny>,
    exec: Option<serde::de::IgnoredAny>,
    auth_provider: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct NamedContext {
    name: String,
    context: Context,
}

#[derive(Deserialize)]
struct Context {
    cluster: String,
    user: String,
}

impl Named for NamedCluster {
    fn name(&self) -> &str {
        &self.name
    }
}

impl Named for NamedUser {
    fn name(&self) -> &str {
        &self.name
    }
}

impl Named for NamedContext {
    fn name(&self) -> &str {
        &self.name
    }
}

const HTTPS_PORT: u16 = 443;

#[cfg(test)]
mod tests {
    use super::*;

    fn text(cluster: &str, user: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: one\n\
             contexts: [{{name: one, context: {{cluster: c, user: u, namespace: n}}}}]\n\
             clusters: [{{name: c, cluster: {{{cluster}}}}}]\n\
             users: [{{name: u, user: {{{user}}}}}]\n"
        )
    }

    fn read(cluster: &str, user: &str) -> Result<ApiServer, String> {
        parse(text(cluster, user).as_bytes(), Path::new("/nowhere"), None)
    }

    const GOOD: &str = "server: 'https://api.example:6443', certificate-authority-data: Y2E=";

    #[test]
    fn token_certificate_and_names() {
        let server = read(&format!("{GOOD}, tls-server-name: inner"), "token: secret").unwrap();
        assert_eq!((server.host.as_str(), server.port), ("api.example", 6443));
        assert_eq!(server.server_name, "inner");
        assert_eq!(&server.ca_pem[..], b"ca");
        assert!(matches!(server.credentials, Credentials::Token(token) if *token == "secret"));

        let server = read(GOOD, "token: secret, tokenFile: sub/t").unwrap();
        assert!(matches!(server.credentials,
            Credentials::TokenFile(path) if path == Path::new("/nowhere/sub/t")));

        let server = read(GOOD, "client-certificate-data: YQ==, client-key-data: Yg==").unwrap();
        assert!(matches!(server.credentials, Credentials::Certificate { .. }));
        assert!(read(GOOD, "client-certificate-data: YQ==").is_err());

        let server =
            read("server: 'https://[::1]', certificate-authority-data: Y2E=", "token: t").unwrap();
        assert_eq!((server.host.as_str(), server.port), ("::1", 443));
    }

    #[test]
    fn json_is_read_too() {
        let json = serde_json::json!({
            "current-context": "one",
            "contexts": [{"name": "one", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster":
                {"server": "https://a", "certificate-authority-data": "Y2E="}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
        });
        assert!(parse(json.to_string().as_bytes(), Path::new("."), None).is_ok());
        assert!(parse(json.to_string().as_bytes(), Path::new("."), Some("two")).is_err());
    }

    #[test]
    fn what_is_refused_says_why() {
        assert!(read(GOOD, "token: t").is_ok());
        for (cluster, user, word) in [
            (&*format!("{GOOD}, insecure-skip-tls-verify: true"), "token: t", "insecure"),
            (GOOD, "exec: {command: aws}", "exec"),
            (GOOD, "token: t, as: admin", "impersonation"),
            (GOOD, "username: u", "password"),
            (GOOD, "", "neither"),
            ("server: 'https://a'", "token: t", "certificate-authority"),
            ("server: 'http://a', certificate-authority-data: Y2E=", "token: t", "https"),
            ("server: 'https://a/sub', certificate-authority-data: Y2E=", "token: t", "path"),
        ] {
            let error = read(cluster, user).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn a_mistake_does_not_show_a_token() {
        let error = read(GOOD, "token: [hunter2").unwrap_err();
        assert!(!error.contains("hunter2"), "{error}");
    }
}
