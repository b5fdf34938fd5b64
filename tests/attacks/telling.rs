//! What answers that the hub makes itself tell about what is behind it: case 114.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use cluster_proxy::hub::Source;

use crate::support::api::FakeApi;
use crate::support::client::{Answer, Client, empty};
use crate::support::fleet::Fleet;
use crate::support::{PATIENCE, eventually, within};

/// Words that would tell where and what things are.
struct Secrets(Vec<String>);

// === impl Secrets ===

impl Secrets {
    fn of(fleet: &Fleet, hub_api: &FakeApi) -> Self {
        let addresses = fleet.hub.addresses;
        let spoke = fleet.spoke("c1").api.address;
        let inner = [addresses.agents, addresses.admin, spoke, hub_api.address];
        let mut words: Vec<String> = inner.iter().map(|one| format!(":{}", one.port())).collect();
        words.push(fleet.dir.path().display().to_string());
        let others = ["127.0.0.1", "::1", "/src/", ".rs", "panicked", "fake API server", "eyJ"];
        words.extend(others.map(str::to_owned));
        Self(words)
    }

    fn in_text(&self, text: &str) -> Option<&String> {
        self.0.iter().find(|word| text.contains(word.as_str()))
    }
}

/// Headers and body, as they came.
fn whole(answer: &Answer) -> String {
    format!("{:?}\n{}", answer.headers, answer.text())
}

#[tokio::test]
async fn s114_errors_tell_nothing_of_what_is_behind_the_hub() {
    let mut hub_api = FakeApi::start("hub").await;
    let mut fleet = Fleet::hub_only().await;
    fleet.hub.stop().await;
    fleet.hub.own_api = Some(hub_api.server());
    fleet.hub.opaque_tokens = true;
    fleet.hub.policy = Source::File(fleet.dir.path().join("policy.yaml"));
    fleet.hub.set_policy(
        "rules: [{users: ['cluster:hub:system:serviceaccount:default:captain'], clusters: ['*']}]",
    );
    fleet.hub.start().await;
    fleet.add("c1").await;
    fleet.hub.wait_healthy("c1").await;
    fleet.wait_serves("c1", PATIENCE).await;
    let secrets = Secrets::of(&fleet, &hub_api);
    assert!(secrets.in_text(&format!("dial {}", fleet.spoke("c1").api.address)).is_some());
    let captain = fleet.anonymous().token(&hub_api.token("captain"));
    eventually("the hub's keys are known", PATIENCE, || async {
        (captain.get("/c1/version").await.status == 200).then_some(())
    })
    .await;
    let sailor = fleet.anonymous().token(&hub_api.token("sailor"));
    let (client, anonymous) = (fleet.client("c1"), fleet.anonymous());
    let headed = |client: &Client, name: &str, count: usize| {
        let mut request = client.request("GET", "/c1/version", empty());
        for index in 0..count {
            let name = http::HeaderName::try_from(format!("{name}{index}")).unwrap();
            request.headers_mut().insert(name, "v".parse().unwrap());
        }
        request
    };
    let mut seen = Vec::new();
    let mut tell = |expected: u16, answer: Answer| {
        let text = whole(&answer);
        assert_eq!(answer.status, expected, "{text}");
        assert_eq!(answer.json()["kind"], "Status", "{text}");
        assert!(secrets.in_text(&text).is_none(), "{:?} is told: {text}", secrets.in_text(&text));
        seen.push(expected);
    };
    tell(401, anonymous.get("/c1/version").await);
    tell(401, anonymous.token("eyJhbGciOiJub25lIn0.e30.").get("/c1/version").await);
    tell(400, client.get("/C1/version").await);
    tell(400, client.get("/c1/%zz").await);
    tell(405, client.send(client.request("TRACE", "/c1/version", empty())).await);
    tell(400, client.send(headed(&client, "x_remote_extra_", 1)).await);
    tell(431, client.send(headed(&client, "x-y-", 300)).await);
    tell(403, client.get("/c1/api/v1/namespaces/x/services/web:80/proxy-service/").await);
    tell(403, sailor.get("/c1/version").await);
    tell(404, captain.get("/c2/version").await);
    tell(404, captain.get("/_own").await);
    hub_api.kill();
    // Neither has asked before, so that the hub has to ask now.
    tell(503, fleet.anonymous().token(&hub_api.token("captain")).get("/c1/version").await);
    tell(503, fleet.anonymous().token("opaque").get("/c1/version").await);
    fleet.spoke_mut("c1").api.kill();
    tell(
        502,
        eventually("it is missed", PATIENCE, || async {
            let answer = client.get("/c1/version").await;
            (answer.status == 502).then_some(answer)
        })
        .await,
    );
    fleet.spoke_mut("c1").kill_agent();
    fleet.hub.wait_tunnels("c1", 0, PATIENCE).await;
    tell(503, client.get("/c1/version").await);

    // Before there is a head, or TLS.
    let mut socket = TcpStream::connect(fleet.hub.addresses.user).await.unwrap();
    socket.write_all(b"GET /c1/version HTTP/1.1\r\nHost: hub\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    within("an answer", PATIENCE, socket.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.0 400 "), "{answer}");
    assert!(secrets.in_text(&answer).is_none(), "{answer}");
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, [400, 401, 403, 404, 405, 431, 502, 503]);
}
