//! How long requests to services live: as long as their callers and their rights, and no deadline
//! of ours ends them.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::Value;
use tokio::sync::mpsc;

use super::ground::{Ground, path};
use crate::support::bodies::stream_body;
use crate::support::client::{Client, empty};
use crate::support::fleet::HEAD_TIMEOUT;
use crate::support::{PATIENCE, eventually, within};
use crate::world::ACCOUNTS;

const LIST: &str = "- {namespace: shop, service: web}";

/// A request that both sides go on with.
struct Talk {
    say: mpsc::Sender<Bytes>,
    heard: Incoming,
}

// === impl Talk ===

impl Talk {
    async fn start(client: &Client) -> Self {
        let (say, said) = mpsc::channel::<Bytes>(1);
        let said = stream::unfold(said, |mut said| async { Some((said.recv().await?, said)) });
        let request = client.request("POST", &path("http:web:80", "/echo"), stream_body(said));
        let answer = within("the head", PATIENCE, client.open(request)).await.unwrap();
        assert_eq!(answer.status(), 200);
        Self { say, heard: answer.into_body() }
    }

    async fn goes_on(&mut self) {
        self.say.send(Bytes::from("word")).await.unwrap();
        let heard = within("the echo", PATIENCE, self.heard.frame()).await.unwrap().unwrap();
        assert_eq!(heard.into_data().unwrap(), "word");
    }
}

/// Security case 73: the cluster's own refusal ends what runs, and nothing else.
#[tokio::test]
async fn s73_a_stream_ends_with_its_account_and_its_neighbour_goes_on() {
    let ground = Ground::start(LIST, &["shop/web"]).await;
    ground.world.account("leaver").await;
    let leaver = ground.world.client("leaver", Value::Null).await;
    let (mut leaving, mut staying) =
        (Talk::start(&leaver).await, Talk::start(&ground.client).await);
    leaving.goes_on().await;
    staying.goes_on().await;
    ground.world.delete(&format!("{ACCOUNTS}/leaver")).await;
    let rest = within("the end", BOUND, leaving.heard.collect()).await;
    assert!(rest.is_err(), "a cut answer does not look complete");
    staying.goes_on().await;
    eventually("the web server hears of it", PATIENCE, || async {
        (ground.front.connections() == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn many_early_leavers_leave_nothing() {
    let ground = Ground::start(LIST, &["shop/web"]).await;
    let leave = async |client: Client| {
        let request = client.request("GET", &path("http:web:80", "/never"), empty());
        let arrived = ground.front.requests();
        tokio::select! {
            answer = client.open(request) => panic!("{answer:?}"),
            () = eventually("it arrives", PATIENCE, || async {
                (ground.front.requests() > arrived).then_some(())
            }) => {}
        }
    };
    let clients = [ground.client.clone(), ground.client.http2()];
    join_all(clients.iter().cycle().take(20).cloned().map(leave)).await;
    eventually("no connection is left", PATIENCE, || async {
        (ground.front.connections() == 0).then_some(())
    })
    .await;
    assert_eq!(ground.client.get(&path("http:web:80", "/")).await.status, 200);
}

/// Nobody knows how long a service thinks: the deadline of API servers is not for it.
#[tokio::test]
async fn a_service_may_take_longer_than_an_api_server() {
    let ground = Ground::start(LIST, &["shop/web"]).await;
    let later = (HEAD_TIMEOUT + Duration::from_secs(1)).as_millis();
    let answer = ground.client.get(&path("http:web:80", &format!("/slow?{later}"))).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// Ten seconds of our own, and as many of the API server, which caches a good token too.
const BOUND: Duration = Duration::from_secs(20);
