//! How many instructions of user space a request costs hub and agent together: a figure that a busy
//! machine does not change, so that CI can compare two commits by it.
//!
//! The benchmark runs itself under valgrind: hub, agent, API server and one client in one process, a
//! request at a time. What start-up costs goes away by running twice, with `n` requests and with
//! three times as many; what client and API server cost by asking the API server directly as well.
//! The kernel's share is not seen: `compare` measures that.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark prints and fails loudly")]

mod measure;
#[path = "../tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::{Parser, ValueEnum};
use http_body_util::BodyExt as _;

use measure::Asker;
use support::bodies::source_body;
use support::client::{Client, empty};
use support::fleet::Fleet;

/// Counts instructions per request, with valgrind.
#[derive(Parser)]
struct Options {
    /// Fail where a kind of request costs more than in this file, which an earlier run wrote
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// Percent that may be added
    #[arg(long, default_value_t = 3.0)]
    growth: f64,
    /// Only requests of this kind
    #[arg(long, value_enum)]
    only: Option<Work>,
    /// Where the figures go
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Make requests of this kind, and nothing else: what runs under valgrind
    #[arg(long, hide = true, value_enum)]
    ask: Option<Work>,
    /// Directly, without hub and agent
    #[arg(long, hide = true)]
    direct: bool,
    /// So many
    #[arg(long, hide = true, default_value_t = 0)]
    times: u64,
    /// What cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

/// A kind of request.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Work {
    /// GET of 3.7 KB over HTTP/1.1.
    Get,
    /// The same over HTTP/2.
    GetHttp2,
    /// GET of 200 KB.
    Download,
    /// POST of 10 KB.
    Post,
    /// A token that nobody has signed: the hub alone, up to its refusal.
    Refused,
}

fn main() {
    if measure::is_asked_only() {
        return;
    }
    let options = Options::parse();
    if let Some(work) = options.ask {
        // As in the programs, which have one: without any, spans that nobody reads are logged.
        let nobody = tracing::subscriber::NoSubscriber::default();
        tracing::subscriber::set_global_default(nobody).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(work.ask(options.direct, options.times));
    }
    let before = options.against.as_deref().map(read);
    let now: BTreeMap<String, f64> = Work::value_variants()
        .iter()
        .filter(|work| options.only.is_none_or(|only| only == **work))
        .map(|work| {
            let cost = work.cost();
            println!("{:<10} {cost:>9.0} instructions per request", work.name());
            (work.name(), cost)
        })
        .collect();
    if let Some(file) = &options.write {
        std::fs::write(file, serde_json::to_string_pretty(&now).unwrap()).unwrap();
    }
    let Some(before) = before else { return };
    let mut grown = false;
    for (name, cost) in &now {
        // A kind that is new has nothing to be compared with.
        let Some(old) = before.get(name) else { continue };
        let percent = (cost / old - 1.0) * 100.0;
        println!("{name:<10} {percent:>+9.1} %");
        grown |= percent > options.growth;
    }
    assert!(!grown, "a request costs over {} % more instructions than before", options.growth);
}

fn read(file: &Path) -> BTreeMap<String, f64> {
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

// === impl Work ===

impl Work {
    fn name(self) -> String {
        self.to_possible_value().unwrap().get_name().to_owned()
    }

    /// Instructions that a request costs hub and agent.
    fn cost(self) -> f64 {
        let whole = self.per_request(false);
        // A refusal does not get as far as the API server; what its client costs stays in.
        if self == Self::Refused { whole } else { whole - self.per_request(true) }
    }

    fn per_request(self, direct: bool) -> f64 {
        let [few, many] = [TIMES, 3 * TIMES].map(|times| self.count(direct, times));
        (many - few) as f64 / (2 * TIMES) as f64
    }

    /// Instructions of a process that makes so many requests.
    fn count(self, direct: bool, times: u64) -> u64 {
        let mut command = Command::new("valgrind");
        command.args(["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]);
        command.arg(std::env::current_exe().unwrap());
        command.args(["--ask", &self.name(), "--times", &times.to_string()]);
        command.args(direct.then_some("--direct"));
        let output = command.output().expect("valgrind runs: install it");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        let line = said.lines().find(|line| line.contains("I   refs:") || line.contains("I refs:"));
        let digits = line.expect("valgrind counts").rsplit(' ').next().unwrap().replace(',', "");
        digits.parse().unwrap()
    }

    /// Asks `times` times, one after the other.
    async fn ask(self, direct: bool, times: u64) {
        let fleet = Fleet::start(&["c1"]).await;
        let api = &fleet.spoke("c1").api;
        let token = api.token("test");
        let client = match (self, direct) {
            (Self::Refused, _) => fleet.anonymous().token("garbage"),
            (_, true) => Client::new(api.address, api.ca_pem.as_bytes()).token(&token),
            (_, false) => fleet.anonymous().token(&token),
        };
        let client = if self == Self::GetHttp2 { client.http2() } else { client };
        let prefix = if direct { "" } else { "/c1" };
        let service = format!("{prefix}/api/v1/namespaces/default/services/x/proxy");
        let wanted = if self == Self::Refused { 401 } else { 200 };
        let mut asker = Asker::connect(&client).await;
        for _ in 0..times {
            let request = match self {
                Self::Get | Self::GetHttp2 | Self::Refused => {
                    client.request("GET", &format!("{prefix}/api/v1/nodes"), empty())
                }
                Self::Download => {
                    let path = format!("{service}/source?bytes={}", 200 << 10);
                    client.request("GET", &path, empty())
                }
                Self::Post => {
                    client.request("POST", &format!("{service}/sink"), source_body(10 << 10))
                }
            };
            let response = asker.try_send(request).await.unwrap();
            assert_eq!(response.status(), wanted);
            response.into_body().collect().await.unwrap();
        }
    }
}

/// Requests of the shorter run: what timers do meanwhile is small beside them.
const TIMES: u64 = 300;
