//! `src/telemetry/README.md`: every metric. Whoever registers some has a test that calls this.

use std::collections::BTreeMap;

use prometheus::Registry;
use prometheus::core::Collector;
use prometheus::proto::MetricType;

use crate::testing::{assert_written, code, head, row};

/// Holds the section `name` to the metrics of `registry` that have series from the start, and to
/// `others`. Callers take their struct of metrics apart, so that none of its fields is left out.
pub(crate) fn assert_metrics_written(name: &str, registry: &Registry, others: &[&dyn Collector]) {
    let mut rows = BTreeMap::new();
    for family in registry.gather() {
        let mut labels: Vec<String> = family
            .get_metric()
            .iter()
            .flat_map(|series| series.get_label().iter().map(|pair| pair.name().to_owned()))
            .collect();
        labels.sort_unstable();
        labels.dedup();
        add(&mut rows, family.name(), family.get_field_type(), &labels, family.help());
    }
    for collector in others {
        for (family, about) in collector.collect().iter().zip(collector.desc()) {
            let labels = about.variable_labels.clone();
            add(&mut rows, family.name(), family.get_field_type(), &labels, family.help());
        }
    }
    let rows = rows.into_values().collect::<String>();
    let text = format!("{}{rows}", head(&["metric", "type", "labels", "what"]));
    assert_written("src/telemetry/README.md", name, &text);
}

fn add(
    rows: &mut BTreeMap<String, String>,
    name: &str,
    kind: MetricType,
    labels: &[String],
    help: &str,
) {
    // Those of the process itself, which every Prometheus client has.
    if name.starts_with("process_") {
        return;
    }
    let kind = format!("{kind:?}").to_lowercase();
    let labels: Vec<String> = labels.iter().map(|label| code(label)).collect();
    let made = row(&[&code(name), &kind, &labels.join(", "), help.trim_end_matches('.')]);
    rows.insert(name.to_owned(), made);
}

/// A metric whose section nobody holds to the code would be missing without a word.
#[test]
fn every_metric_that_the_code_names_is_on_the_page() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("src/telemetry/README.md")).unwrap();
    let mut folders = vec![root.join("src")];
    let mut found = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let text = text.split("#[cfg(test)]").next().unwrap();
                for word in text.split("\"cluster_proxy_").skip(1) {
                    let name = word.split('"').next().unwrap();
                    let written = page.contains(&format!("| `cluster_proxy_{name}` |"));
                    // Tests may look for a part of a name, or for one with its labels.
                    let is_test = path.iter().any(|part| part == "tests" || part == "tests.rs");
                    let is_name = !name.is_empty() && !is_test;
                    assert!(written || !is_name, "{}: cluster_proxy_{name}", path.display());
                    found += usize::from(written);
                }
            }
        }
    }
    assert!(found > 20, "the search finds nothing any more");
}
