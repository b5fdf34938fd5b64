use std::time::Duration;

use super::*;

fn identity(name: &str, uid: Option<&str>, bound: bool) -> Identity {
    Identity {
        user: format!("system:serviceaccount:apps:{name}"),
        impersonation: None,
        account_uid: uid.map(str::to_owned),
        bound,
        expires: None,
    }
}

fn key(number: usize) -> Key {
    let mut key = Key::default();
    key[..8].copy_from_slice(&number.to_be_bytes());
    key
}

fn enter(book: &mut Book, number: usize, identity: &Identity) -> Arc<Ending> {
    book.enter(key(number), identity, "token", Instant::now(), 0.0).unwrap()
}

fn has_ended(ending: &Ending) -> bool {
    ending.token.is_cancelled()
}

/// Answers every review that is due now.
fn answer(book: &mut Book, verdict: Verdict) -> usize {
    let now = Instant::now();
    let due = book.due(now, usize::MAX);
    for due in &due {
        book.judge(&due.key, verdict, now, 0.0);
    }
    due.len()
}

#[tokio::test(start_paused = true)]
async fn one_entry_per_token_however_many_streams() {
    let mut book = Book::new(MAX_TOKENS);
    let bound = identity("a", Some("u"), true);
    let endings: Vec<_> = (0..100).map(|_| enter(&mut book, 1, &bound)).collect();
    let other = enter(&mut book, 2, &bound);
    assert_eq!(book.len(), 2);
    tokio::time::advance(Duration::from_secs(9)).await;
    assert_eq!(answer(&mut book, Verdict::Accepted), 2, "two tokens, two reviews");
    for ending in &endings[1..] {
        book.leave(&key(1), ending);
    }
    assert_eq!(book.len(), 2);
    book.leave(&key(1), &endings[0]);
    book.leave(&key(2), &other);
    assert_eq!((book.len(), book.queue.len(), book.accounts.len()), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_ends_and_nobody_elses_does() {
    let mut book = Book::new(MAX_TOKENS);
    let one = enter(&mut book, 1, &identity("a", Some("u"), false));
    let two = enter(&mut book, 2, &identity("b", Some("v"), false));
    book.account("system:serviceaccount:apps:a", None, Instant::now());
    let due = book.due(Instant::now(), usize::MAX);
    assert_eq!(due.len(), 1, "the token of the deleted account alone is asked about, and at once");
    assert_eq!(due[0].key, key(1));
    assert_eq!(book.judge(&key(1), Verdict::Refused, Instant::now(), 0.0), None);
    assert!(!has_ended(&one), "not confirmed yet");
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(answer(&mut book, Verdict::Refused), 1);
    assert!(has_ended(&one) && !has_ended(&two));
    assert_eq!(one.ended().await, REFUSED);

    // The same token comes again: it is another entry, which the old stream's end leaves alone.
    let again = enter(&mut book, 1, &identity("a", Some("u"), false));
    assert!(!has_ended(&again));
    book.leave(&key(1), &one);
    assert_eq!(book.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_account_that_changed_is_doubted() {
    let user = "system:serviceaccount:apps:a";
    for (own, told, doubted) in [
        (Some("u"), Some("u"), false),
        (Some("u"), Some("v"), true),
        (Some("u"), None, true),
        (None, Some("v"), false),
        (None, None, true),
    ] {
        let mut book = Book::new(MAX_TOKENS);
        enter(&mut book, 1, &identity("a", own, false));
        book.account("system:serviceaccount:apps:other", None, Instant::now());
        book.account(user, told, Instant::now());
        assert_eq!(book.due(Instant::now(), 9).len() == 1, doubted, "{own:?} {told:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn reviews_under_way_are_bounded_and_none_is_lost() {
    let mut book = Book::new(MAX_TOKENS);
    let bound = identity("a", Some("u"), true);
    for number in 0..100 {
        enter(&mut book, number, &bound);
    }
    tokio::time::advance(Duration::from_secs(9)).await;
    let now = Instant::now();
    let first = book.due(now, 8);
    assert_eq!(first.len(), 8);
    // Doubt in the middle of a review does not start a second one of the same token.
    book.account(&bound.user, None, now);
    let others = book.due(now, usize::MAX);
    assert_eq!(others.len(), 92);
    for due in first.iter().chain(&others) {
        book.judge(&due.key, Verdict::Failed, now, 0.0);
        assert_eq!(
            book.judge(&due.key, Verdict::Refused, now, 0.0),
            None,
            "an answer nobody asked for"
        );
    }
    assert_eq!(book.queue.len(), 100);
}

#[tokio::test(start_paused = true)]
async fn as_many_tokens_as_it_holds() {
    let mut book = Book::new(MAX_TOKENS);
    let account = identity("a", Some("u"), false);
    for number in 0..MAX_TOKENS {
        enter(&mut book, number, &account);
    }
    let full = |book: &mut Book, number| {
        book.enter(key(number), &account, "token", Instant::now(), 0.0).is_none()
    };
    assert!(full(&mut book, MAX_TOKENS));
    assert!(!full(&mut book, 0), "another stream of a token that is there");
    let (entry, ..) = book.tokens.get(&key(1)).map(|entry| (entry.ending.clone(),)).unwrap();
    book.leave(&key(1), &entry);
    assert!(!full(&mut book, MAX_TOKENS), "one is free again");
}

#[tokio::test(start_paused = true)]
async fn a_cluster_ends_with_all_its_streams() {
    let mut book = Book::new(MAX_TOKENS);
    let endings =
        [1, 2, 3].map(|number| enter(&mut book, number, &identity("a", Some("u"), false)));
    assert_eq!(book.end_all("cluster-removed"), 3);
    for ending in endings {
        assert_eq!(ending.ended().await, "cluster-removed");
    }
    assert_eq!((book.len(), book.next()), (0, None));
}

/// Tokens of the book.
const MAX_TOKENS: usize = 128;
