//! Frames against the user front: floods and limits, cases 74 to 80 and 83.
//!
//! Every attack is played on a connection of its own, and the same frames with one thing different
//! are an ordinary request that is answered.

use tokio::net::TcpStream;

use cluster_proxy::pki::tls::ClientStream;

use crate::frames::{
    self, CANCEL, CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, GOAWAY, HEADERS,
    INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, Outcome, PING, PRIORITY, Peer, REFUSED_STREAM, block,
    frame, headers, remembered, reset, settings, window_update,
};
use crate::ground::Ground;
use crate::messages::{get, request};

type Front = Peer<ClientStream<TcpStream>>;
/// Bytes of the attack on a stream.
type Attack = fn(u32) -> Vec<u8>;

/// Sends `wave` after wave until the connection ends; at most `waves` of them.
async fn flood(peer: &mut Front, waves: u32, mut wave: impl FnMut(u32) -> Vec<u8>) -> Outcome {
    for number in 0..waves {
        // A send that fails says that the end is there to be read.
        if peer.send(&wave(number)).await.is_err() || peer.settled().await.is_none() {
            return peer.end().await;
        }
    }
    panic!("{waves} waves and still connected");
}

#[tokio::test]
async fn s74_rapid_reset() {
    let ground = Ground::start().await;
    let path = ground.path("s74");
    let pair = |stream| {
        let mut bytes = headers(END_STREAM, stream, &get(&path, "Bearer none"));
        bytes.extend(reset(stream, CANCEL));
        bytes
    };
    let mut peer = ground.peer().await;
    let mut burst = Vec::new();
    for number in 0..10_000 {
        burst.extend(pair(2 * number + 1));
    }
    // The server may close before it has read them all.
    let _ = peer.send(&burst).await;
    assert_eq!(peer.end().await, Outcome::GoAway(ENHANCE_YOUR_CALM));
    assert_eq!(ground.reached("s74"), 0);

    // A client that thinks better of ten requests is served.
    let mut peer = ground.peer().await;
    let mut few: Vec<u8> = (0..10).flat_map(|number| pair(2 * number + 1)).collect();
    few.extend(headers(END_STREAM, 21, &get(&path, &ground.bearer)));
    peer.send(&few).await.unwrap();
    assert_eq!(peer.outcome(21).await, Outcome::Status(200));
    assert_eq!(ground.reached("s74"), 1);
}

#[tokio::test]
async fn s75_made_you_reset() {
    let ground = Ground::start().await;
    let path = ground.path("s75");
    let open = |stream, bearer| headers(0, stream, &request("POST", &path, bearer));
    // Each makes the server reset a stream that it had taken for good.
    let provoke: [(&str, Attack); 4] = [
        ("a window that grows by nothing", |stream| window_update(stream, 0)),
        ("a window past 2^31", |stream| window_update(stream, 0x7fff_ffff)),
        ("a stream that depends on itself", |stream| {
            let depends = [stream.to_be_bytes().as_slice(), &[0]].concat();
            frame(PRIORITY, 0, stream, &depends)
        }),
        ("data after the end", |stream| {
            [frame(DATA, END_STREAM, stream, b""), frame(DATA, 0, stream, b"more")].concat()
        }),
    ];
    for (what, provoke) in provoke {
        let mut peer = ground.peer().await;
        let ended = flood(&mut peer, 20, |wave| {
            let streams = (0..100).map(|one| 2 * (100 * wave + one) + 1);
            let pair = |stream| [open(stream, "Bearer none"), provoke(stream)].concat();
            streams.flat_map(pair).collect()
        });
        assert!(ended.await.is_end(), "{what}");
    }
    let mut peer = ground.peer().await;
    let other = [&3_u32.to_be_bytes()[..], &[0]].concat();
    let mut ordinary = open(1, &ground.bearer);
    ordinary.extend(window_update(1, 1));
    ordinary.extend(frame(PRIORITY, 0, 1, &other));
    ordinary.extend(frame(DATA, END_STREAM, 1, b"{}"));
    peer.send(&ordinary).await.unwrap();
    assert_eq!(peer.outcome(1).await, Outcome::Status(200));
    assert_eq!(ground.reached("s75"), 1);
}

#[tokio::test]
async fn s76_continuations_without_end() {
    let ground = Ground::start().await;
    let path = ground.path("s76");
    let fields = get(&path, &ground.bearer);
    let whole = block(&fields);
    let (first, rest) = whole.split_at(whole.len() / 2);

    for (what, filler) in [("large", block(&[("x", &"y".repeat(16_000))])), ("empty", vec![])] {
        let mut peer = ground.peer().await;
        let mut bytes = frame(HEADERS, END_STREAM, 1, first);
        bytes.extend(frame(CONTINUATION, 0, 1, rest));
        peer.send(&bytes).await.unwrap();
        let mut sent = 0;
        while peer.send(&frame(CONTINUATION, 0, 1, &filler)).await.is_ok() {
            sent += 1;
            assert!(sent < 100_000, "{what}: still connected after {sent} frames");
        }
        assert_eq!(peer.end().await, Outcome::GoAway(ENHANCE_YOUR_CALM), "{what}");
    }
    assert_eq!(ground.reached("s76"), 0);

    let mut peer = ground.peer().await;
    let mut bytes = frame(HEADERS, END_STREAM, 1, first);
    bytes.extend(frame(CONTINUATION, 0, 1, rest));
    bytes.extend(frame(CONTINUATION, END_HEADERS, 1, b""));
    peer.send(&bytes).await.unwrap();
    assert_eq!(peer.outcome(1).await, Outcome::Status(200));
    assert_eq!(ground.reached("s76"), 1);
}

#[tokio::test]
async fn s77_a_header_bomb() {
    let ground = Ground::start().await;
    let path = ground.path("s77");
    let bomb = |references: usize| {
        let mut bytes = block(&get(&path, &ground.bearer));
        bytes.extend(remembered("x-large", &"y".repeat(4_000)));
        // The newest entry of the dynamic table, one byte each.
        bytes.extend(std::iter::repeat_n(0xbe, references));
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &bytes)
    };
    for (references, outcome) in [
        (2, Outcome::Status(200)),
        (20, Outcome::Status(431)),
        (10_000, Outcome::GoAway(ENHANCE_YOUR_CALM)),
    ] {
        let mut peer = ground.peer().await;
        peer.send(&bomb(references)).await.unwrap();
        assert_eq!(peer.outcome(1).await, outcome, "{references}");
    }
    assert_eq!(ground.reached("s77"), 1);
}

#[tokio::test]
async fn s78_frames_that_do_nothing() {
    let ground = Ground::start().await;
    let path = ground.path("s78");
    let post = headers(0, 1, &request("POST", &path, &ground.bearer));
    let floods: [(&str, Vec<u8>); 5] = [
        ("data", frame(DATA, 0, 1, b"")),
        ("settings", settings(&[])),
        ("pings", frame(PING, 0, 0, &[0; 8])),
        ("priorities", frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 0])),
        ("unknown", frame(0xee, 0, 0, b"")),
    ];
    for (what, one) in &floods {
        let mut peer = ground.peer().await;
        let mut opening = post.clone();
        opening.extend(one);
        peer.send(&opening).await.unwrap();
        let ended = flood(&mut peer, 100, |_| one.repeat(1_000)).await;
        assert!(ended.is_end(), "{what}: {ended:?}");
        assert_eq!(ground.complete("s78"), 0, "{what}");
    }
    // Heads without a request in them, on stream after stream.
    let mut peer = ground.peer().await;
    let heads = |wave| (0..100).flat_map(move |one| headers(0, 2 * (100 * wave + one) + 1, &[]));
    assert!(flood(&mut peer, 100, |wave| heads(wave).collect()).await.is_end());

    let hits = || ground.fleet.hub.metric("cluster_proxy_limit_hits_total", &["\"http2-flood\""]);
    let counted = hits().await;
    assert!(counted >= 4.0, "{counted} floods were counted");

    // A few of each are a quirk of a client, not an attack.
    let mut peer = ground.peer().await;
    let mut bytes = post.clone();
    bytes.extend(floods.iter().flat_map(|(_, one)| one.repeat(20)));
    bytes.extend(frame(DATA, END_STREAM, 1, b"{}"));
    peer.send(&bytes).await.unwrap();
    assert_eq!(peer.outcome(1).await, Outcome::Status(200));
    assert_eq!(ground.complete("s78"), 1);
    assert_eq!(hits().await, counted);
}

#[tokio::test]
async fn s79_settings_that_cannot_be() {
    let ground = Ground::start().await;
    let path = ground.path("s79");
    for (id, value, works) in [
        (MAX_FRAME_SIZE, 0, false),
        (MAX_FRAME_SIZE, 16_383, false),
        (MAX_FRAME_SIZE, 16_384, true),
        (MAX_FRAME_SIZE, 1 << 24, false),
        (INITIAL_WINDOW_SIZE, 1 << 31, false),
        (INITIAL_WINDOW_SIZE, (1 << 31) - 1, true),
    ] {
        let mut peer = ground.peer().await;
        let mut bytes = settings(&[(id, value)]);
        bytes.extend(headers(END_STREAM, 1, &get(&path, &ground.bearer)));
        peer.send(&bytes).await.unwrap();
        let outcome = peer.outcome(1).await;
        if works {
            assert_eq!(outcome, Outcome::Status(200), "{id}={value}");
        } else {
            assert!(outcome.is_end(), "{id}={value}: {outcome:?}");
        }
    }
    assert_eq!(ground.reached("s79"), 2);
}

#[tokio::test]
async fn s80_refusals_without_window() {
    let ground = Ground::start().await;
    let path = ground.path("s80");
    let mut silent = Peer::silent(ground.session(b"h2").await);
    let mut bytes = frames::PREFACE.to_vec();
    bytes.extend(settings(&[(frames::HEADER_TABLE_SIZE, 0), (INITIAL_WINDOW_SIZE, 0)]));
    for stream in 0..200 {
        bytes.extend(headers(END_STREAM, 2 * stream + 1, &get(&path, "Bearer bad")));
    }
    silent.send(&bytes).await.unwrap();
    // A stranger's refusals may not pile up: all but a few are over with their heads.
    let (mut answered, mut over) = (0, 0);
    while answered < 200 {
        let head = silent.next().await.unwrap();
        assert_ne!(head.kind, DATA, "without window there is no data");
        answered += usize::from(head.kind == HEADERS);
        over += usize::from(head.kind == HEADERS && head.flags & END_STREAM != 0);
    }
    assert_eq!(over, 200 - 16);
    // Who reads is told why, however often.
    let mut reader = ground.peer().await;
    for stream in 0..40 {
        let stream = 2 * stream + 1;
        reader.send(&headers(END_STREAM, stream, &get(&path, "Bearer bad"))).await.unwrap();
        assert_eq!(reader.outcome(stream).await, Outcome::Status(401));
        let body = reader.body(stream).await.unwrap();
        assert!(String::from_utf8(body).unwrap().contains("Unauthorized"));
    }
}

#[tokio::test]
async fn s80_streams_without_window() {
    let ground = Ground::start().await;
    let path = ground.path("s80") + "?bytes=10485760";
    let mut stalled = Peer::silent(ground.session(b"h2").await);
    let mut bytes = frames::PREFACE.to_vec();
    bytes.extend(settings(&[(frames::HEADER_TABLE_SIZE, 0), (INITIAL_WINDOW_SIZE, 0)]));
    for stream in 0..200 {
        bytes.extend(headers(END_STREAM, 2 * stream + 1, &get(&path, &ground.bearer)));
    }
    stalled.send(&bytes).await.unwrap();
    let mut answered = 0;
    while answered < 200 {
        let head = stalled.next().await.unwrap();
        answered += usize::from(head.kind == HEADERS);
        assert_ne!(head.kind, DATA, "without window there is no data");
    }
    // The others are served, and a window lets one of the stalled go on.
    let mut other = ground.peer().await;
    other.send(&headers(END_STREAM, 1, &get(&path, &ground.bearer))).await.unwrap();
    assert_eq!(other.outcome(1).await, Outcome::Status(200));
    assert_eq!(other.body(1).await.unwrap().len(), 10_485_760);
    stalled.send(&window_update(7, 1_000)).await.unwrap();
    let data = loop {
        let frame = stalled.next().await.unwrap();
        if frame.kind == DATA {
            break frame;
        }
    };
    assert_eq!((data.stream, data.payload.len()), (7, 1_000));
    drop(stalled);
    ground.wait_idle().await;
}

#[tokio::test]
async fn s83_one_stream_too_many() {
    let ground = Ground::start().await;
    let watch = format!("{}?watch=true", ground.path("s83"));
    let mut peer = ground.peer().await;
    peer.settled().await.unwrap();
    let most = peer.max_streams.expect("the server says how many streams it takes");
    assert!((100..=1_000).contains(&most), "{most}");
    for number in 0..most {
        let stream = 2 * number + 1;
        peer.send(&headers(END_STREAM, stream, &get(&watch, &ground.bearer))).await.unwrap();
    }
    let mut heads = 0;
    while heads < most {
        heads += u32::from(peer.next().await.unwrap().kind == HEADERS);
    }
    assert_eq!(ground.reached("s83"), usize::try_from(most).unwrap());
    let more = 2 * most + 1;
    let one = get(&watch, &ground.bearer);
    peer.send(&headers(END_STREAM, more, &one)).await.unwrap();
    assert_eq!(peer.outcome(more).await, Outcome::Reset(REFUSED_STREAM));
    peer.send(&reset(1, CANCEL)).await.unwrap();
    peer.send(&headers(END_STREAM, more + 2, &one)).await.unwrap();
    assert_eq!(peer.outcome(more + 2).await, Outcome::Status(200));
    drop(peer);
    ground.wait_idle().await;
}

#[tokio::test]
async fn s83_a_goodbye_spares_what_runs() {
    let mut ground = Ground::start().await;
    let path = ground.path("s83");
    let mut peer = ground.peer().await;
    // Its body holds it open until after the goodbye.
    peer.send(&headers(0, 1, &request("POST", &path, &ground.bearer))).await.unwrap();
    peer.settled().await.unwrap();
    let (goodbye, ()) = tokio::join!(
        async {
            let goodbye = loop {
                let frame = peer.next().await.unwrap();
                if frame.kind == GOAWAY {
                    break frame;
                }
            };
            peer.send(&frame(DATA, END_STREAM, 1, b"{}")).await.unwrap();
            assert_eq!(peer.outcome(1).await, Outcome::Status(200));
            goodbye
        },
        ground.fleet.hub.stop(),
    );
    assert_eq!(goodbye.code(), 0, "{goodbye:?}");
    assert_eq!(ground.complete("s83"), 1);
}
