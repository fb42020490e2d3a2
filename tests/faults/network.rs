//! Stores and hosts that refuse, fail or have no address.

use std::collections::HashSet;
use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use crate::common::{PLACE, VOLATILE, expect, lm4lv, parts, photographs, rows, strings, write_parquet};
use crate::s3::{LOST, S3};

/// Photographs in all runs here.
const N: usize = 60;

/// A folder with photographs, locally and in a bucket, and `calm`, the dataset that they make undisturbed.
struct Case {
    dir: tempfile::TempDir,
    s3: S3,
}

impl Case {
    fn new() -> Self {
        let case = Self { dir: tempfile::tempdir().unwrap(), s3: S3::start() };
        photographs(&case.path().join("photos"), N, 40);
        case.s3.upload(&case.path().join("photos"), "photos");
        case.pipeline("calm.yaml", "{ folder: { path: photos, rows_per_partition: 20 } }", "calm", 1);
        expect(case.path(), &["run", "calm.yaml"], 0);
        case
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn pipeline(&self, name: &str, source: &str, out: &str, give_up: u32) {
        let text = format!(
            "{}source: {source}\nload: {{ retries: 0, retry_base_ms: 1 }}\n\
             degrade: {{ seed: 3, recipe: [ {{ gaussian_noise: {{ sigma: [5, 50] }} }} ] }}\n\
             sink: {{ dir: \"{out}\", rows_per_part: 5 }}\n\
             run: {{ workers: 2, progress: none, storm: {{ give_up_s: {give_up}, of_last: 20 }} }}\n",
            self.s3.stores()
        );
        std::fs::write(self.path().join(name), text).unwrap();
    }

    /// Runs `name` and expects exit 75 with one last line that says all of `said`, and none but good rows in `out`.
    fn stops(&self, name: &str, out: &str, said: &[&str]) {
        let output = expect(self.path(), &["run", name], 75);
        let last = last_line(&output);
        assert!(last.starts_with("error: ") && said.iter().all(|word| last.contains(word)), "{said:?}: {last}");
        assert!(last.contains("gave up after 1 s (run.storm.give_up_s)"), "{last}");
        for row in self.rows(out).values() {
            assert_eq!(row["status"], "success", "{row:?}");
        }
    }

    /// Runs `name` to its end; the rows in `out` are those of an undisturbed run.
    fn goes_on(&self, name: &str, out: &str) -> Output {
        let output = expect(self.path(), &["run", name], 0);
        let without: Vec<_> = VOLATILE.iter().chain(PLACE).copied().collect();
        let calm = rows(&self.path().join("calm"), &without);
        assert_eq!(calm.len(), N);
        assert_eq!(self.rows(out), calm);
        let folder = if out.starts_with("s3:") { "copy" } else { out };
        expect(self.path(), &["verify", folder, "--complete"], 0);
        output
    }

    fn rows(
        &self,
        out: &str,
    ) -> std::collections::BTreeMap<(String, String, usize), std::collections::BTreeMap<String, String>> {
        let folder = match out.strip_prefix("s3://bucket/") {
            Some(prefix) => {
                self.s3.download(prefix, &self.path().join("copy"));
                self.path().join("copy")
            }
            None => self.path().join(out),
        };
        rows(&folder, &VOLATILE.iter().chain(PLACE).copied().collect::<Vec<_>>())
    }
}

fn last_line(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    said.lines().last().unwrap_or_default().to_owned()
}

/// Refuses what begins with `what`, but for the first `spared`, with `status`, `times` times.
fn fault(what: &'static str, spared: usize, status: u16, times: usize) -> impl FnMut(&str) -> Option<u16> + Send {
    let mut seen = 0;
    move |request| {
        if !request.starts_with(what) {
            return None;
        }
        seen += 1;
        (seen > spared && seen - spared <= times).then_some(status)
    }
}

/// The same for so long from the first time on.
fn fault_for(time: Duration, what: &'static str, spared: usize, status: u16) -> impl FnMut(&str) -> Option<u16> + Send {
    let (mut refuses, mut since) = (fault(what, spared, status, FOR_EVER), None);
    move |request| refuses(request).filter(|_| since.get_or_insert_with(Instant::now).elapsed() < time)
}

const FOR_EVER: usize = usize::MAX / 2;

#[test]
fn credentials_revoked_for_the_sink() {
    let case = Case::new();
    let folder = "{ folder: { path: photos, rows_per_partition: 20 } }";
    case.pipeline("p.yaml", folder, "s3://bucket/out", 1);
    // From the start, then in the midst of the work.
    case.s3.fail(fault("", 0, 403, FOR_EVER));
    case.stops("p.yaml", "s3://bucket/out", &["s3://bucket/out", "403 Forbidden (AccessDenied)"]);
    case.s3.fail(fault("PUT out/data/", 3, 403, FOR_EVER));
    case.stops("p.yaml", "s3://bucket/out", &["s3://bucket/out/data/", "403 Forbidden (AccessDenied)"]);
    assert_eq!(case.rows("s3://bucket/out").len(), 15, "what was published before stays");
    case.s3.heal();
    case.goes_on("p.yaml", "s3://bucket/out");
}

#[test]
fn credentials_revoked_for_the_images() {
    let case = Case::new();
    case.pipeline("p.yaml", "{ folder: { path: \"s3://bucket/photos\", rows_per_partition: 20 } }", "out", 1);
    for status in [403, 401] {
        case.s3.fail(fault("GET photos/", 30, status, FOR_EVER));
        case.stops("p.yaml", "out", &["s3://bucket", &format!("answered {status}"), "no row was written for it"]);
    }
    case.s3.heal();
    case.goes_on("p.yaml", "out");
}

#[test]
fn a_store_that_fails_for_a_while_is_waited_for() {
    let case = Case::new();
    let (local, remote) = (
        "{ folder: { path: photos, rows_per_partition: 20 } }",
        "{ folder: { path: \"s3://bucket/photos\", rows_per_partition: 20 } }",
    );
    case.pipeline("sink.yaml", local, "s3://bucket/out", 60);
    case.s3.fail(fault_for(Duration::from_secs(8), "PUT out/data/", 2, 503));
    let said = case.goes_on("sink.yaml", "s3://bucket/out");
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("503 Service Unavailable (SlowDown)") && said.contains("trying again"), "{said}");
    case.pipeline("images.yaml", remote, "from-store", 60);
    case.s3.fail(fault("GET photos/", 10, 503, 70));
    let said = case.goes_on("images.yaml", "from-store");
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("waiting") && said.contains("fetching works again"), "{said}");
}

/// The client itself sends the request again, and is told that somebody was first: it was itself.
#[test]
fn answers_of_the_store_that_are_lost_are_no_loss() {
    let case = Case::new();
    let source = "{ folder: { path: photos, rows_per_partition: 20 } }";
    case.pipeline("p.yaml", source, "s3://bucket/out", 60);
    let mut seen = HashSet::new();
    case.s3.fail(move |request| (request.starts_with("PUT out/") && seen.insert(request.to_owned())).then_some(LOST));
    case.goes_on("p.yaml", "s3://bucket/out");
}

#[test]
fn a_store_that_never_comes_back_stops_the_run() {
    let case = Case::new();
    let (local, remote) = (
        "{ folder: { path: photos, rows_per_partition: 20 } }",
        "{ folder: { path: \"s3://bucket/photos\", rows_per_partition: 20 } }",
    );
    case.pipeline("sink.yaml", local, "s3://bucket/out", 1);
    case.s3.fail(fault("PUT out/data/", 2, 503, FOR_EVER));
    case.stops("sink.yaml", "s3://bucket/out", &["s3://bucket/out/data/", "503"]);
    case.pipeline("images.yaml", remote, "from-store", 1);
    case.s3.fail(fault("GET photos/", 10, 503, FOR_EVER));
    case.stops("images.yaml", "from-store", &["s3://bucket", "503"]);
    case.s3.heal();
    case.goes_on("sink.yaml", "s3://bucket/out");
    case.goes_on("images.yaml", "from-store");
}

/// The list of images itself lies in a store that fails while the run reads it.
#[test]
fn a_source_that_fails_for_a_while_is_waited_for() {
    let case = Case::new();
    let names: Vec<_> = (0..N).map(|i| format!("{i:04}.jpg")).collect();
    let keys: Vec<_> = names.iter().map(|name| Some(name.as_str())).collect();
    let urls: Vec<_> = names.iter().map(|name| format!("s3://bucket/photos/{name}")).collect();
    let urls: Vec<_> = urls.iter().map(|url| Some(url.as_str())).collect();
    let lists = case.path().join("lists");
    std::fs::create_dir(&lists).unwrap();
    write_parquet(&lists.join("refs.parquet"), vec![("key", strings(&keys)), ("url", strings(&urls))]);
    case.s3.upload(&lists, "lists");
    let source = "{ parquet: { path: \"s3://bucket/lists/refs.parquet\", rows_per_partition: 20 } }";
    case.pipeline("p.yaml", source, "s3://bucket/out", 1);
    // Once the plan stands, which needs the list's footer.
    let failing = |times: usize| {
        let (mut planned, mut failed) = (false, 0);
        move |request: &str| {
            planned |= request == "PUT out/README.md";
            failed += usize::from(planned && request == "GET lists/refs.parquet");
            (planned && request == "GET lists/refs.parquet" && failed <= times).then_some(503)
        }
    };
    case.s3.fail(failing(FOR_EVER));
    case.stops("p.yaml", "s3://bucket/out", &["s3://bucket/lists/refs.parquet", "503"]);
    case.pipeline("p.yaml", source, "s3://bucket/out", 60);
    case.s3.fail(failing(5));
    let said = case.goes_on("p.yaml", "s3://bucket/out");
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("s3://bucket/lists/refs.parquet") && said.contains("trying again"), "{said}");
}

#[test]
fn hosts_without_an_address() {
    let case = Case::new();
    // A name with an empty label: refused by the resolver itself, nobody is asked.
    let stores = case.s3.stores_at("http://nowhere..invalid");
    let text = std::fs::read_to_string(case.path().join("calm.yaml")).unwrap();
    let text = text.replace(&case.s3.stores(), &stores).replace("\"calm\"", "\"s3://bucket/out\"");
    case.pipeline("found.yaml", "{ folder: { path: photos, rows_per_partition: 20 } }", "s3://bucket/out", 60);
    expect(case.path(), &["run", "found.yaml", "--limit", "25"], 0);
    std::fs::write(case.path().join("sink.yaml"), text).unwrap();
    case.stops("sink.yaml", "s3://bucket/out", &["s3://bucket/out", "the store's host has no address"]);
    // Its name is known again.
    case.goes_on("found.yaml", "s3://bucket/out");
    // All images' hosts at once: no row may say that it was the image's fault.
    let urls: Vec<_> = (0..N).map(|i| format!("http://h{}..invalid/{i}.jpg", i % 7)).collect();
    let urls: Vec<_> = urls.iter().map(|url| Some(url.as_str())).collect();
    write_parquet(&case.path().join("urls.parquet"), vec![("url", strings(&urls))]);
    case.pipeline("images.yaml", "{ parquet: { path: urls.parquet } }", "images", 1);
    case.stops("images.yaml", "images", &["..invalid has no address", "no row was written for it"]);
    assert!(parts(&case.path().join("images")).is_empty());
    // One host of many: its own rows.
    let mixed: Vec<_> = (0..N)
        .map(|i| if i == 7 { "http://gone..invalid/x.jpg".to_owned() } else { format!("photos/{i:04}.jpg") })
        .collect();
    let mixed: Vec<_> = mixed.iter().map(|url| Some(url.as_str())).collect();
    write_parquet(&case.path().join("mixed.parquet"), vec![("url", strings(&mixed))]);
    case.pipeline("mixed.yaml", "{ parquet: { path: mixed.parquet } }", "mixed", 1);
    expect(case.path(), &["run", "mixed.yaml"], 0);
    let codes: Vec<_> = case.rows("mixed").into_values().map(|row| row["error_code"].clone()).collect();
    assert_eq!(codes.iter().filter(|code| *code == "dns").count(), 1);
    assert_eq!(codes.iter().filter(|code| *code == "null").count(), N - 1);
}

/// A bucket that is not there will not come by waiting.
#[test]
fn a_bucket_that_is_missing_is_a_mistake() {
    let case = Case::new();
    let text = std::fs::read_to_string(case.path().join("calm.yaml")).unwrap().replace("s3://bucket", "s3://");
    for (out, source) in [("s3://other/out", "photos"), ("out", "s3://other/photos")] {
        let text =
            text.replace("\"calm\"", &format!("\"{out}\"")).replace("path: photos", &format!("path: \"{source}\""));
        std::fs::write(case.path().join("p.yaml"), text).unwrap();
        let output = lm4lv(case.path(), &["run", "p.yaml"]);
        let last = last_line(&output);
        assert_eq!(output.status.code(), Some(2), "{last}");
        assert!(
            last.contains("s3://other") && last.contains("no such bucket") && last.contains("NoSuchBucket"),
            "{last}"
        );
    }
}
