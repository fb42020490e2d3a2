//! An object store as on its worst days. Every request waits on a wire until somebody says what becomes of it: answered, lost
//! on the way there or back, still on its way when its sender has long given up (or is frozen, or dead), refused for
//! nothing, answered from an old list. Beneath is one true store that all writers share; whatever was created is logged.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::channel::oneshot;
use futures::future::{FutureExt, TryFutureExt};
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::time::Instant;

/// How long a request may be on its way; no server waits longer for the rest of one.
const TRAVEL: Duration = Duration::from_secs(30 * 60);

/// Parts but the last of a chain may be deleted when they are so old.
const OLD: Duration = Duration::from_secs(24 * 3600);

/// What becomes of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fate {
    /// It is done, and the answer arrives.
    Well,
    /// It never arrives, or its upload is torn; the sender hears 503.
    Lost,
    /// It is done; the sender hears 503.
    AnswerLost,
    /// The sender hears 503; a PUT is still on its way and may land later.
    Late,
    /// 409: a PUT is not looked at since another one is in flight.
    Busy,
    /// A PUT to a name that is taken is answered 412, which object stores do not agree on.
    Precondition,
    /// A list is answered as it stood so long ago; an object is not found yet.
    Stale(Duration),
}

/// A PUT.
#[derive(Debug)]
struct Put {
    path: Path,
    bytes: Bytes,
    options: PutOptions,
    sent: Instant,
}

/// A request and whom to answer; a sender that stopped waiting has dropped the other end.
#[derive(Debug)]
enum Request {
    Put(Put, oneshot::Sender<Result<PutResult>>),
    Get(Path, GetOptions, oneshot::Sender<Result<GetResult>>),
    List(Path, oneshot::Sender<Result<Vec<ObjectMeta>>>),
}

/// The requests of one sender.
#[derive(Debug, Default)]
struct Line {
    waiting: VecDeque<Request>,
    /// PUTs for which nobody waits any more.
    late: VecDeque<Put>,
}

impl Line {
    /// Sorts out the requests for which nobody waits any more: reads do no harm, PUTs may still land.
    fn sort(&mut self) {
        for request in std::mem::take(&mut self.waiting) {
            match request {
                Request::Put(put, answer) if answer.is_canceled() => self.late.push_back(put),
                Request::Get(_, _, answer) if answer.is_canceled() => {}
                Request::List(_, answer) if answer.is_canceled() => {}
                request => self.waiting.push_back(request),
            }
        }
    }
}

/// An object that was created.
#[derive(Debug, Clone)]
struct Created {
    path: Path,
    bytes: Bytes,
    at: Instant,
    deleted: Option<Instant>,
}

/// The true store and the wire to it.
#[derive(Debug)]
pub(crate) struct Wire {
    store: Arc<dyn ObjectStore>,
    lines: Mutex<Vec<Line>>,
    log: Mutex<Vec<Created>>,
}

fn unavailable() -> Error {
    Error::Generic { store: "faulty", source: "503 slow down".into() }
}

impl Wire {
    /// Lines for so many senders to `store`.
    pub(crate) fn new(store: Arc<dyn ObjectStore>, senders: usize) -> Self {
        let lines = (0..senders).map(|_| Line::default()).collect();
        Self { store, lines: Mutex::new(lines), log: Mutex::default() }
    }

    fn line<T>(&self, sender: usize, f: impl FnOnce(&mut Line) -> T) -> T {
        let line = &mut self.lines.lock().unwrap()[sender];
        line.sort();
        f(line)
    }

    /// Everything that was ever created; where something was overwritten, what stood there last.
    pub(crate) fn created(&self) -> BTreeMap<Path, Bytes> {
        self.log.lock().unwrap().iter().map(|created| (created.path.clone(), created.bytes.clone())).collect()
    }

    /// Lets the sender's oldest request meet its fate; false if it waits for none.
    pub(crate) async fn serve(&self, sender: usize, fate: Fate) -> bool {
        let Some(request) = self.line(sender, |line| line.waiting.pop_front()) else { return false };
        // Whoever stopped waiting meanwhile does not hear the answer.
        match request {
            Request::Put(put, answer) => answer.send(self.put(sender, put, fate).await).is_ok(),
            Request::Get(path, options, answer) => answer.send(self.get(path, options, fate).await).is_ok(),
            Request::List(prefix, answer) => answer.send(self.list(prefix, fate).await).is_ok(),
        };
        true
    }

    /// Lets the sender's oldest PUT for which nobody waits arrive; false if there is none.
    pub(crate) async fn land(&self, sender: usize) -> bool {
        let Some(put) = self.line(sender, |line| line.late.pop_front()) else { return false };
        self.create(put).await.ok();
        true
    }

    /// Deletes every part but the last of its chain that is old enough.
    pub(crate) async fn archive(&self) {
        let last = self.created().into_keys().next_back();
        let old = |created: &&mut Created| {
            created.deleted.is_none() && created.at.elapsed() > OLD && Some(&created.path) != last.as_ref()
        };
        let paths: Vec<Path> = {
            let mut log = self.log.lock().unwrap();
            let delete = |created: &mut Created| {
                created.deleted = Some(Instant::now());
                created.path.clone()
            };
            log.iter_mut().filter(old).map(delete).collect()
        };
        for path in paths {
            self.store.delete(&path).await.ok();
        }
    }

    async fn create(&self, put: Put) -> Result<PutResult> {
        if put.sent.elapsed() > TRAVEL {
            return Err(unavailable());
        }
        let Put { path, bytes, options, .. } = put;
        let result = self.store.put_opts(&path, bytes.clone().into(), options).await;
        if result.is_ok() {
            self.log.lock().unwrap().push(Created { path, bytes, at: Instant::now(), deleted: None });
        }
        result
    }

    async fn put(&self, sender: usize, put: Put, fate: Fate) -> Result<PutResult> {
        let path = put.path.to_string();
        match fate {
            Fate::Well | Fate::Stale(_) => self.create(put).await,
            Fate::Lost => Err(unavailable()),
            Fate::AnswerLost => self.create(put).await.and(Err(unavailable())),
            Fate::Late => {
                self.line(sender, |line| line.late.push_back(put));
                Err(unavailable())
            }
            Fate::Busy => Err(Error::AlreadyExists { path, source: "409".into() }),
            Fate::Precondition => self.create(put).await.map_err(|error| match error {
                Error::AlreadyExists { path, source } => Error::Precondition { path, source },
                other => other,
            }),
        }
    }

    async fn get(&self, path: Path, options: GetOptions, fate: Fate) -> Result<GetResult> {
        match fate {
            Fate::Well | Fate::Precondition => self.store.get_opts(&path, options).await,
            Fate::Stale(_) => Err(Error::NotFound { path: path.to_string(), source: "not yet".into() }),
            Fate::Lost | Fate::AnswerLost | Fate::Late | Fate::Busy => Err(unavailable()),
        }
    }

    async fn list(&self, prefix: Path, fate: Fate) -> Result<Vec<ObjectMeta>> {
        match fate {
            Fate::Well | Fate::Precondition => self.store.list(Some(&prefix)).try_collect().await,
            Fate::Stale(age) => Ok(self.listed(&prefix, age)),
            Fate::Lost | Fate::AnswerLost | Fate::Late | Fate::Busy => Err(unavailable()),
        }
    }

    /// What a list would have found that long ago.
    fn listed(&self, prefix: &Path, age: Duration) -> Vec<ObjectMeta> {
        let log = self.log.lock().unwrap();
        let stood = |created: &&Created| {
            created.path.prefix_matches(prefix)
                && created.at.elapsed() >= age
                && created.deleted.is_none_or(|deleted| deleted.elapsed() < age)
        };
        let meta = |created: &Created| ObjectMeta {
            location: created.path.clone(),
            last_modified: Default::default(),
            size: created.bytes.len() as u64,
            e_tag: None,
            version: None,
        };
        log.iter().filter(stood).map(meta).collect()
    }
}

/// One sender's end of the wire.
#[derive(Debug)]
pub(crate) struct FaultyStore {
    pub(crate) wire: Arc<Wire>,
    pub(crate) sender: usize,
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultyStore({})", self.sender)
    }
}

impl FaultyStore {
    /// Sends a request, which goes to whoever waits behind the channel, and waits for the answer.
    async fn send<T>(&self, request: impl FnOnce(oneshot::Sender<Result<T>>) -> Request) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        self.wire.line(self.sender, |line| line.waiting.push_back(request(answer)));
        answered.await.unwrap_or_else(|_| Err(unavailable()))
    }
}

#[async_trait::async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let put = Put { path: path.clone(), bytes: payload.into(), options, sent: Instant::now() };
        self.send(|answer| Request::Put(put, answer)).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.send(|answer| Request::Get(path.clone(), options, answer)).await
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let store = Self { wire: Arc::clone(&self.wire), sender: self.sender };
        let prefix = prefix.cloned().unwrap_or_default();
        async move { store.send(|answer| Request::List(prefix, answer)).await }
            .map_ok(|found| futures::stream::iter(found.into_iter().map(Ok)))
            .into_stream()
            .try_flatten()
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
