//! The `cluster-proxy` binary: picks the allocator and hands over to [`cluster_proxy::cli`].

use std::process::ExitCode;

/// The C library's allocator gives little memory back after a peak of thousands of streams.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    cluster_proxy::cli::main()
}
