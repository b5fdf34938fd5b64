//! An extended CONNECT from the hub becomes an HTTP/1.1 upgrade at the API server.

use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use super::headers;
use super::hello::no_body;
use super::serve::{Outcome, Service, head};
use super::upstream::{Account, Driver, UpstreamError};
use crate::tunnel::connect::{self, Answer, Upgrade};
use crate::tunnel::headers::{TOOK, took_value};
use crate::tunnel::pump::{self, ReceiveBody};
use crate::tunnel::server::Responder;

/// Asks the API server for the upgrade. After its 101 bytes pass both ways; any other answer, a
/// redirect too, goes back as it is.
pub(super) async fn pass(
    service: &Service,
    account: Account,
    asked: Upgrade,
    request: Request<ReceiveBody>,
    mut responder: Responder,
) -> Outcome {
    let (mut parts, receive) = request.into_parts();
    parts.extensions.clear();
    // The stream's bytes belong to what comes after the upgrade, not to this request.
    let outward = Request::from_parts(parts, no_body());

    let access = service.accesses.current();
    let started = Instant::now();
    let outcome = tokio::select! {
        outcome = access.upstream.send_upgrade(account, outward) => outcome,
        _ = responder.cancelled() => return Outcome::Cancelled,
    };
    let answer = match outcome {
        Ok(answer) => answer,
        Err(error) => return service.fail(responder, &error),
    };
    let took = service.answered(started);
    switch(service, account, asked, answer, took, receive, responder).await
}

/// Passes on what was answered to a request for an upgrade: bytes both ways after a 101.
pub(super) async fn switch(
    service: &Service,
    account: Account,
    asked: Upgrade,
    (mut response, driver): (Response<Incoming>, Driver),
    took: Duration,
    receive: ReceiveBody,
    responder: Responder,
) -> Outcome {
    let upgrading = hyper::upgrade::on(&mut response);
    headers::keeping_upgrade(response.headers_mut(), headers::clean_response);
    let switched = match connect::encode_response(response, asked) {
        Ok(Answer::Switched(switched)) => switched,
        Ok(Answer::Plain(response)) => {
            let outcome = service.respond(account, response, took, responder).await;
            drop(driver);
            return outcome;
        }
        Err(error) => {
            let error = UpstreamError::BadAnswer(error.to_string().into());
            return service.fail(responder, &error);
        }
    };
    let upgraded = match upgrading.await {
        Ok(upgraded) => upgraded,
        Err(error) => {
            let error = UpstreamError::Interrupted(error.to_string().into());
            return service.fail(responder, &error);
        }
    };
    let mut answer = head(StatusCode::OK, switched.into_parts().0.headers);
    answer.headers_mut().insert(TOOK, took_value(took));
    let Ok(send) = responder.send(answer, false) else {
        return Outcome::Cancelled;
    };
    let spliced =
        pump::splice(TokioIo::new(upgraded), send, receive, &service.metrics.upgraded).await;
    tracing::debug!(sent = spliced.sent, received = spliced.received, "an upgrade ended");
    drop(driver);
    Outcome::Upgraded
}
