//! Pages that are made from the code. A test compares what is written with what the code says, and
//! writes it where `UPDATE` is set.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Holds the section `name` of `page`, a path from the root, to `text`.
pub(crate) fn assert_written(page: &str, name: &str, text: &str) {
    // Tests run beside each other, and a page may have sections of several.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
    let written = std::fs::read_to_string(&path).unwrap_or_else(|why| panic!("{page}: {why}"));
    let wanted = with_section(&written, name, text)
        .unwrap_or_else(|| panic!("{page} has no lines `{}` and `{}`", begin(name), end(name)));
    if written == wanted {
        return;
    }
    assert!(
        std::env::var_os("UPDATE").is_some(),
        "the section `{name}` of {page} is not what the code says; write it again with\n\n    {REWRITE}\n"
    );
    std::fs::write(&path, wanted).unwrap();
}

/// A row of a table.
pub(crate) fn row(cells: &[&str]) -> String {
    let cells: Vec<String> = cells.iter().map(|cell| one_line(cell)).collect();
    format!("| {} |\n", cells.join(" | "))
}

/// The first two rows of a table.
pub(crate) fn head(names: &[&str]) -> String {
    format!("{}|{}\n", row(names), "---|".repeat(names.len()))
}

/// `text` as code, and nothing for nothing.
pub(crate) fn code(text: &str) -> String {
    match text {
        "" => String::new(),
        // One fence would end in it.
        text if text.contains('`') => format!("`` {text} ``"),
        text => format!("`{text}`"),
    }
}

/// A cell ends at a line's end, and at every `|` that is not escaped.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

/// `page` with `text` as its section `name`; `None` where it has none.
fn with_section(page: &str, name: &str, text: &str) -> Option<String> {
    let (before, rest) = page.split_once(&begin(name))?;
    let (_, after) = rest.split_once(&end(name))?;
    Some(format!("{before}{}\n\n{}\n\n{}{after}", begin(name), text.trim(), end(name)))
}

fn begin(name: &str) -> String {
    format!("<!-- generated: {name} -->")
}

fn end(name: &str) -> String {
    format!("<!-- end: {name} -->")
}

/// Runs every test that ends in [`assert_written`].
const REWRITE: &str = "UPDATE=1 cargo test --lib the_page_says";

#[test]
fn one_section_is_replaced_and_the_rest_of_the_page_stays() {
    let page =
        "a\n<!-- generated: x -->\nold\n<!-- end: x -->\n<!-- generated: y -->\n<!-- end: y -->\n";
    let new = "a\n<!-- generated: x -->\n\nnew\n\n<!-- end: x -->\n<!-- generated: y -->\n<!-- end: y -->\n";
    assert_eq!(with_section(page, "x", "new\n").as_deref(), Some(new));
    assert_eq!(with_section(new, "x", "new").as_deref(), Some(new), "and then it is current");
    assert_eq!(with_section(page, "z", "new"), None);
    assert_eq!(row(&["a\n b", "c|d"]), "| a b | c\\|d |\n");
}
