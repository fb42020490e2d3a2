//! The sections that belong to no step: `report`, `http` and `run`. The others stand beside what they configure.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroUsize;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The `report` section: what is drawn once every chain of the dataset is complete. Never changes a row.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReportConfig {
    /// Nothing.
    #[default]
    None,
    /// A contact sheet, `DIR/report/sheet.png`: clean, degraded, restored, scores under each.
    Sheet(SheetConfig),
}

/// `report: { sheet: … }`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SheetConfig {
    /// Records on the sheet, one line each. Default 8.
    pub rows: u32,
}

impl Default for SheetConfig {
    fn default() -> Self {
        Self { rows: 8 }
    }
}

/// The `http` section: where a run answers `/metrics`, `/healthz`, `/readyz` and `/status`. Never changes a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HttpConfig {
    /// Nowhere.
    #[default]
    None,
    /// At this address and port, such as `127.0.0.1:9600`. Whoever reaches it may read it, so another address than a loopback
    /// one (`0.0.0.0:9600`) is only taken as written.
    Listen(Listen),
}

/// An IP address and a port; port 0 is any that is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Listen(pub SocketAddr);

impl TryFrom<String> for Listen {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| {
            format!(
                "`{text}` is not an IP address with a port: write 127.0.0.1:9600 for this machine alone, 0.0.0.0:9600 for \
                 every network that it is on"
            )
        })
    }
}

impl From<Listen> for String {
    fn from(listen: Listen) -> Self {
        listen.0.to_string()
    }
}

impl JsonSchema for Listen {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Listen".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^.+:[0-9]+$", "examples": ["127.0.0.1:9600"] })
    }
}

/// The `run` section: how a process works. Never changes a row, so it may differ between runs of one dataset.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RunConfig {
    /// CPU threads for decoding, degrading, scoring and encoding; `auto`: the CPUs that the process may use (its cgroup and
    /// affinity). Default `auto`.
    pub workers: Count,
    /// MiB of pixels and bytes in flight, half of it for pixels; over it intake pauses, and workers wait for each other. At least
    /// 64. Default 200 for each worker, at least 400.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u64>,
    /// Seconds from SIGTERM to the end: what is not written then is done by the next run. Default 25, below the 30 s of
    /// Kubernetes.
    pub drain_s: u64,
    /// Stop (exit 4) when more than this share of this run's rows failed, judged after 200 rows. 0 to 1; default 1: never.
    pub max_failed_share: f64,
    /// When fetch faults are a storm that pauses the run instead of making failed rows.
    pub storm: StormConfig,
    /// How progress is shown on stderr. Default `auto`: a bar on a terminal, else a line now and then.
    pub progress: ProgressKind,
    /// The form of log lines on stderr. Default `text`.
    pub log: LogKind,
}

impl RunConfig {
    /// CPU threads, at least 1.
    pub fn workers(&self) -> usize {
        self.workers.count()
    }

    /// Bytes of pixels and files in flight.
    pub fn memory(&self) -> u64 {
        self.memory_mib.unwrap_or_else(|| (200 * self.workers() as u64).max(400)) << 20
    }
}

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            workers: Count::Auto,
            memory_mib: None,
            drain_s: 25,
            max_failed_share: 1.0,
            storm: StormConfig::default(),
            progress: ProgressKind::Auto,
            log: LogKind::Text,
        }
    }
}

/// `run.storm`: fetch faults (401, 403, 5xx, DNS, connect) that pause, then stop, the run (exit 75); those records are tried
/// again, not written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StormConfig {
    /// Fetches that are looked back on; judged from 20 on. Default 200.
    pub of_last: u32,
    /// Share of them (of the distinct hosts for public ones, of the fetches within a host) that must have failed. Above 0 to 1;
    /// default 0.9.
    pub share: f64,
    /// Seconds that the run waits for a storm to pass before it stops. Default 600.
    pub give_up_s: u64,
    /// Hosts whose faults become failed rows at once, never a storm. Default none.
    pub record_hosts: Vec<String>,
}

impl Default for StormConfig {
    fn default() -> Self {
        Self { of_last: 200, share: 0.9, give_up_s: 600, record_hosts: Vec::new() }
    }
}

/// `run.progress`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum ProgressKind {
    /// A bar on a terminal, else lines.
    #[default]
    Auto,
    /// A bar that is drawn over.
    Bar,
    /// A line every few seconds.
    Lines,
    /// Nothing.
    None,
}

/// `run.log`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum LogKind {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// A number of threads, or `auto`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Count {
    /// As many as the process may use.
    #[default]
    Auto,
    /// This many.
    Of(NonZeroUsize),
}

impl Count {
    /// Threads, at least 1.
    pub fn count(self) -> usize {
        match self {
            Self::Auto => std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
            Self::Of(n) => n.get(),
        }
    }
}

impl Serialize for Count {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Of(n) => serializer.serialize_u64(n.get() as u64),
        }
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Count;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("auto or a number from 1 to 1024")
            }

            fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<Count, E> {
                match word {
                    "auto" => Ok(Count::Auto),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Str(word), &self)),
                }
            }

            fn visit_u64<E: serde::de::Error>(self, n: u64) -> Result<Count, E> {
                let count = usize::try_from(n).ok().filter(|n| *n <= 1024).and_then(NonZeroUsize::new);
                count.map(Count::Of).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Unsigned(n), &self))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Count {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Count".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "oneOf": [{ "const": "auto" }, { "type": "integer", "minimum": 1, "maximum": 1024 }] })
    }
}
