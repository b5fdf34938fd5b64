//! The house rules that a machine can check: the import direction of `src/lib.rs`, and file sizes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Modules import only from rows with a smaller number, from themselves, and from their equals
/// where the table of `src/lib.rs` allows it.
#[test]
fn imports_point_down() {
    let layers = layers();
    for (path, text) in sources() {
        let Some(module) = module(&path) else { continue };
        let from = *layers.get(&module).unwrap_or_else(|| {
            panic!("{}: `{module}` has no row in the table of src/lib.rs", path.display())
        });
        for import in imports(&text) {
            let Some(to) = layers.get(&import) else { continue };
            let downwards = *to < from || (*to == from && from <= MAY_IMPORT_EQUALS);
            assert!(
                import == module || downwards,
                "{}: {module} (layer {from}) imports {import} (layer {to})",
                path.display(),
            );
        }
    }
}

/// What the table says in words: `tunnel` knows neither TLS nor Kubernetes, only `pki` builds TLS
/// configurations, and the in-memory API server is for the sandbox alone.
#[test]
fn narrow_doors() {
    for (path, text) in sources() {
        let module = module(&path).unwrap_or_default();
        let text = before_tests(&text);
        let forbidden: &[&str] = match module.as_str() {
            "tunnel" => &[
                "rustls",
                "kube::",
                "k8s_openapi",
                "prometheus",
                "crate::pki",
                "crate::kubernetes",
            ],
            "pki" | "main" => &[],
            _ => &["ServerConfig::builder", "ClientConfig::builder"],
        };
        for word in forbidden {
            assert!(!text.contains(word), "{}: {module} must not know {word}", path.display());
        }
        if !matches!(module.as_str(), "miniapi" | "sandbox" | "cli") {
            assert!(!text.contains("crate::miniapi"), "{}: imports miniapi", path.display());
        }
    }
}

/// No block of ours escapes the compiler, nor can one file change that for itself.
#[test]
fn no_code_of_ours_is_unsafe() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = std::fs::read_to_string(root.join("Cargo.toml")).unwrap();
    assert!(manifest.contains("\nunsafe_code = \"forbid\"\n"), "Cargo.toml lets unsafe code in");
}

/// A derived `Debug` shows every field: types with tokens or keys write theirs by hand.
#[test]
fn no_derived_debug_shows_a_secret() {
    for (path, text) in sources() {
        for (item, body) in derived_debug(before_tests(&text)) {
            for line in body.lines().map(str::trim).filter(|line| !line.starts_with("//")) {
                assert!(!is_secret(line), "{}: {item} shows `{line}`", path.display());
            }
        }
    }
    for (field, secret) in [
        ("key: Zeroizing<String>,", true),
        ("pub(super) create: Vec<Secret>,", true),
        ("Token(Zeroizing<String>),", true),
        ("token: Option<String>,", true),
        ("token: Option<SecretString>,", false),
        ("token: CancellationToken,", false),
        ("token_file: Option<PathBuf>,", false),
        ("secret: Option<Reference>,", false),
    ] {
        assert_eq!(is_secret(field), secret, "{field}");
    }
    let sample = "#[derive(Clone, Debug)]\n/// Doc\nstruct A {\n  b: C,\n}\n#[derive(Clone)]\nstruct B(D);\n";
    let found: Vec<(String, String)> = derived_debug(sample).collect();
    assert_eq!(found, [("struct A".to_owned(), "\n  b: C,\n".to_owned())]);
}

#[test]
fn no_file_is_over_400_lines() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for folder in ["src", "tests", "benches"] {
        for path in rust_files(&root.join(folder)) {
            let lines = std::fs::read_to_string(&path).unwrap().lines().count();
            assert!(lines <= MAX_LINES, "{} has {lines} lines: split it", path.display());
        }
    }
}

/// `src/README.md` is for people: short, every file that it names is there, and its folders have the
/// layers of `src/lib.rs`.
#[test]
fn the_page_of_the_architecture_is_true() {
    let page = std::fs::read_to_string(source_root().join("README.md")).unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    assert!(page.lines().count() <= MAX_PAGE_LINES, "src/README.md is over {MAX_PAGE_LINES} lines");
    let named = page.split('`').skip(1).step_by(2);
    let mut paths = named.filter(|word| word.ends_with(".rs") || word.ends_with('/')).peekable();
    assert!(paths.peek().is_some(), "src/README.md names no file");
    for path in paths {
        let is_there = source_root().join(path).exists() || root.join(path).exists();
        assert!(is_there, "src/README.md: there is no `{path}`");
    }
    for (module, layer) in layers() {
        let row = |line: &&str| {
            let names = [format!("`{module}/`"), format!("`{module}.rs`")];
            line.starts_with(&format!("| {layer} | `"))
                && names.iter().any(|name| line.contains(name))
        };
        let found = page.lines().skip_while(|line| *line != "## The folders").find(row);
        assert!(found.is_some(), "src/README.md has no row of layer {layer} with `{module}`");
    }
}

/// Each promise of `SECURITY.md` names a test that is there.
#[test]
fn the_page_of_security_names_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("SECURITY.md")).unwrap();
    let mut code = String::new();
    for path in ["src", "tests"].iter().flat_map(|folder| rust_files(&root.join(folder))) {
        code.push_str(&std::fs::read_to_string(path).unwrap());
    }
    let quoted = page.split('`').skip(1).step_by(2);
    let tests: Vec<_> =
        quoted.filter(|word| word.contains("::") || word.starts_with("architecture ")).collect();
    assert!(tests.len() > 20, "SECURITY.md names {} tests", tests.len());
    for test in tests {
        let path = test.rsplit(' ').next().unwrap();
        // The beginning of some names, or all tests of a module.
        let wanted = match path.rsplit("::").find(|part| !part.is_empty()).unwrap() {
            module if path.ends_with("::") => format!("mod {module};"),
            start if start.ends_with('_') => format!("fn {start}"),
            name => format!("fn {name}("),
        };
        assert!(code.contains(&wanted), "SECURITY.md: there is no test `{test}`");
    }
}

/// Module to layer, as the table in the documentation of `src/lib.rs` has it.
fn layers() -> BTreeMap<String, u8> {
    let map = std::fs::read_to_string(source_root().join("lib.rs")).unwrap();
    let mut layers = BTreeMap::new();
    for row in map.lines().filter_map(|line| line.strip_prefix("//! | ")) {
        let mut cells = row.split(" | ");
        let Some(Ok(layer)) = cells.next().map(|cell| cell.trim().parse()) else { continue };
        for name in cells.next().unwrap().split(", ") {
            let name = name.trim().trim_matches(|letter| "[]`".contains(letter));
            layers.insert(name.to_owned(), layer);
        }
    }
    assert!(layers.len() > 10, "the table of src/lib.rs was not found: {layers:?}");
    layers
}

/// Names of the modules that `text` takes from this crate, outside of its tests.
fn imports(text: &str) -> Vec<String> {
    before_tests(text)
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| line.split("crate::").skip(1))
        .map(|rest| {
            rest.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect()
        })
        .collect()
}

/// Items that derive `Debug`: what they are, and what is in them.
fn derived_debug(text: &str) -> impl Iterator<Item = (String, String)> {
    let derives = text.split("#[derive(").skip(1).filter_map(|rest| rest.split_once(')'));
    derives.filter(|(traits, _)| traits.contains("Debug")).filter_map(|(_, rest)| {
        let is_item = |line: &&str| {
            let words = ["struct ", "enum "];
            !line.trim_start().starts_with("//") && words.iter().any(|word| line.contains(word))
        };
        let line = rest.lines().find(is_item)?;
        let item = &rest[rest.find(line)?..];
        let name = line[..line.find(['{', '(', ';'])?].trim().to_owned();
        let (open, close) = if line.contains('{') { ("{", "\n}") } else { ("(", ");") };
        let body = item.split_once(open)?.1;
        let end = body.find(close).map_or(body.len(), |end| end + close.len() - 1);
        Some((name, body[..end].to_owned()))
    })
}

/// Whether a field holds a secret, by its type, or by its name where the type does not say.
fn is_secret(field: &str) -> bool {
    let named = ["token: ", "secret: ", "password: ", "bearer: ", "key_pem: "];
    let is_text = |rest: &str| {
        ["String", "Option<String>", "Vec<u8>", "Bytes"]
            .iter()
            .any(|text| rest.trim_end_matches(',') == *text)
    };
    field.contains("Zeroizing<")
        || field.contains("<Secret>")
        || named.iter().any(|name| field.split_once(name).is_some_and(|(_, rest)| is_text(rest)))
}

/// Tests may use anything: they are no part of what is built on top.
fn before_tests(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap_or(text)
}

/// The top-level module of a file; `None` for `lib.rs` and `main.rs`.
fn module(path: &Path) -> Option<String> {
    let inside = path.strip_prefix(source_root()).unwrap();
    let first = inside.components().next()?.as_os_str().to_str()?.trim_end_matches(".rs");
    (!matches!(first, "lib" | "main")).then(|| first.to_owned())
}

fn sources() -> Vec<(PathBuf, String)> {
    // By convention: `tests.rs`, `tests/`, and `testing.rs` for what tests of a module share.
    let is_tests = |path: &PathBuf| {
        let inside = path.strip_prefix(source_root()).unwrap();
        let test =
            |part: &std::ffi::OsStr| part == "tests" || part == "tests.rs" || part == "testing.rs";
        inside.iter().any(test)
    };
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        (path, text)
    };
    rust_files(&source_root()).into_iter().filter(|path| !is_tests(path)).map(read).collect()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut files = Vec::new();
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

fn source_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The lower layers are vocabulary and tools that may use one another; hub, agent and miniapi not.
const MAY_IMPORT_EQUALS: u8 = 2;
const MAX_LINES: usize = 400;
/// One page, read at one sitting.
const MAX_PAGE_LINES: usize = 120;
