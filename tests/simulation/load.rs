//! Callers: each does one thing after the other, and knows what should have come of it.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rand::Rng as _;
use rand::rngs::StdRng;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, sleep, timeout};

use super::ledger::{Deed, Failure, Ledger};
use super::support::bodies::{digest, source, stream_body};
use super::support::client::{Body, Client, empty};

/// Somebody with a token of one cluster.
pub(crate) struct Caller {
    pub(crate) name: String,
    pub(crate) cluster: usize,
    pub(crate) client: Client,
    /// Good on another cluster.
    pub(crate) stranger: Client,
    pub(crate) chance: StdRng,
    pub(crate) ledger: Arc<Ledger>,
    /// The beginning of the simulation.
    pub(crate) start: Instant,
}

type Done = Result<(), Failure>;

// === impl Caller ===

impl Caller {
    /// Until the ledger is closed.
    pub(crate) async fn run(mut self) {
        let mut number = 0;
        loop {
            sleep(Duration::from_millis(self.chance.random_range(50..1_500))).await;
            if self.ledger.is_stopped() {
                return;
            }
            let id = format!("{}-{number}", self.name);
            number += 1;
            let from = self.start.elapsed();
            self.ledger.begin();
            let work = self.chance.random_range(0..WORKS.len());
            let http2 = self.chance.random_bool(0.5) && WORKS[work] != "exec";
            self.client.http2 = http2;
            self.stranger.http2 = http2;
            let what = format!("{} {id}, {}", WORKS[work], if http2 { "h2" } else { "h1" });
            let ended = timeout(LONGEST, self.work(WORKS[work], &id)).await;
            let result = ended.unwrap_or_else(|_| {
                self.ledger.wrong(format!("{what} from {from:?} on did not end"));
                Ok(())
            });
            let to = self.start.elapsed();
            self.ledger.end(Deed { what, cluster: self.cluster, from, to, result });
        }
    }

    async fn work(&mut self, what: &str, id: &str) -> Done {
        match what {
            "get" => self.echo(id, "").await,
            "slow" => {
                let milliseconds = self.chance.random_range(10..3_000);
                self.get(&self.proxied(&format!("slow?ms={milliseconds}&{id}"))).await.map(drop)
            }
            "download" => self.download(id).await,
            "upload" => self.upload(id).await,
            "log" => self.log(id).await,
            "watch" => self.watch(id).await,
            "exec" => self.exec(id).await,
            "cancel" => self.cancel(id).await,
            _ => self.stranger(id).await,
        }
    }

    /// Whoever answers must have had this request, of this caller.
    async fn echo(&self, id: &str, query: &str) -> Done {
        let target = self.proxied(&format!("echo?{id}{query}"));
        let body = self.get(&target).await?;
        let echo: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        let user = format!("system:serviceaccount:default:{}", self.name);
        let expected = target.split_once("/api/").map(|(_, rest)| format!("/api/{rest}"));
        if echo["user"] != user || echo["target"].as_str() != expected.as_deref() {
            self.ledger.wrong(format!("{id} of {user} got the answer {echo}"));
        }
        Ok(())
    }

    async fn download(&mut self, id: &str) -> Done {
        let bytes = self.chance.random_range(0..600_000_u64);
        let target = self.proxied(&format!("source?bytes={bytes}&{id}"));
        let body = good(self.open("GET", &target, empty()).await?)?.into_body();
        let (length, sha256) = digest(body).await.map_err(|_| Failure::Cut)?;
        let expected = digest(stream_body(source(bytes))).await.unwrap();
        if (length, &sha256) != (expected.0, &expected.1) {
            self.ledger.wrong(format!("{id}: {length} bytes {sha256} in place of {expected:?}"));
        }
        Ok(())
    }

    async fn upload(&mut self, id: &str) -> Done {
        let bytes = self.chance.random_range(0..300_000_u64);
        let target = self.proxied(&format!("sink?{id}"));
        let response = self.open("POST", &target, stream_body(source(bytes))).await?;
        let answer = whole(good(response)?).await?;
        let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap_or_default();
        let (length, sha256) = digest(stream_body(source(bytes))).await.unwrap();
        if answer["bytes"] != length || answer["sha256"] != sha256.as_str() {
            self.ledger.wrong(format!("{id}: {answer} of {length} bytes {sha256}"));
        }
        Ok(())
    }

    /// Lines in their order, and no end: the API server has none.
    async fn log(&mut self, id: &str) -> Done {
        let target =
            format!("/{}/api/v1/namespaces/default/pods/p/log?follow=true&{id}", self.path());
        let mut body = good(self.open("GET", &target, empty()).await?)?.into_body();
        let end = Instant::now() + Duration::from_millis(self.chance.random_range(500..20_000));
        let mut text = String::new();
        let mut line = 0_u64;
        loop {
            let Ok(frame) = tokio::time::timeout_at(end, body.frame()).await else { return Ok(()) };
            match frame {
                None => {
                    self.ledger.wrong(format!("{id}: a log that was cut after {line} looks whole"));
                    return Ok(());
                }
                Some(Err(_)) => return Err(Failure::Cut),
                Some(Ok(frame)) => {
                    let data = frame.into_data().unwrap_or_default();
                    text.push_str(&String::from_utf8_lossy(&data));
                }
            }
            while let Some((first, rest)) = text.split_once('\n') {
                if first != format!("line {line}") {
                    self.ledger.wrong(format!("{id}: {first:?} in place of line {line}"));
                    return Ok(());
                }
                line += 1;
                text = rest.to_owned();
            }
        }
    }

    /// Whole events, however it ends; halves of them come slowly.
    async fn watch(&mut self, id: &str) -> Done {
        let target = format!("/{}/api/v1/configmaps?watch=true&halves&{id}", self.path());
        let mut body = good(self.open("GET", &target, empty()).await?)?.into_body();
        let end = Instant::now() + Duration::from_millis(self.chance.random_range(500..20_000));
        let mut text = String::new();
        loop {
            let Ok(frame) = tokio::time::timeout_at(end, body.frame()).await else { return Ok(()) };
            match frame {
                None if text.is_empty() || text.ends_with('\n') => return Err(Failure::Ended),
                None => {
                    let (now, http2) = (self.start.elapsed(), self.client.http2);
                    let what = format!("{id} (h2: {http2}): a watch ended within an event");
                    self.ledger.wrong(format!("{what}, at {now:.3?}: {text:?}"));
                    return Ok(());
                }
                Some(Err(_)) => return Err(Failure::Cut),
                Some(Ok(frame)) => {
                    let data = frame.into_data().unwrap_or_default();
                    text = text.rsplit('\n').next().unwrap_or_default().to_owned();
                    text.push_str(&String::from_utf8_lossy(&data));
                }
            }
        }
    }

    /// What is said comes back, word for word.
    async fn exec(&mut self, id: &str) -> Done {
        let target = format!("/{}/api/v1/namespaces/default/pods/p/exec?{id}", self.path());
        let mut request = self.client.request("POST", &target, empty());
        request.headers_mut().insert("connection", "Upgrade".parse().unwrap());
        request.headers_mut().insert("upgrade", "SPDY/3.1".parse().unwrap());
        let response = exchange(&self.client, request).await?;
        if response.status() != 101 {
            return good(response).map(drop);
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(|_| Failure::Cut)?;
        let mut pipe = TokioIo::new(upgraded);
        for number in 0..self.chance.random_range(1..12) {
            let word = format!("{id} says {number}\n");
            pipe.write_all(word.as_bytes()).await.map_err(|_| Failure::Cut)?;
            let mut heard = vec![0; word.len()];
            pipe.read_exact(&mut heard).await.map_err(|_| Failure::Cut)?;
            if heard != word.as_bytes() {
                let heard = String::from_utf8_lossy(&heard).into_owned();
                self.ledger.wrong(format!("{word:?} came back as {heard:?}"));
            }
            sleep(Duration::from_millis(self.chance.random_range(0..2_000))).await;
        }
        pipe.shutdown().await.map_err(|_| Failure::Cut)?;
        let mut rest = Vec::new();
        pipe.read_to_end(&mut rest).await.map_err(|_| Failure::Cut)?;
        if !rest.is_empty() {
            self.ledger.wrong(format!("{id} heard {} bytes that nobody said", rest.len()));
        }
        Ok(())
    }

    /// Goes away in the middle, sometimes before the answer.
    async fn cancel(&mut self, id: &str) -> Done {
        let patience = Duration::from_millis(self.chance.random_range(0..400));
        let target = self.proxied(&format!("firehose?{id}"));
        let opening = async {
            let mut body = good(self.open("GET", &target, empty()).await?)?.into_body();
            while let Some(Ok(_)) = body.frame().await {}
            Err(Failure::Cut)
        };
        timeout(patience, opening).await.unwrap_or(Ok(()))
    }

    /// A good token of another cluster, and a bad one.
    async fn stranger(&self, id: &str) -> Done {
        let target = self.proxied(&format!("echo?{id}"));
        let response =
            exchange(&self.stranger, self.stranger.request("GET", &target, empty())).await?;
        match response.status().as_u16() {
            401 => Ok(()),
            code @ (502..=504) => Err(Failure::Answered(code)),
            code => {
                self.ledger.wrong(format!("{id}: a token of another cluster got {code}"));
                Ok(())
            }
        }
    }

    fn path(&self) -> String {
        format!("c{}", self.cluster)
    }

    fn proxied(&self, rest: &str) -> String {
        format!("/{}/api/v1/namespaces/default/services/x/proxy/{rest}", self.path())
    }

    async fn get(&self, target: &str) -> Result<bytes::Bytes, Failure> {
        whole(good(self.open("GET", target, empty()).await?)?).await
    }

    async fn open(
        &self,
        method: &str,
        target: &str,
        body: Body,
    ) -> Result<Response<Incoming>, Failure> {
        exchange(&self.client, self.client.request(method, target, body)).await
    }
}

/// One request on a connection of its own.
async fn exchange(client: &Client, request: Request<Body>) -> Result<Response<Incoming>, Failure> {
    let alpn: &[u8] = if client.http2 { b"h2" } else { b"http/1.1" };
    let stream = TokioIo::new(client.connect(alpn).await.map_err(|_| Failure::Refused)?);
    let answer = if client.http2 {
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), stream)
                .await
                .map_err(|_| Failure::Refused)?;
        tokio::spawn(connection);
        sender.send_request(request).await
    } else {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(stream).await.map_err(|_| Failure::Refused)?;
        tokio::spawn(connection.with_upgrades());
        sender.send_request(request).await
    };
    answer.map_err(|_| Failure::Cut)
}

fn good(response: Response<Incoming>) -> Result<Response<Incoming>, Failure> {
    match response.status().as_u16() {
        200 => Ok(response),
        code => Err(Failure::Answered(code)),
    }
}

async fn whole(response: Response<Incoming>) -> Result<bytes::Bytes, Failure> {
    Ok(response.into_body().collect().await.map_err(|_| Failure::Cut)?.to_bytes())
}

const WORKS: [&str; 12] = [
    "get", "get", "get", "slow", "download", "upload", "log", "watch", "exec", "exec", "cancel",
    "stranger",
];

/// Far longer than anything here may take, with every deadline on the way.
const LONGEST: Duration = Duration::from_secs(120);
