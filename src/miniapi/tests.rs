//! A real client library against the whole API, over TLS.

use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt, TryStreamExt};
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use k8s_openapi::api::authentication::v1::{
    SelfSubjectReview, TokenRequest, TokenRequestSpec, TokenReview, TokenReviewSpec,
};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, ServiceAccount};
use kube::api::{
    Api, AttachParams, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent,
    WatchParams,
};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};

use super::*;
use crate::kubernetes;

/// A running API. Dropping it stops it.
struct World {
    server: ApiServer,
    handle: MiniApiHandle,
    drain: Drain,
}

// === impl World ===

impl World {
    async fn start() -> Self {
        let address = "127.0.0.1:0".parse().unwrap();
        let api = MiniApi::bind(MiniApiConfig::new("test", address)).await.unwrap();
        let server = api.server();
        let (handle, drain) = (api.handle(), Drain::new());
        drain.spawn(api.run(drain.clone()));
        Self { server, handle, drain }
    }

    /// A client with all rights.
    fn admin(&self) -> kube::Client {
        kubernetes::client(&self.server).unwrap()
    }

    /// A client with a token.
    fn holder_of(&self, token: &str) -> kube::Client {
        let credentials = Credentials::Token(token.to_owned().into());
        kubernetes::client(&ApiServer { credentials, ..self.server.clone() }).unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.drain.stop();
    }
}

fn config_map(name: &str, value: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}, "data": {"key": value}})).unwrap()
}

fn value(map: &ConfigMap) -> &str {
    &map.data.as_ref().unwrap()["key"]
}

fn refusal<T: std::fmt::Debug>(result: kube::Result<T>) -> (u16, String) {
    match result.unwrap_err() {
        kube::Error::Api(status) => (status.code, status.message),
        other => panic!("{other}"),
    }
}

type Events = Pin<Box<dyn Stream<Item = kube::Result<WatchEvent<ConfigMap>>> + Send>>;

/// The next event as `TYPE NAME VALUE`.
async fn next(events: &mut Events) -> String {
    let event = tokio::time::timeout(PATIENCE, events.try_next()).await.unwrap().unwrap().unwrap();
    let (kind, map) = match event {
        WatchEvent::Added(map) => ("ADDED", map),
        WatchEvent::Modified(map) => ("MODIFIED", map),
        WatchEvent::Deleted(map) => ("DELETED", map),
        WatchEvent::Bookmark(bookmark) => {
            let ends = bookmark.metadata.annotations.contains_key("k8s.io/initial-events-end");
            return format!("BOOKMARK {ends}");
        }
        WatchEvent::Error(status) => return format!("ERROR {}", status.code),
    };
    format!("{kind} {} {}", map.metadata.name.as_deref().unwrap(), value(&map))
}

#[tokio::test]
async fn it_listens_on_loopback_only() {
    let bind = async |address: &str| {
        MiniApi::bind(MiniApiConfig::new("test", address.parse().unwrap())).await
    };
    assert!(matches!(bind("0.0.0.0:0").await, Err(MiniApiError::NotLoopback { .. })));
    assert!(bind("127.0.0.1:0").await.is_ok());
}

#[tokio::test]
async fn a_watch_continues_a_list() {
    let world = World::start().await;
    let maps: Api<ConfigMap> = Api::namespaced(world.admin(), "default");
    maps.create(&PostParams::default(), &config_map("one", "1")).await.unwrap();
    let list = maps.list(&ListParams::default()).await.unwrap();
    let names: Vec<_> = list.items.iter().filter_map(|map| map.metadata.name.as_deref()).collect();
    assert_eq!(names, ["kube-root-ca.crt", "one"]);
    let revision = list.metadata.resource_version.unwrap();
    let mut events: Events = maps.watch(&WatchParams::default(), &revision).await.unwrap().boxed();

    maps.create(&PostParams::default(), &config_map("two", "2")).await.unwrap();
    let patch = Patch::Merge(json!({"data": {"key": "3"}}));
    maps.patch("one", &PatchParams::default(), &patch).await.unwrap();
    maps.delete("two", &DeleteParams::default()).await.unwrap();
    assert_eq!(next(&mut events).await, "ADDED two 2");
    assert_eq!(next(&mut events).await, "MODIFIED one 3");
    assert_eq!(next(&mut events).await, "DELETED two 2");

    let initial = WatchParams::default().fields("metadata.name=one").initial_events();
    let mut events: Events = maps.watch(&initial, "0").await.unwrap().boxed();
    assert_eq!(next(&mut events).await, "ADDED one 3");
    assert_eq!(next(&mut events).await, "BOOKMARK true");
    // The end of the API is the end of its watches, and no error.
    world.drain.stop();
    assert!(tokio::time::timeout(PATIENCE, events.next()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_stale_write_is_a_conflict() {
    let world = World::start().await;
    let maps: Api<ConfigMap> = Api::namespaced(world.admin(), "default");
    let stale = maps.create(&PostParams::default(), &config_map("one", "1")).await.unwrap();
    let written = |value: &str, revision: &ConfigMap| {
        let mut map = config_map("one", value);
        map.metadata.resource_version.clone_from(&revision.metadata.resource_version);
        map
    };
    let fresh = maps.replace("one", &PostParams::default(), &written("2", &stale)).await.unwrap();
    let (code, message) =
        refusal(maps.replace("one", &PostParams::default(), &written("3", &stale)).await);
    assert_eq!(code, 409);
    assert_eq!(
        message,
        "Operation cannot be fulfilled on configmaps \"one\": the object has been modified; \
         please apply your changes to the latest version and try again"
    );
    let newest = maps.replace("one", &PostParams::default(), &written("3", &fresh)).await.unwrap();
    assert_eq!(value(&newest), "3");
}

#[tokio::test]
async fn a_field_belongs_to_whoever_applied_it() {
    let world = World::start().await;
    let maps: Api<ConfigMap> = Api::namespaced(world.admin(), "default");
    let applied = |value: &str| {
        Patch::Apply(json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "one"}, "data": {"key": value},
        }))
    };
    let (first, second) = (PatchParams::apply("first"), PatchParams::apply("second"));
    maps.patch("one", &first, &applied("1")).await.unwrap();
    maps.patch("one", &second, &applied("1")).await.unwrap();
    let (code, message) = refusal(maps.patch("one", &second, &applied("2")).await);
    assert_eq!(code, 409);
    assert_eq!(
        message,
        "Apply failed with 1 conflict: conflict with \"first\" using v1: .data.key"
    );
    let taken = maps.patch("one", &second.clone().force(), &applied("2")).await.unwrap();
    assert_eq!(value(&taken), "2");
    let managers = taken.metadata.managed_fields.unwrap();
    let managers: Vec<_> = managers.into_iter().filter_map(|entry| entry.manager).collect();
    assert_eq!(managers, ["second"]);
}

#[tokio::test]
async fn an_account_without_rights_is_told_what_it_lacks() {
    let world = World::start().await;
    let token = world.handle.token("default", "default", &[], Duration::from_secs(600));
    let pods = |client| Api::<Pod>::namespaced(client, "kube-system");
    let nobody = pods(world.holder_of(&token));
    let (code, message) = refusal(nobody.get("etcd").await);
    assert_eq!(code, 403);
    assert_eq!(
        message,
        "pods \"etcd\" is forbidden: User \"system:serviceaccount:default:default\" cannot get \
         resource \"pods\" in API group \"\" in the namespace \"kube-system\""
    );
    assert!(pods(world.admin()).get("etcd").await.is_ok());
    assert_eq!(refusal(pods(world.holder_of("no.such.token")).get("etcd").await).0, 401);
}

#[tokio::test]
async fn a_requested_token_is_good_until_its_account_goes() {
    let world = World::start().await;
    let admin = world.admin();
    let accounts: Api<ServiceAccount> = Api::namespaced(admin.clone(), "default");
    let account = json!({"metadata": {"name": "robot"}});
    let account = serde_json::from_value(account).unwrap();
    accounts.create(&PostParams::default(), &account).await.unwrap();
    let request = TokenRequest {
        spec: TokenRequestSpec { expiration_seconds: Some(600), ..TokenRequestSpec::default() },
        ..TokenRequest::default()
    };
    let token = accounts.create_token_request("robot", &PostParams::default(), &request).await;
    let token = token.unwrap().status.unwrap().token;

    let me: Api<SelfSubjectReview> = Api::all(world.holder_of(&token));
    let me = me.create(&PostParams::default(), &SelfSubjectReview::default()).await.unwrap();
    let me = me.status.unwrap().user_info.unwrap().username;
    assert_eq!(me.as_deref(), Some("system:serviceaccount:default:robot"));

    let key_set = |accept: &str| {
        let request = http::Request::get("/openid/v1/jwks").header("accept", accept);
        request.body(Vec::new()).unwrap()
    };
    let refused = admin.request_text(key_set("application/json")).await.unwrap_err();
    assert!(refused.to_string().contains("jwk-set"), "{refused}");
    let key_set = key_set(kubernetes::DOCUMENTS);
    let key_set: JwkSet =
        serde_json::from_str(&admin.request_text(key_set).await.unwrap()).unwrap();
    let key = key_set.find(&jsonwebtoken::decode_header(&token).unwrap().kid.unwrap()).unwrap();
    let mut validation = Validation::new(Algorithm::ES256);
    validation.set_audience(&[DEFAULT_ISSUER]);
    validation.set_issuer(&[DEFAULT_ISSUER]);
    let claims =
        jsonwebtoken::decode::<Value>(&token, &DecodingKey::from_jwk(key).unwrap(), &validation);
    assert_eq!(claims.unwrap().claims["sub"], "system:serviceaccount:default:robot");

    let reviews: Api<TokenReview> = Api::all(admin);
    let review = TokenReview {
        spec: TokenReviewSpec { token: Some(token), ..TokenReviewSpec::default() },
        ..TokenReview::default()
    };
    let authenticated = async || {
        let answer = reviews.create(&PostParams::default(), &review).await.unwrap();
        answer.status.unwrap().authenticated.unwrap_or(false)
    };
    assert!(authenticated().await);
    accounts.delete("robot", &DeleteParams::default()).await.unwrap();
    assert!(!authenticated().await);
}

#[tokio::test]
async fn no_process_outlives_the_api() {
    let world = World::start().await;
    let pods: Api<Pod> = Api::namespaced(world.admin(), "default");
    let running = async {
        while pods.get("hello").await.unwrap().status.unwrap().phase.as_deref() != Some("Running") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, running).await.unwrap();
    let options = AttachParams::default().stderr(false);
    let command = ["sh", "-c", "echo $$; exec sleep 1000"];
    let mut session = pods.exec("hello", command, &options).await.unwrap();
    let mut line = String::new();
    let mut stdout = BufReader::new(session.stdout().unwrap());
    tokio::time::timeout(PATIENCE, stdout.read_line(&mut line)).await.unwrap().unwrap();
    let process = format!("/proc/{}", line.trim());
    assert!(std::fs::exists(&process).unwrap());
    assert!(world.drain.finish(PATIENCE).await);
    assert!(!std::fs::exists(&process).unwrap());
}

/// For what should happen at once, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
