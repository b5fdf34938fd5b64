//! What nginx and haproxy make of the same bytes. `differences.md` beside this file is the table: it
//! must be true of our front, and of the others where their version is the one it names.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use futures_util::{StreamExt as _, stream};

use super::second::{HAPROXY, NGINX, Program};
use super::wire::Wire;
use super::{Entry, Exchange, Want, bodies, canary, exchange, framing, in_step, lines};
use crate::ground::{Arrived, Ground, Seen};
use crate::support::skipped;

/// What somebody made of each entry, or which entries they are.
#[derive(Clone)]
struct Column {
    /// A program's has its version in it.
    heading: String,
    cells: Vec<String>,
}

#[tokio::test]
async fn the_table_of_differences_is_true() {
    let entries = [
        framing::lengths(),
        framing::codings(),
        framing::chunks(),
        lines::fields(),
        bodies::bodies(),
        lines::request_lines(),
    ]
    .concat();
    let (ours, nginx, haproxy) =
        tokio::join!(ours(&entries), theirs(&NGINX, &entries), theirs(&HAPROXY, &entries));
    let case = Column::new("case", entries.iter().map(|entry| format!("S{}", entry.case)));
    let sent = Column::new("sent", entries.iter().map(sent));

    let text = include_str!("differences.md");
    let mut wrong = Vec::new();
    let mut now = Vec::new();
    for (index, found) in [case, sent, ours].into_iter().enumerate() {
        wrong.extend(Column::recorded(text, index).unlike(&found));
        now.push(found);
    }
    for found in [nginx, haproxy] {
        let recorded = Column::recorded(text, now.len());
        let found = found.unwrap_or_else(|| recorded.clone());
        let unlike = recorded.unlike(&found);
        if found.heading == recorded.heading {
            wrong.extend(unlike);
        } else {
            // Not captured by the test harness.
            let (heading, recorded) = (&found.heading, &recorded.heading);
            let _ = writeln!(
                std::io::stderr(),
                "{heading} is here, {recorded} in differences.md: {unlike:#?}"
            );
        }
        now.push(found);
    }
    if !wrong.is_empty() {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("differences.md");
        std::fs::write(&file, table(&now)).unwrap();
        panic!("differences.md is not true, {} is: {wrong:#?}", file.display());
    }
}

async fn ours(entries: &[Entry]) -> Column {
    let ground = &Ground::start().await;
    let cells = stream::iter(entries.iter().enumerate()).map(async |(index, entry)| {
        let name = name(entry, index);
        let exchange = exchange(Wire::start(ground).await, &entry.attack, &name, &ground.bearer);
        verdict(entry, &name, &exchange.await, &ground.seen)
    });
    Column::new("cluster-proxy", cells.buffered(AT_ONCE).collect::<Vec<_>>().await)
}

/// `None`, and said so, when there is no such program.
async fn theirs(program: &Program, entries: &[Entry]) -> Option<Column> {
    let Some(version) = program.version() else {
        let (name, package) = (program.name, program.package);
        let command = format!("apt-get install --no-install-recommends {package}");
        skipped(&format!("http1 differences of {name}"), "it is not here", &command);
        return None;
    };
    let second = &program.start().await;
    let cells = stream::iter(entries.iter().enumerate()).map(async |(index, entry)| {
        let name = name(entry, index);
        let exchange = exchange(second.wire().await, &entry.attack, &name, "Bearer x").await;
        let verdict = verdict(entry, &name, &exchange, second.seen());
        if verdict.starts_with("refused") && entry.want != Want::Cut && second.passed(&name) {
            return format!("passed on, {verdict} there");
        }
        verdict
    });
    let cells = cells.buffered(AT_ONCE).collect::<Vec<_>>().await;
    Some(Column::new(&format!("{} {version}", program.name), cells))
}

fn name(entry: &Entry, index: usize) -> String {
    format!("s{}-{index}", entry.case)
}

/// What came of an entry at both ends.
fn verdict(entry: &Entry, name: &str, exchange: &Exchange, seen: &Seen) -> String {
    let first = exchange.answers.first();
    let mut arrived = seen.arrived(name);
    let smuggled = format!("s{}-smuggled", entry.case);
    if entry.attack.contains(&smuggled) {
        arrived.extend(seen.arrived(&smuggled));
    }
    let mut verdict = match (&arrived[..], first) {
        // How far the head had got decides about the status.
        ([], _) if entry.want == Want::Cut => return "refused".to_owned(),
        ([], Some(answer)) => return format!("refused, {}", answer.status),
        ([], None) => return "refused, closed".to_owned(),
        ([one], _) => format!("one, {}", described(one)),
        (several, _) => format!("**{} requests**", several.len()),
    };
    match first {
        Some(answer) if answer.status == 200 => {}
        Some(answer) => write!(verdict, ", but {}", answer.status).unwrap(),
        None => verdict.push_str(", answered without a head"),
    }
    match exchange.answers.get(1) {
        Some(answer) if answer.status != 200 || !in_step(&seen.arrived(&canary(name))) => {
            verdict.push_str(", **out of step**");
        }
        Some(_) => {}
        None => verdict.push_str(", closed"),
    }
    verdict
}

/// The framing and the headers that are neither in every entry nor a proxy's own.
fn described(arrived: &Arrived) -> String {
    let mut text = match arrived.body.len() {
        0 => "no body".to_owned(),
        length => format!("{length} bytes"),
    };
    let ordinary = ["host", "authorization", "connection", "content-length"];
    for (name, value) in &arrived.headers {
        let ours = ["accept-encoding", "via", "forwarded", "traceparent", "x-request-id"];
        let name = name.as_str();
        if ordinary.contains(&name) || ours.contains(&name) || name.starts_with("x-forwarded") {
            continue;
        }
        let value = String::from_utf8_lossy(value.as_bytes());
        let line = format!("{name}: {}", value.escape_default());
        write!(text, ", `{}`", line.trim_end()).unwrap();
    }
    if let Some(trailers) = &arrived.trailers {
        write!(text, ", {} trailers", trailers.len()).unwrap();
    }
    text
}

/// The bytes of an entry without what all have, in one line.
fn sent(entry: &Entry) -> String {
    // Every entry differs from the others behind it.
    let common = "Host: localhost\r\nAuthorization: {bearer}\r\n";
    let text = entry.attack.replacen(common, "", 1).replace("{path}", "/");
    let mut shown = String::new();
    let mut rest = text.as_str();
    while let Some(first) = rest.chars().next() {
        let after = rest.trim_start_matches(first);
        let same = (rest.len() - after.len()) / first.len_utf8();
        let escaped = first.escape_default();
        if same > LONG {
            write!(shown, "{escaped}({same} times)").unwrap();
        } else {
            (0..same).for_each(|_| shown.extend(first.escape_default()));
        }
        rest = after;
    }
    format!("`{shown}`")
}

// === impl Column ===

impl Column {
    fn new(heading: &str, cells: impl IntoIterator<Item = String>) -> Self {
        Self { heading: heading.to_owned(), cells: cells.into_iter().collect() }
    }

    /// Column `index` of the table in `text`.
    fn recorded(text: &str, index: usize) -> Self {
        let table = text.lines().skip_while(|line| !line.starts_with("| case | "));
        let rows = table.filter(|line| line.starts_with("| "));
        let mut cells = rows.map(|row| {
            let row = row.trim_start_matches("| ").trim_end_matches(" |");
            row.split(" | ").nth(index).unwrap_or_default().to_owned()
        });
        Self { heading: cells.next().unwrap_or_default(), cells: cells.collect() }
    }

    /// What is recorded and what was found, where they differ.
    fn unlike(&self, found: &Self) -> Vec<String> {
        let rows = self.cells.len().max(found.cells.len());
        let of = |column: &Self, row: usize| column.cells.get(row).cloned().unwrap_or_default();
        (0..rows)
            .map(|row| (row, of(self, row), of(found, row)))
            .filter(|(_, recorded, found)| recorded != found)
            .map(|(row, recorded, now)| {
                format!("row {}, {}: {recorded:?}, now {now:?}", row + 1, found.heading)
            })
            .collect()
    }
}

fn table(columns: &[Column]) -> String {
    let line = |cells: Vec<&str>| format!("| {} |\n", cells.join(" | "));
    let mut text = line(columns.iter().map(|column| column.heading.as_str()).collect());
    text.push_str(&"|---".repeat(columns.len()));
    text.push_str("|\n");
    for row in 0..columns[0].cells.len() {
        text.push_str(&line(
            columns.iter().map(|column| column.cells.get(row).map_or("", String::as_str)).collect(),
        ));
    }
    text
}

/// Entries under way at the same time; some wait for a proxy to lose its patience.
const AT_ONCE: usize = 8;
/// Runs of one character that are told by their length.
const LONG: usize = 20;
