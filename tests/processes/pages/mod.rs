//! README.md and deploy/README.md, command by command, as a reader types them. Only what stands for
//! something of the reader's own (a name, a token, a port) is put in.

mod deploy;
mod readme;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::process::{Kubectl, Process, text};

/// The blocks of commands of a page.
struct Page {
    blocks: Vec<String>,
    used: RefCell<BTreeSet<usize>>,
}

/// Where commands are typed.
struct Shell {
    directory: PathBuf,
    environment: Vec<(String, String)>,
    /// What is put in, longest first.
    instead: Vec<(String, String)>,
}

// === impl Page ===

impl Page {
    fn read(file: &str) -> Self {
        let page = std::fs::read_to_string(root().join(file)).unwrap();
        let blocks = page.split("```sh\n").skip(1);
        let blocks = blocks.map(|rest| rest.split_once("```").unwrap().0.to_owned()).collect();
        Self { blocks, used: RefCell::default() }
    }

    /// The one block that has `part` in it.
    fn block(&self, part: &str) -> &str {
        let found: Vec<_> =
            self.blocks.iter().enumerate().filter(|(_, block)| block.contains(part)).collect();
        let [(place, block)] = found[..] else { panic!("{} blocks have {part}", found.len()) };
        self.used.borrow_mut().insert(place);
        block
    }

    /// The line of it that begins with `start`.
    fn line<'a>(&self, block: &'a str, start: &str) -> &'a str {
        let line = block.lines().find(|line| line.starts_with(start));
        line.unwrap_or_else(|| panic!("no line {start} in:\n{block}"))
    }

    /// Every block but those with these parts was asked for.
    fn is_done_but(&self, others: &[&str]) {
        let used = self.used.borrow();
        for (place, block) in self.blocks.iter().enumerate() {
            let other = others.iter().any(|part| block.contains(part));
            assert_ne!(
                used.contains(&place),
                other,
                "nobody runs, or an exception that runs:\n{block}"
            );
        }
    }
}

// === impl Shell ===

impl Shell {
    /// In `directory`, where kubectl is the real one and `cluster-proxy` is ours.
    fn new(directory: &Path) -> Self {
        let programs = directory.join("programs");
        if !programs.exists() {
            std::fs::create_dir(&programs).unwrap();
            symlink(env!("CARGO_BIN_EXE_cluster-proxy"), programs.join("cluster-proxy")).unwrap();
            symlink(Kubectl::find().unwrap(), programs.join("kubectl")).unwrap();
        }
        let found = std::env::var("PATH").unwrap_or_default();
        let path = format!("{}:{found}", programs.display());
        let home = directory.display().to_string();
        let environment = vec![("PATH".to_owned(), path), ("HOME".to_owned(), home)];
        Self { directory: directory.to_owned(), environment, instead: Vec::new() }
    }

    /// Another program that is typed by its name.
    fn and_program(self, name: &str, program: &Path) -> Self {
        let link = self.directory.join("programs").join(name);
        if program.is_absolute() && !link.exists() {
            symlink(program, link).unwrap();
        }
        self
    }

    fn with(mut self, variable: &str, value: impl Into<String>) -> Self {
        self.environment.push((variable.to_owned(), value.into()));
        self
    }

    /// Types `value` for `written`.
    fn instead(mut self, written: &str, value: impl Into<String>) -> Self {
        self.instead.push((written.to_owned(), value.into()));
        self
    }

    fn command(&self, script: &str) -> Command {
        let mut script = script.to_owned();
        for (written, value) in &self.instead {
            script = script.replace(written, value);
        }
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", &script]).current_dir(&self.directory);
        command.env_clear().envs(self.environment.iter().cloned());
        command
    }

    /// Runs all of it, and returns what it printed.
    fn run(&self, script: &str) -> String {
        let output = self.command(script).output().unwrap();
        assert!(output.status.success(), "{script}\n{}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a command says that must fail.
    fn fails(&self, script: &str) -> String {
        let output = self.command(script).output().unwrap();
        assert!(!output.status.success(), "{script}\n{}", text(&output));
        text(&output)
    }

    /// Starts one that stays.
    fn start(&self, name: &str, line: &str) -> Process {
        Process::spawn(name, &self.directory, self.command(&format!("exec {line}")))
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
