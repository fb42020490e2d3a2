//! The plan is decided once: every process reads the same, whoever was first, and whatever does not fit it stops the run.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic like the test")]

use std::fmt;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch, StringArray};
use futures::stream::BoxStream;
use lm4lv::Error;
use lm4lv::plan::{Opened, Plan, Wanted};
use lm4lv::source::{Discovery, Look, SourceConfig, discover};
use lm4lv::store::{Folder, Stores};
use object_store::memory::InMemory;
use object_store::path::Path as ObjectPath;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use parquet::arrow::ArrowWriter;
use serde_json::json;

/// A folder of inputs and a sink, and how a run is started over them.
struct Case {
    dir: tempfile::TempDir,
    sink: Folder,
    config: SourceConfig,
    content: serde_json::Value,
    schema_hash: String,
    accept_change: Option<u32>,
    extend: bool,
}

impl Case {
    /// `yaml` with `DIR` for the folder of inputs.
    fn new(yaml: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("in")).unwrap();
        let yaml = yaml.replace("DIR", dir.path().join("in").to_str().unwrap());
        Self {
            sink: Folder::Local(dir.path().join("out")),
            config: serde_saphyr::from_str(&yaml).unwrap(),
            content: json!({ "degrade": { "seed": 0, "recipe": [{ "jpeg": { "quality": [30, 95] } }] } }),
            schema_hash: "s".into(),
            accept_change: None,
            extend: false,
            dir,
        }
    }

    fn parquet() -> Self {
        let case = Self::new("parquet: { path: 'DIR/*.parquet', rows_per_partition: 10 }");
        case.write("b.parquet", 25);
        case.write("c.parquet", 5);
        case
    }

    fn images() -> Self {
        let case = Self::new("folder: { path: DIR, rows_per_partition: 10 }");
        for i in 0..12 {
            std::fs::write(case.input(&format!("{i:02}.png")), "x").unwrap();
        }
        case
    }

    fn input(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join("in").join(name)
    }

    fn write(&self, name: &str, rows: i64) {
        write(&self.input(name), rows);
    }

    async fn discover(&self) -> lm4lv::Result<Discovery> {
        let known = Opened::read(&self.sink).await?;
        let stores = Stores::default();
        let (config, sink) = (&self.config, Some(&self.sink));
        discover(Look { config, stores: &stores, sink, known: known.as_ref(), reserved: |_| false }).await
    }

    async fn open(&self) -> lm4lv::Result<Opened> {
        self.open_with(&self.discover().await?).await
    }

    async fn open_with(&self, discovery: &Discovery) -> lm4lv::Result<Opened> {
        let wanted = Wanted {
            content: &self.content,
            schema_hash: &self.schema_hash,
            discovery,
            rows_per_partition: self.config.rows_per_partition().get(),
            accept_change: self.accept_change,
            extend: self.extend,
        };
        Plan::open_or_create(&self.sink, wanted).await
    }

    /// Opens, and says what stopped that.
    async fn refused(&self) -> Error {
        match self.open().await {
            Ok(opened) => panic!("was opened: {opened:?}"),
            Err(error) => error,
        }
    }
}

fn write(path: &Path, rows: i64) {
    let ids = Int64Array::from_iter_values(0..rows);
    let urls = StringArray::from_iter_values((0..rows).map(|i| format!("{i}.jpg")));
    let batch = RecordBatch::try_from_iter([("id", Arc::new(ids) as _), ("url", Arc::new(urls) as _)]).unwrap();
    let mut writer = ArrowWriter::try_new(std::fs::File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn paths(opened: &Opened) -> Vec<&str> {
    opened.inputs.iter().map(|input| input.path.rsplit('/').next().unwrap()).collect()
}

fn config_says(error: &Error, said: &[&str]) {
    assert!(matches!(error, Error::Config(_)), "{error:?}");
    assert_eq!(error.exit_code(), 2);
    for said in said {
        assert!(error.to_string().contains(said), "{error}");
    }
}

fn data_loss_says(error: &Error, said: &[&str]) {
    assert!(matches!(error, Error::DataLoss(_)), "{error:?}");
    assert_eq!(error.exit_code(), 3);
    for said in said {
        assert!(error.to_string().contains(said), "{error}");
    }
}

#[tokio::test]
async fn is_made_once() {
    let case = Case::parquet();
    let first = case.open().await.unwrap();
    assert!(first.created);
    assert_eq!(paths(&first), ["b.parquet", "c.parquet"]);
    assert_eq!((first.rows(), first.partitions(None, None).len()), (30, 4));
    let bytes = std::fs::read(case.dir.path().join("out/.lm4lv/plan.json")).unwrap();
    let second = case.open().await.unwrap();
    assert!(!second.created);
    assert_eq!(first.plan, second.plan);
    assert_eq!(bytes, std::fs::read(case.dir.path().join("out/.lm4lv/plan.json")).unwrap());
    let read = Opened::read(&case.sink).await.unwrap().unwrap();
    assert_eq!((read.plan, read.inputs), (first.plan, first.inputs));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_get_the_same() {
    for case in [Case::parquet(), Case::images()] {
        let discovery = case.discover().await.unwrap();
        let opened = futures::future::join_all((0..8).map(|_| case.open_with(&discovery))).await;
        let opened: Vec<_> = opened.into_iter().map(Result::unwrap).collect();
        assert_eq!(opened.iter().filter(|opened| opened.created).count(), 1);
        assert!(opened.iter().all(|other| other.plan == opened[0].plan));
    }
}

#[tokio::test]
async fn keeps_its_rows_per_partition() {
    let mut case = Case::parquet();
    case.open().await.unwrap();
    let SourceConfig::Parquet(config) = &mut case.config else { panic!() };
    config.rows_per_partition = 3.try_into().unwrap();
    case.extend = true;
    case.write("d.parquet", 11);
    let opened = case.open().await.unwrap();
    assert_eq!(opened.partitions(None, None).len(), 6);
}

#[tokio::test]
async fn refuses_a_folder_of_other_things() {
    let case = Case::parquet();
    std::fs::create_dir_all(case.dir.path().join("out/.lm4lv/scratch")).unwrap();
    std::fs::write(case.dir.path().join("out/thesis.tex"), "x").unwrap();
    config_says(&case.refused().await, &["thesis.tex", "empty or a new folder"]);
    std::fs::remove_file(case.dir.path().join("out/thesis.tex")).unwrap();
    assert!(case.open().await.unwrap().created);
    std::fs::write(case.dir.path().join("out/thesis.tex"), "x").unwrap();
    case.open().await.unwrap();

    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let mut case = Case::parquet();
    case.sink = Folder::Remote { store: store.clone(), prefix: "a/out".into(), url: "s3://b/a/out".into() };
    put(&store, "a/outer/x").await;
    put(&store, "a/out/.lm4lv/scratch/x").await;
    put(&store, "a/out/sub/x").await;
    config_says(&case.refused().await, &["s3://b/a/out holds \"sub\""]);
    case.sink = Folder::Remote { store, prefix: "a/oute".into(), url: "s3://b/a/oute".into() };
    assert!(case.open().await.unwrap().created);
}

async fn put(store: &Arc<dyn ObjectStore>, path: &str) {
    store.put_opts(&path.into(), "x".into(), PutOptions::default()).await.unwrap();
}

#[tokio::test]
async fn refuses_a_store_that_overwrites() {
    let mut case = Case::parquet();
    let store = Arc::new(Overwriting(InMemory::new()));
    case.sink = Folder::Remote { store, prefix: "out".into(), url: "s3://b/out".into() };
    config_says(&case.refused().await, &["s3://b/out", "create-if-absent"]);
    // Also with a plan that stands.
    config_says(&case.refused().await, &["s3://b/out", "create-if-absent"]);
}

#[tokio::test]
async fn says_which_settings_differ() {
    let mut case = Case::parquet();
    case.open().await.unwrap();
    case.content["degrade"]["seed"] = 7.into();
    case.content["degrade"]["recipe"][0]["jpeg"]["quality"] = json!([40, 95]);
    let error = case.refused().await;
    config_says(
        &error,
        &["degrade.seed: 0 → 7", "degrade.recipe.0.jpeg.quality: [30,95] → [40,95]", "--accept-change 1"],
    );
    case.schema_hash = "t".into();
    config_says(&case.refused().await, &["other columns", "degrade.seed: 0 → 7", "another sink.dir"]);
    case.accept_change = Some(1);
    config_says(&case.refused().await, &["other columns"]);
}

#[tokio::test]
async fn the_order_of_keys_is_no_difference() {
    let mut case = Case::parquet();
    case.content = json!({ "a": { "x": 1, "y": 2 }, "b": [] });
    let first = case.open().await.unwrap();
    case.content = json!({ "b": [], "a": { "y": 2, "x": 1 } });
    assert_eq!(case.open().await.unwrap().content_hash, first.content_hash);
}

#[tokio::test]
async fn changes_are_accepted_one_after_the_other() {
    let mut case = Case::parquet();
    let before = case.open().await.unwrap();
    let old = case.content.clone();
    case.content["degrade"]["seed"] = 7.into();
    case.accept_change = Some(2);
    config_says(&case.refused().await, &["--accept-change 2", "number 1"]);
    case.accept_change = Some(1);
    let changed = case.open().await.unwrap();
    assert_eq!(changed.changes, 1);
    assert_ne!(changed.content_hash, before.content_hash);
    // The same command again, another worker's, and one that needs not say it any more.
    assert_eq!(case.open().await.unwrap().changes, 1);
    case.accept_change = None;
    assert_eq!(case.open().await.unwrap().content_hash, changed.content_hash);
    // A worker that was started before.
    changed.check_current(&case.sink).await.unwrap();
    config_says(&before.check_current(&case.sink).await.unwrap_err(), &["change-1.json", "degrade.seed: 7 → 0"]);
    // The old settings are a change like any other.
    case.content = old;
    config_says(&case.refused().await, &["degrade.seed: 7 → 0", "--accept-change 2"]);
    case.accept_change = Some(1);
    config_says(&case.refused().await, &["--accept-change 2"]);
    case.accept_change = Some(2);
    let back = case.open().await.unwrap();
    assert_eq!((back.changes, &back.content_hash), (2, &before.content_hash));
    before.check_current(&case.sink).await.unwrap();
    config_says(&changed.check_current(&case.sink).await.unwrap_err(), &["change-2.json"]);
}

#[tokio::test]
async fn a_changed_file_stops_the_run() {
    let case = Case::parquet();
    case.open().await.unwrap();
    let original = std::fs::read(case.input("b.parquet")).unwrap();

    case.write("b.parquet", 26);
    data_loss_says(&case.refused().await, &["b.parquet", "the file changed"]);

    // Same size, another footer.
    let mut edited = original.clone();
    let at = edited.windows(9).rposition(|window| window == b"parquet-r").unwrap();
    edited[at] = b'P';
    std::fs::write(case.input("b.parquet"), &edited).unwrap();
    data_loss_says(&case.refused().await, &["b.parquet", "the file changed"]);

    std::fs::write(case.input("b.parquet"), "no longer Parquet").unwrap();
    data_loss_says(&case.refused().await, &["b.parquet", "the file changed"]);

    std::fs::remove_file(case.input("b.parquet")).unwrap();
    data_loss_says(&case.refused().await, &["b.parquet", "has gone"]);

    std::fs::write(case.input("b.parquet"), &original).unwrap();
    case.open().await.unwrap();

    std::fs::remove_file(case.input("c.parquet")).unwrap();
    data_loss_says(&case.refused().await, &["c.parquet", "has gone"]);
    std::fs::remove_file(case.input("b.parquet")).unwrap();
    data_loss_says(&case.refused().await, &["b.parquet", "has gone"]);
}

#[tokio::test]
async fn a_file_that_changes_during_the_run_stops_it() {
    use lm4lv::source::{Event, Source, open};
    let case = Case::parquet();
    let discovery = case.discover().await.unwrap();
    let opened = case.open_with(&discovery).await.unwrap();
    case.write("b.parquet", 24);
    let mut source = open(discovery, &opened, opened.partitions(None, None)).unwrap();
    let error = loop {
        match source.next(true).await {
            Ok(Some(Event::Assigned { partition, .. })) => source.start(partition, 0, 0).unwrap(),
            Ok(other) => panic!("{other:?}"),
            Err(error) => break error,
        }
    };
    data_loss_says(&error, &["b.parquet", "the file changed"]);
}

#[tokio::test]
async fn a_file_that_is_named_no_more_is_another_input() {
    let mut case = Case::parquet();
    case.open().await.unwrap();
    for name in ["b.parquet", "c.parquet"] {
        let SourceConfig::Parquet(config) = &mut case.config else { panic!() };
        config.path.0 = vec![case.dir.path().join("in").join(name).display().to_string()];
        config_says(&case.refused().await, &["does not name", "sink.dir of its own"]);
    }
    case.config =
        serde_saphyr::from_str(&format!("folder: {{ path: {:?}, include: ['*'] }}", case.dir.path().join("in")))
            .unwrap();
    config_says(&case.refused().await, &["source.folder.path", "b.parquet"]);
}

#[tokio::test]
async fn new_files_are_counted_and_added_on_demand() {
    let mut case = Case::parquet();
    case.open().await.unwrap();
    // It sorts before the first one, and has other columns that nobody reads.
    case.write("a.parquet", 12);
    let counted = case.open().await.unwrap();
    assert_eq!(counted.new, [case.input("a.parquet").display().to_string()]);
    assert_eq!(paths(&counted), ["b.parquet", "c.parquet"]);
    case.extend = true;
    let extended = case.open().await.unwrap();
    assert!(extended.new.is_empty());
    assert_eq!(paths(&extended), ["b.parquet", "c.parquet", "a.parquet"]);
    let names: Vec<_> = extended.partitions(None, None).iter().map(|p| p.partition.to_string()).collect();
    assert_eq!(names, ["00000-00000", "00000-00001", "00000-00002", "00001-00000", "00002-00000", "00002-00001"]);
    case.write("d.parquet", 1);
    assert_eq!(paths(&case.open().await.unwrap()), ["b.parquet", "c.parquet", "a.parquet", "d.parquet"]);
    case.extend = false;
    let later = case.open().await.unwrap();
    assert_eq!(paths(&later), ["b.parquet", "c.parquet", "a.parquet", "d.parquet"]);
    assert_eq!(later.plan.inputs.len(), 2);
    case.write("a.parquet", 13);
    data_loss_says(&case.refused().await, &["a.parquet", "the file changed"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_extend_at_once_add_each_file_once() {
    let mut case = Case::parquet();
    case.open().await.unwrap();
    case.extend = true;
    case.write("d.parquet", 3);
    let one = case.discover().await.unwrap();
    case.write("e.parquet", 3);
    let both = case.discover().await.unwrap();
    let (a, b) = tokio::join!(case.open_with(&one), case.open_with(&both));
    // Who looked too early may find a file in the plan that it never saw: it must look again.
    let b = b.unwrap();
    if let Err(error) = a {
        assert!(matches!(&error, Error::Unavailable { reason, .. } if reason.contains("e.parquet")), "{error:?}");
    }
    let mut found = paths(&b);
    found.sort();
    assert_eq!(found, ["b.parquet", "c.parquet", "d.parquet", "e.parquet"]);
    let read = Opened::read(&case.sink).await.unwrap().unwrap();
    assert_eq!(read.inputs, b.inputs);
}

#[tokio::test]
async fn new_images_are_counted_and_added_on_demand() {
    let mut case = Case::images();
    let first = case.open().await.unwrap();
    assert_eq!(first.partitions(None, None).len(), 2);
    std::fs::write(case.input("aa.png"), "x").unwrap();
    std::fs::write(case.input("05b.png"), "x").unwrap();
    std::fs::write(case.input("05.png"), "changed").unwrap();
    std::fs::remove_file(case.input("06.png")).unwrap();
    assert_eq!(case.open().await.unwrap().new, ["05b.png", "aa.png"]);
    case.extend = true;
    let extended = case.open().await.unwrap();
    assert_eq!(extended.inputs.iter().map(|input| input.rows).collect::<Vec<_>>(), [12, 2]);
    assert!(extended.new.is_empty());
    assert_eq!(case.open().await.unwrap().inputs, extended.inputs);
    for entry in std::fs::read_dir(case.dir.path().join("in")).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    data_loss_says(&case.refused().await, &["have gone", "is the disk mounted"]);
    std::fs::remove_dir(case.dir.path().join("in")).unwrap();
    data_loss_says(&case.refused().await, &["have gone"]);
}

#[tokio::test]
async fn a_sink_in_the_source_is_no_input() {
    let mut case = Case::images();
    case.sink = Folder::Local(case.input("out"));
    case.open().await.unwrap();
    std::fs::create_dir_all(case.input("out/report")).unwrap();
    std::fs::write(case.input("out/report/sheet.png"), "x").unwrap();
    assert!(case.open().await.unwrap().new.is_empty());
}

#[tokio::test]
async fn damage_is_named() {
    let case = Case::images();
    case.open().await.unwrap();
    let state = case.dir.path().join("out/.lm4lv");
    let plan = std::fs::read_to_string(state.join("plan.json")).unwrap();
    for (text, said) in [
        (plan.replace("\"format\": 1", "\"format\": 2"), None),
        (plan.replace("\"inputs\"", "\"imputs\""), Some("imputs")),
        (plan[..plan.len() / 2].to_owned(), Some("EOF")),
        (String::new(), Some("EOF")),
        (plan.replace("\"rows\": 12", "\"rows\": 13"), Some("not the one that the plan was made with")),
        (plan.replace("\"rows_per_partition\": 10", "\"rows_per_partition\": 0"), Some("make no sense")),
        (plan.replace("listing-", "../listing-"), Some("that none can have")),
    ] {
        std::fs::write(state.join("plan.json"), text).unwrap();
        let error = Opened::read(&case.sink).await.unwrap_err();
        match said {
            Some(said) => data_loss_says(&error, &["out/.lm4lv", said]),
            None => config_says(&error, &["plan.json has format 2"]),
        }
    }
    std::fs::write(state.join("plan.json"), &plan).unwrap();
    let listing = Opened::read(&case.sink).await.unwrap().unwrap().inputs[0].listing.clone().unwrap();
    let bytes = std::fs::read(state.join(&listing)).unwrap();
    std::fs::write(state.join(&listing), &bytes[..bytes.len() - 6]).unwrap();
    data_loss_says(&Opened::read(&case.sink).await.unwrap_err(), &["listing-"]);
    std::fs::remove_file(state.join(&listing)).unwrap();
    data_loss_says(&Opened::read(&case.sink).await.unwrap_err(), &["listing-", "missing"]);
}

#[tokio::test]
async fn relative_references_start_in_the_inputs_folder() {
    let root = async |files: &[&str], paths: &str| {
        let case = Case::new(&format!("parquet: {{ path: {paths} }}"));
        for file in files {
            std::fs::create_dir_all(case.input(file).parent().unwrap()).unwrap();
            case.write(file, 1);
        }
        let root = case.open().await.unwrap().default_root().unwrap();
        root.strip_prefix(case.dir.path().join("in").to_str().unwrap()).unwrap().to_owned()
    };
    assert_eq!(root(&["a.parquet"], "DIR/a.parquet").await, "/");
    assert_eq!(root(&["x/a.parquet", "x/b.parquet"], "DIR").await, "/x/");
    assert_eq!(root(&["x/a.parquet", "xy/b.parquet"], "DIR").await, "/");
    assert_eq!(root(&["x/a.parquet", "x/y/z/b.parquet"], "DIR/**/*.parquet").await, "/x/");
}

/// A store that takes `PutMode::Create` for a plain PUT, as S3-compatible servers without conditional writes do.
#[derive(Debug)]
struct Overwriting(InMemory);

impl fmt::Display for Overwriting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Overwriting")
    }
}

type Answer<'a, T> = Pin<Box<dyn Future<Output = object_store::Result<T>> + Send + 'a>>;

impl ObjectStore for Overwriting {
    fn put_opts<'a, 'b, 'c>(
        &'a self,
        path: &'b ObjectPath,
        data: PutPayload,
        options: PutOptions,
    ) -> Answer<'c, PutResult>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        self.0.put_opts(path, data, PutOptions { mode: PutMode::Overwrite, ..options })
    }

    fn put_multipart_opts<'a, 'b, 'c>(
        &'a self,
        path: &'b ObjectPath,
        options: PutMultipartOptions,
    ) -> Answer<'c, Box<dyn MultipartUpload>>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        self.0.put_multipart_opts(path, options)
    }

    fn get_opts<'a, 'b, 'c>(&'a self, path: &'b ObjectPath, options: GetOptions) -> Answer<'c, GetResult>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        self.0.get_opts(path, options)
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, object_store::Result<ObjectPath>>,
    ) -> BoxStream<'static, object_store::Result<ObjectPath>> {
        self.0.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&ObjectPath>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.0.list(prefix)
    }

    fn list_with_delimiter<'a, 'b, 'c>(&'a self, prefix: Option<&'b ObjectPath>) -> Answer<'c, ListResult>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        self.0.list_with_delimiter(prefix)
    }

    fn copy_opts<'a, 'b, 'd, 'c>(
        &'a self,
        from: &'b ObjectPath,
        to: &'d ObjectPath,
        options: CopyOptions,
    ) -> Answer<'c, ()>
    where
        'a: 'c,
        'b: 'c,
        'd: 'c,
        Self: 'c,
    {
        self.0.copy_opts(from, to, options)
    }
}
