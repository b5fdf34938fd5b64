//! `completions`: what a shell needs to complete this program's command line.

use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::Cli;

/// Flags of `completions`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell that is to read it
    shell: Shell,
}

/// Writes the script to standard output.
pub(crate) fn run(args: &CompletionsArgs) -> anyhow::Result<ExitCode> {
    super::print(&script(args.shell)?)?;
    Ok(ExitCode::SUCCESS)
}

fn script(shell: Shell) -> anyhow::Result<String> {
    let mut command = Cli::command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    // For bash, clap_complete 4.6 spells a name with a hyphen in two ways, so that nothing is completed
    // after a subcommand (clap-rs/clap#6421).
    Ok(String::from_utf8(script)?.replace("cluster__subcmd__proxy", "cluster__proxy"))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn every_shell_learns_every_command() {
        let command = Cli::command();
        for shell in Shell::value_variants() {
            let script = script(*shell).unwrap();
            for name in command.get_subcommands().map(clap::Command::get_name) {
                assert!(script.contains(name), "{shell}: {name}");
            }
        }
    }

    #[test]
    fn bash_completes_commands_and_flags() {
        let complete = |words: &[&str]| {
            let script = script(Shell::Bash).unwrap();
            let function = script.split("complete -F ").nth(1).unwrap();
            let function = function.split_whitespace().next().unwrap();
            let script = format!(
                "{script}\nCOMP_WORDS=({})\nCOMP_CWORD={}\n{function} cluster-proxy {} {}\n\
                 echo \"${{COMPREPLY[@]}}\"\n",
                words.join(" "),
                words.len() - 1,
                words[words.len() - 1],
                words[words.len() - 2],
            );
            let mut bash = Command::new("bash");
            bash.args(["--noprofile", "--norc", "-s"]).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut bash = bash.spawn().unwrap();
            bash.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
            let output = bash.wait_with_output().unwrap();
            assert!(output.status.success());
            String::from_utf8(output.stdout).unwrap()
        };
        assert_eq!(complete(&["cluster-proxy", "kubecon"]), "kubeconfig\n");
        assert_eq!(complete(&["cluster-proxy", "pki", "ini"]), "init\n");
        assert_eq!(complete(&["cluster-proxy", "hub", "--access"]), "--access-log\n");
        assert_eq!(complete(&["cluster-proxy", "completions", "zs"]), "zsh\n");
    }
}
