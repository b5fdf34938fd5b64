//! `src/cli/README.md`: every command and flag.

use clap::{Arg, ArgAction, Command, CommandFactory};

use crate::cli::Cli;
use crate::testing::{assert_written, code, head, row};

#[test]
fn the_page_says_every_command_and_flag() {
    assert_written("src/cli/README.md", "commands", &pages(&Cli::command()));
}

/// A section for the flags of all commands, and one for each command that does something.
fn pages(root: &Command) -> String {
    let mut text = format!("## Every command\n\n{}", tables(root));
    for command in root.get_subcommands() {
        add(&mut text, root.get_name(), command);
    }
    text
}

fn add(text: &mut String, parent: &str, command: &Command) {
    let name = format!("{parent} {}", command.get_name());
    if command.has_subcommands() {
        for inner in command.get_subcommands() {
            add(text, &name, inner);
        }
        return;
    }
    let about = command.get_long_about().or_else(|| command.get_about()).map(ToString::to_string);
    let about = about.unwrap_or_else(|| panic!("`{name}` does not say what it is for"));
    text.push_str(&format!("## {name}\n\n{about}.\n\n{}", tables(command)));
}

/// One table for each group of flags, in the order of `--help`.
fn tables(command: &Command) -> String {
    let shown = || command.get_arguments().filter(|arg| !arg.is_hide_set());
    let mut groups: Vec<Option<&str>> = Vec::new();
    for arg in shown() {
        if !groups.contains(&arg.get_help_heading()) {
            groups.push(arg.get_help_heading());
        }
    }
    let mut text = String::new();
    for group in groups {
        if let Some(title) = group {
            text.push_str(&format!("### {title}\n\n"));
        }
        text.push_str(&head(&["flag", "default", "environment", "what"]));
        for arg in shown().filter(|arg| arg.get_help_heading() == group) {
            text.push_str(&flag(arg));
        }
        text.push('\n');
    }
    text
}

fn flag(arg: &Arg) -> String {
    let takes_value = arg.get_action().takes_values();
    let value = if takes_value { value_name(arg) } else { String::new() };
    let long = arg.get_long().map(|long| format!("--{long}"));
    let short = arg.get_short().map(|short| format!("-{short}"));
    let names: Vec<String> = short.into_iter().chain(long).collect();
    let name = match (names.is_empty(), value.is_empty()) {
        (true, _) => value,
        (false, true) => names.join(", "),
        (false, false) => format!("{} {value}", names.join(", ")),
    };
    let default = if arg.is_required_set() {
        "required".to_owned()
    } else if takes_value {
        let defaults = arg.get_default_values().iter().map(|value| value.to_string_lossy());
        code(&defaults.collect::<Vec<_>>().join(","))
    } else {
        String::new()
    };
    let variable = arg.get_env().map(|name| name.to_string_lossy()).unwrap_or_default();
    row(&[&code(&name), &default, &code(&variable), &what(arg, takes_value)])
}

fn value_name(arg: &Arg) -> String {
    let names = arg.get_value_names().unwrap_or_default();
    if names.is_empty() { arg.get_id().as_str().to_uppercase() } else { names.join(" ") }
}

/// Its help, the words it takes, and whether it may be there twice.
fn what(arg: &Arg, takes_value: bool) -> String {
    let help = arg.get_long_help().or_else(|| arg.get_help()).map(ToString::to_string);
    let mut help = help.unwrap_or_else(|| panic!("{} does not say what it is for", arg.get_id()));
    let values = arg.get_possible_values();
    let words: Vec<String> = values.iter().map(|value| code(value.get_name())).collect();
    if takes_value && !words.is_empty() {
        help.push_str(&format!(". One of {}", words.join(", ")));
    }
    if matches!(arg.get_action(), ArgAction::Append) && !help.contains("repeat") {
        let commas = arg.get_value_delimiter().map_or("", |_| ", or by commas");
        help.push_str(&format!(" (several by repeating it{commas})"));
    }
    help
}
