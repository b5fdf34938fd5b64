//! `tests/README.md` against the tests: each of the 120 security cases has one, and every test that it
//! or another page names is there.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A row of a table of cases.
struct Row {
    /// Numbers of security cases; none in a row of something else.
    cases: BTreeSet<u32>,
    /// What stands between backquotes in the column of tests.
    tests: Vec<String>,
    line: String,
}

// === impl Row ===

impl Row {
    fn of(line: &str) -> Option<Self> {
        let mut cells = line.strip_prefix("| ")?.split(" | ");
        let cases = cells.next()?;
        let tests = cells.next()?.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        Some(Self { cases: numbers(cases), tests, line: line.to_owned() })
    }

    /// Whole names of the tests, each with its binary. A name may leave out what the one before it in
    /// the row has said: the binary, or with `::` the module too. Other words are flags and commands.
    fn names(&self) -> Vec<(String, String)> {
        let (mut binary, mut module) = ("attacks".to_owned(), String::new());
        let mut names = Vec::new();
        for written in &self.tests {
            let path = match written.split_once(' ') {
                Some((named, path)) if is_binary(named) => {
                    named.clone_into(&mut binary);
                    path.to_owned()
                }
                None if written.contains("::") => match written.strip_prefix("::") {
                    Some(rest) => format!("{module}{rest}"),
                    None => written.clone(),
                },
                _ => continue,
            };
            module = path.rfind("::").map_or(String::new(), |at| path[..at + 2].to_owned());
            names.push((binary.clone(), path));
        }
        names
    }
}

#[test]
fn every_security_case_has_a_test() {
    let told: BTreeSet<u32> = rows().into_iter().flat_map(|row| row.cases).collect();
    let missing: Vec<u32> = (1..=CASES).filter(|case| !told.contains(case)).collect();
    assert!(missing.is_empty(), "tests/README.md has no row for {missing:?}");
    let beyond: Vec<&u32> = told.iter().filter(|case| **case > CASES).collect();
    assert!(beyond.is_empty(), "there are {CASES} cases, and no {beyond:?}");
    for row in rows() {
        assert!(row.cases.is_empty() || !row.names().is_empty(), "names no test: {}", row.line);
    }
}

#[test]
fn every_test_that_the_page_names_is_there() {
    let mut binaries = BTreeMap::new();
    let mut lost = Vec::new();
    for row in rows() {
        for (binary, path) in row.names() {
            let tests = binaries.entry(binary.clone()).or_insert_with(|| tests_of(&binary));
            if !tests.iter().any(|test| test.starts_with(&path)) {
                lost.push(format!("{binary} {path}"));
            }
        }
    }
    assert!(lost.is_empty(), "tests/README.md names what is not there: {lost:#?}");
}

#[test]
fn every_test_that_another_page_names_is_there() {
    let (mut named, mut binaries) = (0, BTreeMap::new());
    for page in PAGES {
        let text = std::fs::read_to_string(root().join(page)).unwrap();
        for span in text.split('`').skip(1).step_by(2) {
            let Some((binary, path)) = span.split_once(' ') else { continue };
            let is_path =
                path.chars().all(|letter| letter.is_alphanumeric() || "_:".contains(letter));
            if is_binary(binary) && is_path {
                named += 1;
                let tests = binaries.entry(binary.to_owned()).or_insert_with(|| tests_of(binary));
                let is_there = tests.iter().any(|test| test.starts_with(path));
                assert!(is_there, "{page} names `{span}`, which is not there");
            }
        }
    }
    assert!(named > 30, "SECURITY.md names tests, and {named} were found");
}

/// So that nobody takes the two above for blind.
#[test]
fn what_is_not_there_is_found() {
    let row =
        Row::of("| S3 S5 to S7 | `lib hop::tests`, `::none`, `spine nothing::` | x |").unwrap();
    assert_eq!(row.cases, BTreeSet::from([3, 5, 6, 7]));
    let names = row.names();
    assert_eq!(names[1], ("lib".to_owned(), "hop::none".to_owned()));
    assert!(tests_of("lib").iter().any(|test| test.starts_with(&names[0].1)));
    assert!(!tests_of("lib").iter().any(|test| test.starts_with(&names[1].1)));
    assert!(!tests_of("spine").iter().any(|test| test.starts_with(&names[2].1)));
    assert_eq!(tests_of(".ci/run").iter().filter(|step| *step == "supply_chain").count(), 1);
}

/// Every row of the tables of cases. Names of tests there begin with their binary, or are of `attacks`.
fn rows() -> Vec<Row> {
    let page = std::fs::read_to_string(root().join("tests/README.md")).unwrap();
    let mut rows = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        if line.starts_with("## ") {
            inside = TABLES.contains(&line);
        }
        let Some(row) = Row::of(line).filter(|_| inside) else { continue };
        // The other tables are figures and commands.
        let first = row.tests.first().and_then(|name| name.split(' ').next());
        if !row.cases.is_empty() || first.is_some_and(is_binary) {
            rows.push(row);
        }
    }
    assert!(rows.len() > 100, "the tables of tests/README.md were not found");
    rows
}

fn is_binary(name: &str) -> bool {
    BINARIES.contains(&name)
}

/// `S3 S5 to S7 on services` to 3, 5, 6 and 7.
fn numbers(cell: &str) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    let (mut last, mut is_range) = (None, false);
    for word in cell.split_whitespace() {
        let number: Option<u32> = word.strip_prefix('S').and_then(|number| number.parse().ok());
        if let Some(number) = number {
            found.extend(last.filter(|_| is_range).unwrap_or(number)..=number);
            last = Some(number);
        }
        is_range = word == "to";
    }
    found
}

/// Paths of the tests of one binary, as `cargo test` prints them; the steps of CI are tests, too.
fn tests_of(binary: &str) -> Vec<String> {
    let tests = root().join("tests");
    match binary {
        "lib" => in_folder(&root().join("src")),
        ".ci/run" => {
            let script = std::fs::read_to_string(root().join(".ci/run")).unwrap();
            script.lines().filter_map(|line| line.strip_suffix("() {")).map(str::to_owned).collect()
        }
        _ if tests.join(binary).is_dir() => in_folder(&tests.join(binary)),
        _ => in_file(&tests.join(format!("{binary}.rs")), ""),
    }
}

fn in_folder(folder: &Path) -> Vec<String> {
    let mut paths = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(inner) = folders.pop() {
        for path in std::fs::read_dir(&inner).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let module = module(path.strip_prefix(folder).unwrap());
                paths.extend(in_file(&path, &module));
            }
        }
    }
    paths
}

/// `hub/authn/mod.rs` to `hub::authn::`.
fn module(path: &Path) -> String {
    let path: PathBuf = path.with_extension("");
    let words = path.iter().map(|word| word.to_str().unwrap());
    words
        .filter(|word| !["mod", "main", "lib"].contains(word))
        .map(|word| format!("{word}::"))
        .collect()
}

/// Tests of a file: functions with an attribute that says so, and where they stand.
fn in_file(path: &Path, module: &str) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let (mut inner, mut is_test) = (String::new(), false);
    let mut found = Vec::new();
    for line in text.lines() {
        // Modules in a file stand at its edge, and end there.
        if let Some(name) = line.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(" {")) {
            inner = format!("{name}::");
        } else if line == "}" {
            inner.clear();
        }
        let line = line.trim();
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        }
        let signature = line.strip_prefix("async ").unwrap_or(line);
        if let Some(rest) = signature.strip_prefix("fn ").filter(|_| is_test) {
            let name = rest.split(['(', '<']).next().unwrap_or_default();
            found.push(format!("{module}{inner}{name}"));
            is_test = false;
        }
    }
    found
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

const CASES: u32 = 120;
const BINARIES: [&str; 8] =
    ["lib", "spine", "processes", "attacks", "architecture", "simulation", "faults", ".ci/run"];
const PAGES: [&str; 4] = ["README.md", "SECURITY.md", "deploy/README.md", "tests/README.md"];
const TABLES: [&str; 2] = ["## Upstream's acceptance cases", "## Security cases"];
