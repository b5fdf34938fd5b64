//! Hello, leave, and who else lives: what the hub says to us, not to the API server.

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Limited};

use super::link::Greeting;
use super::serve::{Outcome, TunnelHandler, head, refuse};
use crate::tunnel::headers::Fault;
use crate::tunnel::hello::{
    AgentHello, Hello, HubHello, LEAVE_PATH, LIMIT, PATH, REPLICAS_PATH, Replicas, SURPLUS,
    negotiate,
};
use crate::tunnel::pump::ReceiveBody;
use crate::tunnel::server::Responder;

// === impl TunnelHandler ===

impl TunnelHandler {
    /// One word of the hub, and our answer.
    pub(super) async fn exchange(
        &self,
        request: Request<ReceiveBody>,
        responder: Responder,
    ) -> Outcome {
        if request.method() != Method::POST {
            return refuse(responder, Fault::Refused);
        }
        match request.uri().path() {
            PATH => self.greet(request.into_body(), responder).await,
            LEAVE_PATH => {
                self.link.leave.cancel();
                answer(responder, StatusCode::NO_CONTENT, Bytes::new()).await
            }
            REPLICAS_PATH => self.told(request.into_body(), responder).await,
            _ => refuse(responder, Fault::Refused),
        }
    }

    async fn told(&self, body: ReceiveBody, responder: Responder) -> Outcome {
        let body = Limited::new(body, LIMIT).collect().await;
        let Some(said) = body.ok().and_then(|body| Replicas::decode(&body.to_bytes()).ok()) else {
            return refuse(responder, Fault::Refused);
        };
        self.link.told(said.replicas);
        answer(responder, StatusCode::NO_CONTENT, Bytes::new()).await
    }

    async fn greet(&self, body: ReceiveBody, responder: Responder) -> Outcome {
        let Ok(body) = Limited::new(body, LIMIT).collect().await else {
            return refuse(responder, Fault::Refused);
        };
        let hub = HubHello::decode(&body.to_bytes());
        let agreed = hub.and_then(|hub| negotiate(hub.version).map(|version| (hub, version)));
        let (hub, version) = match agreed {
            Ok(agreed) => agreed,
            Err(error) => {
                tracing::error!(%error, "the hub's hello cannot be answered");
                return refuse(responder, Fault::Refused);
            }
        };
        let HubHello { replica, replicas, hub_version, cluster, .. } = hub;
        // Claimed before the answer: of two hellos at once only one may be the last that is wanted.
        if !self.link.claim(&replica) {
            let outcome = answer(responder, SURPLUS, Bytes::new()).await;
            self.link.greeted(Greeting { replica, living: replicas, welcome: false });
            return outcome;
        }
        let hello = AgentHello { version, ..self.service.greeter.hello().await };
        let json = match hello.encode() {
            Ok(json) => json,
            Err(error) => {
                tracing::error!(%error, "no hub would take our hello; look at --audience and --issuer");
                return refuse(responder, Fault::Refused);
            }
        };
        let outcome = answer(responder, StatusCode::OK, json).await;
        if matches!(outcome, Outcome::Answered(_)) {
            tracing::info!(%replica, %hub_version, version, %cluster, "the hub greeted us");
            self.link.greeted(Greeting { replica, living: replicas, welcome: true });
        }
        outcome
    }
}

async fn answer(responder: Responder, status: StatusCode, body: Bytes) -> Outcome {
    let ended = body.is_empty();
    let Ok(mut send) = responder.send(head(status, HeaderMap::new()), ended) else {
        return Outcome::Cancelled;
    };
    if !ended && (send.send(body).await.is_err() || send.finish(None).is_err()) {
        return Outcome::Cancelled;
    }
    Outcome::Answered(status)
}
