//! What rounds say together: medians, and ratios that are kept back when the rounds disagree.

/// The middle of `values`; the upper one of two.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    sorted(values).get(values.len() / 2).copied()
}

/// The median of ours / peer over the rounds, where round `n` of both ran one after the other.
/// `None` when there are too few rounds, when one of them measured nothing, or when they disagree.
pub(crate) fn ratio(ours: &[f64], peer: &[f64]) -> Option<f64> {
    let ratios: Vec<f64> = ours.iter().zip(peer).map(|(ours, peer)| ours / peer).collect();
    let is_measured = |ratio: &f64| ratio.is_finite() && *ratio > 0.0;
    if ratios.len() < MIN_ROUNDS || !ratios.iter().all(is_measured) {
        return None;
    }
    let sorted = sorted(&ratios);
    let outside = sorted.len() / 4;
    let (low, high) = (sorted[outside], sorted[sorted.len() - 1 - outside]);
    (high / low <= MAX_SPREAD).then(|| median(&ratios)).flatten()
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// Of two rounds nobody can tell which one was disturbed.
const MIN_ROUNDS: usize = 3;
/// How far apart the middle half of the ratios may be. A machine that others use moves one round
/// by a tenth or two; where half of the rounds are further apart than this, the median is luck.
const MAX_SPREAD: f64 = 1.35;
