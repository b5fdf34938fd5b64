use super::*;

// The key of RFC 7638 section 3.1 and its thumbprint.
const N: &str = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";
const THUMBPRINT: &str = "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs";

fn rsa(n: &str, e: &str, extra: &str) -> Option<PublicKey> {
    let text = format!(r#"{{"kty":"RSA","n":"{n}","e":"{e}"{extra}}}"#);
    PublicKey::from_jwk(serde_json::from_str(&text).unwrap())
}

fn zeros_before(text: &str) -> String {
    let bytes = URL_SAFE_NO_PAD.decode(text).unwrap();
    URL_SAFE_NO_PAD.encode([&[0, 0, 0][..], &bytes].concat())
}

fn modulus(bits: usize) -> String {
    let mut bytes = vec![0xff_u8; bits.div_ceil(8)];
    bytes[0] >>= bytes.len() * 8 - bits;
    URL_SAFE_NO_PAD.encode(bytes)
}

#[test]
fn one_key_has_one_thumbprint_however_it_is_spelt() {
    assert_eq!(rsa(N, "AQAB", "").unwrap().thumbprint, THUMBPRINT);
    let padded = rsa(&zeros_before(N), &zeros_before("AQAB"), r#","kid":"x","alg":"RS256""#);
    assert_eq!(padded.unwrap().thumbprint, THUMBPRINT);
    assert_ne!(rsa(N, "Aw", "").unwrap().thumbprint, THUMBPRINT);
}

#[test]
fn weak_and_strange_keys_are_unusable() {
    assert!(rsa(&modulus(2048), "AQAB", "").is_some());
    assert!(rsa(&modulus(2047), "AQAB", "").is_none());
    assert!(rsa(&modulus(8192), "AQAB", "").is_some());
    assert!(rsa(&modulus(8193), "AQAB", "").is_none());
    for exponent in ["AQ", "AA", "", "Ag", "AQABAQAB", "!"] {
        assert!(rsa(N, exponent, "").is_none(), "{exponent}");
    }
    assert!(rsa("", "AQAB", "").is_none());
    assert!(rsa(N, "AQAB", r#","use":"sig""#).is_some());
    assert!(rsa(N, "AQAB", r#","use":"enc""#).is_none());
    for algorithm in ["HS256", "none", "ES256", "PS256", "ES512"] {
        assert!(rsa(N, "AQAB", &format!(r#","alg":"{algorithm}""#)).is_none(), "{algorithm}");
    }
    let point = URL_SAFE_NO_PAD.encode([1; 32]);
    let ec = |crv: &str, x: &str| {
        let text = format!(r#"{{"kty":"EC","crv":"{crv}","x":"{x}","y":"{point}"}}"#);
        PublicKey::from_jwk(serde_json::from_str(&text).unwrap())
    };
    assert!(ec("P-256", &point).is_some());
    assert!(ec("P-384", &point).is_none());
    assert!(ec("P-521", &point).is_none());
    assert!(ec("P-256", &zeros_before(&point)).is_none());
    let named = |length: usize| rsa(N, "AQAB", &format!(r#","kid":"{}""#, "k".repeat(length)));
    assert!(named(256).is_some());
    assert!(named(257).is_none() && named(258).is_none());
    assert_eq!(format!("{:?}", named(1).unwrap()), format!("PublicKey({THUMBPRINT:?})"));
}

#[test]
fn a_document_is_read_with_its_bad_entries() {
    let key = |kid: &str| format!(r#"{{"kty":"RSA","n":"{N}","e":"AQAB","kid":"{kid}"}}"#);
    let document = |entries: &[String]| format!(r#"{{"keys":[{}]}}"#, entries.join(","));
    let bad = r#"{"kty":"oct","k":"AAAA"}"#.to_owned();
    let odd = r#"{"kty":7}"#.to_owned();
    let mixed = document(&[key("a"), bad.clone(), key("a"), odd, key("b")]);
    let published = parse(mixed.as_bytes()).unwrap();
    assert_eq!((published.keys.len(), published.unusable), (2, 2));

    let many: Vec<String> = (0..MAX_KEYS + 5).map(|number| key(&number.to_string())).collect();
    let published = parse(document(&many).as_bytes()).unwrap();
    assert_eq!((published.keys.len(), published.unusable), (MAX_KEYS, 5));

    assert_eq!(parse(document(&[bad]).as_bytes()).err(), Some(KeysError::NoneUsable(1)));
    assert_eq!(parse(b"{\"keys\":[]}").err(), Some(KeysError::NoneUsable(0)));
    for wrong in ["", "<html>", "[]", "{}", r#"{"keys":{}}"#] {
        assert_eq!(parse(wrong.as_bytes()).err(), Some(KeysError::NotKeys), "{wrong}");
    }
}

#[test]
fn what_is_stored_is_the_same_key() {
    let key = rsa(&zeros_before(N), "AQAB", r#","kid":"x","alg":"RS256""#).unwrap();
    let text = serde_json::to_string(key.jwk()).unwrap();
    assert!(text.contains(r#""kid":"x""#) && text.contains(r#""alg":"RS256""#), "{text}");
    let again = PublicKey::from_jwk(serde_json::from_str(&text).unwrap()).unwrap();
    assert_eq!((&again.thumbprint, again.jwk()), (&key.thumbprint, key.jwk()));
    assert!(again.may_be(Some("x")) && again.may_be(None) && !again.may_be(Some("y")));
}

#[test]
fn a_key_verifies_its_own_algorithms_only() {
    use aws_lc_rs::rsa::{KeyPair, KeySize, PublicKeyComponents};
    use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding};

    let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let public: PublicKeyComponents<Vec<u8>> = pair.public_key().into();
    let (n, e) = (URL_SAFE_NO_PAD.encode(&public.n), URL_SAFE_NO_PAD.encode(&public.e));
    let key = rsa(&n, &e, "").unwrap();
    let pinned = rsa(&n, &e, r#","alg":"RS512""#).unwrap();
    let sign = |header: &str, encoding: &'static dyn RsaEncoding| {
        let message = format!("{}.e30", URL_SAFE_NO_PAD.encode(header));
        let mut signature = vec![0; pair.public_modulus_len()];
        let random = aws_lc_rs::rand::SystemRandom::new();
        pair.sign(encoding, &random, message.as_bytes(), &mut signature).unwrap();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    };
    let verifies = |key: &PublicKey, token: &str| key.verifies(&Unverified::parse(token).unwrap());

    let good = sign(r#"{"alg":"RS256"}"#, &RSA_PKCS1_SHA256);
    assert!(verifies(&key, &good));
    assert!(!verifies(&pinned, &good), "its set says RS512");
    assert!(!verifies(&rsa(N, "AQAB", "").unwrap(), &good), "another key");
    assert!(!verifies(&key, &sign(r#"{"alg":"RS256"}"#, &RSA_PSS_SHA256)));
    assert!(!verifies(&key, &sign(r#"{"alg":"RS384"}"#, &RSA_PKCS1_SHA256)));
    assert!(!verifies(&key, &sign(r#"{"alg":"ES256"}"#, &RSA_PKCS1_SHA256)));
    assert!(!verifies(&key, &format!("{good}=")), "padding is another spelling of the token");
}

#[test]
fn each_curve_verifies_its_own_algorithm() {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
        KeyPair as _,
    };

    for (curve, algorithm, other, size, signing) in [
        ("P-256", "ES256", "ES384", 32, &ECDSA_P256_SHA256_FIXED_SIGNING),
        ("P-384", "ES384", "ES256", 48, &ECDSA_P384_SHA384_FIXED_SIGNING),
    ] {
        let pair = EcdsaKeyPair::generate(signing).unwrap();
        let (x, y) = pair.public_key().as_ref()[1..].split_at(size);
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        let jwk = format!(r#"{{"kty":"EC","crv":"{curve}","x":"{x}","y":"{y}"}}"#);
        let key = PublicKey::from_jwk(serde_json::from_str(&jwk).unwrap()).unwrap();
        let verifies = |algorithm: &str| {
            let header = format!(r#"{{"alg":"{algorithm}"}}"#);
            let message = format!("{}.e30", URL_SAFE_NO_PAD.encode(header));
            let signature = pair.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
            let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature));
            key.verifies(&Unverified::parse(&token).unwrap())
        };
        assert!(verifies(algorithm), "{curve}");
        assert!(!verifies(other), "{curve}");
    }
}
