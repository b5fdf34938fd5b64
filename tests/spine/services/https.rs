//! Services that speak TLS: whose certificates are believed, and under which name.

use std::path::PathBuf;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use cluster_proxy::agent::Exposure;
use cluster_proxy::kubernetes;
use cluster_proxy::pki::ca::Authority;
use cluster_proxy::sandbox::provision;

use super::ground::{Ground, exposure, header, path};
use super::requests::upgrade;
use crate::support::bodies::{digest, source_body};
use crate::support::shop::{Shop, certified, expired};
use crate::support::{PATIENCE, eventually, within};

const LIST: &str = "
- {namespace: shop, service: web}
- {namespace: default, service: web}
";
const EXPOSED: [&str; 2] = ["shop/web", "default/web"];
const NAME: &str = "web.shop.svc";
const DAY: Duration = Duration::from_secs(86_400);

fn authority() -> Authority {
    Authority::create("authority of services", DAY).unwrap()
}

/// A web server behind port 443, and an agent that believes `authority`.
async fn start(shop: &Shop, authority: &Authority) -> (Ground, PathBuf) {
    let mut ground = Ground::start(LIST, &[]).await;
    let file = ground.world.fleet.dir.path().join("service-ca.crt");
    std::fs::write(&file, authority.certificate_pem()).unwrap();
    put(&mut ground, shop, Some(file.clone())).await;
    (ground, file)
}

/// Puts a web server behind port 443; the agent starts anew, so that it looks for it again.
async fn put(ground: &mut Ground, shop: &Shop, additional_ca: Option<PathBuf>) {
    ground.place(&[("http", ground.front.address), ("https", shop.address)]).await;
    ground.expose(Exposure { additional_ca, ..exposure(&EXPOSED) }).await;
}

/// U11.
#[tokio::test]
async fn get_post_and_a_websocket_over_tls() {
    const BYTES: u64 = 1 << 20;

    let authority = authority();
    let safe = Shop::secure("safe", certified(&authority, NAME)).await;
    let (ground, _) = start(&safe, &authority).await;
    let expected = digest(source_body(BYTES)).await.unwrap();
    for client in [ground.client.clone(), ground.client.http2(), ground.of_hub.clone()] {
        // Without a scheme it is https, and without a port 443.
        for segment in ["web", "https:web:", "https:web:443", "web:https", "https:web:https"] {
            let answer = client.get(&path(segment, "/a?b")).await;
            assert_eq!(answer.status, 200, "{segment}: {}", answer.text());
            let head = answer.json();
            assert_eq!((&head["server"], &head["target"]), (&"safe".into(), &"/a?b".into()));
            assert_eq!(header(&answer, "host").as_deref(), Some(NAME), "{segment}");
        }
    }
    let request = ground.client.request("POST", &path("web", "/echo"), source_body(BYTES));
    let answer = ground.client.open(request).await.unwrap();
    let echoed = within("the echo", PATIENCE, digest(answer.into_body())).await;
    assert_eq!(echoed.unwrap(), expected);

    let session = upgrade(&ground.client, &path("web", "/session"));
    let answer = ground.client.open(session).await.unwrap();
    assert_eq!(answer.status(), 101);
    let mut session = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
    session.write_all(b"ping").await.unwrap();
    let mut heard = [0; 4];
    within("the echo", PATIENCE, session.read_exact(&mut heard)).await.unwrap();
    assert_eq!(&heard, b"ping");
}

/// U11 and U71: 502, and why. Nothing of the request reaches such a web server.
#[tokio::test]
async fn certificates_that_are_not_accepted() {
    let ours = authority();
    let safe = Shop::secure("safe", certified(&ours, NAME)).await;
    let (mut ground, file) = start(&safe, &ours).await;
    let file = Some(file);
    let theirs = Shop::secure("theirs", certified(&authority(), NAME)).await;
    let other = Shop::secure("other", certified(&ours, "other.shop.svc")).await;
    let ended = Shop::secure("ended", expired(&ours, NAME)).await;
    let plain = Shop::start("plain").await;
    for (shop, says) in [
        (&theirs, "give it the authority that signed it (agent --additional-service-ca)"),
        (&other, "is not for web.shop.svc: have one issued for that name"),
        (&ended, "has expired or is not valid yet"),
        (&plain, "whether that is http or https"),
    ] {
        put(&mut ground, shop, file.clone()).await;
        let answer = ground.client.get(&path("web", "/")).await;
        let message = answer.assert_status(502, "BadGateway");
        assert!(message.starts_with("cluster-proxy: service: "), "{message}");
        assert!(message.contains("service https:shop/web:443"), "{message}");
        assert!(message.contains(says), "{message}");
        assert_eq!(shop.requests(), 0, "{message}");
        put(&mut ground, &safe, file.clone()).await;
        let answer = ground.client.get(&path("web", "/")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    put(&mut ground, &safe, None).await;
    let message = ground.client.get(&path("web", "/")).await.assert_status(502, "BadGateway");
    assert!(message.contains("--additional-service-ca"), "{message}");
}

/// The file is followed; one that cannot be used changes nothing.
#[tokio::test]
async fn a_rotated_authority_of_services_is_taken_over() {
    let (old, new) = (authority(), authority());
    let before = Shop::secure("before", certified(&old, NAME)).await;
    let after = Shop::secure("after", certified(&new, NAME)).await;
    let (ground, file) = start(&before, &old).await;
    let served = async |server: &str| {
        eventually(server, PATIENCE, || async {
            ground.world.spoke.reload_agent();
            let answer = ground.client.get(&path("web", "/")).await;
            (answer.status == 200 && answer.json()["server"] == server).then_some(())
        })
        .await;
    };
    served("before").await;
    std::fs::write(&file, "-----BEGIN CERTIFICATE-----").unwrap();
    served("before").await;
    std::fs::write(&file, old.certificate_pem() + &new.certificate_pem()).unwrap();
    served("before").await;
    ground.place(&[("http", ground.front.address), ("https", after.address)]).await;
    served("after").await;
    std::fs::write(&file, new.certificate_pem()).unwrap();
    served("after").await;
    std::fs::write(&file, old.certificate_pem()).unwrap();
    eventually("the old authority is alone again", PATIENCE, || async {
        ground.world.spoke.reload_agent();
        (ground.client.get(&path("web", "/")).await.status == 502).then_some(())
    })
    .await;
}

/// As upstream's, an agent believes the cluster's own authority: that of its API server, which here
/// signs for the web servers of Pods.
#[tokio::test]
async fn the_clusters_own_authority_is_believed() {
    let mut ground = Ground::start(LIST, &[]).await;
    let api = kubernetes::client(&ground.world.spoke.server).unwrap();
    provision::services(&api, "default").await.unwrap();
    ground.expose(exposure(&EXPOSED)).await;
    for (segment, code) in [("web", 200), ("http:web:80", 200), ("http:web:81", 404)] {
        let path = path(segment, "/").replace("/shop/", "/default/");
        let answer = ground.client.get(&path).await;
        assert_eq!(answer.status.as_u16(), code, "{segment}: {}", answer.text());
        assert_eq!(answer.text() == "hello from hello\n", code == 200, "{}", answer.text());
    }
}
