//! Values by names that are exact or end in `*`. Pure.

use std::collections::HashMap;

/// What belongs to which names. Finding all of one name costs a look-up for it and one for each
/// length that a prefix has, however many there are.
#[derive(Debug)]
pub(super) struct Patterns<T> {
    exact: HashMap<Box<str>, T>,
    prefixes: Vec<Prefixes<T>>,
}

/// Those of one length.
#[derive(Debug)]
struct Prefixes<T> {
    length: usize,
    values: HashMap<Box<[u8]>, T>,
}

// === impl Patterns ===

impl<T> Default for Patterns<T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), prefixes: Vec::new() }
    }
}

impl<T: Default> Patterns<T> {
    /// The value of `pattern`, made where it is missing.
    pub(super) fn entry(&mut self, pattern: &str) -> &mut T {
        let Some(prefix) = pattern.strip_suffix('*') else {
            return self.exact.entry(pattern.into()).or_default();
        };
        let length = prefix.len();
        let at = match self.prefixes.binary_search_by_key(&length, |prefixes| prefixes.length) {
            Ok(at) => at,
            Err(at) => {
                self.prefixes.insert(at, Prefixes { length, values: HashMap::new() });
                at
            }
        };
        self.prefixes[at].values.entry(prefix.as_bytes().into()).or_default()
    }
}

impl<T> Patterns<T> {
    /// The values of every pattern that `name` matches.
    pub(super) fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a T> {
        let heads = self.prefixes.iter().filter_map(|Prefixes { length, values }| {
            let head = name.as_bytes().get(..*length)?;
            values.get(head)
        });
        self.exact.get(name).into_iter().chain(heads)
    }
}

/// Whether `name` matches one of `patterns`.
pub(crate) fn is_one_of(patterns: &[Box<str>], name: &str) -> bool {
    patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => **pattern == *name,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn exact_names_prefixes_and_everybody() {
        let mut patterns = Patterns::<Vec<u8>>::default();
        for (number, pattern) in (0..).zip(["ab", "ab*", "a*", "*", "ac*", "abc", "ab"]) {
            patterns.entry(pattern).push(number);
        }
        let of = |name: &str| {
            let mut found: Vec<u8> = patterns.of(name).flatten().copied().collect();
            found.sort_unstable();
            found
        };
        assert_eq!(of("ab"), [0, 1, 2, 3, 6]);
        assert_eq!(of("abc"), [1, 2, 3, 5]);
        assert_eq!(of("a"), [2, 3]);
        assert_eq!(of(""), [3]);
        assert_eq!(of("\u{e9}"), [3]);
    }

    proptest! {
        #[test]
        fn the_index_finds_what_a_look_at_each_finds(
            patterns in prop::collection::vec("[ab\u{e9}]{0,4}\\*?", 0..12),
            name in "[ab\u{e9}]{0,5}",
        ) {
            let mut index = Patterns::<usize>::default();
            patterns.iter().for_each(|pattern| *index.entry(pattern) += 1);
            let one_by_one = patterns.iter().filter(|one| is_one_of(&[one.as_str().into()], &name));
            prop_assert_eq!(index.of(&name).sum::<usize>(), one_by_one.count());
        }
    }
}
