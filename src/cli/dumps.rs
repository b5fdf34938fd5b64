//! No copy of the memory of this process outside of it: keys and tokens of a whole fleet are in there.

use std::io;

use rustix::process::{Resource, Rlimit, setrlimit};

/// Turns core dumps off, and lets nobody but root attach to this process or read its memory. Says so
/// where the system does not let it: that is no reason not to serve.
pub(super) fn forbid() {
    for outcome in [no_core(), no_reader()] {
        if let Err(error) = outcome {
            tracing::warn!(%error, "core dumps cannot be turned off; they would hold keys and tokens");
        }
    }
}

/// For dumps that become files (core(5)).
fn no_core() -> io::Result<()> {
    Ok(setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?)
}

/// For dumps that are piped into a program, whose size no limit bounds, and for ptrace and
/// `/proc/PID/mem` of processes of the same user (PR_SET_DUMPABLE(2const)).
#[cfg(target_os = "linux")]
fn no_reader() -> io::Result<()> {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

#[cfg(not(target_os = "linux"))]
fn no_reader() -> io::Result<()> {
    Ok(())
}
