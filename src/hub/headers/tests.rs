use super::*;

fn map(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(HeaderName::from_static(name), value.parse().unwrap());
    }
    headers
}

fn sent(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = map(pairs);
    let token = HeaderValue::from_static("Bearer T");
    let id = HeaderValue::from_static("id-1");
    let step = Step::start(&headers);
    upstream(&mut headers, Peer::ApiServer, Some(token), [192, 0, 2, 7].into(), &id, &step);
    headers
}

#[test]
fn what_a_caller_must_not_forge_never_crosses() {
    let headers = sent(&[
        ("x-remote-user", "admin"),
        ("x-remote-extra-a", "b"),
        ("cluster-proxy-mode", "agent"),
        ("x-forwarded-for", "10.0.0.1"),
        ("forwarded", "for=10.0.0.1"),
        ("cookie", "a=b"),
        ("accept", "application/json"),
        ("impersonate-user", "jane"),
    ]);
    let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    let want = [
        "accept",
        "authorization",
        "impersonate-user",
        "traceparent",
        "x-forwarded-for",
        "x-request-id",
    ];
    assert_eq!(names, want);
    assert_eq!(headers["x-forwarded-for"], "192.0.2.7");
    assert!(headers["authorization"].is_sensitive());
}

#[test]
fn connection_takes_what_it_names_but_not_identity() {
    let headers = sent(&[
        ("connection", "close, X-Mine, Authorization, impersonate-user,content-type"),
        ("x-mine", "1"),
        ("x-other", "1"),
        ("impersonate-user", "jane"),
        ("content-type", "application/json"),
    ]);
    assert!(!headers.contains_key("x-mine"));
    assert!(headers.contains_key("x-other"));
    assert_eq!(headers["authorization"], "Bearer T");
    assert_eq!(headers["impersonate-user"], "jane");
    assert_eq!(headers["content-type"], "application/json");
}

#[test]
fn hop_by_hop_headers_end_here() {
    let headers = sent(&[
        ("te", "trailers"),
        ("upgrade", "h2c"),
        ("http2-settings", "AAMAAABk"),
        ("proxy-authorization", "Basic x"),
        ("keep-alive", "timeout=5"),
        ("transfer-encoding", "chunked"),
    ]);
    assert_eq!(headers["te"], "trailers");
    assert_eq!(headers.len(), 5);
    assert_eq!(sent(&[("te", "trailers, deflate")])["te"], "trailers");
}

#[test]
fn a_spoke_does_not_speak_for_the_hub() {
    let mut headers = map(&[
        ("set-cookie", "a=b"),
        ("strict-transport-security", "max-age=1"),
        ("access-control-allow-origin", "*"),
        ("cluster-proxy-fault", "full"),
        ("x-request-id", "theirs"),
        ("warning", "299 - \"old\""),
        ("audit-id", "x"),
    ]);
    downstream(&mut headers, Peer::ApiServer, None, &HeaderValue::from_static("ours"));
    assert_eq!(headers.len(), 3);
    assert_eq!(headers["x-request-id"], "ours");
}

/// Security cases 42-44, 47, 48 and 50 on the way to a service and back.
#[test]
fn a_service_gets_what_browsers_need_and_nobodys_word_for_a_user() {
    let browser = [("cookie", "a=b"), ("x-csrf-token", "c"), ("accept", "text/html")];
    let forged = [
        ("impersonate-user", "admin"),
        ("impersonate-extra-a", "b"),
        ("x-remote-user", "admin"),
        ("x-forwarded-host", "evil"),
        ("x-original-url", "/evil"),
        ("cluster-proxy-service", "https:kube-system/other:443"),
        ("host", "evil"),
    ];
    let mut headers = map(&[&browser[..], &forged].concat());
    let id = HeaderValue::from_static("id-1");
    let step = Step::start(&headers);
    upstream(&mut headers, Peer::Service, None, [192, 0, 2, 7].into(), &id, &step);
    for (name, value) in browser {
        assert_eq!(headers.remove(name).unwrap(), value);
    }
    let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["traceparent", "x-forwarded-for", "x-request-id"]);

    let own = [("set-cookie", "a=b"), ("set-cookie", "c=d"), ("access-control-allow-origin", "*")];
    let foreign = [
        ("strict-transport-security", "max-age=1"),
        ("alt-svc", "h3=\":443\""),
        ("clear-site-data", "*"),
        ("cluster-proxy-fault", "no-service"),
    ];
    let mut headers = map(&[&own[..], &foreign, &[("location", "/login")]].concat());
    let root = "c1/api/v1/namespaces/shop/services/web/proxy-service";
    downstream(&mut headers, Peer::Service, Some(root), &id);
    assert_eq!(headers.remove("location").unwrap(), format!("/{root}/login"));
    assert_eq!(headers.remove("x-request-id").unwrap(), "id-1");
    assert_eq!(headers, map(&own));
}

#[test]
fn trailers_say_no_more_than_a_head_may() {
    let kept = [("checksum", "42"), ("warning", "299 - \"late\"")];
    let mut trailers = map(&kept);
    for name in [
        "set-cookie",
        "access-control-allow-origin",
        "cluster-proxy-fault",
        "connection",
        "transfer-encoding",
        "content-length",
        "location",
        "x-request-id",
    ] {
        trailers.append(name, HeaderValue::from_static("x"));
    }
    super::trailers(&mut trailers);
    assert_eq!(trailers, map(&kept));
}

#[test]
fn underscores_do_not_smuggle_identity() {
    let with = |name| check(&map(&[(name, "x")]));
    assert!(with("x_mine").is_ok());
    assert!(with("impersonate-user").is_ok());
    assert!(with("impersonate-extra-my_key").is_ok());
    for name in ["impersonate_user", "x_remote_user", "cluster_proxy_mode"] {
        assert!(with(name).is_err(), "{name}");
    }
}

#[test]
fn only_100_continue_may_be_expected() {
    assert!(check(&map(&[("expect", "100-Continue")])).is_ok());
    let other = check(&map(&[("expect", "200-ok")]));
    assert_eq!(other, Err(HeaderError::Expectation));
}

#[test]
fn a_body_has_one_coding() {
    assert!(check(&map(&[("transfer-encoding", "Chunked")])).is_ok());
    for codings in [
        &[("transfer-encoding", "gzip, chunked")][..],
        &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
    ] {
        assert_eq!(check(&map(codings)), Err(HeaderError::Coding), "{codings:?}");
    }
}

#[test]
fn a_request_id_is_kept_when_plain_and_made_when_not() {
    assert_eq!(request_id(&map(&[("x-request-id", "a-1.b_2")])), "a-1.b_2");
    for bad in ["", "a b", "a\"b", &"x".repeat(129)] {
        assert_ne!(request_id(&map(&[("x-request-id", bad)])), bad);
    }
    assert_ne!(request_id(&HeaderMap::new()), request_id(&HeaderMap::new()));
}
