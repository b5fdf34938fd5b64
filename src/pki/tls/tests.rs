use std::time::{Duration, SystemTime};

use rcgen::{ExtendedKeyUsagePurpose, SanType};
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::pki::authorities::{self, Role};
use crate::pki::identity;
use crate::pki::testing::{DAY, Fixture};
use crate::state::{Document, Expected};

/// What the hub's CA bundle says now: what a kubeconfig written now would hold.
async fn hub_ca(fixture: &Fixture) -> Vec<CertificateDer<'static>> {
    let bundle = authorities::bundle(&fixture.state, Role::Serving).await.unwrap();
    ca::certificates(bundle.as_bytes()).unwrap()
}

async fn visit(
    fixture: &Fixture,
    config: &Arc<ClientConfig>,
    host: &str,
) -> io::Result<(ClientStream<tokio::io::DuplexStream>, Protocol)> {
    let (near, far) = tokio::io::duplex(64 << 10);
    let (near, far) = tokio::join!(connect(config, host, near), fixture.serving.front.accept(far));
    Ok((near?, far?.1))
}

/// Whether the agent listener admits a client with `identity` and `alpn` as a tunnel.
async fn dock(fixture: &Fixture, identity: Option<Identity>, alpn: &[&[u8]]) -> io::Result<String> {
    let config = client(&hub_ca(fixture).await, identity, &[&TLS13], alpn).unwrap();
    let (near, far) = tokio::io::duplex(64 << 10);
    let (_near, far) = tokio::join!(
        async {
            // Under TLS 1.3 the client is done before the server has judged its certificate.
            let mut stream = connect(&config, "hub", near).await?;
            let _ = stream.flush().await;
            io::Result::Ok(stream)
        },
        fixture.serving.dock.accept(far)
    );
    match far? {
        Arrival::Tunnel { certificate, .. } => Ok(certificate.cluster.to_string()),
        Arrival::Join(_) => Ok("join".into()),
    }
}

#[tokio::test]
async fn the_front_speaks_both_protocols_and_both_versions() {
    let fixture = Fixture::new().await;
    let ca = hub_ca(&fixture).await;
    for (versions, alpn, expected) in [
        (&[&TLS13], &[&b"h2"[..], b"http/1.1"][..], Protocol::Http2),
        (&[&TLS12], &[b"h2"], Protocol::Http2),
        (&[&TLS13], &[b"http/1.1"], Protocol::Http1),
        (&[&TLS13], &[], Protocol::Http1),
    ] {
        let config = client(&ca, None, versions, alpn).unwrap();
        for host in ["hub", "127.0.0.1"] {
            assert_eq!(visit(&fixture, &config, host).await.unwrap().1, expected);
        }
        assert!(visit(&fixture, &config, "other").await.is_err());
    }
    let strangers = client(&ca, None, &[&TLS13], &[b"spdy/3"]).unwrap();
    assert!(visit(&fixture, &strangers, "hub").await.is_err());
}

#[tokio::test]
async fn the_dock_admits_agents_only() {
    let fixture = Fixture::new().await;
    let tunnel: &[&[u8]] = &[ALPN_TUNNEL];
    let good = fixture.odd_agent(Role::Agent, |_| ()).await;
    assert_eq!(dock(&fixture, Some(good), tunnel).await.unwrap(), "c1");

    assert!(dock(&fixture, None, tunnel).await.is_err(), "no certificate");
    let other_authority = fixture.odd_agent(Role::Serving, |_| ()).await;
    assert!(dock(&fixture, Some(other_authority), tunnel).await.is_err(), "serving CA");
    let server = fixture
        .odd_agent(Role::Agent, |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        })
        .await;
    assert!(dock(&fixture, Some(server), tunnel).await.is_err(), "usage");
    let expired = fixture
        .odd_agent(Role::Agent, |params| {
            params.not_after = (SystemTime::now() - DAY / 2).into();
        })
        .await;
    assert!(dock(&fixture, Some(expired), tunnel).await.is_err(), "expired");
    let early = fixture
        .odd_agent(Role::Agent, |params| {
            params.not_before = (SystemTime::now() + DAY / 2).into();
        })
        .await;
    assert!(dock(&fixture, Some(early), tunnel).await.is_err(), "not yet valid");
    for names in [
        vec![],
        vec![SanType::DnsName("*".try_into().unwrap())],
        vec![SanType::DnsName("c1".try_into().unwrap())],
    ] {
        let odd = fixture
            .odd_agent(Role::Agent, |params| {
                params.subject_alt_names = names.clone();
                params.distinguished_name.push(rcgen::DnType::CommonName, "c1");
            })
            .await;
        assert!(dock(&fixture, Some(odd), tunnel).await.is_err(), "{names:?}");
    }
}

#[tokio::test]
async fn the_dock_tells_its_protocols_apart() {
    let fixture = Fixture::new().await;
    assert_eq!(dock(&fixture, None, &[ALPN_JOIN]).await.unwrap(), "join");
    // A tunnel offered beside it does not get around the certificate.
    assert!(dock(&fixture, None, &[ALPN_JOIN, ALPN_TUNNEL]).await.is_err());
    for alpn in [&[&b"h2"[..]][..], &[b"http/1.1"], &[]] {
        let agent = fixture.odd_agent(Role::Agent, |_| ()).await;
        assert!(dock(&fixture, Some(agent), alpn).await.is_err(), "{alpn:?}");
    }
}

#[tokio::test]
async fn the_dock_speaks_tls_1_3_only_and_resumes_nothing() {
    let fixture = Fixture::new().await;
    let ca = hub_ca(&fixture).await;
    for (versions, works) in [(&[&TLS13], true), (&[&TLS12], false)] {
        let config = client(&ca, None, versions, &[ALPN_JOIN]).unwrap();
        for _ in 0..2 {
            let (near, far) = tokio::io::duplex(64 << 10);
            let (near, far) =
                tokio::join!(connect(&config, "hub", near), fixture.serving.dock.accept(far));
            assert_eq!(far.is_ok(), works);
            if let Ok(near) = near {
                let kind = near.get_ref().1.handshake_kind();
                assert_eq!(kind, Some(rustls::HandshakeKind::Full));
            }
        }
    }
}

#[tokio::test]
async fn the_front_resumes_and_its_tickets_do_not_open_the_dock() {
    let fixture = Fixture::new().await;
    let config = client(&hub_ca(&fixture).await, None, &[&TLS13], &[b"h2"]).unwrap();
    let kind = async || {
        let (near, far) = tokio::io::duplex(64 << 10);
        let (near, far) =
            tokio::join!(connect(&config, "hub", near), fixture.serving.front.accept(far));
        let (mut near, mut far) = (near.unwrap(), far.unwrap().0);
        let kind = near.get_ref().1.handshake_kind();
        // The ticket comes with the first data.
        far.write_all(b"x").await.unwrap();
        near.read_exact(&mut [0]).await.unwrap();
        kind
    };
    assert_eq!(kind().await, Some(rustls::HandshakeKind::Full));
    assert_eq!(kind().await, Some(rustls::HandshakeKind::Resumed));
    // A reload does not void them.
    authorities::renew_serving(&fixture.state).await.unwrap();
    assert!(fixture.serving.refresh(&fixture.state).await.unwrap());
    assert_eq!(kind().await, Some(rustls::HandshakeKind::Resumed));

    let mut tunnel = (*config).clone();
    tunnel.alpn_protocols = vec![ALPN_TUNNEL.to_vec()];
    let tunnel = Arc::new(tunnel);
    let (near, far) = tokio::io::duplex(64 << 10);
    let (_near, far) =
        tokio::join!(connect(&tunnel, "hub", near), fixture.serving.dock.accept(far));
    assert!(far.is_err());
}

#[tokio::test]
async fn a_replaced_certificate_is_served_and_a_bad_one_is_not() {
    let fixture = Fixture::new().await;
    let (state, serving) = (&fixture.state, &fixture.serving);
    let config = client(&hub_ca(&fixture).await, None, &[&TLS13], &[]).unwrap();
    let served = async || {
        let (stream, _) = visit(&fixture, &config, "hub").await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
    };
    let first = served().await;
    assert!(!serving.refresh(state).await.unwrap());
    authorities::renew_serving(state).await.unwrap();
    assert!(serving.refresh(state).await.unwrap());
    let second = served().await;
    assert_ne!(first, second);

    let key = Document::ServingKey;
    let good = state.store().read(&key).await.unwrap().unwrap();
    let other = rcgen::KeyPair::generate().unwrap().serialize_pem();
    for bad in ["", "garbage", &other] {
        let now = state.store().read(&key).await.unwrap().unwrap().version;
        let bad = bad.to_owned().into();
        state.store().write(&key, bad, Expected::Version(now)).await.unwrap();
        assert!(serving.refresh(state).await.is_err());
        assert!(serving.reload_failed());
        assert_eq!(served().await, second);
    }
    let now = state.store().read(&key).await.unwrap().unwrap().version;
    state.store().write(&key, good.contents, Expected::Version(now)).await.unwrap();
    serving.refresh(state).await.unwrap();
    assert!(!serving.reload_failed());
}

#[tokio::test(start_paused = true)]
async fn a_certificate_is_signed_again_at_two_thirds_of_its_life() {
    let fixture = Fixture::new().await;
    let (state, serving) = (&fixture.state, &fixture.serving);
    let life = Duration::from_secs(600);
    authorities::issue_serving(state, &["hub".into()], life).await.unwrap();
    serving.refresh(state).await.unwrap();
    let config = client(&hub_ca(&fixture).await, None, &[&TLS13], &[]).unwrap();
    let visit = async || visit(&fixture, &config, "hub").await.unwrap().0;
    let leaf = |stream: &ClientStream<tokio::io::DuplexStream>| {
        stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
    };
    let first = leaf(&visit().await);
    let (begun, start) = (SystemTime::now(), tokio::time::Instant::now());
    let parsed = identity::parse(&first).unwrap();
    let [from, until] =
        [parsed.validity().not_before, parsed.validity().not_after].map(identity::time);
    let due = from + until.duration_since(from).unwrap() * 2 / 3;
    let wait = due.duration_since(begun).unwrap();

    let watch = serving.clone().watch_by(state.clone(), move || begun + start.elapsed());
    let watch = AbortOnDropHandle::new(tokio::spawn(watch));
    tokio::time::sleep(wait - Duration::from_secs(3)).await;
    assert_eq!(leaf(&visit().await), first);
    tokio::time::sleep(Duration::from_secs(8)).await;
    let second = leaf(&visit().await);
    assert_ne!(second, first);
    assert!(!serving.reload_failed());
    // The new one has its whole life before it.
    tokio::time::sleep(life).await;
    assert_eq!(leaf(&visit().await), second);
    drop(watch);
}

#[tokio::test]
async fn a_new_serving_authority_is_believed_by_those_who_know_the_old_one() {
    let fixture = Fixture::new().await;
    let zeroth = hub_ca(&fixture).await;
    authorities::rotate(&fixture.state, Role::Serving).await.unwrap();
    fixture.serving.refresh(&fixture.state).await.unwrap();
    let first = hub_ca(&fixture).await;
    assert_eq!((zeroth.len(), first.len()), (1, 2));
    authorities::rotate(&fixture.state, Role::Serving).await.unwrap();
    // A renewal in the overlap keeps it.
    authorities::renew_serving(&fixture.state).await.unwrap();
    fixture.serving.refresh(&fixture.state).await.unwrap();
    let second = hub_ca(&fixture).await;

    let works = async |ca: &[CertificateDer<'static>]| {
        let config = client(ca, None, &[&TLS13], &[]).unwrap();
        visit(&fixture, &config, "hub").await.is_ok()
    };
    // Each generation by itself, as in a kubeconfig of its time.
    assert!(works(&zeroth).await);
    assert!(works(&first[..1]).await);
    assert!(works(&second[..1]).await);

    authorities::finish(&fixture.state, Role::Serving).await.unwrap();
    fixture.serving.refresh(&fixture.state).await.unwrap();
    assert!(!works(&zeroth).await);
    assert!(works(&second[..1]).await);
    assert_eq!(hub_ca(&fixture).await, second[..1]);
}

#[tokio::test]
async fn agents_of_both_authorities_work_in_the_overlap() {
    let fixture = Fixture::new().await;
    let refresh = async || fixture.serving.refresh(&fixture.state).await.unwrap();
    let (old, sleeper) = (fixture.joined("c1").await, fixture.joined("c2").await);
    authorities::rotate(&fixture.state, Role::Agent).await.unwrap();
    refresh().await;
    let new = fixture.joined("c3").await;
    for agent in [&old, &new] {
        assert_eq!(fixture.tunnel(agent).await.unwrap(), agent.cluster());
    }
    fixture.renew(&old, &fixture.service).await.unwrap();
    authorities::finish(&fixture.state, Role::Agent).await.unwrap();
    refresh().await;
    assert!(fixture.tunnel(&old).await.is_ok());
    assert!(fixture.tunnel(&new).await.is_ok());
    // Refused, and back after a renewal.
    assert!(fixture.tunnel(&sleeper).await.is_err());
    fixture.renew(&sleeper, &fixture.service).await.unwrap();
    assert!(fixture.tunnel(&sleeper).await.is_ok());
}

#[tokio::test]
async fn init_overwrites_nothing() {
    let fixture = Fixture::new().await;
    let before = hub_ca(&fixture).await;
    let refused = authorities::init(&fixture.state, &["hub".into()]).await.unwrap_err();
    assert!(refused.to_string().contains("rotate-ca"), "{refused}");
    assert_eq!(hub_ca(&fixture).await, before);
    assert_eq!(fixture.serving.expiries().len(), 3);
}

#[tokio::test]
async fn noise_ends_a_handshake() {
    let fixture = Fixture::new().await;
    // Alerts of level warning, 64 KiB of them.
    let alerts = [0x15, 3, 3, 0, 2, 1, 90].repeat(9000);
    for noise in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x16, 3, 1, 0, 1, 1], &alerts, &[]] {
        let (mut near, far) = tokio::io::duplex(256 << 10);
        near.write_all(noise).await.unwrap();
        near.shutdown().await.unwrap();
        assert!(fixture.serving.dock.accept(far).await.is_err());
    }
}
