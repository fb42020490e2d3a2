//! Where a run can be watched: `/metrics` for Prometheus, `/healthz` and `/readyz` for an orchestrator, `/status` for a person.
//!
//! All four read one [`Figures`], which is taken anew for each request. There is nothing to change here, and no secret: URLs,
//! partitions and counts at most.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeCounterValue, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use tokio::net::TcpListener;

use crate::config::Listen;
use crate::error::{Error, Result};
use crate::report::figures::{Figures, Histogram};

/// A main loop that has not turned for this long is taken for stuck; it turns ten times a second, whatever it waits for.
const STUCK: Duration = Duration::from_secs(15);
const TEXT: &str = "text/plain; charset=utf-8";
const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Takes the figures.
pub type Take = Arc<dyn Fn() -> Figures + Send + Sync>;

/// Opens the port. `Error::Config` names one that is taken or not ours to take.
pub async fn bind(listen: Listen) -> Result<TcpListener> {
    let listener = TcpListener::bind(listen.0).await.map_err(|why| {
        Error::Config(format!("http.listen: {}: {why}: choose another port, or end what has this one", listen.0))
    })?;
    let address = listener.local_addr().unwrap_or(listen.0);
    tracing::info!(%address, "listening: /metrics /healthz /readyz /status");
    if !address.ip().is_loopback() {
        tracing::warn!(%address, "whoever reaches http.listen can read it: let only those reach it who may");
    }
    Ok(listener)
}

/// Answers until `stop` resolves and the answers under way are given.
pub async fn serve(listener: TcpListener, take: Take, stop: impl Future<Output = ()> + Send + 'static) {
    let began = SystemTime::now();
    let with = |answer: fn(Figures, SystemTime) -> Response| {
        let take = Arc::clone(&take);
        get(move || async move { answer(take(), began) })
    };
    let router = Router::new()
        .route("/metrics", with(metrics))
        .route("/healthz", with(|figures, _| health(&figures)))
        .route("/readyz", with(|figures, _| ready(&figures)))
        .route("/status", with(|figures, _| status(&figures)));
    // Accepting goes on over errors of connections, so there is none to come back.
    drop(axum::serve(listener, router).with_graceful_shutdown(stop).await);
}

fn health(figures: &Figures) -> Response {
    match figures.silent {
        Some(silent) if silent > STUCK => {
            line(StatusCode::SERVICE_UNAVAILABLE, &format!("the main loop has not turned for {} s", silent.as_secs()))
        }
        // Before it begins a model is read, or a store waited for; behind its end a sheet is drawn.
        _ => line(StatusCode::OK, "ok"),
    }
}

fn ready(figures: &Figures) -> Response {
    match figures.waits_for {
        Some(why) => line(StatusCode::SERVICE_UNAVAILABLE, why),
        None => line(StatusCode::OK, "ok"),
    }
}

fn line(status: StatusCode, text: &str) -> Response {
    (status, [(header::CONTENT_TYPE, TEXT)], format!("{text}\n")).into_response()
}

fn status(figures: &Figures) -> Response {
    match serde_json::to_string_pretty(figures) {
        Ok(json) => ([(header::CONTENT_TYPE, "application/json")], json + "\n").into_response(),
        Err(why) => line(StatusCode::INTERNAL_SERVER_ERROR, &why.to_string()),
    }
}

fn metrics(figures: Figures, began: SystemTime) -> Response {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Page { figures, began }));
    let mut text = String::new();
    match encode(&mut text, &registry) {
        Ok(()) => ([(header::CONTENT_TYPE, METRICS)], text).into_response(),
        Err(why) => line(StatusCode::INTERNAL_SERVER_ERROR, &why.to_string()),
    }
}

/// The figures under the names that dashboards know. A name's unit is the base unit (seconds, bytes); counters get `_total`.
#[derive(Debug)]
struct Page {
    figures: Figures,
    began: SystemTime,
}

impl Collector for Page {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut lines = Lines(encoder);
        self.rows(&mut lines)?;
        self.work(&mut lines)?;
        self.partitions(&mut lines)?;
        self.trouble(&mut lines)?;
        self.process(&mut lines)
    }
}

impl Page {
    fn rows(&self, lines: &mut Lines<'_>) -> fmt::Result {
        let Figures { snapshot, published, failed_by_code, part_bytes, .. } = &self.figures;
        lines.counter("lm4lv_rows", "Rows finished, failed ones included, published or not", None, snapshot.rows)?;
        let failed = failed_by_code.iter().map(|(code, n)| (code.as_str(), *n));
        lines.counters("lm4lv_failed_rows", "Failed rows among them, by error code", None, "code", failed)?;
        lines.counter("lm4lv_published_rows", "Rows in published parts", None, published.rows)?;
        lines.counter("lm4lv_published_parts", "Parts published", None, published.parts)?;
        lines.counter("lm4lv_published", "Bytes of published parts", Some(&Unit::Bytes), published.bytes)?;
        let skipped = "Positions in published parts that have no row";
        lines.counter("lm4lv_skipped_positions", skipped, None, published.skipped)?;
        lines.histogram("lm4lv_part_size", "Sizes of published parts", Some(&Unit::Bytes), part_bytes)
    }

    fn work(&self, lines: &mut Lines<'_>) -> fmt::Result {
        let Figures { queues, busy_s, workers, batch_sizes, oldest_unpublished_s, .. } = &self.figures;
        let help = "Time that threads spent in a stage; fetch, memory: that CPU threads waited for it";
        lines.counters("lm4lv_stage_busy", help, Some(&Unit::Seconds), "stage", busy_s.iter().copied())?;
        lines.gauge("lm4lv_workers", "CPU threads", None, *workers as f64)?;
        let help = "Images and tiles in a batch of the restorer";
        lines.histogram("lm4lv_restore_batch_size", help, None, batch_sizes)?;
        let records = [
            ("pending", queues.pending_records as f64),
            ("fetching", queues.fetching_records as f64),
            ("working", queues.working_records as f64),
        ];
        let help =
            "Records that were read (pending), are being fetched, are with the workers or the restorer (working)";
        lines.gauges("lm4lv_queue_records", help, None, "queue", records)?;
        let bytes = [
            ("records", queues.records_bytes as f64),
            ("rows", queues.rows_bytes as f64),
            ("parts", queues.parts_bytes as f64),
        ];
        let help = "Bytes of records on their way to the sink, of rows in it, of closed parts that wait for the store";
        lines.gauges("lm4lv_queue", help, Some(&Unit::Bytes), "queue", bytes)?;
        let help = "Since the oldest record that is not in a published part was admitted; 0 without one";
        lines.gauge("lm4lv_oldest_unpublished_age", help, Some(&Unit::Seconds), *oldest_unpublished_s)
    }

    fn partitions(&self, lines: &mut Lines<'_>) -> fmt::Result {
        let places = &self.figures.partitions;
        let ends = places.iter().map(|place| (place.partition.as_str(), place.end as f64));
        let help = "The next offset to publish of a partition in work";
        lines.gauges("lm4lv_chain_end_offset", help, None, "partition", ends)?;
        let lags = places.iter().filter_map(|place| Some((place.partition.as_str(), place.lag? as f64)));
        let help = "Records of a partition in work that are not published yet";
        lines.gauges("lm4lv_lag_records", help, None, "partition", lags)
    }

    fn trouble(&self, lines: &mut Lines<'_>) -> fmt::Result {
        let Figures { store_errors, fetch_errors, source_errors, epochs, foreign_parts, .. } = &self.figures;
        let help = "Failed requests to the stores of the output and of listed inputs, by kind";
        let kinds = store_errors.iter().map(|(kind, n)| (*kind, *n));
        lines.counters("lm4lv_store_errors", help, None, "kind", kinds)?;
        let help = "Tries to fetch an image that failed in a way that may pass, by error code";
        let codes = fetch_errors.iter().map(|(code, n)| (code.as_str(), *n));
        lines.counters("lm4lv_fetch_errors", help, None, "code", codes)?;
        lines.counter("lm4lv_source_errors", "Times that the source did not answer", None, *source_errors)?;
        let help = "Times that a partition was started or started anew";
        lines.counter("lm4lv_partition_starts", help, None, *epochs)?;
        let help = "Parts of another writer found where one of this process should have stood";
        lines.counter("lm4lv_foreign_parts", help, None, *foreign_parts)?;
        let paused = f64::from(u8::from(self.figures.snapshot.paused.is_some()));
        lines.gauge("lm4lv_paused", "1 while intake waits for a host or store that fails", None, paused)?;
        let ready = f64::from(u8::from(self.figures.waits_for.is_none()));
        lines.gauge("lm4lv_ready", "1 once the plan is read and a partition assigned", None, ready)
    }

    fn process(&self, lines: &mut Lines<'_>) -> fmt::Result {
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        let build = "The version of lm4lv that runs";
        lines.0.encode_descriptor("lm4lv_build", build, None, MetricType::Info)?.encode_info(&version)?;
        let began = self.began.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        lines.gauge("process_start_time", "Of the process, since the Unix epoch", Some(&Unit::Seconds), began)?;
        match resident_bytes() {
            Some(n) => lines.gauge("process_resident_memory", "Resident memory", Some(&Unit::Bytes), n as f64),
            None => Ok(()),
        }
    }
}

/// Writes families of metrics; the encoder puts a unit, and a counter's `_total`, behind the name.
struct Lines<'a>(DescriptorEncoder<'a>);

impl Lines<'_> {
    fn counter(&mut self, name: &str, help: &str, unit: Option<&Unit>, n: u64) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, unit, MetricType::Counter)?;
        family.encode_counter::<NoLabelSet, _, f64>(&n, None)
    }

    /// One for each value of `label`.
    fn counters<'v>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        label: &str,
        values: impl IntoIterator<Item = (&'v str, impl EncodeCounterValue)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, unit, MetricType::Counter)?;
        for (value, n) in values {
            family.encode_family(&[(label, value)])?.encode_counter::<NoLabelSet, _, f64>(&n, None)?;
        }
        Ok(())
    }

    fn gauge(&mut self, name: &str, help: &str, unit: Option<&Unit>, n: f64) -> fmt::Result {
        self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?.encode_gauge(&n)
    }

    /// One for each value of `label`.
    fn gauges<'v>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        label: &str,
        values: impl IntoIterator<Item = (&'v str, f64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for (value, n) in values {
            family.encode_family(&[(label, value)])?.encode_gauge(&n)?;
        }
        Ok(())
    }

    fn histogram(&mut self, name: &str, help: &str, unit: Option<&Unit>, of: &Histogram) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, unit, MetricType::Histogram)?;
        family.encode_histogram::<NoLabelSet>(of.sum, of.count, &of.buckets, None)
    }
}

/// Resident memory of this process, where the system tells.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Partition;
    use crate::report::figures::Place;

    #[test]
    fn only_a_loop_that_stands_still_is_ill() {
        let health = |silent| health(&Figures { silent, ..Figures::default() }).status().as_u16();
        assert_eq!(health(None), 200);
        assert_eq!(health(Some(STUCK)), 200);
        assert_eq!(health(Some(STUCK + Duration::from_secs(1))), 503);
    }

    #[test]
    fn labels_of_partitions_are_escaped() {
        let partitions = vec![Place { partition: Partition::new("a\"b\\c\n-0"), end: 3, lag: Some(4) }];
        let page = Page { figures: Figures { partitions, ..Figures::default() }, began: UNIX_EPOCH };
        let mut registry = Registry::default();
        registry.register_collector(Box::new(page));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        assert!(text.contains("lm4lv_lag_records{partition=\"a\\\"b\\\\c\\n-0\"} 4.0\n"), "{text}");
    }
}
