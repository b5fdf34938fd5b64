use proptest::prelude::*;

use super::*;

const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(*name, value.parse().unwrap());
    }
    headers
}

/// What the next hop gets of `sent`.
fn passed_on(sent: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = headers(sent);
    Step::start(&headers).pass_on(&mut headers);
    headers
}

#[test]
fn a_valid_parent_is_joined() {
    let passed = passed_on(&[("traceparent", VALID), ("tracestate", "a=1"), ("tracestate", "b=2")]);
    let (caller, ours) =
        (TraceParent::parse(VALID.as_bytes()).unwrap(), TraceParent::from_headers(&passed));
    let ours = ours.expect("ours is valid");
    assert_eq!(ours.trace_id(), caller.trace_id());
    assert_eq!(ours.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
    assert_ne!(ours.span, caller.span, "our own span is the parent of what comes next");
    assert!(ours.sampled);
    assert_eq!(passed.get_all("tracestate").iter().count(), 2);
}

#[test]
fn an_invalid_parent_is_replaced_with_all_it_brought() {
    let trace = "0af7651916cd43dd8448eb211c80319c";
    for bad in [
        "",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0g",
        "00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331_01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01more",
    ] {
        let passed = passed_on(&[("traceparent", bad), ("tracestate", "a=1")]);
        let ours = TraceParent::from_headers(&passed).expect("a new one is made");
        assert_ne!(ours.trace_id().to_string(), trace, "{bad}");
        assert!(!ours.sampled && !passed.contains_key("tracestate"), "{bad}");
    }
    let twice = passed_on(&[("traceparent", VALID), ("traceparent", VALID)]);
    assert_eq!(twice.get_all("traceparent").iter().count(), 1);
    assert_ne!(TraceParent::from_headers(&twice).unwrap().trace_id().to_string(), trace);
}

#[test]
fn a_later_version_is_read_as_far_as_it_is_known() {
    for later in [
        "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-ff-what.comes.next",
    ] {
        let passed = passed_on(&[("traceparent", later)]);
        let value = passed["traceparent"].to_str().unwrap();
        assert!(value.starts_with("00-0af7651916cd43dd8448eb211c80319c-"), "{value}");
        assert!(value.ends_with("-01") && value.len() == LENGTH, "{value}");
    }
}

#[test]
fn a_tracestate_is_bounded_over_all_its_lines() {
    let half = "x".repeat(LONGEST_TRACESTATE / 2);
    let with = |second: &str| {
        let lines = [("traceparent", VALID), ("tracestate", &half), ("tracestate", second)];
        passed_on(&lines).contains_key("tracestate")
    };
    assert!(with(&half));
    assert!(!with(&format!("{half}x")));
    let mut foreign = headers(&[("traceparent", VALID)]);
    foreign.insert("tracestate", HeaderValue::from_bytes(b"a=\xff").unwrap());
    Step::start(&foreign).pass_on(&mut foreign);
    assert!(!foreign.contains_key("tracestate"));
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(
        trace in 1u128.., span in 1u64.., sampled: bool, flags: u8, version in 0u8..0xff,
    ) {
        let place = TraceParent {
            trace: trace.try_into().unwrap(),
            span: span.try_into().unwrap(),
            sampled,
        };
        let value = HeaderValue::from(place);
        prop_assert_eq!(value.len(), LENGTH);
        prop_assert_eq!(TraceParent::parse(value.as_bytes()), Some(place));
        // Flags that level 1 does not know are read over, and not passed on.
        let other = format!("{version:02x}-{trace:032x}-{span:016x}-{flags:02x}");
        let expected = TraceParent { sampled: flags & 1 == 1, ..place };
        prop_assert_eq!(TraceParent::parse(other.as_bytes()), Some(expected));
    }

    #[test]
    fn nothing_else_is_read(bytes: Vec<u8>, at in 0..LENGTH, byte: u8) {
        // Whatever comes, what is read has one way to be written.
        if let Some(place) = TraceParent::parse(&bytes) {
            let value = HeaderValue::from(place);
            prop_assert_eq!(&bytes[2..53], &value.as_bytes()[2..53]);
        }
        let mut near = VALID.as_bytes().to_vec();
        near[at] = byte;
        let plain = matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let separator = matches!(at, 2 | 35 | 52);
        let valid = if separator { byte == b'-' } else { plain };
        prop_assert_eq!(TraceParent::parse(&near).is_some(), valid, "{:?}", near);
    }
}
