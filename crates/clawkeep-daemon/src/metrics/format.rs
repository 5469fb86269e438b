//! Prometheus' text format, version 0.0.4. Both the server and node_exporter's collector of text files read it; of
//! OpenMetrics the latter reads counters without their type.

use std::fmt::{Display, Write};

use clawkeep_inference::{BOUNDS, Histogram};

/// The media type of a page.
pub const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Of which kind the samples of a family are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, but for a new beginning at 0.
    Counter,
    /// Anything.
    Gauge,
    /// Buckets by upper bound.
    Histogram,
}

/// A page of metrics.
#[derive(Default)]
pub struct Page(String);

impl Page {
    /// The next family. Its samples follow it at once.
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &'static str) -> Family<'_> {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        // Into a string: it cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Family { page: self, name }
    }

    /// The text.
    pub fn into_text(self) -> String {
        self.0
    }
}

/// A family of a page.
pub struct Family<'a> {
    page: &'a mut Page,
    name: &'static str,
}

impl Family<'_> {
    /// One sample. Labels have values of any text.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.line("", labels, value);
    }

    /// The samples of one histogram.
    pub fn histogram(&mut self, labels: &[(&str, &str)], histogram: &Histogram) {
        let bounds = BOUNDS.iter().map(ToString::to_string).chain(["+Inf".to_owned()]);
        for (bound, count) in bounds.zip(histogram.cumulative()) {
            self.line("_bucket", &[labels, &[("le", &bound)]].concat(), count);
        }
        self.line("_sum", labels, histogram.sum());
        self.line("_count", labels, histogram.count());
    }

    fn line(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        let text = &mut self.page.0;
        *text += self.name;
        *text += suffix;
        for (index, (name, value)) in labels.iter().enumerate() {
            text.push(if index == 0 { '{' } else { ',' });
            let _ = write!(text, "{name}=\"");
            for c in value.chars() {
                match c {
                    '\\' => *text += "\\\\",
                    '"' => *text += "\\\"",
                    '\n' => *text += "\\n",
                    // A reader's terminal is not to be led astray by what an agent named.
                    c if c.is_control() => text.push('\u{fffd}'),
                    c => text.push(c),
                }
            }
            text.push('"');
        }
        if !labels.is_empty() {
            text.push('}');
        }
        let _ = writeln!(text, " {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_reads_as_the_format_says() {
        let mut page = Page::default();
        page.family("a_total", Kind::Counter, "What it is.").sample(&[], 7);
        page.family("b", Kind::Gauge, "Some text.").sample(&[("model", "\"a\\b\"\n\u{1b}"), ("x", "")], 0.25);
        let text = page.into_text();
        assert_eq!(
            text,
            "# HELP a_total What it is.\n# TYPE a_total counter\na_total 7\n# HELP b Some text.\n# TYPE b gauge\n\
             b{model=\"\\\"a\\\\b\\\"\\n\u{fffd}\",x=\"\"} 0.25\n"
        );
    }

    #[test]
    fn a_histogram_has_all_its_buckets() {
        let mut page = Page::default();
        page.family("h_seconds", Kind::Histogram, "Times.").histogram(&[("m", "x")], &Histogram::default());
        let text = page.into_text();
        assert!(text.contains("h_seconds_bucket{m=\"x\",le=\"0.0025\"} 0\n"), "{text}");
        assert!(text.contains("h_seconds_bucket{m=\"x\",le=\"120\"} 0\n"), "{text}");
        assert!(
            text.ends_with("le=\"+Inf\"} 0\nh_seconds_sum{m=\"x\"} 0\nh_seconds_count{m=\"x\"} 0\n"),
            "{text}"
        );
    }
}
