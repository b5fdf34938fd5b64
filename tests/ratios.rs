//! The arithmetic of `cargo bench --bench compare`: which ratios are told, and which are kept back.

#[path = "../benches/compare/ratios.rs"]
mod ratios;

use ratios::{median, ratio};

#[test]
fn the_median_is_the_middle_in_any_order() {
    assert_eq!(median(&[]), None);
    assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
    assert_eq!(median(&[9.0, 1.0]), Some(9.0));
}

/// The machine became twice as slow in the second round, for both.
#[test]
fn ratios_are_of_one_round_each() {
    assert_eq!(ratio(&[1.0, 2.0, 1.0], &[2.0, 4.0, 2.0]), Some(0.5));
}

#[test]
fn one_disturbed_round_of_five_changes_nothing() {
    assert_eq!(ratio(&[1.0, 1.0, 1.0, 1.0, 9.0], &[2.0; 5]), Some(0.5));
}

#[test]
fn rounds_that_disagree_say_nothing() {
    assert_eq!(ratio(&[1.0, 1.0, 1.3], &[1.0; 3]), Some(1.0));
    assert_eq!(ratio(&[1.0, 1.0, 1.4], &[1.0; 3]), None);
}

#[test]
fn too_few_rounds_say_nothing() {
    assert_eq!(ratio(&[1.0; 3], &[1.0; 3]), Some(1.0));
    assert_eq!(ratio(&[1.0; 2], &[1.0; 2]), None);
}

/// CPU is counted in ticks of 10 ms: a short round may have used none.
#[test]
fn a_round_that_measured_nothing_says_nothing() {
    assert_eq!(ratio(&[1.0, 1.0, 1.0], &[1.0, 0.0, 1.0]), None);
    assert_eq!(ratio(&[1.0, 0.0, 1.0], &[1.0, 1.0, 1.0]), None);
}
