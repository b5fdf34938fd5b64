//! A hub that exposes services, and an agent that writes down what came through its tunnel: what it
//! has not seen has not left the hub.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderMap, Method, Request, Response};
use serde_json::{Value, json};

use cluster_proxy::hub::Source;
use cluster_proxy::tunnel::headers::UPGRADE;

use crate::agent::{HostileAgent, Script, reply};
use crate::support::client::{Answer, Client, empty};
use crate::support::fleet::Fleet;
use crate::support::hub_api::HubApi;
use crate::support::token::{SigningKey, claims};
use crate::support::{PATIENCE, eventually};

/// Ends when dropped.
pub(super) struct Ground {
    pub(super) api: HubApi,
    pub(super) fleet: Fleet,
    pub(super) signer: SigningKey,
    /// Of an account of cluster `c1`.
    pub(super) token: String,
    /// Of an account of the hub.
    pub(super) hub_token: String,
    pub(super) said: Arc<Said>,
    _agent: HostileAgent,
}

/// What came, and what is answered.
#[derive(Default)]
pub(super) struct Said {
    seen: Mutex<Vec<Seen>>,
    /// Tokens that the API server was asked about.
    reviewed: Mutex<Vec<String>>,
    /// What a TokenReview is answered with instead of a yes.
    pub(super) review: Mutex<Option<Value>>,
    /// What the heads of answers have.
    pub(super) answer: Mutex<Vec<(&'static str, String)>>,
    /// Answers begin, and do not end.
    pub(super) endless: Mutex<bool>,
    held: Mutex<Vec<h2::SendStream<Bytes>>>,
}

/// One request for the service or the API server.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) method: Method,
    pub(super) target: String,
    pub(super) headers: HeaderMap,
}

// === impl Ground ===

impl Ground {
    pub(super) async fn start(services: &str) -> Self {
        let api = HubApi::start().await;
        let hub_token = api.account("default", "deployer").await;
        let mut fleet = api.fleet(Some(POLICY)).await;
        fleet.hub.stop().await;
        let file = fleet.dir.path().join("services.yaml");
        std::fs::write(&file, services).unwrap();
        fleet.hub.services = Source::File(file);
        fleet.hub.start().await;

        let directory = fleet.dir.path().join("c1");
        fleet.hub.enrol("c1", &directory).await;
        let signer = SigningKey::generate("c1-key");
        let token = signer.sign(&claims("default", "test", 3600));
        let said = Arc::<Said>::default();
        let saying = Arc::clone(&said);
        let script = Script::new(&signer, move |request, respond| saying.answer(request, respond));
        let agent = HostileAgent::start(fleet.hub.addresses.agents, &directory, script).await;
        fleet.hub.wait_tunnels("c1", 1, PATIENCE).await;
        let ground = Self { api, fleet, signer, token, hub_token, said, _agent: agent };
        let client = ground.client();
        eventually("c1 is served", PATIENCE, || async {
            (client.get("/c1/first").await.status == 200).then_some(())
        })
        .await;
        ground.said.seen.lock().unwrap().clear();
        ground
    }

    /// With the token of the cluster's account.
    pub(super) fn client(&self) -> Client {
        self.fleet.anonymous().token(&self.token)
    }

    /// With that of the hub's.
    pub(super) fn of_hub(&self) -> Client {
        self.fleet.anonymous().token(&self.hub_token)
    }

    /// `GET target` with `lines` besides the client's token.
    pub(super) async fn get(client: &Client, target: &str, lines: &[(&str, &str)]) -> Answer {
        let mut request = client.request("GET", target, empty());
        for (name, value) in lines {
            let name: http::HeaderName = name.parse().unwrap();
            request.headers_mut().append(name, value.parse().unwrap());
        }
        client.send(request).await
    }

    /// Changes the list of exposed services.
    pub(super) fn expose(&self, services: &str) {
        let Source::File(file) = &self.fleet.hub.services else { unreachable!() };
        std::fs::write(PathBuf::from(file), services).unwrap();
    }

    /// Changes the policy.
    pub(super) fn set_policy(&self, policy: &str) {
        self.fleet.hub.set_policy(policy);
    }

    /// Takes what the agent got since the last time.
    pub(super) fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.said.seen.lock().unwrap())
    }

    /// Whether the cluster was ever asked about `token`.
    pub(super) fn is_reviewed(&self, token: &str) -> bool {
        self.said.reviewed.lock().unwrap().iter().any(|one| one == token)
    }
}

// === impl Said ===

impl Said {
    fn answer(
        self: &Arc<Self>,
        request: Request<h2::RecvStream>,
        mut respond: SendResponse<Bytes>,
    ) {
        if request.headers()["cluster-proxy-mode"] == "agent" {
            if request.uri().path() == "/apis/authentication.k8s.io/v1/tokenreviews" {
                tokio::spawn(Arc::clone(self).review(request.into_body(), respond));
            } else {
                // What the hub follows while streams live.
                reply(respond, "{}");
            }
            return;
        }
        let target = request.uri().path_and_query().unwrap().as_str().to_owned();
        let (method, headers) = (request.method().clone(), request.headers().clone());
        let echoes = target.starts_with("/echo");
        self.seen.lock().unwrap().push(Seen { method, target, headers });
        let mut answer = Response::new(());
        for (name, value) in self.answer.lock().unwrap().iter() {
            answer.headers_mut().append(*name, value.parse().unwrap());
        }
        if echoes {
            // A CONNECT says what it wants to become.
            if let Some(protocol) = request.headers().get(UPGRADE) {
                answer.headers_mut().insert(UPGRADE, protocol.clone());
            }
            let send = respond.send_response(answer, false).unwrap();
            tokio::spawn(echo(request.into_body(), send));
            return;
        }
        // The stream may be gone.
        if let Ok(mut send) = respond.send_response(answer, false) {
            let endless = *self.endless.lock().unwrap();
            let _ = send.send_data(Bytes::from_static(b"hello"), !endless);
            if endless {
                self.held.lock().unwrap().push(send);
            }
        }
    }

    async fn review(self: Arc<Self>, mut question: h2::RecvStream, respond: SendResponse<Bytes>) {
        let mut body = Vec::new();
        while let Some(Ok(part)) = question.data().await {
            body.extend_from_slice(&part);
        }
        let question: Value = serde_json::from_slice(&body).unwrap();
        let token = question["spec"]["token"].as_str().unwrap().to_owned();
        self.reviewed.lock().unwrap().push(token);
        let review = self.review.lock().unwrap().clone();
        let yes = json!({"kind": "TokenReview", "status": {"authenticated": true}});
        reply(respond, &review.unwrap_or(yes).to_string());
    }
}

/// Sends back what comes, as it comes.
async fn echo(mut body: h2::RecvStream, mut send: h2::SendStream<Bytes>) {
    while let Some(Ok(part)) = body.data().await {
        let _ = body.flow_control().release_capacity(part.len());
        if send.send_data(part, false).is_err() {
            return;
        }
    }
    // The stream may be gone.
    let _ = send.send_data(Bytes::new(), true);
}

/// Accounts of the hub reach what is named `web` and `api` in `shop`, on any cluster.
pub(super) const POLICY: &str = "rules:
- groups: ['cluster:hub:system:serviceaccounts']
  clusters: ['*']
  verbs: [get]
  apiGroups: ['']
  resources: [services/proxy-service]
  namespaces: [shop]
";
