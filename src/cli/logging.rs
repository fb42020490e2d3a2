//! Log lines on stderr, as text or JSON, above the progress bar if there is one; and how a failure is told at the end.

use std::io::{self, Write};
use std::sync::OnceLock;

use indicatif::MultiProgress;
use lm4lv::Error;
use lm4lv::config::LogKind;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// The form that was chosen, for the last words.
static KIND: OnceLock<LogKind> = OnceLock::new();

/// Starts logging. `LM4LV_LOG` holds a filter such as `debug` or `lm4lv=debug,object_store=info`; else `info`, and warnings only
/// of libraries. Lines go through `bars`, which moves its bars out of the way.
pub(crate) fn init(kind: LogKind, bars: &MultiProgress) {
    let filter = EnvFilter::try_from_env("LM4LV_LOG").unwrap_or_else(|_| EnvFilter::new("warn,lm4lv=info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(AboveBars(bars.clone()));
    // Only the first call counts; there is one a process.
    let started = match kind {
        LogKind::Json => builder.json().flatten_event(true).try_init(),
        LogKind::Text => builder.with_target(false).with_ansi(colours()).try_init(),
    };
    if started.is_ok() {
        KIND.get_or_init(|| kind);
    }
}

/// True if log lines are JSON.
pub(crate) fn is_json() -> bool {
    KIND.get() == Some(&LogKind::Json)
}

/// True if stderr is a terminal that wants colours.
fn colours() -> bool {
    use std::io::IsTerminal;
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Tells on stderr why the process ends: the error and its causes.
pub(crate) fn last_words(error: &Error) {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let words = inner.to_string();
        // Most errors quote their source already.
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = inner.source();
    }
    if is_json() {
        tracing::error!(exit_code = error.exit_code(), "{text}");
    } else {
        say(&format!("error: {text}\n"));
    }
}

/// Writes to stderr; there is nobody to tell if that fails.
pub(crate) fn say(text: &str) {
    io::stderr().lock().write_all(text.as_bytes()).ok();
}

/// Writes log lines while the bars are away.
struct AboveBars(MultiProgress);

impl<'a> MakeWriter<'a> for AboveBars {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { bars: self.0.clone(), text: Vec::new() }
    }
}

/// One event's text, written as a whole when it is dropped.
struct Line {
    bars: MultiProgress,
    text: Vec<u8>,
}

impl Write for Line {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.bars.suspend(|| io::stderr().lock().write_all(&self.text).ok());
    }
}
