//! kubectl in a real terminal: what is typed, its size, and how it ends.

use pty_process::{OwnedWritePty, Size};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::fleet::Fleet;
use crate::streams::Way;
use crate::support::{PATIENCE, within};

/// What a person sees and types.
pub(crate) struct Terminal {
    screen: pty_process::OwnedReadPty,
    keys: OwnedWritePty,
    seen: Vec<u8>,
}

// === impl Terminal ===

impl Terminal {
    /// Runs a command in a terminal of its own.
    pub(crate) fn run(command: std::process::Command, size: Size) -> (Self, tokio::process::Child) {
        let (terminal, other_end) = pty_process::open().unwrap();
        terminal.resize(size).unwrap();
        let command = inherits_nothing(command).kill_on_drop(true);
        let child = command.spawn(other_end).unwrap();
        let (screen, keys) = terminal.into_split();
        (Self { screen, keys, seen: Vec::new() }, child)
    }

    /// Types.
    pub(crate) async fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).await.unwrap();
    }

    /// Waits until `text` is on the screen, after what was waited for before.
    pub(crate) async fn shows(&mut self, text: &str, how: &str) {
        let shown = async {
            loop {
                let seen = String::from_utf8_lossy(&self.seen).into_owned();
                if let Some((_, rest)) = seen.split_once(text) {
                    self.seen = rest.as_bytes().to_vec();
                    return;
                }
                // A terminal that nobody holds is an error, not an end.
                let read = self.screen.read_buf(&mut self.seen).await;
                assert!(read.is_ok_and(|read| read > 0), "{how}: no {text:?} in {seen:?}");
            }
        };
        within(&format!("{how}: the screen shows {text:?}"), PATIENCE, shown).await;
    }
}

/// The same command for a terminal, which it has in place of the standard streams.
fn inherits_nothing(command: std::process::Command) -> pty_process::Command {
    let mut fresh = pty_process::Command::new(command.get_program());
    fresh = fresh.args(command.get_args()).env_clear().env("TERM", "xterm");
    fresh.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))))
}

#[tokio::test]
async fn exec_in_a_terminal_has_its_size_its_keys_and_its_exit_code() {
    let test = "exec_in_a_terminal_has_its_size_its_keys_and_its_exit_code";
    let Some(fleet) = Fleet::start(test).await else { return };
    for way in Way::through(&fleet) {
        let how = &way.name;
        // The signal alone makes it look at the size again.
        let script = "tty; read word; trap 'echo now $(stty size)' WINCH; echo said $word; \
             while :; do sleep 0.05; done";
        let command = way.command(&["exec", "-it", "hello", "--", "sh", "-c", script]);
        let (mut terminal, mut kubectl) = Terminal::run(command, Size::new(30, 100));
        terminal.shows("/dev/pts/", how).await;
        terminal.press("hello\r").await;
        // The echo is the far terminal's: kubectl has made this one raw.
        terminal.shows("hello\r\n", how).await;
        terminal.shows("said hello\r\n", how).await;
        for (rows, columns) in [(41, 123), (24, 80)] {
            terminal.keys.resize(Size::new(rows, columns)).unwrap();
            terminal.shows(&format!("now {rows} {columns}\r\n"), how).await;
        }
        // A key as any other here, an interrupt over there.
        terminal.press("\u{3}").await;
        let ended = within("kubectl ends", PATIENCE, kubectl.wait()).await.unwrap();
        assert_eq!(ended.code(), Some(INTERRUPTED), "{how}");

        // The size at the start is told too, however late it comes.
        let script = "until [ \"$(stty size)\" = '30 100' ]; do sleep 0.05; done; echo right";
        let command = way.command(&["exec", "-it", "hello", "--", "sh", "-c", script]);
        let (mut terminal, mut kubectl) = Terminal::run(command, Size::new(30, 100));
        terminal.shows("right\r\n", how).await;
        let ended = within("kubectl ends", PATIENCE, kubectl.wait()).await.unwrap();
        assert_eq!(ended.code(), Some(0), "{how}");
    }
}

#[tokio::test]
async fn attach_in_a_terminal_echoes_once() {
    let Some(fleet) = Fleet::start("attach_in_a_terminal_echoes_once").await else { return };
    let manifest = "apiVersion: v1\nkind: Pod\nmetadata: {name: typed}\n\
         spec: {containers: [{name: main, image: x, stdin: true, tty: true}]}\n";
    for way in Way::through(&fleet) {
        let how = &way.name;
        let pods = way.apply(manifest);
        assert!(pods.starts_with("pod/typed"), "{how}: {pods}");
        let command = way.command(&["attach", "-it", "typed"]);
        let (mut terminal, mut kubectl) = Terminal::run(command, Size::new(24, 80));
        terminal.press("who\r").await;
        terminal.shows("who\r\n", how).await;
        terminal.shows("read who\r\n", how).await;
        terminal.press("\u{3}").await;
        let ended = within("kubectl ends", PATIENCE, kubectl.wait()).await.unwrap();
        assert!(ended.success(), "{how}: {ended}");
    }
}

/// 128 and the number of SIGINT.
const INTERRUPTED: i32 = 130;
