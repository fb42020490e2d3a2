//! The hop in the middle, where a pipeline restores: images become pieces of the restorer's size, one thread gathers pieces
//! of one task into batches, and what they came to becomes images again.
//!
//! A piece's neighbours do not matter, so the pieces of a large image may lie in several batches and a batch may hold pieces of
//! many images: it is full as long as there is input. A batch that is not full goes to the restorer when its oldest piece has
//! waited for `max_wait_ms`, and at once where nothing more can come: a worker waits for pixels that pieces hold, or all
//! that was read is here.
//!
//! (long because the way into a batch and the way out of it stand side by side)

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError};
use std::time::{Duration, Instant};

use super::workers::{Pixels, Taken};
use super::{Flow, Meter};
use crate::config::Count;
use crate::error::{Error, Result};
use crate::image::{Image, Planes, Rounding, Size};
use crate::restore::config::Sizes;
use crate::restore::tile::Cut;
use crate::restore::{RestoreConfig, Restored, Restorer, Stamp, TaskId, Trouble};
use crate::sample::{Failure, FailureCode, Item, Record, Restoration};

/// Pieces held at once, in batches, where the records name many tasks: then the fullest batches cannot be waited for.
const HELD_BATCHES: usize = 8;
/// Bytes that a step behind the restorer holds for each pixel of the one sample that it works on: the blended planes, maps of
/// a score.
const BEHIND: u64 = 36;

/// Cuts images into pieces and joins what they came to.
pub(crate) struct Cutter {
    restorer: Arc<dyn Restorer>,
    stamp: Arc<Stamp>,
    name: &'static str,
    /// The task of records that name none.
    task: Option<Arc<str>>,
    needs_task: bool,
    sizes: Sizes,
    quantize: Rounding,
    baseline: bool,
    pub(super) batch: usize,
    max_wait: Duration,
}

/// An image, or a tile of one, on its way to the restorer.
pub(crate) struct Piece {
    image: Image,
    task: TaskId,
    /// Which of its item's images it belongs to, and which piece of that it is.
    of: usize,
    at: usize,
    since: Instant,
}

/// An item between the stages before the restorer and those behind it.
pub(crate) struct Halfway {
    item: Item,
    images: Vec<Parted>,
    /// Pieces without an answer.
    left: usize,
    pixels: Taken,
}

impl Halfway {
    pub(crate) fn key(&self) -> String {
        self.item.record.key.clone()
    }
}

/// A sample's image in pieces.
struct Parted {
    sample: usize,
    cut: Cut,
    task: Option<Arc<str>>,
    answers: Vec<Option<Restored>>,
    /// Of the batches' time, what its pieces took.
    ms: f32,
}

impl Cutter {
    /// `Error::Config` where the pipeline file does not suit the model.
    pub(crate) fn new(config: &RestoreConfig, restorer: Arc<dyn Restorer>) -> Result<Self> {
        let model = config.model();
        let sizes = model.map(|model| model.sizes).unwrap_or_default();
        if let (Some(side), Sizes::Tile(tile)) = (restorer.side(), sizes)
            && u64::from(tile.overlap_px) * 2 >= u64::from(side)
        {
            return Err(Error::Config(format!(
                "restore.{}.sizes.tile.overlap_px: {} is not less than half the model's side of {side} pixels",
                config.name(),
                tile.overlap_px
            )));
        }
        let task = model.and_then(|model| model.task.as_deref());
        if let Some(task) = task
            && restorer.task(task).is_none()
        {
            let why = no_such_task(task, &*restorer);
            return Err(Error::Config(format!("restore.{}.task: {why}", config.name())));
        }
        let batch = match model.map(|model| model.batch) {
            Some(Count::Of(n)) => n.get(),
            Some(Count::Auto) | None => restorer.batch().max(1),
        };
        Ok(Self {
            stamp: Arc::new(restorer.stamp().clone()),
            name: config.name(),
            task: task.map(Into::into),
            needs_task: config.needs_task(),
            sizes,
            quantize: config.quantize(),
            baseline: config.baseline(),
            batch,
            max_wait: Duration::from_millis(model.map_or(0, |model| model.max_wait_ms)),
            restorer,
        })
    }

    /// The record's task; the `Err` says what is wrong with it.
    fn task(&self, record: &Record) -> Result<(TaskId, Option<Arc<str>>), String> {
        if !self.needs_task {
            return Ok((TaskId(0), None));
        }
        let name = record.task.as_deref().map(Into::into).or_else(|| self.task.clone());
        let name = name.ok_or_else(|| {
            let tasks = self.restorer.tasks().join(", ");
            format!("the record names no task, and restore.{}.task gives none; the model has {tasks}", self.name)
        })?;
        let task = self.restorer.task(&name).ok_or_else(|| no_such_task(&name, &*self.restorer))?;
        Ok((task, Some(name)))
    }

    /// Cuts the images of an item whose pixels are counted as `pixels`.
    pub(crate) fn cut(&self, mut item: Item, mut pixels: Taken) -> (Halfway, Vec<Piece>) {
        let (mut images, mut pieces) = (Vec::new(), Vec::new());
        let task = self.task(&item.record);
        let since = Instant::now();
        for (index, sample) in item.samples.iter_mut().enumerate() {
            let Some(image) = sample.image.as_ref().filter(|_| sample.failure.is_none()) else { continue };
            let (task, name) = match &task {
                Ok((task, name)) => (*task, name.clone()),
                Err(why) => {
                    let message = format!("restore: {why}");
                    sample.failure = Some(Failure { code: FailureCode::Task, message });
                    continue;
                }
            };
            let cut = Cut::new(image.size(), self.restorer.side(), self.sizes);
            let parts = cut.pieces(image);
            let answers = parts.iter().map(|_| None).collect();
            let of = images.len();
            let piece = |(at, image)| Piece { image, task, of, at, since };
            pieces.extend(parts.into_iter().enumerate().map(piece));
            images.push(Parted { sample: index, cut, task: name, answers, ms: 0.0 });
        }
        pixels.change_to(self.holds(&item, &images, &pieces));
        let left = pieces.len();
        (Halfway { item, images, left, pixels }, pieces)
    }

    /// Bytes that an item holds from here to its end, answers and encoded images included.
    fn holds(&self, item: &Item, images: &[Parted], pieces: &[Piece]) -> u64 {
        let outputs = if self.baseline { 2 } else { 1 };
        let of_pieces: u64 = pieces.iter().map(|piece| piece.image.as_bytes().len() as u64).sum();
        let made = images.iter().map(|parted| parted.cut.output().pixels() as u64);
        let (made, largest) = made.fold((0, 0), |(sum, largest), pixels| (sum + pixels, pixels.max(largest)));
        let levels = |image: &Image| image.as_bytes().len() as u64;
        // Each is encoded besides.
        let of_samples = item
            .samples
            .iter()
            .map(|sample| 2 * (sample.image.as_ref().map_or(0, levels) + sample.target.as_deref().map_or(0, levels)));
        // All variants share these.
        let origins = item.samples.first().map(|sample| [&sample.origin, &sample.target_origin]);
        let files = origins.into_iter().flatten().flatten().map(|origin| origin.bytes.len() as u64);
        item.record.bytes()
            + files.sum::<u64>()
            + of_samples.sum::<u64>()
            + of_pieces * (1 + 4 * outputs)
            + made * 6 * outputs
            + largest * BEHIND
    }

    /// Makes images of the answers. With the item come its pixels, to be held until it is encoded.
    pub(crate) fn join(&self, halfway: Halfway) -> Result<(Item, Taken)> {
        let Halfway { mut item, images, pixels, .. } = halfway;
        for parted in images {
            let started = Instant::now();
            let (mut outputs, mut baselines, mut passes) = (Vec::new(), Vec::new(), None);
            for answer in parted.answers.into_iter().flatten() {
                outputs.push(answer.output);
                baselines.extend(answer.baseline);
                passes = passes.max(answer.passes);
            }
            let join = |answers: Vec<Planes>| {
                let joined = parted.cut.join(answers).map(|planes| planes.to_image(self.quantize));
                joined.ok_or_else(|| Error::Bug(format!("restore.{}: an answer of another size", self.name)))
            };
            let sample = &mut item.samples[parted.sample];
            sample.output = Some(join(outputs)?);
            sample.baseline = if self.baseline { Some(join(baselines)?) } else { None };
            sample.restored = Some(Restoration { stamp: Arc::clone(&self.stamp), task: parted.task, passes });
            sample.timings.push(("restore", parted.ms + started.elapsed().as_secs_f32() * 1e3));
        }
        Ok((item, pixels))
    }
}

fn no_such_task(name: &str, restorer: &dyn Restorer) -> String {
    format!("`{name}` is no task of model {}, which has {}", restorer.stamp().model, restorer.tasks().join(", "))
}

/// What comes to the restorer's thread.
pub(crate) enum Arrival {
    /// An item and its pieces.
    Item(Halfway, Vec<Piece>),
    /// Something changed that may make waiting useless.
    Nudge,
}

/// The way to the restorer's thread; it ends when all of these are gone.
#[derive(Clone)]
pub(crate) struct Arrivals {
    pub(crate) sender: SyncSender<Arrival>,
    pub(crate) flow: Arc<Flow>,
}

impl Arrivals {
    /// Waits for room; false if nobody takes anything any more.
    pub(crate) fn send(&self, halfway: Halfway, pieces: Vec<Piece>) -> bool {
        self.sender.send(Arrival::Item(halfway, pieces)).is_ok()
    }

    /// An item has nothing to restore.
    pub(crate) fn pass_by(&self) {
        if self.flow.ahead.fetch_sub(1, Release) == 1 {
            self.nudge();
        }
    }

    /// Says whether more may come than what the workers have.
    pub(crate) fn set_more(&self, more: bool) {
        if self.flow.more.swap(more, Release) && !more {
            self.nudge();
        }
    }

    /// Has the restorer's thread look again whether waiting is of use.
    pub(crate) fn nudge(&self) {
        // Where there is no room it has enough to look at.
        self.sender.try_send(Arrival::Nudge).ok();
    }
}

/// The restorer's thread: pieces by task (and size, where the restorer takes any), and the items they belong to.
pub(crate) struct Gatherer {
    cutter: Arc<Cutter>,
    pixels: Arc<Pixels>,
    flow: Arc<Flow>,
    meter: Arc<Meter>,
    /// Pieces a batch; less than asked for once the device's memory was too small.
    batch: usize,
    groups: HashMap<(TaskId, Size), VecDeque<(u64, Piece)>>,
    items: HashMap<u64, Halfway>,
    next: u64,
}

impl Gatherer {
    pub(crate) fn new(cutter: Arc<Cutter>, pixels: Arc<Pixels>, flow: Arc<Flow>, meter: Arc<Meter>) -> Self {
        let batch = cutter.batch;
        Self { cutter, pixels, flow, meter, batch, groups: HashMap::new(), items: HashMap::new(), next: 0 }
    }

    /// Until `arrivals` has no sender any more and everything is restored, or nobody takes `finished`.
    pub(crate) fn run(mut self, arrivals: &Receiver<Arrival>, finished: &async_channel::Sender<Halfway>) -> Result<()> {
        let mut ended = false;
        loop {
            while !ended && !self.has_enough() {
                match arrivals.try_recv() {
                    Ok(arrival) => self.take(arrival),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => ended = true,
                }
            }
            let now = Instant::now();
            if let Some(group) = self.due(now, ended) {
                for done in self.restore(group)? {
                    if finished.send_blocking(done).is_err() {
                        return Ok(());
                    }
                }
                continue;
            }
            if ended {
                return Ok(());
            }
            let oldest = self.groups.values().filter_map(VecDeque::front).map(|(_, piece)| piece.since).min();
            let arrival = match oldest {
                None => arrivals.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(since) => arrivals.recv_timeout((since + self.cutter.max_wait).saturating_duration_since(now)),
            };
            match arrival {
                Ok(arrival) => self.take(arrival),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => ended = true,
            }
        }
    }

    fn take(&mut self, arrival: Arrival) {
        let Arrival::Item(halfway, pieces) = arrival else { return };
        self.flow.ahead.fetch_sub(1, Release);
        let id = self.next;
        self.next += 1;
        self.items.insert(id, halfway);
        for piece in pieces {
            self.groups.entry((piece.task, piece.image.size())).or_default().push_back((id, piece));
        }
    }

    /// True if nothing more needs to come for a batch.
    fn has_enough(&self) -> bool {
        let held: usize = self.groups.values().map(VecDeque::len).sum();
        held >= HELD_BATCHES * self.batch || self.groups.values().any(|group| group.len() >= self.batch)
    }

    /// The group to restore now: a full batch, else the oldest where waiting is of no use or has been long enough.
    fn due(&self, now: Instant, ended: bool) -> Option<(TaskId, Size)> {
        let oldest = |full: bool| {
            let wanted = self.groups.iter().filter(|(_, group)| !full || group.len() >= self.batch);
            let aged = wanted.filter_map(|(key, group)| Some((group.front()?, *key)));
            aged.min_by_key(|((id, piece), _)| (piece.since, *id)).map(|((_, piece), key)| (piece.since, key))
        };
        if let Some((_, full)) = oldest(true) {
            return Some(full);
        }
        let (since, key) = oldest(false)?;
        let nothing_comes = !self.flow.more.load(Acquire) && self.flow.ahead.load(Acquire) == 0;
        let hurry = ended || nothing_comes || self.pixels.are_waited_for() || self.has_enough();
        (hurry || now >= since + self.cutter.max_wait).then_some(key)
    }

    /// Restores a batch of `group`; the items of which that was the last piece.
    fn restore(&mut self, group: (TaskId, Size)) -> Result<Vec<Halfway>> {
        let Some(pieces) = self.groups.get_mut(&group) else { return Ok(Vec::new()) };
        let batch: Vec<(u64, Piece)> = pieces.drain(..pieces.len().min(self.batch)).collect();
        if pieces.is_empty() {
            self.groups.remove(&group);
        }
        let images: Vec<&Image> = batch.iter().map(|(_, piece)| &piece.image).collect();
        let started = Instant::now();
        let answers =
            catch_unwind(AssertUnwindSafe(|| self.cutter.restorer.restore(group.0, &images))).unwrap_or_else(|_| {
                let of = format!("{} images of {}×{} pixels", images.len(), group.1.width, group.1.height);
                Err(Trouble::Failed(Error::Bug(format!("restore.{} panicked on a batch of {of}", self.cutter.name))))
            });
        let ended = Instant::now();
        self.meter.add_batch(started, ended, images.len());
        let answers = match answers {
            Ok(answers) => answers,
            Err(Trouble::Failed(error)) => return Err(error),
            Err(Trouble::OutOfMemory(why)) => {
                self.halve(batch, group, &why)?;
                return Ok(Vec::new());
            }
        };
        if answers.len() != batch.len() {
            let (given, wanted) = (answers.len(), batch.len());
            return Err(Error::Bug(format!("restore.{}: {given} answers to {wanted} images", self.cutter.name)));
        }
        let ms = ended.duration_since(started).as_secs_f32() * 1e3 / batch.len() as f32;
        let mut done = Vec::new();
        for ((id, piece), answer) in batch.into_iter().zip(answers) {
            let Some(halfway) = self.items.get_mut(&id) else { continue };
            let parted = &mut halfway.images[piece.of];
            parted.answers[piece.at] = Some(answer);
            parted.ms += ms;
            halfway.left -= 1;
            if halfway.left == 0 {
                done.extend(self.items.remove(&id));
            }
        }
        Ok(done)
    }

    /// Puts a batch back that was too large for the device, to be tried again in halves. `Error::Config` if it was a single image.
    fn halve(&mut self, batch: Vec<(u64, Piece)>, group: (TaskId, Size), why: &str) -> Result<()> {
        let device = &self.cutter.stamp.device;
        let name = self.cutter.name;
        let Some(half) = std::num::NonZeroUsize::new(batch.len() / 2) else {
            return Err(Error::Config(format!(
                "restore.{name}: {device} has too little memory for a single image ({why}): free some of it, choose another \
                 restore.{name}.device, or a smaller restore.{name}.dtype or model"
            )));
        };
        tracing::warn!("{device} has too little memory for a batch of {} ({why}): going on with {half}", batch.len());
        self.batch = half.get();
        let pieces = self.groups.entry(group).or_default();
        batch.into_iter().rev().for_each(|piece| pieces.push_front(piece));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Partition, Position};
    use crate::restore::config::{IdentityConfig, ModelConfig};
    use crate::sample::{Reference, Sample};

    /// An item with an image of each of these sides.
    fn item(sides: &[u32]) -> Item {
        let record = Record::new("k", Reference::Missing, Position { partition: Partition::of_file(0, 0), offset: 0 });
        let image = |side: &u32| Image::from_fn(Size::new(*side, *side), |x, y| [x as u8, y as u8, 9]);
        let samples = sides.iter().map(|side| Sample { image: Some(image(side)), ..Sample::default() }).collect();
        Item { record: Arc::new(record), epoch: 0, seq: 0, samples, attempts: 1, provisional: None }
    }

    /// A cutter for batches of 100, and what a gatherer shares.
    fn cutter(max_wait_ms: u64) -> (Arc<Cutter>, Arc<Pixels>, Arc<Flow>) {
        let model = ModelConfig { batch: serde_json::from_str("100").unwrap(), max_wait_ms, ..ModelConfig::new("m") };
        let identity = crate::restore::open(&RestoreConfig::Identity(IdentityConfig::default())).unwrap();
        let cutter = Cutter::new(&RestoreConfig::MaeR(model), identity.into()).unwrap();
        (Arc::new(cutter), Pixels::new(1 << 30), Arc::new(Flow::default()))
    }

    #[tokio::test]
    async fn a_batch_that_is_not_full_waits_no_longer_than_it_may() {
        let (cutter, pixels, flow) = cutter(3);
        flow.more.store(true, Release);
        let meter = Arc::new(Meter::new(1));
        let gatherer = Gatherer::new(Arc::clone(&cutter), Arc::clone(&pixels), Arc::clone(&flow), Arc::clone(&meter));
        let (sender, arrivals) = std::sync::mpsc::sync_channel(4);
        let (finished, restored) = async_channel::unbounded();
        let thread = std::thread::spawn(move || gatherer.run(&arrivals, &finished));
        for sides in [&[5, 8][..], &[8]] {
            flow.ahead.fetch_add(1, Release);
            let (halfway, pieces) = cutter.cut(item(sides), pixels.take(1, || ()));
            sender.send(Arrival::Item(halfway, pieces)).unwrap();
        }
        // More may come, and the way here is open: only the time lets them go.
        for _ in 0..2 {
            let halfway = tokio::time::timeout(Duration::from_secs(30), restored.recv()).await.unwrap().unwrap();
            let (item, _) = cutter.join(halfway).unwrap();
            assert!(item.samples.iter().all(|sample| sample.output == sample.image));
        }
        drop(sender);
        thread.join().unwrap().unwrap();
        let batches = meter.summary().batches.unwrap();
        assert!(batches.pieces == 3 && batches.count >= 2, "each size apart: {batches:?}");
    }

    #[test]
    fn a_record_counts_with_what_it_holds_until_it_is_done() {
        let (cutter, pixels, _) = cutter(0);
        let (halfway, pieces) = cutter.cut(item(&[10, 20]), pixels.take(7, || ()));
        assert_eq!(pieces.len(), 2);
        // Both images with their encoded forms, pieces, answers, outputs with theirs; the larger at work.
        let area = 10 * 10 + 20 * 20;
        let expected = area * (3 + 3 + 3 + 12 + 6) + 20 * 20 * BEHIND + halfway.item.record.bytes();
        assert_eq!(halfway.pixels.bytes(), expected);
        drop(halfway);
        assert_eq!(pixels.used_bytes(), 0);
    }
}
