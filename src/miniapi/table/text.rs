//! Cells: ages, counts and paths into objects.

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// How long ago an RFC 3339 time was, in kubectl's short form.
pub(super) fn age(since: &Value) -> String {
    let parsed = since.as_str().and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok());
    match parsed {
        Some(time) => short((OffsetDateTime::now_utc() - time).whole_seconds().max(0)),
        None => "<unknown>".to_owned(),
    }
}

/// Seconds as `5s`, `3m20s`, `45m`, `5h30m`, `26h`, `3d4h`, `40d`, `2y30d`.
fn short(seconds: i64) -> String {
    let two = |whole: i64, unit: &str, rest: i64, small: &str| match rest {
        0 => format!("{whole}{unit}"),
        rest => format!("{whole}{unit}{rest}{small}"),
    };
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        ..120 => format!("{seconds}s"),
        120..600 => two(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, "d", hours % 24, "h"),
        691_200..63_072_000 => format!("{days}d"),
        _ => two(days / 365, "y", days % 365, "d"),
    }
}

/// The value at a simple JSON path: fields, `['field']`, `[0]`, `[*]` (the first) and
/// `[?(@.field=="value")]`.
pub(super) fn at_path<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    let mut value = object;
    for step in steps(path) {
        value = match step.strip_prefix("?(@.").and_then(|filter| filter.strip_suffix(')')) {
            Some(filter) => {
                let (field, wanted) = filter.split_once("==")?;
                let wanted = wanted.trim().trim_matches(['"', '\'']);
                value.as_array()?.iter().find(|item| item[field.trim()] == wanted)?
            }
            None => match value {
                Value::Array(items) if step == "*" => items.first()?,
                Value::Array(items) => items.get(step.parse::<usize>().ok()?)?,
                other => other.get(step.trim_matches(['"', '\'']).replace("\\.", "."))?,
            },
        };
    }
    Some(value)
}

fn steps(path: &str) -> Vec<&str> {
    let mut steps = Vec::new();
    let (mut start, mut depth, mut escaped) = (0, 0_u32, false);
    for (at, character) in path.char_indices() {
        let ends = match character {
            '.' => depth == 0 && !escaped,
            '[' => {
                depth += 1;
                depth == 1
            }
            ']' => {
                depth = depth.saturating_sub(1);
                depth == 0
            }
            _ => false,
        };
        escaped = character == '\\';
        if ends {
            steps.push(&path[start..at]);
            start = at + character.len_utf8();
        }
    }
    steps.push(&path[start..]);
    steps.retain(|step| !step.is_empty());
    steps
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn short_forms() {
        let table = [
            (5, "5s"),
            (119, "119s"),
            (200, "3m20s"),
            (2700, "45m"),
            (19_800, "5h30m"),
            (93_600, "26h"),
            (273_600, "3d4h"),
            (3_456_000, "40d"),
            (86_400 * 760, "2y30d"),
        ];
        for (seconds, text) in table {
            assert_eq!(short(seconds), text);
        }
    }

    #[test]
    fn paths() {
        let object = json!({"a": {"b.c": [{"x": 1}, {"x": 2, "type": "T"}]}});
        assert_eq!(at_path(&object, ".a['b.c'][1].x"), Some(&json!(2)));
        assert_eq!(at_path(&object, ".a.b\\.c[*].x"), Some(&json!(1)));
        assert_eq!(at_path(&object, ".a['b.c'][?(@.type=='T')].x"), Some(&json!(2)));
        assert_eq!(at_path(&object, ".a.missing"), None);
    }
}
