//! Is the peer still there? A ping after every quiet moment, at both ends.
//!
//! Any byte that arrives is a sign of life, not only the answer: on a slow link the answer queues
//! behind megabytes of data, and the tunnel must not be cut for being busy.

use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep};

use super::settings::Settings;

/// Sends pings and judges the silence after them.
pub(super) struct Keepalive {
    pings: PingPong,
    timer: Pin<Box<Sleep>>,
    state: State,
    interval: Duration,
    timeout: Duration,
    suspect_after: Duration,
}

/// What a poll found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pulse {
    /// All is well, as far as known.
    Alive,
    /// A ping is late and nothing else arrived.
    Suspect,
    /// Nothing arrived for all of the timeout.
    Dead,
}

#[derive(Clone, Copy)]
enum State {
    /// Until the timer fires.
    Resting,
    /// A ping is under way.
    Waiting {
        /// When the current patience began.
        since: Instant,
        /// What had been received by then.
        received: u64,
        /// The first half of the patience is over.
        late: bool,
    },
}

// === impl Keepalive ===

impl Keepalive {
    /// `pings` belongs to the connection whose life is watched.
    pub(super) fn new(pings: PingPong, settings: &Settings) -> Self {
        Self {
            pings,
            timer: Box::pin(tokio::time::sleep(settings.ping_interval)),
            state: State::Resting,
            interval: settings.ping_interval,
            timeout: settings.ping_timeout,
            suspect_after: settings.suspect_after.min(settings.ping_timeout),
        }
    }

    /// Advances. `received` counts the bytes that arrived on the connection. Registers the task for
    /// the next moment that matters.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, received: u64) -> Pulse {
        loop {
            match self.state {
                State::Resting => {
                    if self.timer.as_mut().poll(cx).is_pending() {
                        return Pulse::Alive;
                    }
                    // An error means that the connection is ending; its own poll says why.
                    if self.pings.send_ping(Ping::opaque()).is_err() {
                        self.rest();
                        continue;
                    }
                    self.wait(received);
                }
                State::Waiting { since, received: then, late } => {
                    if self.pings.poll_pong(cx).is_ready() {
                        self.rest();
                    } else if self.timer.as_mut().poll(cx).is_pending() {
                        return if late { Pulse::Suspect } else { Pulse::Alive };
                    } else if received != then {
                        self.wait(received);
                    } else if late {
                        return Pulse::Dead;
                    } else {
                        self.timer.as_mut().reset(since + self.timeout);
                        self.state = State::Waiting { since, received: then, late: true };
                    }
                }
            }
        }
    }

    fn rest(&mut self) {
        self.timer.as_mut().reset(Instant::now() + self.interval);
        self.state = State::Resting;
    }

    fn wait(&mut self, received: u64) {
        let since = Instant::now();
        self.timer.as_mut().reset(since + self.suspect_after);
        self.state = State::Waiting { since, received, late: false };
    }
}
