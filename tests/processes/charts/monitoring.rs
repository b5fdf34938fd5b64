//! Alert rules and dashboard: they name what hub and agent count, the rules fire when they should and
//! not before, and each has a page for whoever it wakes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::support::process::text;
use crate::support::skipped;

/// An expression in PromQL, and where it stands.
struct Expression {
    place: String,
    text: String,
    /// What is written about its result: words with labels in them.
    words: Vec<String>,
}

#[test]
fn alerts_and_dashboard_name_metrics_and_labels_that_are_there() {
    let metrics = metrics();
    let expressions: Vec<_> = alerts().chain(panels()).collect();
    assert!(expressions.len() > 20, "the search finds nothing any more");
    for expression in expressions {
        assert_eq!(wrong(&expression, &metrics), None, "{}", expression.place);
    }
    // And the check sees what is wrong.
    let check = |text: &str, word: &str| {
        let (place, text, words) = (String::new(), text.to_owned(), vec![word.to_owned()]);
        wrong(&Expression { place, text, words }, &metrics)
    };
    let sum = "sum by (cluster) (rate(cluster_proxy_requests_total{hop=\"tunnel\"}[5m]))";
    assert_eq!(check(sum, "of {{ $labels.cluster }}"), None);
    for (text, word, complaint) in [
        ("cluster_proxy_no_such_total > 0", "", "no metric cluster_proxy_no_such_total"),
        ("cluster_proxy_requests_total{hub=\"a\"}", "", "no label hub"),
        ("sum by (hub) (cluster_proxy_tunnels)", "", "no label hub"),
        ("sum by (cluster) (cluster_proxy_latency_seconds_bucket)", "", "no label cluster"),
        (sum, "of {{ $labels.hub }}", "no label hub"),
        (sum, "{{code}}", "code is summed away"),
    ] {
        let said = check(text, word).unwrap();
        assert!(said.contains(complaint), "{text}: {said}");
    }
}

#[test]
fn every_alert_has_a_heading_for_whom_it_wakes() {
    let page = read("deploy/README.md");
    let headings: BTreeSet<_> = page.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let rules = rules();
    let named: BTreeSet<_> = rules.iter().map(|rule| rule["alert"].as_str().unwrap()).collect();
    for rule in &rules {
        let name = rule["alert"].as_str().unwrap();
        assert!(headings.contains(name), "deploy/README.md has no heading {name}");
        let link = format!("deploy/README.md#{}", name.to_lowercase());
        assert_eq!(rule["annotations"]["runbook"], link.as_str());
    }
    let stale: Vec<_> =
        headings.iter().filter(|heading| heading.starts_with("ClusterProxy")).collect();
    assert_eq!(stale.len(), named.len(), "{stale:?}");
}

#[test]
fn alerts_fire_when_they_should_and_not_before() {
    let test = "alerts_fire_when_they_should_and_not_before";
    let Some(promtool) = promtool(test) else { return };
    let run = |words: &[&str]| {
        let output = Command::new(&promtool).args(words).current_dir(root()).output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", text(&output));
        text(&output)
    };
    let said = run(&["check", "rules", ALERTS]);
    assert!(said.contains(&format!("{} rules found", rules().len())), "{said}");
    run(&["test", "rules", "tests/alerts.yaml"]);
    let tests = read("tests/alerts.yaml");
    for rule in rules() {
        let name = rule["alert"].as_str().unwrap();
        assert!(tests.contains(&format!("alertname: {name}\n")), "no test of {name}");
    }

    // Expressions of the dashboard, as rules: all of them are PromQL.
    let record = |(place, panel): (usize, Expression)| {
        let text = panel.text.replace("$__rate_interval", "5m");
        json!({"record": format!("panel:{place}"), "expr": text})
    };
    let panels: Vec<_> = panels().enumerate().map(record).collect();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("panels.json");
    let groups = json!({"groups": [{"name": "panels", "rules": panels}]});
    std::fs::write(&file, groups.to_string()).unwrap();
    run(&["check", "rules", file.to_str().unwrap()]);
}

/// Why an expression is no good.
fn wrong(expression: &Expression, metrics: &BTreeMap<String, BTreeSet<String>>) -> Option<String> {
    let text = &expression.text;
    let mut labels: Option<BTreeSet<String>> = None;
    for name in words(text).filter(|word| word.starts_with("cluster_proxy_")) {
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        let mut known = match (metrics.get(name), base.and_then(|base| metrics.get(base))) {
            (Some(known), _) | (None, Some(known)) => known.clone(),
            (None, None) => return Some(format!("no metric {name}")),
        };
        known.extend(base.map(|_| "le".to_owned()));
        // Only what all of them have can be asked of their sum or quotient.
        labels = Some(match labels {
            Some(before) => before.intersection(&known).cloned().collect(),
            None => known,
        });
    }
    let mut labels = labels.unwrap_or_default();
    // Those of Prometheus itself.
    labels.extend(["job", "instance", "namespace", "pod"].map(str::to_owned));
    let asked = between(text, "{", "}")
        .flat_map(|matchers| matchers.split(','))
        .filter_map(|matcher| matcher.split(['=', '!']).next());
    let kept: BTreeSet<_> = ["by (", "on ("]
        .into_iter()
        .flat_map(|word| between(text, word, ")"))
        .flat_map(|list| list.split(','))
        .map(str::trim)
        .collect();
    let shown: Vec<_> = expression
        .words
        .iter()
        .flat_map(|words| between(words, "{{", "}}"))
        .map(|word| word.trim().trim_start_matches("$labels."))
        .filter(|word| !word.starts_with('$'))
        .collect();
    let sought = asked.map(str::trim).chain(kept.iter().copied()).chain(shown.iter().copied());
    for label in sought {
        if !labels.contains(label) {
            return Some(format!("no label {label}"));
        }
    }
    let is_summed =
        ["sum", "max", "min"].iter().any(|word| words(text).any(|found| found == *word));
    let lost = shown.iter().find(|label| is_summed && !kept.contains(*label));
    lost.map(|label| format!("{label} is summed away"))
}

/// What stands between each two of these.
fn between<'a>(text: &'a str, begin: &'a str, end: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(begin).skip(1).filter_map(move |rest| rest.split_once(end)).map(|(inner, _)| inner)
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
}

/// Names of metrics and their labels, by the page that is generated from the registries.
fn metrics() -> BTreeMap<String, BTreeSet<String>> {
    let page = read("src/telemetry/README.md");
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| `")?.split(" | ");
        let name = cells.next()?.trim_end_matches('`').to_owned();
        let labels = cells.nth(1)?.split(", ").map(|label| label.trim_matches('`').to_owned());
        Some((name, labels.filter(|label| !label.is_empty()).collect()))
    };
    page.lines().filter_map(row).collect()
}

fn rules() -> Vec<Value> {
    let groups: Value = serde_saphyr::from_str(&read(ALERTS)).unwrap();
    let groups = groups["groups"].as_array().unwrap();
    groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

fn alerts() -> impl Iterator<Item = Expression> {
    rules().into_iter().map(|rule| Expression {
        place: rule["alert"].to_string(),
        text: rule["expr"].as_str().unwrap().to_owned(),
        words: vec![rule["annotations"]["summary"].as_str().unwrap().to_owned()],
    })
}

fn panels() -> impl Iterator<Item = Expression> {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().clone();
    panels.into_iter().flat_map(|panel| {
        let targets = panel["targets"].as_array().unwrap().clone();
        targets.into_iter().map(move |target| Expression {
            place: panel["title"].to_string(),
            text: target["expr"].as_str().unwrap().to_owned(),
            words: vec![target["legendFormat"].as_str().unwrap_or_default().to_owned()],
        })
    })
}

/// `$PROMTOOL`, or the one in PATH; says that `test` is skipped where there is none.
fn promtool(test: &str) -> Option<PathBuf> {
    let named = std::env::var_os("PROMTOOL").map(PathBuf::from);
    let works = |program: &PathBuf| {
        let version = Command::new(program).arg("--version").output();
        version.is_ok_and(|output| output.status.success())
    };
    let found = named.into_iter().chain([PathBuf::from("promtool")]).find(works);
    if found.is_none() {
        let install = "apt-get install --no-install-recommends prometheus";
        skipped(test, "there is no promtool", install);
    }
    found
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: &str) -> String {
    std::fs::read_to_string(root().join(file)).unwrap()
}

const ALERTS: &str = "deploy/charts/cluster-proxy-hub/files/alerts.yaml";
const DASHBOARD: &str = "deploy/charts/cluster-proxy-hub/files/dashboard.json";
