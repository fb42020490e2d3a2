//! The binary under test as a process that can be killed, frozen, thawed and asked to drain.

use std::path::Path;
use std::time::Duration;

use crate::guard::Guarded;

/// A running `lm4lv`.
pub(crate) struct Worker(Guarded);

impl Worker {
    /// `lm4lv run` of a pipeline file with this text, in `dir`; the file is `<name>.yaml` there, the log `<name>.log` (of
    /// all workers of that name).
    pub(crate) fn run(dir: &Path, name: &str, pipeline: &str) -> Self {
        let file = dir.join(format!("{name}.yaml"));
        std::fs::write(&file, pipeline).unwrap();
        Self::start(dir, name, &["run", &file.display().to_string()])
    }

    /// `lm4lv` with these arguments, in `dir`; the log is `<name>.log` there.
    pub(crate) fn start(dir: &Path, name: &str, args: &[&str]) -> Self {
        let command = std::iter::once(env!("CARGO_BIN_EXE_lm4lv")).chain(args.iter().copied());
        let command: Vec<String> = command.map(str::to_owned).collect();
        Self(Guarded::start(&command, dir, &[("NO_COLOR", "1")], &dir.join(format!("{name}.log"))))
    }

    /// SIGKILL; returns when it is gone.
    pub(crate) fn kill(&mut self) {
        self.0.kill();
    }

    /// SIGSTOP: frozen.
    pub(crate) fn stop(&mut self) {
        self.0.signal("STOP");
    }

    /// SIGCONT: thawed.
    pub(crate) fn cont(&mut self) {
        self.0.signal("CONT");
    }

    /// SIGTERM: drains; returns at once.
    pub(crate) fn term(&mut self) {
        self.0.signal("TERM");
    }

    /// Its exit code, if it has ended (128 + n after signal n).
    pub(crate) fn ended(&mut self) -> Option<i32> {
        self.0.ended()
    }

    /// Waits for its end, and gives its exit code; panics with the log's end if that does not come in time.
    pub(crate) fn wait(&mut self, seconds: u64) -> i32 {
        self.0.wait(Duration::from_secs(seconds))
    }

    /// Waits for its end, which must be this exit code.
    pub(crate) fn expect(&mut self, code: i32, seconds: u64) {
        let ended = self.wait(seconds);
        assert_eq!(ended, code, "{}", self.0.tail());
    }

    /// What it has written to stdout and stderr.
    pub(crate) fn log(&self) -> String {
        self.0.log()
    }
}
