use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use super::*;
use crate::name::ClusterName;

fn cluster(name: &str) -> Owner {
    Owner::Cluster(ClusterName::parse(name).unwrap())
}

fn jwk(number: u8) -> Jwk {
    let coordinate = URL_SAFE_NO_PAD.encode([number; 32]);
    let jwk = json!({ "kty": "EC", "crv": "P-256", "x": coordinate, "y": coordinate });
    serde_json::from_value(jwk).unwrap()
}

fn kept() -> Kept {
    Kept {
        keys: vec![jwk(1), jwk(2)],
        issuers: vec!["https://told".to_owned()],
        discovered_issuer: Some("https://discovered".to_owned()),
        audiences: vec!["https://audience".to_owned()],
        read_at: 1_800_000_000,
    }
}

fn thumbprint(number: u8) -> String {
    PublicKey::from_jwk(jwk(number)).unwrap().thumbprint
}

fn owners(pairs: &[(u8, &str)]) -> Owners {
    let pairs = pairs.iter().map(|(number, owner)| (thumbprint(*number), json!(owner)));
    serde_json::from_value(pairs.collect::<serde_json::Map<_, _>>().into()).unwrap()
}

#[test]
fn what_was_published_counts_where_its_owner_says() {
    let set = KeySet::new(cluster("c1"));
    set.replace(Material::from_kept(kept()));
    assert_eq!(set.material().kept, kept());
    let holds = |set: &KeySet, owners: &[(u8, &str)], hub_itself| {
        set.settle(&self::owners(owners), hub_itself);
        [1, 2].map(|number| set.snapshot().holds(&thumbprint(number)))
    };
    assert_eq!(holds(&set, &[], true), [false, false]);
    assert_eq!(holds(&set, &[(1, "cluster/c1"), (2, "cluster/c2")], true), [true, false]);
    assert_eq!(holds(&set, &[(1, "hub"), (2, "cluster/c1")], false), [false, true]);
    assert_eq!(holds(&set, &[(1, "hub"), (2, "oidc/x")], true), [true, false]);

    let hub = KeySet::new(Owner::Hub);
    hub.replace(Material::from_kept(kept()));
    assert_eq!(holds(&hub, &[(1, "cluster/c1")], true), [true, true]);
    assert_eq!(set.snapshot().issuers, ["https://told", "https://discovered"]);
}

#[test]
fn the_generation_stays_until_something_counts_differently() {
    let set = KeySet::new(cluster("c1"));
    let owned = owners(&[(1, "cluster/c1"), (2, "cluster/c1")]);
    let settled = |kept: Kept, owners: &Owners| {
        set.replace(Material::from_kept(kept));
        set.settle(owners, false);
        set.snapshot().generation
    };
    let mut last = settled(kept(), &owned);
    assert_eq!(settled(kept(), &owned), last);
    let read_again = Kept { read_at: 1_800_000_060, ..kept() };
    assert_eq!(settled(read_again, &owned), last);
    let others = [
        Kept { keys: vec![jwk(1)], ..kept() },
        Kept { issuers: vec!["https://other".to_owned()], ..kept() },
        Kept { audiences: vec!["https://other".to_owned()], ..kept() },
    ];
    for other in others {
        for changed in [other, kept()] {
            let generation = settled(changed, &owned);
            assert_ne!(generation, last);
            last = generation;
        }
    }
    assert_ne!(settled(kept(), &owners(&[(1, "cluster/c1")])), last);
}

#[tokio::test(start_paused = true)]
async fn unknown_keys_cause_one_read_per_interval_to_the_millisecond() {
    let set = KeySet::new(cluster("c1"));
    assert!(set.start(true, None));
    set.finish();
    assert!(set.ask().is_some());
    assert!(set.ask().is_some(), "the same read, wanted already");
    assert!(set.start(true, None));
    assert!(set.ask().is_some(), "the same read, under way");
    set.finish();
    assert!(set.ask().is_none());
    tokio::time::advance(Duration::from_millis(29_999)).await;
    assert!(set.ask().is_none());
    tokio::time::advance(Duration::from_millis(1)).await;
    assert!(set.ask().is_some());
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_source_that_goes_away_is_told_at_once() {
    let set = KeySet::new(cluster("c1"));
    assert!(set.start(true, None));
    set.finish();
    let mut waiting = set.ask().unwrap();
    assert!(!waiting.has_changed().unwrap());
    assert!(!set.start(false, None));
    assert!(waiting.has_changed().unwrap());
    waiting.mark_unchanged();
    assert!(!set.start(false, None));
    assert!(!waiting.has_changed().unwrap(), "told once");
    for tell in [|set: &KeySet| set.attempted(true), KeySet::finish] {
        tell(&set);
        assert!(waiting.has_changed().unwrap());
        waiting.mark_unchanged();
    }
}

#[tokio::test(start_paused = true)]
async fn news_is_read_at_once_and_no_more_than_once_a_second() {
    let set = KeySet::new(cluster("c1"));
    assert!(!set.start(false, None), "it cannot be reached");
    assert!(set.start(true, None));
    assert!(!set.start(true, None), "it is being read");
    assert_eq!(set.due(), None);
    set.finish();
    assert!(!set.start(true, None));

    tokio::time::advance(Duration::from_secs(2)).await;
    let about = About { audiences: vec!["new".to_owned()], ..About::default() };
    assert!(set.start(true, Some(&about)), "it says something new");
    set.finish();
    assert!(!set.start(true, Some(&about)), "the same again");

    assert!(!set.start(false, None));
    assert_eq!(set.due(), None, "gone");
    assert!(!set.start(true, Some(&about)), "back, and read a moment ago");
    assert_eq!(set.due(), Some(Instant::now() + Duration::from_secs(1)));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(set.start(true, Some(&about)));
}
