//! The hub's own pages (`/_fleet`), as somebody outside of the hub's machine asks for them.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::Args;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use kube::Client;
use kube::client::Body;
use secrecy::SecretString;

use super::kubeconfig::{authority, server, token};
use crate::credential::hub::{Pinned, listener};
use crate::fleet::FleetPage;
use crate::kubernetes::describe;

/// Flags that say where the hub is, and who asks.
#[derive(Clone, Debug, Args)]
pub(crate) struct FrontArgs {
    /// The hub as clients reach it, for example https://hub.example.com:9092
    #[arg(long, env = "CLUSTER_PROXY_SERVER", value_name = "URL", value_parser = server)]
    pub(crate) server: String,

    /// CA certificate of the hub's user listener, PEM (`serving-ca.crt` of the hub's folder)
    #[arg(long, env = "CLUSTER_PROXY_CA", value_name = "FILE")]
    pub(crate) ca: PathBuf,

    /// File with a bearer token of the hub's own cluster or of an issuer that the hub knows, or `-` for
    /// standard input [default: that of the user in the hub's kubeconfig]
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,

    /// Context in the hub's kubeconfig [default: its current one]
    #[arg(long, value_name = "NAME")]
    pub(crate) hub_context: Option<String>,
}

/// Somebody who asks.
pub(crate) struct Caller<'a> {
    pub(crate) front: &'a FrontArgs,
    /// Of the hub's own cluster.
    pub(crate) kubeconfig: Option<PathBuf>,
}

// === impl Caller ===

impl Caller<'_> {
    /// The clusters that the caller may see.
    ///
    /// # Errors
    /// When the hub cannot be reached, or does not say.
    pub(crate) async fn fleet(&self) -> anyhow::Result<FleetPage> {
        let hub = &self.front.server;
        let client = self.client().await?;
        let request = Request::get("/_fleet").body(Body::empty())?;
        let answer = client.send(request).await;
        let answer = answer.map_err(|error| anyhow::anyhow!("{hub}: {}", describe(&error)))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MOST).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("{hub}: {error}"))?.to_bytes();
        if status == StatusCode::UNAUTHORIZED {
            bail!(
                "{hub} does not take this token: it must be one of the hub's own cluster, or of an issuer that the hub knows"
            );
        }
        if status != StatusCode::OK {
            let said: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
            let said = said["message"].as_str().unwrap_or("it does not say why").to_owned();
            bail!("{hub} answered {status}: {said}");
        }
        serde_json::from_slice(&body)
            .map_err(|_| anyhow::anyhow!("{hub} does not answer as a hub of this version"))
    }

    async fn client(&self) -> anyhow::Result<Client> {
        let (url, ca) = (self.front.server.parse()?, authority(&self.front.ca)?);
        if let Some(file) = &self.front.token_file {
            let token = SecretString::from(token(file)?.as_str());
            return Ok(listener(url, ca.as_bytes(), None, Some(token)).await?);
        }
        let pinned = Pinned::find(self.kubeconfig.clone(), self.front.hub_context.clone());
        let pinned = pinned.context("whose token? Name one with --token-file")?;
        Ok(listener(url, ca.as_bytes(), pinned.as_ref(), None).await?)
    }
}

/// Bytes of an answer: tens of thousands of clusters.
const MOST: usize = 64 << 20;
