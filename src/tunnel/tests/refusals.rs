//! Streams that an agent refuses unseen: the only ones that may be repeated after they were sent.
//! The agent here is bytes, because ours refuses only under load.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::tunnel::opener::OpenError;

/// An agent that answers with frames of the test's making.
struct RawAgent(DuplexStream);

impl RawAgent {
    async fn start() -> (Opener, JoinHandle<TunnelEnd>, Self) {
        let (near, far) = tokio::io::duplex(1 << 20);
        let mut agent = Self(far);
        agent.write(SETTINGS, 0, 0, &[]).await;
        let (opener, driver) = Opener::handshake(near, &Settings::default()).await.unwrap();
        let driver = tokio::spawn(driver);
        agent.0.read_exact(&mut [0; PREFACE]).await.unwrap();
        (opener, driver, agent)
    }

    async fn write(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags];
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.0.write_all(&frame).await.unwrap();
    }

    /// Reads until `count` requests have arrived.
    async fn requests(&mut self, mut count: usize) {
        while count > 0 {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).await.unwrap();
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            self.0.read_exact(&mut vec![0; length as usize]).await.unwrap();
            count -= usize::from(head[3] == HEADERS);
        }
    }
}

async fn open(opener: &Opener) -> OpenedStream {
    let permit = opener.try_permit(StreamClass::Short).unwrap();
    opener.open(get("/"), true, permit).await.unwrap()
}

#[tokio::test]
async fn a_refused_stream_is_told_from_a_reset_one() {
    let (opener, _driver, mut agent) = RawAgent::start().await;
    let (mut refused, mut reset) = (open(&opener).await, open(&opener).await);
    agent.requests(2).await;
    agent.write(RST_STREAM, 0, 1, &u32::from(h2::Reason::REFUSED_STREAM).to_be_bytes()).await;
    agent.write(RST_STREAM, 0, 3, &u32::from(h2::Reason::CANCEL).to_be_bytes()).await;
    let error = refused.response.receive().await.unwrap_err();
    assert!(matches!(error, OpenError::Refused), "{error}");
    let error = reset.response.receive().await.unwrap_err();
    assert!(matches!(error, OpenError::Reset(h2::Reason::CANCEL)), "{error}");
    assert!(!opener.is_closed());
    drop((refused, reset));
    until(|| opener.load() == 0).await;
}

#[tokio::test]
async fn streams_above_the_last_id_of_a_goodbye_are_refused_and_the_others_finish() {
    let (opener, driver, mut agent) = RawAgent::start().await;
    let (mut taken, mut above) = (open(&opener).await, open(&opener).await);
    agent.requests(2).await;
    let last_id_and_no_error = [0, 0, 0, 1, 0, 0, 0, 0];
    agent.write(GOAWAY, 0, 0, &last_id_and_no_error).await;
    let error = above.response.receive().await.unwrap_err();
    assert!(matches!(error, OpenError::Refused), "{error}");
    assert!(opener.is_closed());
    agent.write(HEADERS, END_STREAM | END_HEADERS, 1, &[STATUS_200]).await;
    assert!(taken.response.receive().await.unwrap().status().is_success());
    drop((taken, above));
    until(|| opener.load() == 0).await;
    drop(agent);
    assert_eq!(driver.await.unwrap(), TunnelEnd::Graceful);
}

/// Length of the client's connection preface (RFC 9113 section 3.4).
const PREFACE: usize = 24;
/// Frame types (RFC 9113 section 6).
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// `:status 200` of HPACK's static table, indexed.
const STATUS_200: u8 = 0x88;
