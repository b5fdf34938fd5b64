//! Certificates and join tokens at the agent listener: cases 94, 95, 103, 105 and 112.

use std::path::Path;
use std::time::{Duration, SystemTime};

use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, SanType,
};
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use cluster_proxy::name::ClusterName;
use cluster_proxy::pki::tls::{ALPN_JOIN, ALPN_TUNNEL};
use cluster_proxy::pki::{ca, credentials, tls, token};
use cluster_proxy::state::Document;

use crate::frames::PREFACE;
use crate::support::client::full;
use crate::support::fleet::Fleet;
use crate::support::{PATIENCE, within};

/// A hub on which `c1` and `c2` are enrolled, and the key of `c1`.
struct Office {
    fleet: Fleet,
    agent_ca: Issuer<'static, KeyPair>,
    key: KeyPair,
}

// === impl Office ===

impl Office {
    async fn open() -> Self {
        let fleet = Fleet::hub_only().await;
        for name in ["c1", "c2"] {
            fleet.hub.enrol(name, &fleet.dir.path().join(name)).await;
        }
        let read = async |document| {
            let found = fleet.hub.state.store().read(&document).await.unwrap().unwrap();
            String::from_utf8(found.contents.to_vec()).unwrap()
        };
        let certificate = read(Document::AgentCaCertificate).await;
        let key = KeyPair::from_pem(&read(Document::AgentCaKey).await).unwrap();
        let agent_ca = Issuer::from_ca_cert_pem(&certificate, key).unwrap();
        let key = key_of(&fleet.dir.path().join("c1"));
        Self { fleet, agent_ca, key }
    }

    /// A certificate for the enrolled key of `c1`, signed by `issuer`.
    fn certificate(
        &self,
        issuer: &Issuer<'_, KeyPair>,
        change: impl FnOnce(&mut CertificateParams),
    ) -> String {
        let mut params = agent_params();
        change(&mut params);
        params.signed_by(&self.key, issuer).unwrap().pem()
    }

    /// Whether the hub begins to talk to who presents `chain` with the key of `c1`.
    async fn admits(&self, chain: Option<&str>) -> bool {
        let key = self.key.serialize_pem();
        let client = chain.map(|chain| (chain.as_bytes(), key.as_bytes()));
        let ca = self.fleet.hub.ca_pem.as_bytes();
        let config = tls::upstream(ca, client, &[ALPN_TUNNEL]).unwrap();
        let socket = TcpStream::connect(self.fleet.hub.addresses.agents).await.unwrap();
        let Ok(mut stream) = tls::connect(&config, "localhost", socket).await else { return false };
        let mut preface = [0; PREFACE.len()];
        let read = within("the hub's decision", PATIENCE, stream.read_exact(&mut preface)).await;
        read.is_ok() && preface == PREFACE
    }

    /// `POST path` at the agent listener, as no agent of ours would.
    async fn post(&self, path: &str, body: String) -> (StatusCode, String) {
        let ca = self.fleet.hub.ca_pem.as_bytes();
        let config = tls::upstream(ca, None, &[ALPN_JOIN]).unwrap();
        let socket = TcpStream::connect(self.fleet.hub.addresses.agents).await.unwrap();
        let stream = tls::connect(&config, "localhost", socket).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::post(path).header("host", "localhost").body(full(body)).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    async fn token(&self, cluster: &str, life: Duration, made: SystemTime) -> String {
        let cluster = ClusterName::parse(cluster).unwrap();
        let state = &self.fleet.hub.state;
        let made = token::Token::create(state, cluster, life, false, made).await.unwrap();
        made.reveal().to_string()
    }

    async fn enrol(&self, token: &str) -> Result<ClusterName, String> {
        let authority = ca::certificates(self.fleet.hub.ca_pem.as_bytes()).unwrap();
        let pin = ca::key_hash(&authority[0]).unwrap();
        let socket = TcpStream::connect(self.fleet.hub.addresses.agents).await.unwrap();
        let directory = self.fleet.dir.path().join("newcomer");
        let enrolled = credentials::enrol("localhost", socket, token, &pin, directory).await;
        enrolled.map_err(|error| error.to_string())
    }
}

fn key_of(directory: &Path) -> KeyPair {
    KeyPair::from_pem(&std::fs::read_to_string(directory.join("agent.key")).unwrap()).unwrap()
}

fn agent_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = (SystemTime::now() - DAY).into();
    params.not_after = (SystemTime::now() + DAY).into();
    params.subject_alt_names = vec![uri("cluster-proxy://cluster/c1")];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().unwrap())
}

/// An authority that calls itself what ours does.
fn authority(name: &str) -> (String, Issuer<'static, KeyPair>) {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    (pem, Issuer::new(params, key))
}

#[tokio::test]
async fn s94_certificates_that_do_not_open_the_door() {
    let office = Office::open().await;
    let ours = &office.agent_ca;
    let good = office.certificate(ours, |_| ());
    assert!(office.admits(Some(&good)).await);

    let (other_pem, other) = authority("cluster-proxy agent CA");
    let by_other = office.certificate(&other, |_| ());
    let named =
        |names: Vec<SanType>| office.certificate(ours, |params| params.subject_alt_names = names);
    // An agent's own certificate is no authority.
    let by_agent = {
        let agent = Issuer::new(agent_params(), key_of(&office.fleet.dir.path().join("c2")));
        let agent_pem = agent_params().signed_by(agent.key(), ours).unwrap().pem();
        office.certificate(&agent, |_| ()) + &agent_pem
    };
    let refused = [
        ("another authority", by_other.clone()),
        ("another authority, sent along", by_other + &other_pem),
        ("signed by an agent", by_agent),
        (
            "expired",
            office.certificate(ours, |params| {
                params.not_after = (SystemTime::now() - DAY / 2).into();
            }),
        ),
        (
            "not yet valid",
            office.certificate(ours, |params| {
                params.not_before = (SystemTime::now() + DAY / 2).into();
            }),
        ),
        (
            "for servers",
            office.certificate(ours, |params| {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            }),
        ),
        (
            "a common name alone",
            office.certificate(ours, |params| {
                params.subject_alt_names.clear();
                params.distinguished_name.push(DnType::CommonName, "c1");
            }),
        ),
        ("a wildcard", named(vec![dns("*")])),
        ("a wildcard cluster", named(vec![uri("cluster-proxy://cluster/*")])),
        ("a DNS name", named(vec![dns("c1")])),
        (
            "two clusters",
            named(vec![uri("cluster-proxy://cluster/c1"), uri("cluster-proxy://cluster/c2")]),
        ),
        // Well made and well signed, but the key that is enrolled as c2 is another.
        ("another cluster's name", named(vec![uri("cluster-proxy://cluster/c2")])),
        ("a cluster that nobody enrolled", named(vec![uri("cluster-proxy://cluster/c9")])),
    ];
    for (what, chain) in refused {
        assert!(!office.admits(Some(&chain)).await, "{what}");
    }
    assert!(!office.admits(None).await, "no certificate at all");
    assert!(office.admits(Some(&good)).await);
}

#[tokio::test]
async fn s112_a_long_chain() {
    let office = Office::open().await;
    let chain = |length: usize| {
        let mut pems = Vec::new();
        let mut link = |issuer: &Issuer<'_, KeyPair>, number: usize| {
            let mut params = CertificateParams::default();
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, format!("link {number}"));
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let key = KeyPair::generate().unwrap();
            pems.push(params.signed_by(&key, issuer).unwrap().pem());
            Issuer::new(params, key)
        };
        let mut last = link(&office.agent_ca, 0);
        for number in 1..length {
            last = link(&last, number);
        }
        let leaf = office.certificate(&last, |_| ());
        pems.reverse();
        leaf + &pems.concat()
    };
    assert!(office.admits(Some(&chain(1))).await);
    assert!(!office.admits(Some(&chain(100))).await);
    assert!(office.admits(Some(&office.certificate(&office.agent_ca, |_| ()))).await);
}

#[tokio::test]
async fn s95_a_renewal_gets_the_enrolled_name_and_nothing_else() {
    let office = Office::open().await;
    let renew = |cluster: &str, key: &KeyPair, change: &dyn Fn(&mut CertificateParams)| {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        change(&mut params);
        let csr = params.serialize_request(key).unwrap().pem().unwrap();
        json!({"cluster": cluster, "csr": csr}).to_string()
    };
    let key = &office.key;
    let stranger = KeyPair::generate().unwrap();
    let refused = [
        (
            "another name",
            renew("c1", key, &|params| {
                params.subject_alt_names = vec![uri("cluster-proxy://cluster/c2")];
            }),
            403,
        ),
        (
            "one more name",
            renew("c1", key, &|params| {
                params.subject_alt_names = vec![uri("cluster-proxy://cluster/c1"), dns("hub")];
            }),
            403,
        ),
        (
            "an organisation",
            renew("c1", key, &|params| {
                params.distinguished_name.push(DnType::OrganizationName, "system:masters");
            }),
            403,
        ),
        (
            "another common name",
            renew("c1", key, &|params| {
                params.distinguished_name.push(DnType::CommonName, "c2");
            }),
            403,
        ),
        (
            "an authority",
            renew("c1", key, &|params| {
                params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            }),
            403,
        ),
        (
            "a server",
            renew("c1", key, &|params| {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            }),
            403,
        ),
        ("another cluster", renew("c2", key, &|_| ()), 401),
        ("another key", renew("c1", &stranger, &|_| ()), 401),
        ("a cluster that is not", renew("c9", key, &|_| ()), 401),
    ];
    for (what, body, code) in refused {
        let (status, told) = office.post("/renew", body).await;
        assert_eq!(status.as_u16(), code, "{what}: {told}");
        assert!(!told.contains("BEGIN CERTIFICATE"), "{what}");
    }
    // A longer life has no words in such a request: the hub alone decides.
    let (status, told) = office.post("/renew", renew("c1", key, &|_| ())).await;
    assert_eq!(status, 200, "{told}");
    let granted: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!(granted["cluster"], "c1");
    assert!(office.admits(Some(granted["certificate"].as_str().unwrap())).await);
}

#[tokio::test]
async fn s103_join_tokens() {
    let office = Office::open().await;
    let now = SystemTime::now();
    let life = token::DEFAULT_LIFE;
    let used = office.token("c3", life, now).await;
    assert_eq!(office.enrol(&used).await.unwrap().as_str(), "c3");
    let again = office.enrol(&used).await.unwrap_err();

    let expired = office.token("c4", life, now - life - Duration::from_secs(1)).await;
    let late = office.enrol(&expired).await.unwrap_err();
    let open = office.token("c5", life, now).await;
    let renamed = open.replacen("c5", "c6", 1);
    let other = office.enrol(&renamed).await.unwrap_err();
    assert!(again.contains("does not know"), "{again}");
    assert!(late.contains("expired"), "{late}");
    assert_eq!(other, again);

    // A request for another name leaves the token as it was; guesses come to an end.
    let mut guess = open.clone();
    let last = guess.pop().unwrap();
    guess.push(if last == 'A' { 'B' } else { 'A' });
    let mut refused = 0;
    while !office.enrol(&guess).await.unwrap_err().contains("too many") {
        refused += 1;
        assert!(refused < 20, "{refused} guesses");
    }
    assert!(office.enrol(&open).await.unwrap_err().contains("too many"));
    assert!(!office.fleet.hub.state.enrolments().await.unwrap().contains_key(&name("c6")));
}

#[tokio::test]
async fn s105_no_way_down_to_a_tunnel_without_a_certificate() {
    let office = Office::open().await;
    let ca = office.fleet.hub.ca_pem.as_bytes();
    for alpn in [&[ALPN_TUNNEL][..], &[ALPN_JOIN, ALPN_TUNNEL], &[b"h2"], &[]] {
        let config = tls::upstream(ca, None, alpn).unwrap();
        let socket = TcpStream::connect(office.fleet.hub.addresses.agents).await.unwrap();
        if let Ok(mut stream) = tls::connect(&config, "localhost", socket).await {
            let mut byte = [0];
            let read = within("the end", PATIENCE, stream.read_exact(&mut byte)).await;
            assert!(read.is_err(), "the hub talks to {alpn:?}");
        }
    }
    assert!(office.admits(Some(&office.certificate(&office.agent_ca, |_| ()))).await);
}

fn name(text: &str) -> ClusterName {
    ClusterName::parse(text).unwrap()
}

const DAY: Duration = Duration::from_secs(86_400);
