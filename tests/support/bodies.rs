//! Bodies that no real API server has: long ones that can be told apart, and ones made of pieces.

use std::convert::Infallible;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::time::MissedTickBehavior;

use super::client::Body;

/// Reproducible bytes that no mix-up of offsets reproduces: chunk `index` of a body.
pub(crate) fn pattern(index: u64) -> Bytes {
    let mut state = index.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut chunk = Vec::with_capacity(CHUNK);
    while chunk.len() < CHUNK {
        // Marsaglia's xorshift: cheap beside TLS, and does not compress.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        chunk.extend_from_slice(&state.to_le_bytes());
    }
    chunk.into()
}

/// `bytes` of [`pattern`], chunk by chunk.
pub(crate) fn source(bytes: u64) -> impl Stream<Item = Bytes> + Send + Sync {
    stream::iter(0..bytes.div_ceil(CHUNK as u64)).map(move |index| {
        let left = bytes - index * CHUNK as u64;
        let mut chunk = pattern(index);
        chunk.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        chunk
    })
}

/// A line each `pause`, for ever: the nanoseconds since 1970 at which it was made.
pub(crate) fn ticks(pause: Duration) -> impl Stream<Item = Bytes> + Send + Sync {
    let mut interval = tokio::time::interval(pause);
    interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
    stream::unfold(interval, |mut interval| async {
        interval.tick().await;
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        Some((Bytes::from(format!("{}\n", now.as_nanos())), interval))
    })
}

/// A body of `bytes` of [`pattern`].
pub(crate) fn source_body(bytes: u64) -> Body {
    stream_body(source(bytes))
}

/// SHA-256 of a body and its length, read frame by frame.
pub(crate) async fn digest<B>(mut body: B) -> Result<(u64, String), B::Error>
where
    B: hyper::body::Body<Data = Bytes> + Unpin,
{
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            bytes += data.len() as u64;
            context.update(&data);
        }
    }
    Ok((bytes, hex(context.finish().as_ref())))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A body of these chunks.
pub(crate) fn stream_body(chunks: impl Stream<Item = Bytes> + Send + Sync + 'static) -> Body {
    let frames = chunks.map(|chunk| Ok::<_, Infallible>(Frame::data(chunk)));
    BodyExt::boxed(StreamBody::new(frames))
}

const CHUNK: usize = 64 * 1024;
