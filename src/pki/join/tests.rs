use std::os::unix::fs::MetadataExt as _;

use super::*;
use crate::pki::authorities;
use crate::pki::credentials::{AgentCredentials, JoinError};
use crate::pki::testing::{DAY, Fixture, name, peer};
use crate::pki::tls;

fn message<T: fmt::Debug>(outcome: Result<T, JoinError>) -> String {
    outcome.unwrap_err().to_string()
}

#[tokio::test]
async fn a_cluster_joins_and_gets_its_name_and_nothing_else() {
    let fixture = Fixture::new().await;
    let agent = fixture.joined("c1").await;
    assert_eq!(agent.cluster(), name("c1"));
    assert_eq!(fixture.tunnel(&agent).await.unwrap(), name("c1"));

    let folder = fixture.agent_folder("c1");
    for file in ["agent.key", "agent.crt", "hub-ca.crt"] {
        let found = std::fs::metadata(folder.join(file)).unwrap();
        assert_eq!(found.mode() & 0o777, 0o600, "{file}");
    }
    let text = std::fs::read(folder.join("agent.crt")).unwrap();
    let read = crate::pki::inspect::summaries(&text, SystemTime::now()).unwrap();
    assert_eq!(read[0].names, ["cluster-proxy://cluster/c1"]);
    assert_eq!(read[0].subject, "CN=c1");
    let life = agent.expires().duration_since(SystemTime::now()).unwrap();
    assert!(life <= DAY && life > DAY - Duration::from_secs(60), "{life:?}");
    let renewal = agent.renew_at().duration_since(SystemTime::now()).unwrap();
    assert!(renewal > DAY / 2 && renewal < DAY * 3 / 4, "{renewal:?}");

    let enrolment = fixture.state.enrolment(&name("c1")).await.unwrap().unwrap();
    assert_eq!(enrolment.certificate_expires, seconds(agent.expires()));
    assert!(!enrolment.hub_itself && !enrolment.revoked);
}

#[tokio::test]
async fn a_token_works_once_in_time_and_for_its_name() {
    let fixture = Fixture::new().await;
    let pin = fixture.pin().await;
    let token = fixture.token("c1").await;
    let moved = token.replace("c1.", "c2.");
    assert!(message(fixture.enrol_with("hub", &moved, &pin).await).contains("does not know"));
    assert!(fixture.state.enrolments().await.unwrap().is_empty());
    fixture.enrol_with("hub", &token, &pin).await.unwrap();
    assert!(message(fixture.enrol_with("hub", &token, &pin).await).contains("used already"));

    let late = fixture.token("c3").await;
    let folder = fixture.agent_folder("c3");
    let service = fixture.later(Duration::from_secs(3601));
    let outcome =
        crate::pki::credentials::enrol("hub", fixture.dial(&service), &late, &pin, folder);
    assert!(message(outcome.await).contains("expired"));
    fixture.enrol_with("hub", &late, &pin).await.unwrap();
}

#[tokio::test]
async fn the_hub_is_pinned() {
    let fixture = Fixture::new().await;
    let (token, pin) = (fixture.token("c1").await, fixture.pin().await);
    let wrong = format!("sha256:{}", "0".repeat(64));
    let told = message(fixture.enrol_with("hub", &token, &wrong).await);
    assert!(told.contains(&pin) && told.contains(&wrong), "{told}");
    let told = message(fixture.enrol_with("other", &token, &pin).await);
    assert!(told.contains("pki issue"), "{told}");
    let told = message(fixture.enrol_with("hub", &token, "sha256:12").await);
    assert!(told.contains("--ca-hash"), "{told}");
    let told = message(fixture.enrol_with("hub", "c1.nonsense", &pin).await);
    assert!(told.contains("--token"), "{told}");
    // None of these has spent it, nor left an agent behind.
    assert!(AgentCredentials::load(&fixture.agent_folder("c1")).is_err());
    fixture.enrol_with("hub", &token, &pin).await.unwrap();
}

#[tokio::test]
async fn a_pin_of_the_new_authority_works_during_a_rotation() {
    let fixture = Fixture::new().await;
    let old = fixture.pin().await;
    authorities::rotate(&fixture.state, Role::Serving).await.unwrap();
    fixture.serving.refresh(&fixture.state).await.unwrap();
    let (token, pin) = (fixture.token("c1").await, fixture.pin().await);
    assert_ne!(old, pin);
    fixture.enrol_with("hub", &token, &pin).await.unwrap();
}

#[tokio::test]
async fn renewal_keeps_the_key_and_brings_the_new_authority() {
    let fixture = Fixture::new().await;
    let agent = fixture.joined("c1").await;
    let clone = agent.clone();
    authorities::rotate(&fixture.state, Role::Serving).await.unwrap();
    fixture.serving.refresh(&fixture.state).await.unwrap();
    fixture.renew(&agent, &fixture.later(DAY / 2)).await.unwrap();
    assert!(clone.expires() > SystemTime::now() + DAY);
    let bundle = std::fs::read(fixture.agent_folder("c1").join("hub-ca.crt")).unwrap();
    assert_eq!(ca::certificates(&bundle).unwrap().len(), 2);
    let again = AgentCredentials::load(&fixture.agent_folder("c1")).unwrap();
    assert_eq!(again.expires(), clone.expires());
    let enrolment = fixture.state.enrolment(&name("c1")).await.unwrap().unwrap();
    assert_eq!(enrolment.certificate_expires, seconds(clone.expires()));
}

#[tokio::test]
async fn a_running_agent_takes_a_new_enrolment() {
    let fixture = Fixture::new().await;
    let agent = fixture.joined("c1").await;
    assert!(!agent.reload().await.unwrap());
    let key = fixture.agent_folder("c1").join("agent.key");
    let again = fixture.joined("c1").await;
    let whole = std::fs::read(&key).unwrap();
    std::fs::write(&key, "half").unwrap();
    assert!(agent.reload().await.is_err());
    std::fs::write(&key, whole).unwrap();
    assert!(agent.reload().await.unwrap());
    assert_eq!(agent.expires(), again.expires());
    assert!(fixture.renew(&agent, &fixture.service).await.is_ok(), "its key is the enrolled one");
}

#[tokio::test]
async fn an_expired_certificate_renews_within_the_grace_only() {
    let fixture = Fixture::new().await;
    let agent = fixture.joined("c1").await;
    let too_late = fixture.later(DAY + RENEWAL_GRACE);
    assert!(message(fixture.renew(&agent, &too_late).await).contains("--renewal-grace"));
    let late = fixture.later(RENEWAL_GRACE);
    fixture.renew(&agent, &late).await.unwrap();
}

#[tokio::test]
async fn neither_revoked_nor_removed_nor_replaced_keys_renew() {
    let fixture = Fixture::new().await;
    let agents =
        [fixture.joined("c1").await, fixture.joined("c2").await, fixture.joined("c3").await];
    for agent in &agents {
        fixture.renew(agent, &fixture.service).await.unwrap();
    }
    let [revoked, removed, replaced] = agents;
    let enrolment = async |cluster| fixture.state.enrolment(&name(cluster)).await.unwrap().unwrap();
    let old_key = enrolment("c3").await.key_sha256;
    let withdrawn = fixture.token("c1").await;
    fixture.state.revoke(&name("c1")).await.unwrap();
    assert!(message(fixture.renew(&revoked, &fixture.service).await).contains("revoked"));
    let pin = fixture.pin().await;
    assert!(fixture.enrol_with("hub", &withdrawn, &pin).await.is_err());
    fixture.state.remove(&name("c2")).await.unwrap();
    assert!(message(fixture.renew(&removed, &fixture.service).await).contains("no cluster"));
    let current = fixture.joined("c3").await;
    assert_eq!(enrolment("c3").await.replaces, Some(old_key));
    assert!(message(fixture.renew(&replaced, &fixture.service).await).contains("with this key"));
    fixture.renew(&current, &fixture.service).await.unwrap();

    // A new token brings a revoked name back, with the new key alone.
    let back = fixture.joined("c1").await;
    assert_eq!(enrolment("c1").await.replaces, None, "nothing may go on under a lost key");
    fixture.renew(&back, &fixture.service).await.unwrap();
    assert!(fixture.renew(&revoked, &fixture.service).await.is_err());
}

/// Sends `body` to `path` as no agent of ours would.
async fn raw(fixture: &Fixture, path: &'static str, body: &[u8]) -> (StatusCode, String) {
    let bundle = authorities::bundle(&fixture.state, Role::Serving).await.unwrap();
    let ca = ca::certificates(bundle.as_bytes()).unwrap();
    let versions = [&rustls::version::TLS13];
    let config = tls::client(&ca, None, &versions, &[tls::ALPN_JOIN]).unwrap();
    let stream = tls::connect(&config, "hub", fixture.dial(&fixture.service)).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let body = Full::new(Bytes::copy_from_slice(body));
    let request = Request::post(path).header("host", "hub").body(body).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    let status = answer.status();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test]
async fn a_request_for_more_is_refused_and_leaves_the_token() {
    let fixture = Fixture::new().await;
    let key = rcgen::KeyPair::generate().unwrap();
    let token = fixture.token("c1").await;
    let join = |cluster: &str| {
        let csr = crate::pki::csr::request(&name(cluster), &key).unwrap();
        serde_json::to_vec(&JoinRequest { token: token.clone(), csr }).unwrap()
    };
    let (status, told) = raw(&fixture, "/join", &join("c2")).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(told.contains("not its own"), "{told}");
    assert_eq!(raw(&fixture, "/join", &join("c1")).await.0, StatusCode::OK);

    let renew = |cluster: &str, asks: &str| {
        let csr = crate::pki::csr::request(&name(asks), &key).unwrap();
        serde_json::to_vec(&RenewRequest { cluster: name(cluster), csr }).unwrap()
    };
    // Another's name in the request, and another's name altogether.
    fixture.joined("c2").await;
    assert_eq!(raw(&fixture, "/renew", &renew("c1", "c2")).await.0, StatusCode::FORBIDDEN);
    assert_eq!(raw(&fixture, "/renew", &renew("c2", "c2")).await.0, StatusCode::UNAUTHORIZED);
    let unknown = raw(&fixture, "/renew", &renew("c9", "c9")).await;
    assert_eq!(unknown, raw(&fixture, "/renew", &renew("c2", "c2")).await);
    assert_eq!(raw(&fixture, "/renew", &renew("c1", "c1")).await.0, StatusCode::OK);
}

#[tokio::test]
async fn bodies_and_paths_are_bounded() {
    let fixture = Fixture::new().await;
    let large = vec![b' '; MAX_REQUEST + 1];
    assert_eq!(raw(&fixture, "/join", &large).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(raw(&fixture, "/join", &large[1..]).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(raw(&fixture, "/", b"").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn guesses_are_limited() {
    let fixture = Fixture::new().await;
    let (token, pin) = (fixture.token("c1").await, fixture.pin().await);
    let mut guess = token.clone();
    let last = guess.pop().unwrap();
    guess.push(if last == 'A' { 'B' } else { 'A' });
    let mut refused = 0;
    for _ in 0..12 {
        let told = message(fixture.enrol_with("hub", &guess, &pin).await);
        refused += usize::from(told.contains("does not know"));
    }
    assert_eq!(refused, 10);
    assert!(message(fixture.enrol_with("hub", &token, &pin).await).contains("too many"));
    // Another process (or a minute later): the token is still good.
    let service = fixture.later(Duration::ZERO);
    let folder = fixture.agent_folder("c1");
    let stream = fixture.dial(&service);
    crate::pki::credentials::enrol("hub", stream, &token, &pin, folder).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn silence_is_cut() {
    let folder = tempfile::tempdir().unwrap();
    let store = crate::state::FolderStore::open(folder.path()).unwrap();
    let service = JoinService::new(State::new(Arc::new(store)), RENEWAL_GRACE);
    let (_near, far) = tokio::io::duplex(64);
    let start = Instant::now();
    service.serve(far, peer()).await;
    assert_eq!(start.elapsed(), DEADLINE);
}

#[tokio::test]
async fn a_key_that_others_can_read_is_not_used() {
    use std::os::unix::fs::PermissionsExt as _;
    let fixture = Fixture::new().await;
    fixture.joined("c1").await;
    let folder = fixture.agent_folder("c1");
    let key = folder.join("agent.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(message(AgentCredentials::load(&folder)).contains("chmod 600"));
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert!(AgentCredentials::load(&folder).is_ok());
    assert!(message(AgentCredentials::load(&folder.join("none"))).contains("join first"));
}

#[tokio::test]
async fn only_who_is_accepted_joins_and_the_token_is_kept_for_later() {
    let mut fixture = Fixture::new().await;
    let accepted = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let now = accepted.clone();
    let accepts = move |cluster: &ClusterName| {
        *cluster != name("c1") || now.load(std::sync::atomic::Ordering::Relaxed)
    };
    fixture.service = fixture.service.clone().with_acceptance(accepts);
    let (pin, token) = (fixture.pin().await, fixture.token("c1").await);
    for _ in 0..50 {
        let said = message(fixture.enrol_with("hub", &token, &pin).await);
        assert!(said.contains("does not accept c1"), "{said}");
    }
    assert!(fixture.state.enrolments().await.unwrap().is_empty());
    // Who has no token is told what everybody is told.
    let guessed = token.replace('.', "");
    let guessed = format!("c1.{}.{}", &guessed[2..14], "x".repeat(43));
    assert!(message(fixture.enrol_with("hub", &guessed, &pin).await).contains("does not know"));
    fixture.joined("c2").await;
    let set = |is: bool| accepted.store(is, std::sync::atomic::Ordering::Relaxed);
    set(true);
    fixture.enrol_with("hub", &token, &pin).await.unwrap();
    let agent = AgentCredentials::load(&fixture.agent_folder("c1")).unwrap();
    set(false);
    fixture.renew(&agent, &fixture.service).await.unwrap();
}
