//! An answer that many want and one asks for.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

/// What was last answered. The lock is held while somebody asks: the others wait for the answer.
pub(super) struct Lookup<T, E>(Mutex<Option<(Instant, Result<T, E>)>>);

// === impl Lookup ===

impl<T, E> Default for Lookup<T, E> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone, E: Clone> Lookup<T, E> {
    /// An answer that is younger than `life`, or a new one. A failure is for those alone who waited
    /// for it: one after the other would wait for an API server that does not answer, and whoever
    /// comes later may find it mended.
    pub(super) async fn get(
        &self,
        life: Duration,
        ask: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let came = Instant::now();
        let mut last = self.0.lock().await;
        match &*last {
            Some((when, Ok(answer))) if when.elapsed() < life => return Ok(answer.clone()),
            Some((when, Err(error))) if *when >= came => return Err(error.clone()),
            _ => {}
        }
        // What is old must not be used where it cannot be asked for again.
        *last = None;
        let answer = ask.await;
        *last = Some((Instant::now(), answer.clone()));
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures_util::FutureExt as _;
    use futures_util::future::join_all;

    use super::*;

    const LIFE: Duration = Duration::from_secs(5);
    const LATE: Duration = Duration::from_secs(3);

    /// Asks a server that thinks for some seconds and then says `answer`.
    struct Server {
        answer: Cell<Result<u8, u8>>,
        asked: Cell<usize>,
        lookup: Lookup<u8, u8>,
    }

    impl Server {
        fn new(answer: Result<u8, u8>) -> Self {
            let (answer, asked) = (Cell::new(answer), Cell::new(0));
            Self { answer, asked, lookup: Lookup::default() }
        }

        async fn get(&self) -> Result<u8, u8> {
            let ask = async {
                self.asked.set(self.asked.get() + 1);
                tokio::time::sleep(LATE).await;
                self.answer.get()
            };
            self.lookup.get(LIFE, ask).await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_asks_for_all_and_the_answer_has_a_life() {
        let server = Server::new(Ok(1));
        let start = Instant::now();
        assert_eq!(join_all((0..100).map(|_| server.get())).await, [Ok(1); 100]);
        assert_eq!((server.asked.get(), start.elapsed()), (1, LATE));
        server.answer.set(Ok(2));
        tokio::time::advance(LIFE - Duration::from_millis(1)).await;
        assert_eq!(server.get().await, Ok(1));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(server.get().await, Ok(2));
        assert_eq!(server.asked.get(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_for_those_who_waited_and_for_nobody_later() {
        let server = Server::new(Err(1));
        let start = Instant::now();
        assert_eq!(join_all((0..100).map(|_| server.get())).await, [Err(1); 100]);
        assert_eq!((server.asked.get(), start.elapsed()), (1, LATE));
        server.answer.set(Ok(2));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(server.get().await, Ok(2));
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_while_asking_leaves_the_question_to_the_next() {
        let server = Server::new(Ok(1));
        assert_eq!(server.get().now_or_never(), None);
        assert_eq!(server.get().await, Ok(1));
        assert_eq!(server.asked.get(), 2);
    }
}
