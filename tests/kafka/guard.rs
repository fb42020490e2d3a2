//! A child process that does not outlive this one, however it ends: a shell holds it, and kills it once the pipe from here closes.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// `$0` is the log, `$@` the command. Its id is printed, and its exit code becomes the shell's (128 + n after signal n).
const SHELL: &str = r#"
exec 3<&0 2>/dev/null
"$@" </dev/null 3<&- >>"$0" 2>&1 &
child=$!
echo $child
( read -r _ <&3; kill -KILL $child 2>/dev/null ) </dev/null >/dev/null 2>&1 &
watcher=$!
wait $child; code=$?
kill $watcher 2>/dev/null
exit $code
"#;

/// A running program.
pub(crate) struct Guarded {
    shell: Child,
    pid: u32,
    log: PathBuf,
    code: Option<i32>,
}

impl Guarded {
    /// Starts `command` with its output appended to `log`.
    pub(crate) fn start(command: &[String], dir: &Path, environment: &[(&str, &str)], log: &Path) -> Self {
        let mut shell = Command::new("sh")
            .arg("-c")
            .arg(SHELL)
            .arg(log)
            .args(command)
            .current_dir(dir)
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(shell.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { pid: line.trim().parse().unwrap(), shell, log: log.to_owned(), code: None }
    }

    /// Sends a signal, such as `KILL`, `STOP`, `CONT`, `TERM`; nothing where the process has ended.
    pub(crate) fn signal(&mut self, name: &str) {
        if self.ended().is_none() {
            // Between these two lines it may end: then nobody has its id yet.
            Command::new("kill")
                .arg(format!("-{name}"))
                .arg(self.pid.to_string())
                .stderr(Stdio::null())
                .status()
                .unwrap();
        }
    }

    /// Its exit code, if it has ended.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        if self.code.is_none() {
            self.code = self.shell.try_wait().unwrap().map(|status| status.code().unwrap_or(-1));
        }
        self.code
    }

    /// Waits for its end; panics with the log's end if that does not come.
    pub(crate) fn wait(&mut self, at_most: Duration) -> i32 {
        let began = Instant::now();
        loop {
            if let Some(code) = self.ended() {
                return code;
            }
            assert!(began.elapsed() < at_most, "still running after {at_most:?}:\n{}", self.tail());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Kills it with SIGKILL and waits for its end.
    pub(crate) fn kill(&mut self) {
        self.signal("KILL");
        self.wait(Duration::from_secs(10));
    }

    /// What it wrote to stdout and stderr.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The log's last lines.
    pub(crate) fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if self.ended().is_none() {
            // The pipe closes, and the shell does the rest; also where it is frozen.
            drop(self.shell.stdin.take());
            self.shell.wait().ok();
        }
    }
}
