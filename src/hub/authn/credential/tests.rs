use proptest::prelude::*;

use super::*;

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(*name, HeaderValue::from_str(value).unwrap());
    }
    headers
}

fn subprotocol(token: &str) -> String {
    format!("{SUBPROTOCOL}{}", URL_SAFE_NO_PAD.encode(token))
}

#[test]
fn one_well_formed_bearer_only() {
    let mut good = headers(&[("authorization", "Bearer aa.bb-c_.d=")]);
    let token = Token::take(&mut good).unwrap();
    assert_eq!(token.as_str(), "aa.bb-c_.d=");
    assert!(good[AUTHORIZATION].is_sensitive());
    assert_eq!(format!("{token:?}"), "Token(redacted)");

    assert_eq!(Token::take(&mut HeaderMap::new()).unwrap_err(), Refusal::Missing);
    for bad in [
        "",
        "Bearer",
        "Bearer ",
        "Bearer =",
        "Bearer  aa",
        "bearer aa",
        "BEARER aa",
        "Bearer aa,bb",
        "Bearer aa bb",
        "Bearer aa\tbb",
        "Basic aa",
        "aa",
        " Bearer aa",
        "Bearer a=b",
        "Bearer a\"b",
    ] {
        let refusal = Token::take(&mut headers(&[("authorization", bad)])).unwrap_err();
        assert_eq!(refusal, Refusal::Malformed, "{bad:?}");
    }
    let mut two = headers(&[("authorization", "Bearer aa"), ("authorization", "Bearer aa")]);
    assert_eq!(Token::take(&mut two).unwrap_err(), Refusal::Malformed);
    let mut bytes = HeaderMap::new();
    bytes.insert(AUTHORIZATION, HeaderValue::from_bytes(b"Bearer \xff").unwrap());
    assert_eq!(Token::take(&mut bytes).unwrap_err(), Refusal::Malformed);
    // Subprotocols that are no text are the API server's affair, unless a token is among them.
    let offer = |protocols: String| {
        let mut headers = headers(&[("authorization", "Bearer aa")]);
        let bytes = [b"\xff, ", protocols.as_bytes()].concat();
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_bytes(&bytes).unwrap());
        Token::take(&mut headers).map(|token| token.as_str().to_owned())
    };
    assert_eq!(offer("v4".repeat(40)), Ok("aa".to_owned()));
    assert_eq!(offer(subprotocol("aa.bb")), Err(Refusal::Malformed));
}

#[test]
fn a_token_has_a_largest_size() {
    const SIXTEEN_KIB: usize = 16_384;
    let bearer = |length: usize| {
        Token::take(&mut headers(&[("authorization", &format!("Bearer {}", "a".repeat(length)))]))
    };
    assert!(bearer(SIXTEEN_KIB).is_ok());
    assert_eq!(bearer(SIXTEEN_KIB + 1).unwrap_err(), Refusal::TooLarge);
    let socket = |protocol: &str| {
        let offered = format!("{protocol}, v5.channel.k8s.io");
        Token::take(&mut headers(&[("sec-websocket-protocol", &offered)]))
    };
    assert!(socket(&subprotocol(&"a".repeat(SIXTEEN_KIB))).is_ok());
    let large = socket(&subprotocol(&"a".repeat(SIXTEEN_KIB + 1)));
    assert_eq!(large.unwrap_err(), Refusal::TooLarge);
    // What cannot become a token of that size is not even decoded.
    let junk = |length: usize| socket(&format!("{SUBPROTOCOL}{}", "*".repeat(length)));
    assert_eq!(junk(21_849).unwrap_err(), Refusal::Malformed);
    assert_eq!(junk(21_850).unwrap_err(), Refusal::TooLarge);
    assert_eq!(junk(21_851).unwrap_err(), Refusal::TooLarge);
}

#[test]
fn a_subprotocol_token_moves_and_disappears() {
    let list = format!("v5.channel.k8s.io,{}, v4.channel.k8s.io", subprotocol("aa.bb.cc"));
    let mut one = headers(&[("sec-websocket-protocol", &list)]);
    assert_eq!(Token::take(&mut one).unwrap().as_str(), "aa.bb.cc");
    assert_eq!(one[AUTHORIZATION], "Bearer aa.bb.cc");
    assert!(one[AUTHORIZATION].is_sensitive());
    assert_eq!(one[SEC_WEBSOCKET_PROTOCOL], "v5.channel.k8s.io, v4.channel.k8s.io");

    let mut lines = headers(&[
        ("sec-websocket-protocol", &subprotocol("aa.bb.cc")),
        ("sec-websocket-protocol", "v4.channel.k8s.io"),
    ]);
    assert!(Token::take(&mut lines).is_ok());
    assert_eq!(lines.get_all(SEC_WEBSOCKET_PROTOCOL).iter().count(), 1);
    assert_eq!(lines[SEC_WEBSOCKET_PROTOCOL], "v4.channel.k8s.io");
}

#[test]
fn a_subprotocol_token_stands_alone() {
    let token = subprotocol("aa.bb.cc");
    let both = headers(&[
        ("authorization", "Bearer aa.bb.cc"),
        ("sec-websocket-protocol", &format!("{token}, v4.channel.k8s.io")),
    ]);
    let twice = headers(&[("sec-websocket-protocol", &format!("{token}, {token}, v4"))]);
    let only = headers(&[("sec-websocket-protocol", &token)]);
    let padded = headers(&[("sec-websocket-protocol", &format!("{SUBPROTOCOL}YQ==, v4"))]);
    let empty = headers(&[("sec-websocket-protocol", &format!("{SUBPROTOCOL}, v4"))]);
    let spaces = headers(&[("sec-websocket-protocol", &format!("{}, v4", subprotocol("a b")))]);
    for mut refused in [both, twice, only, padded, empty, spaces] {
        let before = refused.clone();
        assert_eq!(Token::take(&mut refused).unwrap_err(), Refusal::Malformed, "{before:?}");
        assert_eq!(refused, before);
    }
    let mut plain = headers(&[("authorization", "Bearer aa"), ("sec-websocket-protocol", "v4")]);
    assert!(Token::take(&mut plain).is_ok());
    assert_eq!(plain[SEC_WEBSOCKET_PROTOCOL], "v4");
}

proptest! {
    #[test]
    fn never_panics_and_never_repairs(value in "\\PC{0,64}", protocols in "[ -~]{0,80}") {
        let mut headers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(AUTHORIZATION, value);
        }
        if let Ok(value) = HeaderValue::from_str(&protocols) {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, value);
        }
        if let Ok(token) = Token::take(&mut headers) {
            let expected = format!("Bearer {}", token.as_str());
            prop_assert_eq!(headers[AUTHORIZATION].as_bytes(), expected.as_bytes());
        }
    }

    #[test]
    fn both_places_mean_the_same(token in "[A-Za-z0-9._~+/-]{1,200}") {
        let mut header = headers(&[("authorization", &format!("Bearer {token}"))]);
        let mut socket = headers(&[("sec-websocket-protocol", &format!("{}, v4", subprotocol(&token)))]);
        let (first, second) = (Token::take(&mut header).unwrap(), Token::take(&mut socket).unwrap());
        prop_assert_eq!(first.as_str(), second.as_str());
        prop_assert_eq!(&header[AUTHORIZATION], &socket[AUTHORIZATION]);
    }
}
