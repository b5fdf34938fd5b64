//! Metric series: made in one step, and bounded over time.

use std::collections::HashMap;

use prometheus::Registry;
use prometheus::core::{Collector, MetricVec, MetricVecBuilder};

/// Registers what `made` holds, and returns it.
///
/// # Errors
/// Those of `made`, and when `registry` has a metric of that name.
pub fn add<C: Collector + Clone + 'static>(
    registry: &Registry,
    made: prometheus::Result<C>,
) -> prometheus::Result<C> {
    let collector = made?;
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

/// Drops every series of `vec` whose `label` is `value`: nobody will add to it again. Returns how
/// many there were.
pub fn forget<T: MetricVecBuilder>(vec: &MetricVec<T>, label: &str, value: &str) -> usize
where
    MetricVec<T>: Collector,
{
    let families = vec.collect();
    let series = families.iter().flat_map(|family| family.get_metric());
    series
        .filter_map(|series| {
            let pairs = series.get_label().iter();
            let labels: HashMap<_, _> = pairs.map(|pair| (pair.name(), pair.value())).collect();
            (labels.get(label) == Some(&value)).then(|| vec.remove(&labels))
        })
        // An error says that somebody else has dropped it.
        .filter(Result::is_ok)
        .count()
}

#[cfg(test)]
mod tests {
    use prometheus::{IntCounterVec, Opts};

    use super::*;

    #[test]
    fn one_value_of_one_label_goes() {
        let vec = IntCounterVec::new(Opts::new("a", "b"), &["cluster", "code"]).unwrap();
        for labels in [["c1", "200"], ["c1", "404"], ["c2", "200"], ["200", "c1"]] {
            vec.with_label_values(&labels).inc();
        }
        assert_eq!(forget(&vec, "cluster", "c1"), 2);
        assert_eq!(vec.collect()[0].get_metric().len(), 2);
        assert_eq!(forget(&vec, "cluster", "c1"), 0);
        assert_eq!(vec.with_label_values(&["c2", "200"]).get(), 1, "others go on");
    }
}
