//! h2spec against the user front: every case passes, or `tests/h2spec/deviations` says why not.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::time::timeout;

use crate::support::fleet::Fleet;
use crate::support::{skipped, within};

#[tokio::test]
async fn every_case_of_h2spec_passes_or_is_explained() {
    let Some(h2spec) = program() else {
        return skipped("h2spec", "there is no h2spec", "tests/h2spec/build");
    };
    let fleet = Fleet::hub_only().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let relay = listener.local_addr().unwrap();
    tokio::spawn(relay_gathered(listener, fleet.hub.addresses.user));

    // A deviation shows every time; a case that a busy machine tore apart does not.
    let mut failures: Option<BTreeSet<String>> = None;
    let known = deviations();
    for run in 0..RUNS {
        let report = fleet.dir.path().join(format!("h2spec-{run}.xml"));
        let failed = play(&h2spec, relay, &report).await;
        let failed = match failures {
            Some(before) => before.intersection(&failed).cloned().collect(),
            None => failed,
        };
        let settled = failed.iter().all(|case| known.contains_key(case));
        failures = Some(failed);
        if settled {
            break;
        }
    }
    let failures = failures.unwrap();
    let known: BTreeSet<String> = known.into_keys().collect();
    let unexplained: Vec<_> = failures.difference(&known).collect();
    let stale: Vec<_> = known.difference(&failures).collect();
    assert!(
        unexplained.is_empty(),
        "fails and is not in tests/h2spec/deviations: {unexplained:#?}"
    );
    assert!(stale.is_empty(), "passes and is in tests/h2spec/deviations: {stale:#?}");
}

/// Runs every case, those of the RFC's weaker words included; answers with those that failed.
async fn play(h2spec: &Path, front: SocketAddr, report: &Path) -> BTreeSet<String> {
    let mut command = Command::new(h2spec);
    command
        .args(["--tls", "--insecure", "--strict", "--timeout", "2", "--path", "/c1/api"])
        .args(["--host", "127.0.0.1", "--port", &front.port().to_string()])
        .arg("--junit-report")
        .arg(report)
        .kill_on_drop(true);
    within("h2spec", LONGEST_RUN, command.output()).await.unwrap();
    let text = std::fs::read_to_string(report).unwrap();
    let mut cases = 0;
    let mut failed = BTreeSet::new();
    let mut case = String::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with("<testcase ") {
            cases += 1;
            let attribute = |name: &str| {
                let (_, rest) = line.split_once(&format!(" {name}=\"")).unwrap();
                rest.split('"').next().unwrap().replace("&#34;", "\"")
            };
            case = format!("{}: {}", attribute("package"), attribute("classname"));
        }
        if line.contains("<failure") {
            failed.insert(case.clone());
        }
    }
    assert!(cases >= CASES, "only {cases} cases: {text}");
    failed
}

/// `CASE # reason`, one a line.
fn deviations() -> BTreeMap<String, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/h2spec/deviations");
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| {
            let (case, reason) = line.split_once(" # ").expect("a deviation has a reason");
            (case.trim().to_owned(), reason.to_owned())
        })
        .collect()
}

fn program() -> Option<PathBuf> {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/h2spec/h2spec");
    let named = std::env::var_os("H2SPEC").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = std::env::split_paths(&path).map(|folder| folder.join("h2spec"));
    named.into_iter().chain([built]).chain(installed).find(|path| path.is_file())
}

/// Passes connections on, and gathers what the client sends in one go. h2spec sends frame after
/// frame and expects the last one's answer; without a token the front answers the first at once.
async fn relay_gathered(listener: TcpListener, to: SocketAddr) {
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        tokio::spawn(async move {
            let server = TcpStream::connect(to).await.unwrap();
            client.set_nodelay(true).unwrap();
            server.set_nodelay(true).unwrap();
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            let back = tokio::spawn(async move {
                let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
                let _ = to_client.shutdown().await;
            });
            let mut gathered = Vec::new();
            loop {
                let patience = if gathered.is_empty() { Duration::MAX } else { GATHER };
                match timeout(patience, from_client.read_buf(&mut gathered)).await {
                    Ok(Ok(1..)) => {}
                    Ok(_) => break,
                    Err(_) => {
                        if to_server.write_all(&std::mem::take(&mut gathered)).await.is_err() {
                            break;
                        }
                    }
                }
            }
            let _ = to_server.write_all(&gathered).await;
            let _ = to_server.shutdown().await;
            let _ = back.await;
        });
    }
}

/// Between two writes of one case; the next step of a case waits for an answer.
const GATHER: Duration = Duration::from_millis(10);
const RUNS: usize = 3;
const LONGEST_RUN: Duration = Duration::from_secs(120);
/// h2spec 2.2 has 146; fewer means that the report was not read.
const CASES: usize = 140;
