//! A hub with fake API servers on all sides.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use super::super::*;
use crate::fleet::{About, ClusterState, TunnelState};
use crate::hub::testing::Answering;
use crate::state::FolderStore;

pub(super) const ISSUER: &str = "https://kubernetes.default.svc";

/// A signing key of an API server.
#[derive(Clone)]
pub(super) struct SigningKey {
    pub(super) id: String,
    pub(super) jwk: Value,
    encoding: EncodingKey,
}

#[derive(Clone)]
pub(super) struct Spoke {
    pub(super) published: Vec<SigningKey>,
    /// Signs what TokenRequest returns.
    pub(super) signs_with: SigningKey,
    pub(super) status: StatusCode,
    pub(super) delay: Duration,
}

#[derive(Default)]
pub(super) struct Spokes {
    pub(super) by_name: Mutex<HashMap<String, Spoke>>,
    pub(super) reads: AtomicUsize,
    pub(super) proofs: AtomicUsize,
    accounts: AtomicUsize,
}

/// The hub's own API server; no answer while it has no keys.
#[derive(Default)]
pub(super) struct HubServer {
    pub(super) keys: Mutex<Vec<SigningKey>>,
    pub(super) reads: AtomicUsize,
    pub(super) delay: Mutex<Duration>,
    /// Whether TokenReview accepts, always as the same account; refuses otherwise.
    pub(super) accepts: AtomicBool,
    pub(super) reviews: AtomicUsize,
}

pub(super) struct World {
    pub(super) authenticator: Authenticator,
    pub(super) spokes: Arc<Spokes>,
    pub(super) hub: Arc<HubServer>,
    pub(super) fleet: watch::Sender<Fleet>,
    pub(super) registry: prometheus::Registry,
    pub(super) state: State,
    clock: Arc<AtomicU64>,
    folder: Arc<tempfile::TempDir>,
    task: tokio::task::JoinHandle<()>,
}

// === impl SigningKey ===

impl SigningKey {
    pub(super) fn new(id: &str) -> Self {
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new()).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref()).unwrap();
        let point = pair.public_key().as_ref();
        let jwk = json!({
            "kty": "EC", "crv": "P-256", "kid": id, "alg": "ES256", "use": "sig",
            "x": URL_SAFE_NO_PAD.encode(&point[1..33]), "y": URL_SAFE_NO_PAD.encode(&point[33..]),
        });
        Self { id: id.to_owned(), jwk, encoding: EncodingKey::from_ec_der(pkcs8.as_ref()) }
    }

    pub(super) fn sign(&self, claims: &Value) -> String {
        let header = Header { kid: Some(self.id.clone()), ..Header::new(Algorithm::ES256) };
        jsonwebtoken::encode(&header, claims, &self.encoding).unwrap()
    }
}

pub(super) fn claims(now: u64) -> Value {
    json!({
        "iss": ISSUER, "aud": [ISSUER], "sub": "system:serviceaccount:apps:reader",
        "iat": now, "nbf": now, "exp": now + 3600,
        "kubernetes.io": {
            "namespace": "apps", "serviceaccount": { "name": "reader", "uid": "u" },
        },
    })
}

pub(super) fn name(name: &str) -> ClusterName {
    ClusterName::parse(name).unwrap()
}

fn jwks(keys: &[SigningKey]) -> Bytes {
    let keys: Vec<&Value> = keys.iter().map(|key| &key.jwk).collect();
    json!({ "keys": keys }).to_string().into()
}

impl SpokeApi for Spokes {
    fn request<'a>(
        &'a self,
        cluster: &'a ClusterName,
        method: Method,
        path: &'a str,
        body: Option<Bytes>,
        limit: usize,
        _deadline: Duration,
    ) -> BoxFuture<'a, Result<(StatusCode, Bytes), SpokeApiError>> {
        Box::pin(async move {
            if path == "/openid/v1/jwks" {
                self.reads.fetch_add(1, Ordering::Relaxed);
            }
            let spoke = self.by_name.lock().unwrap()[cluster.as_str()].clone();
            if path == "/openid/v1/jwks" {
                tokio::time::sleep(spoke.delay).await;
                return Ok((spoke.status, jwks(&spoke.published)));
            }
            if method == Method::GET {
                return Ok((StatusCode::NOT_FOUND, Bytes::new()));
            }
            if path.ends_with("/serviceaccounts") {
                self.accounts.fetch_add(1, Ordering::Relaxed);
                return Ok((StatusCode::CONFLICT, Bytes::new()));
            }
            if self.accounts.load(Ordering::Relaxed) == 0 {
                return Ok((StatusCode::NOT_FOUND, Bytes::new()));
            }
            self.proofs.fetch_add(1, Ordering::Relaxed);
            let request: Value = serde_json::from_slice(&body.unwrap()).unwrap();
            let token = spoke.signs_with.sign(&json!({
                "iss": ISSUER, "aud": request["spec"]["audiences"], "exp": 1,
                "sub": "system:serviceaccount:open-cluster-management-managed-serviceaccount:cluster-proxy-key-proof",
            }));
            // An API server may say more in it, up to 64 KiB in all.
            let answer = json!({ "status": { "token": token } }).to_string();
            let answer = format!("{answer}{}", " ".repeat(65_536 - answer.len()));
            if answer.len() > limit {
                return Err(SpokeApiError("the answer is too large".to_owned()));
            }
            Ok((StatusCode::CREATED, answer.into()))
        })
    }
}

impl Answering for HubServer {
    async fn answer(&self, method: Method, path: &str, _: Bytes) -> Option<(u16, Bytes)> {
        let keys = self.keys.lock().unwrap().clone();
        let is_up = !keys.is_empty();
        if method == Method::GET {
            self.reads.fetch_add(1, Ordering::Relaxed);
            let delay = *self.delay.lock().unwrap();
            tokio::time::sleep(delay).await;
            return is_up.then(|| (200, jwks(&keys)));
        }
        assert_eq!(path, "/apis/authentication.k8s.io/v1/tokenreviews");
        self.reviews.fetch_add(1, Ordering::Relaxed);
        let user = json!({"username": "system:serviceaccount:apps:reader", "uid": "u",
            "groups": ["system:serviceaccounts"]});
        let status = json!({"authenticated": self.accepts.load(Ordering::Relaxed), "user": user});
        let review = json!({"kind": "TokenReview", "status": status});
        is_up.then(|| (201, review.to_string().into()))
    }
}

// === impl World ===

impl World {
    /// A hub with an API server of its own and no clusters.
    pub(super) async fn new() -> Self {
        Self::with(AuthnConfig::default()).await
    }

    pub(super) async fn with(config: AuthnConfig) -> Self {
        let hub = Arc::new(HubServer::default());
        hub.keys.lock().unwrap().push(SigningKey::new("hub"));
        let folder = Arc::new(tempfile::tempdir().unwrap());
        Self::start(config, hub, folder, Arc::new(AtomicU64::new(1_800_000_000))).await
    }

    /// Ends this hub and starts another over the same state.
    pub(super) async fn restart(self) -> Self {
        self.task.abort();
        let (hub, folder, clock) = (self.hub.clone(), self.folder.clone(), self.clock.clone());
        Self::start(AuthnConfig::default(), hub, folder, clock).await
    }

    async fn start(
        config: AuthnConfig,
        hub: Arc<HubServer>,
        folder: Arc<tempfile::TempDir>,
        clock: Arc<AtomicU64>,
    ) -> Self {
        let state = State::new(Arc::new(FolderStore::open(folder.path()).unwrap()));
        let spokes = Arc::new(Spokes::default());
        let registry = prometheus::Registry::new();
        let (fleet, receiver) = watch::channel(Fleet::default());
        let wall = clock.clone();
        let authenticator = Authenticator::build_with_clock(
            config,
            state.clone(),
            receiver,
            spokes.clone(),
            Some(hub.clone()),
            &registry,
            Arc::new(move || {
                SystemTime::UNIX_EPOCH + Duration::from_secs(wall.load(Ordering::Relaxed))
            }),
        )
        .await
        .unwrap();
        let task = tokio::spawn(authenticator.clone().run());
        Self { authenticator, spokes, hub, fleet, registry, state, clock, folder, task }
    }

    /// Enrols a cluster whose API server has `key`, connects it and lets it be read.
    pub(super) async fn connect(&self, cluster: &str, key: &SigningKey) {
        self.enrol(cluster, key).await;
        self.tunnels(cluster, 1, false);
        self.settle().await;
    }

    /// Enrols a cluster whose API server has `key`; the fleet does not know it yet.
    pub(super) async fn enrol(&self, cluster: &str, key: &SigningKey) {
        let spoke = Spoke {
            published: vec![key.clone()],
            signs_with: key.clone(),
            status: StatusCode::OK,
            delay: Duration::from_millis(20),
        };
        self.spokes.by_name.lock().unwrap().insert(cluster.to_owned(), spoke);
        let enrolment = crate::state::Document::Enrolment(name(cluster));
        let body =
            json!({"keySha256": "", "enrolledAt": 0, "certificateExpires": 0, "clusterUid": null});
        let _ = self
            .state
            .store()
            .write(&enrolment, body.to_string().into(), crate::state::Expected::Absent)
            .await;
    }

    /// Sets the number of live tunnels.
    pub(super) fn tunnels(&self, cluster: &str, count: u64, hub_itself: bool) {
        let tunnel = |id| TunnelState {
            id,
            agent: "agent".to_owned(),
            since: SystemTime::UNIX_EPOCH,
            certificate_expires: SystemTime::UNIX_EPOCH,
        };
        let about = (count > 0).then(|| About {
            audiences: vec![ISSUER.to_owned()],
            issuers: vec![ISSUER.to_owned()],
            ..About::default()
        });
        let tunnels = (0..count).map(tunnel).collect();
        let state = ClusterState { hub_itself, tunnels, about, ..ClusterState::default() };
        self.fleet.send_modify(|fleet| {
            fleet.clusters.insert(name(cluster), Arc::new(state));
        });
    }

    /// Changes what an API server does.
    pub(super) fn spoke(&self, cluster: &str, change: impl FnOnce(&mut Spoke)) {
        change(self.spokes.by_name.lock().unwrap().get_mut(cluster).unwrap());
    }

    /// Lets running reads end.
    pub(super) async fn settle(&self) {
        tokio::time::sleep(Duration::from_secs(3)).await;
    }

    pub(super) async fn pass(&self, seconds: u64) {
        self.clock.fetch_add(seconds, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    /// Moves the wall clock alone.
    pub(super) fn set_clock(&self, now: u64) {
        self.clock.store(now, Ordering::Relaxed);
    }

    pub(super) fn now(&self) -> u64 {
        self.clock.load(Ordering::Relaxed)
    }

    pub(super) fn good(&self, key: &SigningKey) -> String {
        key.sign(&claims(self.now()))
    }

    pub(super) async fn ask(
        &self,
        cluster: &str,
        token: &str,
    ) -> Result<Arc<Identity>, AuthnError> {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
        self.authenticator.authenticate(&name(cluster), &mut headers).await
    }

    pub(super) async fn refusal(&self, cluster: &str, token: &str) -> Refusal {
        match self.ask(cluster, token).await {
            Err(AuthnError::Unauthorized(refusal)) => refusal,
            other => panic!("{other:?}"),
        }
    }

    /// Sum of a metric over all series whose labels hold `value`.
    pub(super) fn metric(&self, metric: &str, value: &str) -> f64 {
        let families = self.registry.gather();
        let series = families.iter().filter(|family| family.name() == metric);
        series
            .flat_map(|family| family.get_metric())
            .filter(|series| series.get_label().iter().any(|label| label.value() == value))
            .map(|series| series.get_counter().get_value())
            .sum()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.task.abort();
    }
}
