//! Combinations of keys that cannot work, each with the key to blame and what would work instead.

use super::{Pipeline, ReportConfig};
use crate::degrade::Target;
use crate::error::Error;
use crate::load::config::{Crop, ResizeMode};
use crate::report::sheet::MAX_RECORDS;
use crate::sink::{Columns, ImageColumn};
use crate::source::SourceConfig;

/// A combination that cannot work.
pub(super) struct Problem {
    /// The key to blame, such as `degrade.recipe[0]`.
    pub(super) path: String,
    /// A key and its value somewhere below `path` that say more precisely where.
    pub(super) at: Option<(&'static str, String)>,
    /// What is wrong and what to do.
    pub(super) message: String,
}

/// Sections' own complaints begin with their key: `load.crop.centre.size: …`.
impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        let is_key = |key: &str| key.contains('.') && !key.contains(|c: char| c.is_whitespace() || c == '`');
        match text.split_once(": ") {
            Some((key, message)) if is_key(key) => problem(key, message),
            _ => problem("", text),
        }
    }
}

fn problem(path: impl Into<String>, message: impl Into<String>) -> Problem {
    Problem { path: path.into(), at: None, message: message.into() }
}

/// Checks ranges that the types cannot say, and keys of one section against those of another.
pub(super) fn check(pipeline: &Pipeline) -> Result<(), Problem> {
    if let Some(load) = &pipeline.load {
        load.check()?;
        crop_fits(load)?;
    }
    pipeline.sink.check()?;
    pipeline.events.check()?;
    source(pipeline)?;
    degrade(pipeline)?;
    restore(pipeline)?;
    score(pipeline)?;
    images(pipeline)?;
    run(pipeline)
}

fn crop_fits(load: &crate::load::LoadConfig) -> Result<(), Problem> {
    let (path, crop) = match &load.crop {
        Crop::None => return Ok(()),
        Crop::Centre(crop) => ("load.crop.centre.size", crop.size),
        Crop::Random(crop) => ("load.crop.random.size", crop.size),
    };
    let Some(resize) = &load.resize else { return Ok(()) };
    let fits = match resize.mode {
        // Small images may stay as they are: any size.
        _ if resize.only_shrink && resize.mode != ResizeMode::LongestSide => true,
        ResizeMode::Exact => crop.width <= resize.size.width && crop.height <= resize.size.height,
        ResizeMode::ShortestSide => crop.width.min(crop.height) <= resize.size.width,
        ResizeMode::LongestSide => crop.width.max(crop.height) <= resize.size.width,
    };
    match fits {
        true => Ok(()),
        false => Err(problem(path, "no image is that large after load.resize: every row would fail (too_small)")),
    }
}

fn source(pipeline: &Pipeline) -> Result<(), Problem> {
    let parquet = match &pipeline.source {
        SourceConfig::Parquet(parquet) => parquet,
        SourceConfig::Folder(_) => return Ok(()),
        SourceConfig::Kafka(kafka) => return Ok(kafka.check()?),
    };
    let reserved = Columns::reserved(pipeline.restore.is_some());
    for (index, name) in parquet.keep.iter().enumerate() {
        let path = || format!("source.parquet.keep[{index}]");
        if reserved(name) {
            return Err(problem(
                path(),
                format!("`{name}` is a column of the dataset already: rename it in the input"),
            ));
        }
        if parquet.keep[..index].contains(name) {
            return Err(problem(path(), format!("`{name}` is kept twice")));
        }
    }
    Ok(())
}

fn degrade(pipeline: &Pipeline) -> Result<(), Problem> {
    let Some(degrade) = &pipeline.degrade else { return Ok(()) };
    if i64::try_from(degrade.seed).is_err() {
        return Err(problem("degrade.seed", format!("at most {}, to fit its column", i64::MAX)));
    }
    if degrade.recipe.is_empty() && degrade.target != Target::Source {
        return Err(problem("degrade.target", "the recipe is empty: there is nothing to turn or degrade"));
    }
    if degrade.target == Target::Degraded && pipeline.source.has_target() {
        return Err(problem(
            "degrade.target",
            "`degraded` makes the target, but source.parquet.columns.target names one: drop one of the two",
        ));
    }
    let recipes = degrade.longest_by_variant();
    if recipes > usize::from(degrade.variants) {
        let message = format!(
            "by_variant has {recipes} recipes, of which {} would be done: set it to {recipes}",
            degrade.variants
        );
        return Err(problem("degrade.variants", message));
    }
    for name in degrade.columns() {
        let why = match &pipeline.source {
            SourceConfig::Parquet(parquet) if parquet.keep.iter().any(|kept| *kept == name || kept == "*") => continue,
            SourceConfig::Parquet(_) => format!("column `{name}` is not kept: add it to source.parquet.keep"),
            SourceConfig::Kafka(kafka) if kafka.kept_fields().iter().any(|field| *field.name() == name) => continue,
            SourceConfig::Kafka(_) => format!("field `{name}` is not kept: add it to source.kafka.message.json.keep"),
            SourceConfig::Folder(_) => {
                format!("column `{name}` cannot be there: a folder of images has no columns, a Parquet file has")
            }
        };
        return Err(Problem { path: "degrade.recipe".into(), at: Some(("column", name)), message: why });
    }
    Ok(())
}

fn restore(pipeline: &Pipeline) -> Result<(), Problem> {
    let Some(restore) = &pipeline.restore else { return Ok(()) };
    restore.check()?;
    let given = restore.model().is_some_and(|model| model.task.is_some());
    if restore.needs_task() && !given && !pipeline.source.has_task() {
        return Err(problem(
            format!("restore.{}.task", restore.name()),
            "is required: name one of the model's tasks here, or the column that has each record's as \
             source.parquet.columns.task",
        ));
    }
    Ok(())
}

fn score(pipeline: &Pipeline) -> Result<(), Problem> {
    for (index, score) in pipeline.score.iter().enumerate() {
        if pipeline.score[..index].contains(score) {
            return Err(problem(format!("score[{index}]"), format!("`{}` is asked for twice", score.as_str())));
        }
    }
    if !pipeline.score.is_empty() && pipeline.degrade.is_none() && !pipeline.source.has_target() {
        return Err(problem(
            "score",
            "a score compares an image with its target, and there is none: add a degrade section, or name the clean image's \
             column as source.parquet.columns.target",
        ));
    }
    Ok(())
}

fn images(pipeline: &Pipeline) -> Result<(), Problem> {
    let columns = pipeline.image_columns()?;
    if let ReportConfig::Sheet(sheet) = &pipeline.report {
        if !(1..=MAX_RECORDS).contains(&(sheet.rows as usize)) {
            return Err(problem("report.sheet.rows", format!("a number from 1 to {MAX_RECORDS} belongs here")));
        }
        if pipeline.load.is_none() || !columns.contains(&ImageColumn::Input) {
            return Err(problem("report.sheet", "the dataset will hold no decoded images to draw: drop the sheet"));
        }
    }
    Ok(())
}

fn run(pipeline: &Pipeline) -> Result<(), Problem> {
    let run = &pipeline.run;
    if run.memory_mib.is_some_and(|mib| !(64..=1 << 20).contains(&mib)) {
        return Err(problem("run.memory_mib", "from 64 (what images in work need) to 1048576 MiB"));
    }
    if !(0.0..=1.0).contains(&run.max_failed_share) {
        return Err(problem("run.max_failed_share", "a share lies between 0 and 1"));
    }
    if !(run.storm.share > 0.0 && run.storm.share <= 1.0) {
        return Err(problem("run.storm.share", "a share above 0 and up to 1 belongs here"));
    }
    if !(20..=100_000).contains(&run.storm.of_last) {
        return Err(problem("run.storm.of_last", "from 20 (a storm is judged from there on) to 100000 fetches"));
    }
    for (key, seconds) in [("run.drain_s", run.drain_s), ("run.storm.give_up_s", run.storm.give_up_s)] {
        if seconds > 31_536_000 {
            return Err(problem(key, "that is longer than a year"));
        }
    }
    Ok(())
}
