//! A chart of the CPU ratios: one bar per work and peer, and a line where both cost the same.

use std::fmt::Write as _;

use crate::report::Row;

/// The chart of those `rows` that have a ratio.
pub(crate) fn svg(rows: &[Row]) -> String {
    let bars: Vec<_> = rows
        .iter()
        .filter(|row| row.metric == "cpu")
        .filter_map(|row| Some((format!("{} / {}", row.work, row.peer), row.ratio?)))
        .collect();
    let height = TOP + LINE * bars.len();
    let most = bars.iter().map(|(_, ratio)| *ratio).fold(1.0, f64::max);
    let scale = BARS as f64 / most;
    let width = LABELS + BARS + VALUES;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"8\" y=\"18\">CPU of hub and agent, ours / peer: shorter is better, the line is 1</text>\n"
    );
    // Writing to a String cannot fail.
    for (index, (label, ratio)) in bars.iter().enumerate() {
        let (y, long) = (TOP + LINE * index, ratio * scale);
        let (text, end) = (y + LINE * 2 / 3, LABELS as f64 + long + 4.0);
        let _ = writeln!(
            svg,
            "<text x=\"8\" y=\"{text}\">{label}</text>\
             <rect x=\"{LABELS}\" y=\"{y}\" width=\"{long:.1}\" height=\"{THICK}\" fill=\"#3b6ea5\"/>\
             <text x=\"{end:.1}\" y=\"{text}\">{ratio:.2}</text>"
        );
    }
    let one = LABELS as f64 + scale;
    let _ = writeln!(
        svg,
        "<line x1=\"{one:.1}\" x2=\"{one:.1}\" y1=\"{TOP}\" y2=\"{height}\" stroke=\"#c0392b\"/>\n</svg>"
    );
    svg
}

/// Pixels. Names of work and peer are plain letters and digits, and need no escaping.
const TOP: usize = 28;
const LINE: usize = 20;
const THICK: usize = 14;
const LABELS: usize = 220;
const BARS: usize = 480;
const VALUES: usize = 60;
