//! One request to the hub's join service: the agent's side of [`super::messages`].

use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};

use super::credentials::JoinError;
use super::messages::{Granted, MAX_ANSWER, Refusal};
use super::tls::{ALPN_JOIN, ClientStream};

/// Sends `body` to `path` and reads what was granted. Has no deadline of its own.
pub(super) async fn ask<IO>(
    stream: ClientStream<IO>,
    host: &str,
    path: &'static str,
    body: &impl Serialize,
) -> Result<Granted, JoinError>
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let broken = |detail: String| JoinError::Conversation { host: host.to_owned(), detail };
    if stream.get_ref().1.alpn_protocol() != Some(ALPN_JOIN) {
        return Err(broken(
            "it is not the agent listener of a hub; check the port of --hub".into(),
        ));
    }
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| broken(error.to_string()))?;
    let body = serde_json::to_vec(body).map_err(|error| broken(error.to_string()))?;
    let request = Request::post(path)
        .header(header::HOST, HOST)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(bytes::Bytes::from(body)))
        .map_err(|error| broken(error.to_string()))?;
    let answer = async move {
        let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        Ok((status, body.map_err(|error| error.to_string())?.to_bytes()))
    };
    tokio::pin!(answer);
    // No task of its own: the connection lives as long as this question. It may well end first,
    // with an error too (the hub hangs up after its answer): what it received is still to be read.
    let answer: Result<_, String> = tokio::select! {
        answer = &mut answer => answer,
        _ = connection => answer.await,
    };
    let (status, body) = answer.map_err(broken)?;
    if status == StatusCode::OK {
        return serde_json::from_slice(&body).map_err(|error| broken(error.to_string()));
    }
    Err(match serde_json::from_slice::<Refusal>(&body) {
        // Strangers fail too often from our address, or the hub's disk fails: no word about us.
        Ok(refusal)
            if status == StatusCode::TOO_MANY_REQUESTS
                || status == StatusCode::SERVICE_UNAVAILABLE =>
        {
            JoinError::NotNow(printable(&refusal.message))
        }
        Ok(refusal) => JoinError::Refused(printable(&refusal.message)),
        Err(_) => broken(format!("it answered {status}")),
    })
}

/// What another process wrote, fit for a terminal.
fn printable(text: &str) -> String {
    text.chars().filter(|one| !one.is_control()).take(MAX_MESSAGE).collect()
}

/// HTTP/1.1 wants a Host, and the connection is its own route.
const HOST: &str = "hub";

/// Longest refusal shown, in characters.
const MAX_MESSAGE: usize = 500;
