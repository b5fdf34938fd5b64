//! However streams end, every permit comes back.

use proptest::prelude::*;
use proptest::sample::select;

use super::*;

/// What becomes of one stream.
#[derive(Clone, Copy, Debug)]
enum Outcome {
    /// Read to its end.
    Finish,
    /// Dropped before the head came.
    CancelEarly,
    /// The head alone was read, and dropped with its body.
    DropHead,
    /// A part of an endless body was read.
    DropBody,
    /// The agent broke it off.
    ResetByAgent,
    /// Still running when the tunnel's own end comes.
    Hold,
}

/// What becomes of the tunnel while some streams run.
#[derive(Clone, Copy, Debug)]
enum Ending {
    Stays,
    Lost,
    Closed,
    Leaves,
}

async fn play(outcomes: Vec<(Outcome, StreamClass)>, ending: Ending) -> usize {
    let tunnel = Tunnel::start(Scripted).await;
    let mut held = Vec::new();
    for (outcome, class) in outcomes {
        let path = match outcome {
            Outcome::Finish => "/trailers",
            Outcome::CancelEarly | Outcome::Hold => "/never",
            Outcome::DropHead | Outcome::DropBody => "/endless",
            Outcome::ResetByAgent => "/broken",
        };
        let permit = tunnel.opener.try_permit(class).unwrap();
        let mut opened = tunnel.opener.open(get(path), true, permit).await.unwrap();
        match outcome {
            Outcome::CancelEarly => {}
            Outcome::Hold => held.push(opened),
            Outcome::DropHead => drop(opened.response.receive().await.unwrap()),
            Outcome::DropBody => {
                let mut body = opened.response.receive().await.unwrap().into_body();
                body.frame().await.unwrap().unwrap();
            }
            Outcome::Finish | Outcome::ResetByAgent => {
                // A reset may overtake the head.
                let whole = match opened.response.receive().await {
                    Ok(response) => response.into_body().collect().await.is_ok(),
                    Err(_) => false,
                };
                assert_eq!(whole, matches!(outcome, Outcome::Finish));
            }
        }
    }
    assert!(tunnel.opener.load() >= held.len());
    match ending {
        Ending::Stays => {}
        Ending::Lost => tunnel.agent.abort(),
        Ending::Closed => tunnel.opener.close("test"),
        Ending::Leaves => tunnel.leave.notify_one(),
    }
    if matches!(ending, Ending::Lost | Ending::Closed) {
        for stream in &mut held {
            assert!(stream.response.receive().await.is_err());
        }
    }
    drop(held);
    tunnel.idle().await;
    tunnel.opener.load()
}

proptest! {
    // Each case is a whole tunnel.
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn no_permit_is_lost(
        outcomes in prop::collection::vec(
            (
                select(vec![
                    Outcome::Finish,
                    Outcome::CancelEarly,
                    Outcome::DropHead,
                    Outcome::DropBody,
                    Outcome::ResetByAgent,
                    Outcome::Hold,
                ]),
                select(vec![StreamClass::Short, StreamClass::Long]),
            ),
            1..20,
        ),
        ending in select(vec![Ending::Stays, Ending::Lost, Ending::Closed, Ending::Leaves]),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        prop_assert_eq!(runtime.block_on(play(outcomes, ending)), 0);
    }
}
