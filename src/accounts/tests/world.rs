//! A hub's API and spokes' APIs that no socket leads to, and the controller between them. Time is
//! simulated; every request is written down.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use http::{Method, Request, Response};
use hyper::body::Incoming;
use k8s_openapi::api::core::v1::{Namespace, Secret, ServiceAccount};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::client::Body;
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};
use tower::Service;

use super::super::api::{Condition, MANAGED_NAMESPACE, ManagedServiceAccount, TOKEN};
use super::super::{Accounts, AccountsConfig};
use crate::fleet::{ClusterState, Fleet, TunnelState};
use crate::kubernetes::SpokeClients;
use crate::miniapi::testing::{Fault, InMemory, Wire};
use crate::name::ClusterName;
use crate::sandbox::definitions;

/// One API, and what was asked of it by the controller.
#[derive(Clone)]
pub(super) struct Server {
    api: Arc<InMemory>,
    /// The controller's way to it.
    pub(super) wire: Wire,
    asked: Arc<Mutex<Vec<(Method, String)>>>,
    under_way: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    /// Requests whose path ends so are forbidden.
    pub(super) forbidden: Arc<Mutex<Option<&'static str>>>,
}

/// The controller's side of a [`Server`].
#[derive(Clone)]
struct Watched(Server);

type Failed = Box<dyn std::error::Error + Send + Sync>;

pub(super) struct World {
    pub(super) hub: Server,
    pub(super) spokes: Arc<BTreeMap<ClusterName, Server>>,
    pub(super) fleet: watch::Sender<Fleet>,
    pub(super) serving_ca: watch::Sender<Arc<str>>,
    pub(super) metrics: prometheus::Registry,
    config: AccountsConfig,
    pub(super) running: AbortHandle,
}

struct Spokes(Arc<BTreeMap<ClusterName, Server>>);

// === impl Server ===

impl Server {
    async fn start() -> Self {
        let api = InMemory::start().await;
        Self {
            wire: api.wire(),
            api: Arc::new(api),
            asked: Arc::default(),
            under_way: Arc::default(),
            most: Arc::default(),
            forbidden: Arc::default(),
        }
    }

    /// Requests of a method whose path contains `part`.
    pub(super) fn count(&self, method: &Method, part: &str) -> usize {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|(asked, path)| asked == method && path.contains(part)).count()
    }

    /// Requests whose path contains `part`, without watches.
    pub(super) fn asked_about(&self, part: &str) -> usize {
        let asked = self.asked.lock().unwrap();
        let paths = asked.iter().map(|(_, path)| path);
        paths.filter(|path| path.contains(part) && !path.contains("watch=true")).count()
    }

    /// Requests that change something.
    pub(super) fn writes(&self) -> Vec<(Method, String)> {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|(method, _)| method != Method::GET).cloned().collect()
    }

    /// Most requests at once.
    pub(super) fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }

    pub(super) fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.api.client(), namespace)
    }

    pub(super) async fn post(&self, path: &str, object: &Value) {
        let body = serde_json::to_vec(object).unwrap();
        let request = Request::post(path).header("content-type", "application/json").body(body);
        let client = self.api.client();
        client.request::<Value>(request.unwrap()).await.unwrap();
    }

    pub(super) async fn delete_path(&self, path: &str) {
        let request = Request::delete(path).body(Vec::new()).unwrap();
        let client = self.api.client();
        client.request::<Value>(request).await.unwrap();
    }

    pub(super) async fn create<K>(&self, namespace: &str, object: Value)
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + Serialize
            + DeserializeOwned,
    {
        let object: K = serde_json::from_value(object).unwrap();
        self.api::<K>(namespace).create(&PostParams::default(), &object).await.unwrap();
    }

    pub(super) async fn merge<K>(&self, namespace: &str, name: &str, patch: Value)
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        let patch = Patch::Merge(patch);
        self.api::<K>(namespace).patch(name, &PatchParams::default(), &patch).await.unwrap();
    }

    pub(super) async fn get<K>(&self, namespace: &str, name: &str) -> Option<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        self.api::<K>(namespace).get_opt(name).await.unwrap()
    }

    pub(super) async fn delete<K>(&self, namespace: &str, name: &str)
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        self.api::<K>(namespace).delete(name, &DeleteParams::default()).await.unwrap();
    }
}

impl Service<Request<Body>> for Watched {
    type Response = Response<Incoming>;
    type Error = Failed;
    type Future = BoxFuture<'static, Result<Response<Incoming>, Failed>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let server = self.0.clone();
        Box::pin(async move {
            let path = request.uri().to_string();
            server.asked.lock().unwrap().push((request.method().clone(), path.clone()));
            let mut wire = server.wire;
            let is_forbidden = |end| path.trim_end_matches('?').ends_with(end);
            if server.forbidden.lock().unwrap().is_some_and(is_forbidden) {
                return wire.call(Request::get("/not/here").body(Body::empty())?).await;
            }
            if path.contains("watch=true") {
                return wire.call(request).await;
            }
            let now = server.under_way.fetch_add(1, Ordering::SeqCst) + 1;
            server.most.fetch_max(now, Ordering::SeqCst);
            sleep(Duration::from_millis(5)).await;
            let answer = wire.call(request).await;
            server.under_way.fetch_sub(1, Ordering::SeqCst);
            answer
        })
    }
}

impl SpokeClients for Spokes {
    fn client(&self, cluster: &ClusterName) -> Client {
        Client::new(Watched(self.0[cluster].clone()), "default")
    }
}

// === impl World ===

impl World {
    /// A hub that serves accounts, connected spokes, and the controller at work.
    pub(super) async fn start(clusters: &[&str]) -> Self {
        Self::build(clusters, false, true).await
    }

    /// The same; without the definition of accounts where `is_served` is false.
    pub(super) async fn build(clusters: &[&str], take_over: bool, is_served: bool) -> Self {
        let hub = Server::start().await;
        let mut spokes = BTreeMap::new();
        for cluster in clusters {
            let name = ClusterName::parse(cluster).unwrap();
            let spoke = Server::start().await;
            spoke.api.namespace(MANAGED_NAMESPACE);
            spokes.insert(name, spoke);
            hub.post(NAMESPACES, &namespace(cluster)).await;
        }
        let spokes = Arc::new(spokes);
        let fleet = watch::Sender::new(Fleet::default());
        let serving_ca = watch::Sender::new(Arc::from("serving CA"));
        let (base, started) = (Timestamp::try_from(SystemTime::now()).unwrap(), Instant::now());
        let config = AccountsConfig {
            hub: Client::new(Watched(hub.clone()), "default"),
            spokes: Arc::new(Spokes(spokes.clone())),
            fleet: fleet.subscribe(),
            serving_ca: serving_ca.subscribe(),
            namespace: MANAGED_NAMESPACE.to_owned(),
            take_over,
            clock: Arc::new(move || base + started.elapsed()),
        };
        let metrics = prometheus::Registry::new();
        let running = run(&config, &metrics);
        let world = Self { hub, spokes, fleet, serving_ca, metrics, config, running };
        if is_served {
            world.define(&definitions::managed_service_accounts()).await;
        }
        for cluster in clusters {
            world.connect(cluster);
        }
        world
    }

    pub(super) async fn define(&self, definition: &Value) {
        self.hub.post(DEFINITIONS, definition).await;
    }

    /// Ends the controller and starts another, as a restart does.
    pub(super) fn restart(&mut self) {
        self.running.abort();
        self.metrics = prometheus::Registry::new();
        self.running = run(&self.config, &self.metrics);
    }

    pub(super) fn spoke(&self, cluster: &str) -> &Server {
        &self.spokes[&ClusterName::parse(cluster).unwrap()]
    }

    /// A tunnel arrives.
    pub(super) fn connect(&self, cluster: &str) {
        self.spoke(cluster).wire.set(Fault::None);
        self.set_tunnels(cluster, 1);
    }

    /// Its tunnel is lost.
    pub(super) fn disconnect(&self, cluster: &str) {
        self.spoke(cluster).wire.set(Fault::Refused);
        self.set_tunnels(cluster, 0);
    }

    fn set_tunnels(&self, cluster: &str, count: u64) {
        let now = SystemTime::now();
        let tunnel =
            |id| TunnelState { id, agent: String::new(), since: now, certificate_expires: now };
        let state =
            ClusterState { tunnels: (0..count).map(tunnel).collect(), ..ClusterState::default() };
        let name = ClusterName::parse(cluster).unwrap();
        self.fleet.send_modify(|fleet| drop(fleet.clusters.insert(name, Arc::new(state))));
    }

    pub(super) async fn account(&self, cluster: &str, name: &str, more: Value) {
        let mut object = json!({
            "apiVersion": "authentication.open-cluster-management.io/v1beta1",
            "kind": "ManagedServiceAccount",
            "metadata": {"name": name}, "spec": {"rotation": {}},
        });
        merge(&mut object, more);
        self.hub.create::<ManagedServiceAccount>(cluster, object).await;
    }

    pub(super) async fn secret(&self, cluster: &str, name: &str) -> Option<Secret> {
        self.hub.get(cluster, name).await
    }

    /// The token in a Secret.
    pub(super) async fn token(&self, cluster: &str, name: &str) -> Option<String> {
        let secret = self.secret(cluster, name).await?;
        String::from_utf8(secret.data?.get(TOKEN)?.0.clone()).ok()
    }

    pub(super) async fn service_account(
        &self,
        cluster: &str,
        name: &str,
    ) -> Option<ServiceAccount> {
        self.spoke(cluster).get(MANAGED_NAMESPACE, name).await
    }

    pub(super) async fn condition(
        &self,
        cluster: &str,
        name: &str,
        kind: &str,
    ) -> Option<Condition> {
        let account: ManagedServiceAccount = self.hub.get(cluster, name).await?;
        account.status?.conditions.into_iter().find(|condition| condition.kind == kind)
    }

    /// Waits until its token is reported, and returns it.
    pub(super) async fn ready(&self, cluster: &str, name: &str) -> String {
        eventually(&format!("{cluster}/{name} has a token"), || async {
            let condition = self.condition(cluster, name, "TokenReported").await?;
            (condition.status == "True").then_some(())?;
            self.token(cluster, name).await
        })
        .await
    }

    /// The uid of the hub's `kube-system`.
    pub(super) async fn hub_uid(&self) -> String {
        let namespaces = Api::<Namespace>::all(self.hub.api.client());
        namespaces.get("kube-system").await.unwrap().uid().unwrap()
    }

    /// TokenRequests at a spoke.
    pub(super) fn minted(&self, cluster: &str) -> usize {
        self.spoke(cluster).count(&Method::POST, "/token?")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.running.abort();
    }
}

fn run(config: &AccountsConfig, metrics: &prometheus::Registry) -> AbortHandle {
    let accounts = Accounts::new(config.clone(), metrics).unwrap();
    tokio::spawn(async move { accounts.run().await }).abort_handle()
}

pub(super) fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

/// Puts `more` into `object`, level by level.
pub(super) fn merge(object: &mut Value, more: Value) {
    match (object, more) {
        (Value::Object(object), Value::Object(more)) => {
            for (key, value) in more {
                merge(object.entry(key).or_insert(Value::Null), value);
            }
        }
        (object, more) => *object = more,
    }
}

/// Asks again and again, in simulated time.
pub(super) async fn eventually<T, F>(what: &str, mut question: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if let Some(answer) = question().await {
            return answer;
        }
        sleep(Duration::from_millis(20)).await;
    }
    panic!("not in {PATIENCE:?}: {what}");
}

/// Keys of the data of a Secret.
pub(super) fn keys(secret: &Secret) -> BTreeSet<&str> {
    secret.data.iter().flatten().map(|(key, _)| key.as_str()).collect()
}

pub(super) const NAMESPACES: &str = "/api/v1/namespaces";
pub(super) const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// Simulated.
const PATIENCE: Duration = Duration::from_secs(60);
