//! Progress on stderr: a bar on a terminal, else a line every few seconds.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use lm4lv::config::ProgressKind;
use lm4lv::report::summary::Snapshot;

use super::{duration, thousands};

/// Between two lines; the first comes after a second.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// The same while nothing moves: a stream may be quiet for a night.
const QUIET_LINE_EVERY: Duration = Duration::from_secs(300);

/// Shows snapshots. Call [`show`](Self::show) several times a second.
pub(crate) struct Progress {
    view: View,
}

/// What a line told, and when.
struct Line {
    at: Instant,
    rows: u64,
    lag: Option<u64>,
    paused: Option<String>,
}

enum View {
    Bar(ProgressBar),
    Lines { next: Instant, last: Option<Line> },
    None,
}

impl Progress {
    /// `bars` is what logging writes above of.
    pub(crate) fn new(kind: ProgressKind, bars: &MultiProgress) -> Self {
        let kind = match kind {
            ProgressKind::Auto if std::io::stderr().is_terminal() => ProgressKind::Bar,
            ProgressKind::Auto => ProgressKind::Lines,
            given => given,
        };
        let view = match kind {
            ProgressKind::Bar => View::Bar(bars.add(ProgressBar::no_length())),
            ProgressKind::Lines => View::Lines { next: Instant::now() + Duration::from_secs(1), last: None },
            ProgressKind::Auto | ProgressKind::None => View::None,
        };
        Self { view }
    }

    /// Shows where the run stands.
    pub(crate) fn show(&mut self, snapshot: &Snapshot) {
        match &mut self.view {
            View::Bar(bar) => {
                if let Some(total) = snapshot.rows_total
                    && bar.length() != Some(total)
                {
                    bar.set_length(total);
                    bar.set_style(style());
                }
                bar.set_position(snapshot.rows);
                bar.set_message(words(snapshot));
            }
            View::Lines { next, last } => {
                let now = Instant::now();
                if now < *next {
                    return;
                }
                *next = now + LINE_EVERY;
                let Snapshot { rows, lag, paused, .. } = snapshot;
                let same = |line: &Line| line.rows == *rows && line.lag == *lag && line.paused == *paused;
                if last.as_ref().is_none_or(|line| !same(line) || now - line.at >= QUIET_LINE_EVERY) {
                    *last = Some(Line { at: now, rows: *rows, lag: *lag, paused: paused.clone() });
                    line(snapshot);
                }
            }
            View::None => {}
        }
    }

    /// Takes the bar away.
    pub(crate) fn finish(self) {
        if let View::Bar(bar) = self.view {
            bar.finish_and_clear();
        }
    }
}

/// One for people, or with a field for each figure.
fn line(snapshot: &Snapshot) {
    let Snapshot { rows, rows_total, failed, rows_per_s, lag, limiting, paused, .. } = snapshot;
    if super::logging::is_json() {
        tracing::info!(rows, rows_total, failed, rows_per_s, lag, limiting, paused, "progress");
    } else {
        let of = rows_total.map_or(String::new(), |total| format!(" of {}", thousands(total)));
        tracing::info!("{}{of} rows, {}", thousands(*rows), words(snapshot));
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{wide_bar} {human_pos}/{human_len} rows  {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// `52.1 rows/s, 1 min 5 s left, 3 failed, encode limits`.
fn words(snapshot: &Snapshot) -> String {
    let mut words = vec![format!("{:.1} rows/s", snapshot.rows_per_s)];
    if let Some(total) = snapshot.rows_total
        && snapshot.rows_per_s > 0.0
    {
        words.push(format!("{} left", duration(total.saturating_sub(snapshot.rows) as f64 / snapshot.rows_per_s)));
    }
    if let Some(lag) = snapshot.lag {
        words.push(format!("lag {}", thousands(lag)));
    }
    if snapshot.failed > 0 {
        words.push(format!("{} failed", thousands(snapshot.failed)));
    }
    match (&snapshot.paused, snapshot.limiting) {
        (Some(why), _) => words.push(format!("paused ({why})")),
        (None, Some(stage)) => words.push(format!("{stage} limits")),
        (None, None) => {}
    }
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_rate_time_failures_and_what_limits() {
        let mut snapshot = Snapshot { rows: 100, rows_total: Some(1_100), rows_per_s: 50.0, ..Snapshot::default() };
        assert_eq!(words(&snapshot), "50.0 rows/s, 20.0 s left");
        snapshot.failed = 3;
        snapshot.limiting = Some("encode");
        assert_eq!(words(&snapshot), "50.0 rows/s, 20.0 s left, 3 failed, encode limits");
        snapshot.paused = Some("storm: a.example answers 403".to_owned());
        snapshot.rows_per_s = 0.0;
        assert_eq!(words(&snapshot), "0.0 rows/s, 3 failed, paused (storm: a.example answers 403)");
    }
}
