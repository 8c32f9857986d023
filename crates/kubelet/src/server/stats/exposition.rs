//! Prometheus' text format 0.0.4: families with their samples.

use std::fmt::Write;

/// What /metrics and the like say they are.
pub(in crate::server) const CONTENT_TYPE: &str =
    "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";

/// A text being written.
#[derive(Default)]
pub(super) struct Exposition {
    text: String,
    /// Whether the family's head is written; families without samples are not shown.
    pending: Option<(&'static str, &'static str, &'static str)>,
    name: &'static str,
}

/// Label names and values.
pub(super) type Labels<'a> = &'a [(&'a str, &'a str)];

impl Exposition {
    /// A counter's samples follow.
    pub(super) fn counter(&mut self, name: &'static str, help: &'static str) {
        self.family(name, "counter", help);
    }

    /// A gauge's samples follow.
    pub(super) fn gauge(&mut self, name: &'static str, help: &'static str) {
        self.family(name, "gauge", help);
    }

    fn family(&mut self, name: &'static str, kind: &'static str, help: &'static str) {
        self.pending = Some((name, kind, help));
        self.name = name;
    }

    /// One sample, taken at `time_ms` since the epoch if that is said.
    pub(super) fn sample(&mut self, labels: Labels<'_>, value: f64, time_ms: Option<u64>) {
        if let Some((name, kind, help)) = self.pending.take() {
            let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        }
        self.text.push_str(self.name);
        for (at, (name, value)) in labels.iter().enumerate() {
            self.text.push(if at == 0 { '{' } else { ',' });
            let _ = write!(self.text, "{name}=\"");
            escape(&mut self.text, value);
            self.text.push('"');
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = write!(self.text, " {value}");
        if let Some(time) = time_ms {
            let _ = write!(self.text, " {time}");
        }
        self.text.push('\n');
    }

    /// The whole text.
    pub(super) fn finish(self) -> String {
        self.text
    }
}

fn escape(text: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            c => text.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_without_samples_are_not_shown_and_values_are_escaped() {
        let mut out = Exposition::default();
        out.counter("a_total", "None.");
        out.gauge("b", "Some.");
        out.sample(&[("x", "a\"b"), ("y", "")], 1.5, Some(7));
        out.sample(&[], 2e9, None);
        let text = "# HELP b Some.\n# TYPE b gauge\nb{x=\"a\\\"b\",y=\"\"} 1.5 7\nb 2000000000\n";
        assert_eq!(out.finish(), text);
    }
}
