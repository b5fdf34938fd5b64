//! An answer on its way that breaks off when its `end` is ready: half of it must not look whole.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::Body;

use super::ending::End;
use super::watch::Next;
use crate::tunnel::opener::OpenError;

/// A body that ends when its `end` is ready. Most answers are over before that matters, so `end`, with
/// its timers, is asked only once the body has paused or has gone on for [`MOST_UNASKED`] frames; from
/// then on before each frame, so that a stream that never pauses ends as well.
pub(super) struct LiveBody<B> {
    pub(super) body: B,
    end: End,
    /// Frames before `end` was asked for the first time.
    unasked: u8,
}

// === impl LiveBody ===

impl<B> LiveBody<B>
where
    B: Body<Data = Bytes, Error = OpenError> + Unpin,
{
    /// Nothing of `body` was read.
    pub(super) fn new(body: B, end: End) -> Self {
        Self { body, end, unasked: 0 }
    }

    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Next> {
        if self.unasked < MOST_UNASKED {
            match Pin::new(&mut self.body).poll_frame(context) {
                // What breaks off may do so because it was ended: by a tunnel that was closed with it.
                Poll::Ready(frame @ Some(Err(_))) => {
                    return Poll::Ready(match self.end.as_mut().poll(context) {
                        Poll::Ready(reason) => Next::Ended(reason),
                        Poll::Pending => Next::Frame(frame),
                    });
                }
                Poll::Ready(frame) => {
                    self.unasked += 1;
                    return Poll::Ready(Next::Frame(frame));
                }
                Poll::Pending => self.unasked = MOST_UNASKED,
            }
        }
        if let Poll::Ready(reason) = self.end.as_mut().poll(context) {
            return Poll::Ready(Next::Ended(reason));
        }
        Poll::Ready(Next::Frame(ready!(Pin::new(&mut self.body).poll_frame(context))))
    }
}

/// 1 MiB at most, and more than a list that is not large.
const MOST_UNASKED: u8 = 4;

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_util::{FutureExt as _, StreamExt as _, stream};
    use http_body::Frame;
    use http_body_util::StreamBody;

    use super::*;

    /// Frames that come before an end that is ready when it was asked so often.
    async fn frames(pauses: bool, asked: usize) -> usize {
        let frame = || Ok::<_, OpenError>(Frame::data(Bytes::from_static(b"x")));
        let frames = stream::iter((0..100).map(move |_| frame())).chain(stream::pending());
        // One that is pending once before its first frame, and wakes its reader.
        let pause = stream::once(tokio::task::yield_now()).filter_map(|()| async { None });
        let frames = if pauses { pause.chain(frames).boxed() } else { frames.boxed() };
        let mut left = asked;
        let end = poll_fn(move |_| {
            left -= 1;
            if left == 0 { Poll::Ready("told") } else { Poll::Pending }
        });
        let mut live = LiveBody::new(StreamBody::new(frames), end.boxed());
        let mut seen = 0;
        loop {
            match poll_fn(|context| live.poll_next(context)).await {
                Next::Frame(frame) => seen += frame.unwrap().map(|_| 1).unwrap(),
                Next::Ended(reason) => {
                    assert_eq!(reason, "told");
                    return seen;
                }
            }
        }
    }

    #[tokio::test]
    async fn what_never_pauses_ends_as_well_and_is_asked_before_each_frame_from_then_on() {
        let unasked = usize::from(MOST_UNASKED);
        for asked in 1..10 {
            assert_eq!(frames(false, asked).await, unasked + asked - 1);
        }
    }

    #[tokio::test]
    async fn what_pauses_is_asked_at_once() {
        assert_eq!(frames(true, 1).await, 0);
    }

    /// Revoking a cluster closes its tunnels and ends its streams: they were ended, not lost.
    #[tokio::test]
    async fn what_breaks_off_with_its_end_was_ended() {
        for is_ended in [true, false] {
            let lost = || Err::<Frame<Bytes>, _>(OpenError::Lost("closed".to_owned()));
            let body = StreamBody::new(stream::once(async move { lost() }).boxed());
            let end: End = if is_ended {
                std::future::ready("told").boxed()
            } else {
                std::future::pending().boxed()
            };
            let mut live = LiveBody::new(body, end);
            let next = poll_fn(|context| live.poll_next(context)).await;
            assert_eq!(matches!(next, Next::Ended("told")), is_ended);
        }
    }
}
