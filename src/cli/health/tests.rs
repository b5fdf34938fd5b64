use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use clap::Parser;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::pki::ca::Authority;
use crate::pki::tls;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: HealthArgs,
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn healthy(name: &str) -> ClusterPage {
    ClusterPage {
        health: Health::Healthy,
        reason: None,
        agents: 1,
        tunnels: 2,
        last_probe: Some(at(997)),
        latency_ms: Some(12),
        certificate_expires: Some(at(1000 + 3 * 86_400)),
        api_server_version: Some("v1.33.4".to_owned()),
        ..ClusterPage::unseen(name.parse().unwrap())
    }
}

fn dead(name: &str) -> ClusterPage {
    let health = Health::Disconnected;
    ClusterPage { health, ..ClusterPage::unseen(name.parse().unwrap()) }
}

#[test]
fn a_line_per_cluster_and_red_where_it_is_down() {
    let page = FleetPage { clusters: vec![healthy("c1"), dead("edge-2")], incomplete: None };
    let text = in_words(&page, at(1000), false);
    assert_eq!(
        text,
        "NAME    HEALTH        LATENCY  PROBED  TUNNELS        KUBERNETES  CERTIFICATE  REASON\n\
         c1      healthy       12ms     3s ago  2 of 1 agent   v1.33.4     3d left\n\
         edge-2  disconnected  -        -       0 of 0 agents  -           -            \
         the hub does not know it, or does not let you see it\n"
    );
    let coloured = in_words(&page, at(1000), true);
    let lines: Vec<_> = coloured.lines().collect();
    assert!(!lines[1].contains('\u{1b}') && lines[2].starts_with(RED), "{coloured:?}");
    let plain = coloured.replace(RED, "").replace(PLAIN, "");
    assert_eq!(plain, text);
}

#[test]
fn who_is_asked_for_and_missing_is_not_left_out() {
    let page = FleetPage { clusters: vec![healthy("a"), healthy("c")], incomplete: None };
    let wanted: Vec<ClusterName> = ["c", "b"].iter().map(|name| name.parse().unwrap()).collect();
    let only = only(page, &wanted);
    let shown: Vec<_> = only.clusters.iter().map(|one| (one.name.as_str(), one.health)).collect();
    assert_eq!(shown, [("b", Health::Unknown), ("c", Health::Healthy)]);
    let page = FleetPage { clusters: vec![healthy("c")], incomplete: Some("why".to_owned()) };
    let only = super::only(page, &wanted);
    assert_eq!((only.clusters[0].reason.as_deref(), only.incomplete), (Some("why"), None));
}

/// A hub that gives every request `answer`, and counts them.
struct Hub {
    folder: tempfile::TempDir,
    port: u16,
    asked: Arc<AtomicUsize>,
}

// === impl Hub ===

impl Hub {
    async fn start(code: &str, body: String) -> Self {
        let hour = Duration::from_secs(3600);
        let authority = Authority::create("test", hour).unwrap();
        let issued = authority.issue_server(&["127.0.0.1".to_owned()], hour).unwrap();
        let (chain, key) = (issued.chain_pem.as_bytes(), issued.key_pem.as_bytes());
        let config = tls::server(chain, key, &[b"http/1.1"]).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca"), authority.certificate_pem()).unwrap();
        std::fs::write(folder.path().join("token"), "secret").unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 {code}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let acceptor = tokio_rustls::TlsAcceptor::from(Arc::clone(&config));
                let Ok(mut stream) = acceptor.accept(socket).await else { continue };
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                let head = String::from_utf8(head).unwrap().to_lowercase();
                assert!(head.starts_with("get /_fleet http/1.1"), "{head}");
                assert!(head.contains("authorization: bearer secret\r\n"), "{head}");
                counted.fetch_add(1, Ordering::SeqCst);
                stream.write_all(answer.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
            }
        });
        Self { folder, port, asked }
    }

    fn args(&self, more: &[&str]) -> HealthArgs {
        let at = |name: &str| self.folder.path().join(name).display().to_string();
        let server = format!("https://127.0.0.1:{}", self.port);
        let (ca, token) = (at("ca"), at("token"));
        let line = ["x", "--server", &server, "--ca", &ca, "--token-file", &token];
        Line::try_parse_from(line.iter().chain(more)).unwrap().args
    }

    /// Whether all is well, where that can be told.
    async fn health(&self, more: &[&str]) -> Result<bool, String> {
        let page = look(&self.args(more)).await;
        page.map(|page| all_well(&page)).map_err(|error| format!("{error:#}"))
    }
}

fn page(clusters: Vec<ClusterPage>) -> String {
    serde_json::to_string(&FleetPage { clusters, incomplete: None }).unwrap()
}

/// The hub knows who is dead: however many are, it is asked once, and nobody is waited for.
#[tokio::test]
async fn two_hundred_clusters_of_which_twenty_are_dead_are_one_question() {
    let name = |number: usize| format!("edge-{number}");
    let cluster =
        |number| if number % 10 == 0 { dead(&name(number)) } else { healthy(&name(number)) };
    let clusters: Vec<_> = (0..200).map(cluster).collect();
    let living = clusters.iter().filter(|one| one.health == Health::Healthy).cloned().collect();
    let hub = Hub::start("200 OK", page(clusters)).await;
    assert_eq!(hub.health(&[]).await, Ok(false));
    assert_eq!(hub.asked.load(Ordering::SeqCst), 1);
    // One that is well, one that is not, and one that nobody knows.
    assert_eq!(hub.health(&["--cluster", "edge-1"]).await, Ok(true));
    assert_eq!(hub.health(&["--cluster", "edge-1,edge-10"]).await, Ok(false));
    assert_eq!(hub.health(&["--cluster", "edge-999"]).await, Ok(false));
    let hub = Hub::start("200 OK", page(living)).await;
    assert_eq!(hub.health(&["--all"]).await, Ok(true));
}

#[tokio::test]
async fn the_code_says_well_down_or_unknown() {
    let hub = Hub::start("200 OK", page(vec![healthy("a"), dead("b")])).await;
    for (more, code) in
        [(&["--cluster", "a"][..], ExitCode::SUCCESS), (&["-o", "json"], ExitCode::FAILURE)]
    {
        assert_eq!(run(hub.args(more)).await.unwrap(), code);
    }
    // One is well, and there may be others.
    let incomplete = Some("not asked".to_owned());
    let half = FleetPage { clusters: vec![healthy("a")], incomplete };
    let half = Hub::start("200 OK", serde_json::to_string(&half).unwrap()).await;
    for (more, code) in
        [(&[][..], ExitCode::from(crate::cli::USAGE)), (&["--cluster", "a"], ExitCode::SUCCESS)]
    {
        assert_eq!(run(half.args(more)).await.unwrap(), code);
    }
    // Nothing listens there.
    let gone = Hub { port: 1, ..hub };
    assert_eq!(run(gone.args(&[])).await.unwrap(), ExitCode::from(crate::cli::USAGE));
}

#[tokio::test]
async fn a_hub_that_does_not_say_is_no_cluster_that_is_down() {
    for (code, body, said) in [
        ("401 Unauthorized", "{}", "does not take this token"),
        ("403 Forbidden", "{\"message\": \"no policy\"}", "403 Forbidden: no policy"),
        ("200 OK", "<html>", "not answer as a hub"),
        ("302 Found", "", "302 Found"),
    ] {
        let hub = Hub::start(code, body.to_owned()).await;
        let error = hub.health(&[]).await.unwrap_err();
        assert!(error.contains(said), "{code}: {error}");
    }
    let empty = Hub::start("200 OK", page(vec![])).await;
    assert_eq!(empty.health(&[]).await, Ok(true));
    // Takes connections, and says nothing.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = Hub { port: listener.local_addr().unwrap().port(), ..empty };
    let error = silent.health(&["--timeout", "100ms"]).await.unwrap_err();
    assert!(error.contains("within 100ms"), "{error}");
}

#[test]
fn lengths_of_time_are_short() {
    let of = |seconds| span(Some(Duration::from_secs(seconds)));
    assert_eq!([of(0), of(119), of(120)], ["0s", "119s", "2m"]);
    assert_eq!([of(7_200), of(172_799), of(172_800)], ["2h", "47h", "2d"]);
    assert_eq!(span(None), "0s");
}
