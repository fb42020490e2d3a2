//! From a pipeline file to a run: opens what it names, decides the plan, and drives it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{Pipeline, ReportConfig};
use crate::degrade::Degrade;
use crate::error::{Error, Result};
use crate::load::{self, LoadConfig, Loader, Prepare};
use crate::pipeline::restore::Cutter;
use crate::pipeline::watched::Watched;
use crate::pipeline::{Ended, Meter, Parts, drive};
use crate::plan::{Opened, Plan, PlannedPartition, Wanted};
use crate::report::sheet::SheetOptions;
use crate::report::summary::Summary;
use crate::report::{self, Order};
use crate::restore::{self, RestoreConfig, Restorer};
use crate::sample::Record;
use crate::score::Score;
use crate::sink::{Chain, Columns, Dataset, Encode, Events, ImageColumn, Sink, card};
use crate::source::{self, Discovery, Look, SourceConfig};
use crate::stage::Stage;
use crate::store::{Folder, patiently};

/// The contact sheet, below the dataset's folder.
const SHEET: &str = "report/sheet.png";

/// Parts of full size that may wait on the local disk for a slow store before intake pauses.
const QUEUED_PARTS: u64 = 4;

/// Records that may wait to be handed on where nothing is loaded.
const PASSING: usize = 2000;

/// What the command line adds to the pipeline file.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Do the partitions `k` with `k mod n = i`.
    pub shard: Option<(u64, u64)>,
    /// Do the first positions in plan order only.
    pub limit: Option<u64>,
    /// Add inputs that appeared since the dataset was planned.
    pub extend: bool,
    /// Go on although what makes a row has changed, as change number n.
    pub accept_change: Option<u32>,
}

impl Pipeline {
    /// The image columns that this pipeline makes.
    pub fn made_images(&self) -> Vec<ImageColumn> {
        let made = |image: &ImageColumn| match image {
            ImageColumn::Input => true,
            ImageColumn::Target => self.degrade.is_some() || self.source.has_target(),
            ImageColumn::Output => self.restore.is_some(),
            ImageColumn::Baseline => self.restore.as_ref().is_some_and(RestoreConfig::baseline),
        };
        ImageColumn::ALL.iter().copied().filter(made).collect()
    }

    /// The output's columns; the kept ones are those of `discovery`, none without. `Error::Config` names a kept column that
    /// the output cannot have.
    pub fn columns(&self, discovery: Option<&Discovery>) -> Result<Columns> {
        let mut timings = if self.load.is_some() { vec!["fetch", "decode"] } else { Vec::new() };
        timings.extend(self.degrade.as_ref().map(|_| "degrade"));
        timings.extend(self.restore.as_ref().map(|_| "restore"));
        timings.extend((!self.score.is_empty()).then_some("score"));
        timings.push("encode");
        let made = self.made_images();
        let scored = made.into_iter().filter(|image| *image != ImageColumn::Target);
        let columns = Columns {
            images: self.image_columns()?,
            restores: self.restore.is_some(),
            scores: scored
                .flat_map(|image| self.score.iter().map(move |score| score.column(image.name()).into()))
                .collect(),
            kept: match (&self.source, discovery) {
                (SourceConfig::Kafka(config), _) => config.kept_fields().into(),
                (_, Some(found)) => found.kept_fields().iter().cloned().collect(),
                (_, None) => Default::default(),
            },
            messages: matches!(self.source, SourceConfig::Kafka(_)),
            timings,
            seed: self.degrade.as_ref().map(|degrade| degrade.seed),
            variants: self.variants(),
        };
        columns.check()?;
        self.numbers(&columns)?;
        Ok(columns)
    }

    /// Refuses kept columns that the recipe draws numbers from and that hold none.
    fn numbers(&self, columns: &Columns) -> Result<()> {
        let Some(degrade) = &self.degrade else { return Ok(()) };
        for name in degrade.columns() {
            let Some(kept) = columns.kept.iter().find(|field| *field.name() == name) else { continue };
            let data = kept.data_type();
            if !Record::can_give_numbers(data) {
                return Err(Error::Config(format!(
                    "degrade.recipe: column `{name}` has type {data}, and a parameter is a number: every row would fail"
                )));
            }
        }
        Ok(())
    }

    /// Rows for each input position.
    pub fn variants(&self) -> u16 {
        self.degrade.as_ref().map_or(1, |degrade| degrade.variants)
    }

    /// The stages behind loading, in order: those before `restore`, and those behind it.
    fn stages(&self) -> Result<[Vec<Box<dyn Stage>>; 2]> {
        let mut before: Vec<Box<dyn Stage>> = Vec::new();
        if let Some(degrade) = &self.degrade {
            before.push(Box::new(Degrade::new(degrade).map_err(Error::Config)?));
        }
        let mut behind: Vec<Box<dyn Stage>> = Vec::new();
        if !self.score.is_empty() {
            behind.push(Box::new(Score::new(&self.score)));
        }
        behind.push(Box::new(Encode::new(&self.sink, &self.image_columns()?)));
        Ok([before, behind])
    }
}

/// Runs `pipeline` until every partition of this process is done, or until `stop` resolves and what is in work has been
/// published. `meter` may be read meanwhile.
pub async fn run(
    pipeline: &Pipeline,
    options: &Options,
    meter: Arc<Meter>,
    stop: impl Future<Output = ()>,
) -> Result<(Summary, Ended)> {
    let watched = Watched::start(pipeline.http, &meter).await?;
    let outcome = match pipeline.restore.as_ref().map(restore::open).transpose() {
        Ok(restorer) => run_with(pipeline, options, meter, stop, restorer.map(Arc::from)).await,
        Err(error) => Err(error),
    };
    watched.end().await;
    outcome
}

/// [`run`] with a restorer that is there already, in place of the one that section `restore` asks for; without the section there
/// is none to be given.
pub async fn run_with(
    pipeline: &Pipeline,
    options: &Options,
    meter: Arc<Meter>,
    stop: impl Future<Output = ()>,
    restorer: Option<Arc<dyn Restorer>>,
) -> Result<(Summary, Ended)> {
    let weights = restorer.as_ref().map(|restorer| restorer.stamp().weights_sha256.clone()).unwrap_or_default();
    let cutter = match (&pipeline.restore, restorer) {
        (Some(config), Some(restorer)) => Some(Cutter::new(config, restorer)?),
        (None, None) => None,
        _ => return Err(Error::Bug("a restorer without a section `restore`, or that without a restorer".into())),
    };
    let folder = pipeline.stores.folder(&pipeline.sink.dir)?;
    let give_up = Duration::from_secs(pipeline.run.storm.give_up_s);
    // Looking and planning go together: what another process planned meanwhile is only seen by a new look.
    let (discovery, columns, opened) = patiently(give_up, || plan(pipeline, options, &folder, &weights)).await?;
    for note in discovery.notes() {
        tracing::info!("{note}");
    }
    let opened = Arc::new(opened);
    let partitions = opened.partitions(options.shard, options.limit);
    if opened.plan.topics.is_empty() {
        meter.plan_for(&partitions, pipeline.variants());
    } else if options.shard.is_some() {
        return Err(Error::Config(
            "--shard: a topic's partitions are shared out by its consumer group: start more processes instead".into(),
        ));
    }

    let events = tokio::task::block_in_place(|| Events::open(&pipeline.events))?;
    let dataset = Dataset { events: events.map(Arc::new), ..dataset(pipeline, &folder, &opened, &columns) };
    card::write_card(&dataset, &columns, &pipeline.sink.split).await?;
    let load = pipeline.load.as_ref();
    let root = opened.default_root();
    let budget = pipeline.run.memory();
    let loader = load.map(|load| Loader::new(load, &pipeline.stores, root.as_deref(), budget / 4)).transpose()?;
    let longest = load.map(LoadConfig::max_bytes);
    let fits = move |reference: &str| longest.is_none_or(|max| load::fits(reference, max));
    let seed = pipeline.degrade.as_ref().map_or(0, |degrade| degrade.seed);
    let turns = pipeline.degrade.as_ref().map_or(Ok(false), |degrade| degrade.turns()).map_err(Error::Bug)?;
    let prepare = load.map(|load| Prepare::new(load, seed, pipeline.variants()).turned(turns));
    let writer = format!("{}-{}", std::process::id(), uuid::Uuid::new_v4().simple());
    let run = uuid::Uuid::new_v4().to_string();
    let (version, count) = (env!("CARGO_PKG_VERSION"), partitions.len());
    tracing::info!(
        version,
        dataset = dataset.id,
        dir = pipeline.sink.dir,
        writer,
        run,
        partitions = count,
        "run begins"
    );
    let parts = Parts {
        bounds: discovery.bounds(),
        source: source::open_where(discovery, &opened, partitions, Arc::new(fits), options.limit)?,
        loader: loader.map(Arc::new),
        prepare: prepare.map(|prepare| match &pipeline.restore {
            Some(restore) => prepare.restored(restore.baseline()),
            None => prepare,
        }),
        stages: pipeline.stages()?,
        cutter,
        opened: Arc::clone(&opened),
        sink: Sink::new(dataset, columns, &pipeline.sink, &run, &writer)?,
        // Without `load` nothing is fetched: so many records wait at most.
        concurrency: load.map_or(PASSING, |load| load.concurrency as usize),
        max_queued: QUEUED_PARTS * (pipeline.sink.max_part_mib << 20),
        run: pipeline.run.clone(),
        meter: Arc::clone(&meter),
    };
    let dataset = parts.sink.dataset();
    let mut stop = std::pin::pin!(stop);
    let mut ended = drive(parts, stop.as_mut()).await?;

    let mut summary =
        Summary { dir: pipeline.sink.dir.clone(), new_inputs: opened.new.len() as u64, ..meter.summary() };
    if ended == Ended::Done {
        // Of a stream that was to end, too.
        summary.rows_left.get_or_insert(0);
    }
    if summary.was_done() && matches!(dataset.folder, Folder::Local(_)) {
        let rows = report::rows::Dataset::open(dataset.folder.clone(), &pipeline.sink.dir).await?;
        summary.failed_before = report::failures::failures(&rows, 0).await?.by_code;
    }
    if ended == Ended::Done {
        tokio::select! {
            biased;
            sheet = report(pipeline, &dataset, &opened, summary.rows > 0) => summary.sheet = sheet?,
            // Drawing can wait for a store; the rows are all there.
            () = &mut stop => ended = Ended::Drained,
        }
    }
    Ok((summary, ended))
}

/// Looks at the source and decides the plan.
async fn plan(
    pipeline: &Pipeline,
    options: &Options,
    folder: &Folder,
    weights: &str,
) -> Result<(Discovery, Columns, Opened)> {
    let known = Opened::read(folder).await?;
    let look = Look {
        config: &pipeline.source,
        stores: &pipeline.stores,
        sink: Some(folder),
        known: known.as_ref(),
        reserved: Columns::reserved(pipeline.restore.is_some()),
    };
    let discovery = source::discover(look).await?;
    let columns = pipeline.columns(Some(&discovery))?;
    let wanted = Wanted {
        content: &pipeline.content(weights),
        schema_hash: &columns.hash(),
        discovery: &discovery,
        rows_per_partition: pipeline.source.rows_per_partition().get(),
        accept_change: options.accept_change,
        extend: options.extend,
    };
    let opened = Plan::open_or_create(folder, wanted).await?;
    Ok((discovery, columns, opened))
}

fn dataset(pipeline: &Pipeline, folder: &Folder, opened: &Opened, columns: &Columns) -> Dataset {
    Dataset {
        folder: folder.clone(),
        id: opened.plan.dataset.clone(),
        content_hash: opened.content_hash.clone(),
        schema_hash: columns.hash(),
        source: opened.source_identity(),
        give_up: Duration::from_secs(pipeline.run.storm.give_up_s),
        events: None,
    }
}

/// Draws what the `report` section asks for, once every chain of the dataset (not only this process's) is complete. Where it
/// is, or `None` if there is nothing to draw yet.
async fn report(pipeline: &Pipeline, dataset: &Dataset, opened: &Opened, wrote: bool) -> Result<Option<String>> {
    let ReportConfig::Sheet(sheet) = &pipeline.report else { return Ok(None) };
    if !wrote && dataset.folder.size(SHEET).await?.is_some() {
        return Ok(Some(dataset.folder.place(SHEET)));
    }
    for PlannedPartition { partition, planned_rows, .. } in opened.partitions(None, None) {
        if Chain::recover(dataset, &partition, 0).await?.end() < planned_rows {
            return Ok(None);
        }
    }
    let rows = report::rows::Dataset::open(dataset.folder.clone(), &pipeline.sink.dir).await?;
    let options = SheetOptions { records: sheet.rows as usize, order: Order::Spread };
    let png = report::sheet::make(&rows, &options).await?;
    dataset.folder.put(SHEET, png.into()).await?;
    Ok(Some(dataset.folder.place(SHEET)))
}
