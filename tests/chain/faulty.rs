//! An object store that does what object stores do on bad days: requests and answers get lost or come late, create-if-absent
//! answers 409 for nothing, lists are old, objects just written are not found. Beneath it is one true store that many
//! writers share; everything ever created is kept in a log.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::time::{Instant, sleep};

/// A small seeded generator (splitmix64), so that a printed seed is a whole story.
#[derive(Debug, Clone)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(crate) fn percent(&mut self, share: u64) -> bool {
        self.below(100) < share
    }

    pub(crate) fn millis(&mut self, most: u64) -> Duration {
        Duration::from_millis(self.below(most))
    }
}

/// What a list answered, and when.
type OldList = (Vec<ObjectMeta>, Instant);

/// What all writers share.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    pub(crate) store: InMemory,
    /// Every object that was ever created, and when.
    pub(crate) log: Mutex<Vec<(Path, Bytes, Instant)>>,
    /// Creations that are under way though their sender was told that they failed.
    late: Mutex<Vec<(Path, Bytes, Instant)>>,
    /// What lists answered before.
    lists: Mutex<HashMap<Path, Vec<OldList>>>,
}

impl Truth {
    async fn create(&self, path: &Path, bytes: Bytes) -> Result<PutResult> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let result = self.store.put_opts(path, bytes.clone().into(), options).await;
        if result.is_ok() {
            self.log.lock().unwrap().push((path.clone(), bytes, Instant::now()));
        }
        result
    }

    /// Lets what is due of the late creations happen.
    async fn settle(&self) {
        loop {
            let due = {
                let mut late = self.late.lock().unwrap();
                let at = late.iter().position(|(.., at)| *at <= Instant::now());
                at.map(|at| late.remove(at))
            };
            let Some((path, bytes, _)) = due else { return };
            self.create(&path, bytes).await.ok();
        }
    }

    /// Deletes every part but the last of its chain that is older than a day.
    pub(crate) async fn archive(&self) {
        self.settle().await;
        let log = self.log.lock().unwrap().clone();
        let last = log.iter().map(|(path, ..)| path).max().cloned();
        for (path, _, at) in log {
            if Some(&path) != last.as_ref() && at.elapsed() > Duration::from_secs(24 * 3600) {
                self.store.delete(&path).await.ok();
            }
        }
    }
}

/// One writer's line to the true store.
pub(crate) struct FaultyStore {
    pub(crate) truth: Arc<Truth>,
    pub(crate) rng: Mutex<Rng>,
    /// Percent of requests on which something goes wrong.
    pub(crate) faults: u64,
}

impl fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultyStore")
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultyStore")
    }
}

fn unavailable() -> Error {
    Error::Generic { store: "faulty", source: "503 slow down".into() }
}

impl FaultyStore {
    fn draw<T>(&self, f: impl FnOnce(&mut Rng) -> T) -> T {
        f(&mut self.rng.lock().unwrap())
    }

    async fn travel(&self) {
        let time = self.draw(|rng| rng.millis(3000));
        sleep(time).await;
        self.truth.settle().await;
    }
}

#[async_trait::async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        assert_eq!(options.mode, PutMode::Create, "parts are only ever created");
        let bytes = Bytes::from(payload);
        let begin = Instant::now();
        self.travel().await;
        if begin.elapsed() > Duration::from_secs(60) {
            // The sender was frozen while it sent; no server waits for the rest of a request for hours.
            return Err(unavailable());
        }
        let (fault, kind, delay) =
            self.draw(|rng| (rng.percent(self.faults), rng.below(5), Duration::from_secs(rng.below(1800))));
        if !fault {
            let result = self.truth.create(path, bytes).await;
            self.travel().await;
            return result;
        }
        match kind {
            // The request was lost, or the upload torn.
            0 => Err(unavailable()),
            // The answer was lost.
            1 => {
                self.truth.create(path, bytes).await.ok();
                self.travel().await;
                Err(unavailable())
            }
            // It will arrive, but nobody waits for it any more.
            2 => {
                self.truth.late.lock().unwrap().push((path.clone(), bytes, Instant::now() + delay));
                Err(unavailable())
            }
            // Another request was in flight (409), so this one was not even looked at.
            3 => Err(Error::AlreadyExists { path: path.to_string(), source: "409".into() }),
            // 412.
            _ => {
                let result = self.truth.create(path, bytes).await;
                self.travel().await;
                result.map_err(|_| Error::Precondition { path: path.to_string(), source: "412".into() })
            }
        }
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.travel().await;
        let (fault, missing) = self.draw(|rng| (rng.percent(self.faults), rng.percent(30)));
        match (fault, missing) {
            (true, true) => Err(Error::NotFound { path: path.to_string(), source: "not yet".into() }),
            (true, false) => Err(unavailable()),
            (false, _) => self.truth.store.get_opts(path, options).await,
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let prefix = prefix.cloned().unwrap_or_default();
        let truth = Arc::clone(&self.truth);
        let (time, fault, old, which) =
            self.draw(|rng| (rng.millis(3000), rng.percent(self.faults), rng.percent(70), rng.next()));
        futures::stream::once(async move {
            sleep(time).await;
            truth.settle().await;
            let mut found: Vec<ObjectMeta> =
                truth.store.list(Some(&prefix)).filter_map(|meta| async { meta.ok() }).collect().await;
            let mut lists = truth.lists.lock().unwrap();
            let lists = lists.entry(prefix).or_default();
            // A list may be old, but not by as much as parts must be to be deleted.
            lists.retain(|(_, at)| at.elapsed() < Duration::from_secs(600));
            if fault && !old {
                return vec![Err(unavailable())];
            }
            if fault && !lists.is_empty() {
                found = lists[(which % lists.len() as u64) as usize].0.clone();
            } else {
                lists.push((found.clone(), Instant::now()));
            }
            found.into_iter().map(Ok).collect::<Vec<_>>()
        })
        .flat_map(futures::stream::iter)
        .boxed()
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        unimplemented!("parts go up in one request")
    }

    fn delete_stream(&self, _: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        unimplemented!("nothing is ever deleted")
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        unimplemented!("not used")
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        unimplemented!("not used")
    }
}
