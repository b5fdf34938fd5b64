//! Every target: the property that has the name under which this is built.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cluster_proxy::fuzzing::check(
    env!("CARGO_BIN_NAME"),
    bytes
));
