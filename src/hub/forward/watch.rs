//! A watch on its way: it ends between two events, so that its client reads whole ones and resumes.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::time::{Sleep, sleep};

use super::ending::{End, EndReason};
use super::events::Events;
use crate::tunnel::opener::OpenError;

/// The body of a watch, which ends when its `end` is ready and the event under way is whole.
pub(super) struct WatchBody<B> {
    pub(super) body: B,
    pub(super) events: Events,
    pub(super) end: End,
    /// Why it ends, and how long it may still take.
    ending: Option<(EndReason, Pin<Box<Sleep>>)>,
}

/// What comes next.
pub(super) enum Next {
    /// As from the body itself.
    Frame(Option<Result<Frame<Bytes>, OpenError>>),
    /// Nothing more: the hub ends it.
    Ended(EndReason),
}

// === impl WatchBody ===

impl<B> WatchBody<B>
where
    B: Body<Data = Bytes, Error = OpenError> + Unpin,
{
    /// Nothing of `body` was read.
    pub(super) fn new(body: B, events: Events, end: End) -> Self {
        Self { body, events, end, ending: None }
    }

    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Next> {
        if self.ending.is_none()
            // First, so that a stream that never pauses ends as well.
            && let Poll::Ready(reason) = self.end.as_mut().poll(context)
        {
            self.ending = Some((reason, Box::pin(sleep(REST_OF_AN_EVENT))));
        }
        let Some((reason, late)) = &mut self.ending else {
            let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
            if let Some(Ok(data)) = frame.as_ref().map(|frame| frame.as_ref().map(Frame::data_ref))
            {
                self.events.pass(data.map_or(&[], |data| data));
            }
            return Poll::Ready(Next::Frame(frame));
        };
        if self.events.is_between() || late.as_mut().poll(context).is_ready() {
            return Poll::Ready(Next::Ended(reason));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        Poll::Ready(Next::Frame(frame.map(|frame| {
            frame.map(|frame| match frame.into_data() {
                Ok(mut data) => {
                    if let Some(end) = self.events.pass_event(&data) {
                        data.truncate(end);
                    }
                    Frame::data(data)
                }
                Err(other) => other,
            })
        })))
    }
}

/// What has begun is on its way already; an API server that stops in the middle of an event is not
/// waited for any longer. A part of the 10 s in which a revoked token's streams end.
const REST_OF_AN_EVENT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::poll_fn;

    use futures_util::{FutureExt as _, StreamExt as _, stream};
    use http_body_util::StreamBody;
    use tokio::sync::oneshot;
    use tokio::time::Instant;

    use super::*;

    /// What a watch of these pieces brings that is told to end after the first, and how long it
    /// takes. After the last piece it is silent.
    async fn ended(pieces: &'static [&'static str], events: Events) -> (String, Duration) {
        let pieces =
            stream::iter(pieces).map(|piece| Ok::<_, Infallible>(Frame::data(Bytes::from(*piece))));
        let body = StreamBody::new(pieces.chain(stream::pending()));
        let body = http_body_util::BodyExt::map_err(body, |never| match never {});
        let (tell, told) = oneshot::channel();
        let end: End = Box::pin(told.map(|reason| reason.unwrap()));
        let mut watch = WatchBody::new(body, events, end);
        let mut said = String::new();
        let mut tell = Some(tell);
        let start = Instant::now();
        loop {
            match poll_fn(|context| watch.poll_next(context)).await {
                Next::Frame(frame) => {
                    let data = frame.unwrap().unwrap().into_data().unwrap();
                    said += std::str::from_utf8(&data).unwrap();
                    if let Some(tell) = tell.take() {
                        tell.send("told").unwrap();
                    }
                }
                Next::Ended(reason) => {
                    assert_eq!(reason, "told");
                    return (said, start.elapsed());
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_with_the_event_under_way() {
        let lines = Events::Lines { inside: false };
        for (pieces, whole) in [
            (&["{1}\n", "{2}\n"][..], "{1}\n"),
            (&["{1", "1", "1}\n{2}\n"], "{111}\n"),
            (&["{1}\n{2", "2}\n", "{3}\n"], "{1}\n{22}\n"),
        ] {
            assert_eq!(ended(pieces, lines).await, (whole.to_owned(), Duration::ZERO));
        }
        let lengths = Events::Lengths { head: 0, left: 0 };
        let pieces = &["\0\0", "\0\u{3}a", "bc\0\0\0\u{1}d"];
        assert_eq!(ended(pieces, lengths).await, ("\0\0\0\u{3}abc".to_owned(), Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn it_does_not_wait_for_ever_and_not_at_all_where_it_knows_nothing() {
        let lines = Events::Lines { inside: false };
        let (said, after) = ended(&["{1}\n{2", "2"], lines).await;
        assert_eq!((said.as_str(), after), ("{1}\n{22", REST_OF_AN_EVENT));
        let (said, after) = ended(&["{1", "1}\n"], Events::Unknown).await;
        assert_eq!((said.as_str(), after), ("{1", Duration::ZERO));
    }
}
