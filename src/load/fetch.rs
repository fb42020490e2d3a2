//! Fetching: one try after another, within a deadline, a number of slots and a budget of memory.
//!
//! A try holds a slot of its host, then one of all; it never waits while it holds both, and it waits for memory only
//! while it holds neither (see `load/body.rs`). Time spent waiting for slots and memory is the run's own
//! doing and does not count against the record's deadline, so that a row does not fail because others were slow.
//!
//! (long because slots, retries, deadline and memory are decided for each try together)

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::path::{Component, Path};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use url::Url;

use crate::error::{Error, Result};
use crate::load::body::{Allowance, Budget, Stop, too_large};
use crate::load::config::LoadConfig;
use crate::load::file::LocalRoot;
use crate::load::guard::{Guard, Lookup, SystemLookup};
use crate::load::http::{Answer, Http, shown_url};
use crate::load::reference::{Place, climbs, parse, shown, too_long};
use crate::load::slots::{Clock, Slots};
use crate::load::{inline, object};
use crate::sample::{FailureCode, Listed, Record, Reference};
use crate::stage::Fault;
use crate::store::Stores;

/// Longest pause between two tries, unless a server asks for a longer one.
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// What a fetch gave.
#[derive(Debug)]
pub struct Fetched {
    /// The image file's bytes.
    pub input: Result<Bytes, Fault>,
    /// The same for the record's target, if it names one.
    pub target: Option<Result<Bytes, Fault>>,
    /// Tries, of the one that took more (1 for local and inline).
    pub attempts: u32,
    /// The host, or the store as `s3://bucket`, that was asked last, if any: whom a storm is blamed on. Where only the
    /// target failed, the target's.
    pub host: Option<String>,
    /// True if that host was asked with credentials.
    pub credentials: bool,
    /// Milliseconds from admission to here.
    pub fetch_ms: f32,
    /// The part of the bodies' budget that the bytes take; goes back when this is dropped.
    pub(crate) permit: Option<OwnedSemaphorePermit>,
}

impl Fetched {
    /// Bytes that are at hand already, of the image alone.
    pub fn from_bytes(bytes: Bytes) -> Self {
        Self {
            input: Ok(bytes),
            target: None,
            attempts: 1,
            host: None,
            credentials: false,
            fetch_ms: 0.0,
            permit: None,
        }
    }

    /// Bytes held.
    pub fn len(&self) -> u64 {
        let of = |file: &Result<Bytes, Fault>| file.as_ref().map_or(0, |bytes| bytes.len() as u64);
        of(&self.input) + self.target.as_ref().map_or(0, of)
    }

    /// True if no bytes came.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What failed, the image before the target.
    pub fn fault(&self) -> Option<&Fault> {
        [Some(&self.input), self.target.as_ref()].into_iter().flatten().find_map(|file| file.as_ref().err())
    }

    /// The error that stops the run, if that is what failed.
    pub fn into_error(self) -> Option<Error> {
        [Some(self.input), self.target].into_iter().flatten().find_map(|file| match file {
            Err(Fault::Run(error)) => Some(error),
            _ => None,
        })
    }
}

/// The host that files of a local root count as.
const DISK: &str = "file://";

/// Fetches the bytes behind references.
pub struct Loader {
    config: LoadConfig,
    root: Root,
    http: Http,
    stores: Stores,
    budget: Budget,
    slots: Slots,
    errors: Mutex<BTreeMap<FailureCode, u64>>,
}

/// Where relative references start.
#[derive(Debug)]
enum Root {
    /// Nowhere.
    None,
    Local(Arc<LocalRoot>),
    /// A prefix in an object store, without a `/` at its end.
    Object(String),
}

impl Root {
    fn open(config: &str, default: Option<&str>) -> Result<Self> {
        let place = match (config, default) {
            ("auto", None) => return Ok(Self::None),
            ("auto", Some(default)) => default,
            (place, _) => place,
        };
        match place.split_once("://") {
            None => Ok(Self::Local(Arc::new(LocalRoot::open(Path::new(place))?))),
            Some(("file", _)) => match Url::parse(place).ok().and_then(|url| url.to_file_path().ok()) {
                Some(path) => Ok(Self::Local(Arc::new(LocalRoot::open(&path)?))),
                None => Err(Error::Config(format!("load.root: {place}: not a file URL of this machine"))),
            },
            Some(("s3" | "gs" | "az", _)) => {
                Stores::check_uri(place)?;
                Ok(Self::Object(place.trim_end_matches('/').to_owned()))
            }
            Some(_) => {
                Err(Error::Config(format!("load.root: {place}: use a folder or an s3://, gs:// or az:// prefix")))
            }
        }
    }
}

impl fmt::Debug for Loader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loader").field("config", &self.config).field("root", &self.root).finish_non_exhaustive()
    }
}

impl Loader {
    /// `default_root` is where relative references start when `load.root` is `auto`; `budget` bounds the bytes of bodies
    /// in flight beyond the first MiB of each.
    ///
    /// `Error::Config` names the key at fault, such as a root that is no folder.
    pub fn new(config: &LoadConfig, stores: &Stores, default_root: Option<&str>, budget: u64) -> Result<Self> {
        Self::with_lookup(config, stores, default_root, budget, Arc::new(SystemLookup))
    }

    /// As [`Self::new`], asking `lookup` instead of the system for the addresses of hosts.
    pub fn with_lookup(
        config: &LoadConfig,
        stores: &Stores,
        default_root: Option<&str>,
        budget: u64,
        lookup: Arc<dyn Lookup>,
    ) -> Result<Self> {
        config.check()?;
        Ok(Self {
            root: Root::open(&config.root, default_root)?,
            http: Http::new(config, Guard::new(&config.allow)?, lookup),
            stores: stores.clone(),
            budget: Budget::new(budget),
            slots: Slots::new(config),
            errors: Mutex::default(),
            config: config.clone(),
        })
    }

    /// How many tries failed in a way that may pass, by what went wrong.
    pub fn errors(&self) -> BTreeMap<FailureCode, u64> {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Fetches what `record` names, the image and its target at once. Each takes no longer than the deadline, not
    /// counting the wait for slots and memory. Cancel-safe.
    pub async fn fetch(&self, record: &Record) -> Fetched {
        let started = Instant::now();
        let bodies = 1 + u64::from(record.target.is_some());
        let allowance = Arc::new(Allowance::new(&self.budget, bodies, self.config.max_bytes()));
        let target = async {
            match &record.target {
                Some(target) => Some(self.one(target, None, &allowance).await),
                None => None,
            }
        };
        let (input, target) =
            tokio::join!(Box::pin(self.one(&record.reference, record.listed, &allowance)), Box::pin(target));
        let length = |one: &One| one.bytes.as_ref().map_or(0, |b| b.len() as u64);
        let permit = allowance.settle(length(&input) + target.as_ref().map_or(0, length)).await;
        let blamed = match &target {
            Some(target) if input.bytes.is_ok() && target.bytes.is_err() => target,
            _ => &input,
        };
        Fetched {
            attempts: input.attempts.max(target.as_ref().map_or(0, |t| t.attempts)),
            host: blamed.blame.host.clone(),
            credentials: blamed.blame.credentials,
            input: input.bytes,
            target: target.map(|t| t.bytes),
            fetch_ms: started.elapsed().as_secs_f32() * 1000.0,
            permit,
        }
    }

    /// One reference, all tries.
    async fn one(&self, reference: &Reference, listed: Option<Listed>, allowance: &Arc<Allowance>) -> One {
        let mut one = One { bytes: Ok(Bytes::new()), attempts: 1, blame: Blame::default() };
        one.bytes = match reference {
            Reference::Missing => Err(Fault::Record(FailureCode::NullReference, "the reference is null".to_owned())),
            Reference::Inline { bytes, .. } if bytes.len() as u64 > self.config.max_bytes() => {
                Err(self.fault(too_large(self.config.max_bytes()), 1))
            }
            Reference::Inline { bytes, .. } => Ok(bytes.clone()),
            Reference::Unreadable(why) => Err(Fault::Record(FailureCode::BadMessage, why.clone())),
            Reference::TooLong { start, length } => {
                let (code, message) = too_long(start, *length, self.config.max_bytes());
                Err(Fault::Record(code, message))
            }
            Reference::Uri(uri) => match parse(uri) {
                Ok(place) => self.tries(&place, listed, allowance, &mut one).await,
                Err((code, message)) => Err(Fault::Record(code, message)),
            },
        };
        if one.bytes.as_ref().is_ok_and(Bytes::is_empty) {
            one.bytes = Err(Fault::Record(FailureCode::Empty, "the file has no bytes".to_owned()));
        }
        one
    }

    async fn tries(
        &self,
        place: &Place<'_>,
        listed: Option<Listed>,
        allowance: &Arc<Allowance>,
        one: &mut One,
    ) -> Result<Bytes, Fault> {
        let mut clock = Clock { deadline: Instant::now() + Duration::from_secs_f64(self.config.deadline_s) };
        loop {
            match self.attempt(place, listed, allowance, &mut clock, &mut one.blame).await {
                Ok(bytes) => return Ok(bytes),
                Err(Stop::Memory(bytes)) => clock.excluding(allowance.cover(bytes)).await,
                Err(Stop::Again { code, message, after }) => {
                    *self.errors.lock().unwrap_or_else(PoisonError::into_inner).entry(code).or_default() += 1;
                    let pause = after.unwrap_or_else(|| self.backoff(one.attempts));
                    let late = pause >= clock.deadline.saturating_duration_since(Instant::now());
                    if one.attempts > self.config.retries || late {
                        return Err(self.fault(Stop::Again { code, message, after }, one.attempts));
                    }
                    tokio::time::sleep(pause).await;
                    one.attempts += 1;
                }
                Err(stop) => return Err(self.fault(stop, one.attempts)),
            }
        }
    }

    /// `retry_base_ms` · 2^(tries − 1), of which a random half is left out so that those who failed together do not come
    /// back together.
    fn backoff(&self, tries: u32) -> Duration {
        let base = Duration::from_millis(self.config.retry_base_ms);
        let full = base.saturating_mul(1u32.checked_shl(tries - 1).unwrap_or(u32::MAX)).min(MAX_BACKOFF);
        // The hasher's random keys are the standard library's only randomness, and enough for this.
        let random = RandomState::new().hash_one(tries) as f64 / u64::MAX as f64;
        full.mul_f64(0.5 + random / 2.0)
    }

    fn fault(&self, stop: Stop, attempts: u32) -> Fault {
        let (code, message) = match stop {
            Stop::Final(Fault::Record(code, message)) | Stop::Again { code, message, .. } => (code, message),
            Stop::Final(fault) => return fault,
            Stop::Memory(_) => (FailureCode::TooLarge, "there is no memory for it".to_owned()),
        };
        let tries = if attempts > 1 { format!(" ({attempts} tries)") } else { String::new() };
        Fault::Record(code, format!("{message}{tries}"))
    }

    async fn attempt(
        &self,
        place: &Place<'_>,
        listed: Option<Listed>,
        allowance: &Arc<Allowance>,
        clock: &mut Clock,
        blame: &mut Blame,
    ) -> Result<Bytes, Stop> {
        let max = self.config.max_bytes();
        match place {
            Place::Data(uri) => {
                // Decoding makes it smaller; what is larger than any file may be is refused by `decode` itself.
                allowance.admit((uri.len() as u64).min(max), max)?;
                inline::decode(uri, max)
            }
            Place::Path(path) => match &self.root {
                Root::None => {
                    let message = format!("{}: there is no root: set load.root", shown(&path.to_string_lossy()));
                    Err(Stop::record(FailureCode::ForbiddenPath, message))
                }
                Root::Object(prefix) => {
                    let uri = below_prefix(prefix, path)?;
                    self.object(&uri, listed, allowance, clock, blame).await
                }
                Root::Local(root) => {
                    let (root, path, allowance) = (root.clone(), root.below(path)?, allowance.clone());
                    // Each read has a thread, and each thread keeps some memory.
                    let _slot = clock.excluding(self.slots.of(DISK)).await;
                    let read = move || root.read(&path, listed, |length| allowance.admit(length, max));
                    let read = tokio::task::spawn_blocking(read);
                    clock
                        .run(self.config.deadline_s, async {
                            read.await.unwrap_or_else(|e| Err(Stop::Final(Fault::Run(Error::Bug(e.to_string())))))
                        })
                        .await
                }
            },
            Place::Object(uri) => self.object(uri, listed, allowance, clock, blame).await,
            Place::Http(url) => self.http(url, allowance, clock, blame).await,
        }
    }

    async fn object(
        &self,
        uri: &str,
        listed: Option<Listed>,
        allowance: &Allowance,
        clock: &mut Clock,
        blame: &mut Blame,
    ) -> Result<Bytes, Stop> {
        let bucket = uri.splitn(4, '/').take(3).collect::<Vec<_>>().join("/");
        *blame = Blame { host: Some(bucket.clone()), credentials: true };
        let _slot = clock.excluding(self.slots.of(&bucket)).await;
        let get = object::get(&self.stores, uri, listed, allowance, self.config.max_bytes());
        clock.run(self.config.deadline_s, get).await
    }

    async fn http(
        &self,
        from: &Url,
        allowance: &Allowance,
        clock: &mut Clock,
        blame: &mut Blame,
    ) -> Result<Bytes, Stop> {
        let mut url = from.clone();
        for hop in 0..=self.config.redirects {
            let host = url.host_str().unwrap_or_default().to_owned();
            let checked = self.http.check(&url).map_err(|stop| at_hop(stop, hop, &url));
            *blame = Blame { host: Some(host.clone()), credentials: self.http.credentials(&url) };
            checked?;
            let _slot = clock.excluding(self.slots.of(&host)).await;
            let answer = clock.run(self.config.deadline_s, self.http.get(&url, allowance)).await;
            match answer.map_err(|stop| at_hop(stop, hop, &url))? {
                Answer::Bytes(bytes) => return Ok(bytes),
                Answer::Redirect(to) => url = to,
            }
        }
        let message =
            format!("more than load.redirects = {} redirects, the last to {}", self.config.redirects, shown_url(&url));
        Err(Stop::record(FailureCode::HttpStatus, message))
    }
}

/// Says where, if it is not where the reference pointed.
fn at_hop(stop: Stop, hop: u32, url: &Url) -> Stop {
    let add =
        |message: String| if hop == 0 { message } else { format!("{message}, after a redirect to {}", shown_url(url)) };
    match stop {
        Stop::Final(Fault::Record(code, message)) => Stop::record(code, add(message)),
        Stop::Again { code, message, after } => Stop::Again { code, message: add(message), after },
        other => other,
    }
}

/// The URI of a relative reference below a prefix in a store.
fn below_prefix(prefix: &str, path: &Path) -> Result<String, Stop> {
    if climbs(path) || path.is_absolute() {
        let message = format!("{}: leaves load.root = {prefix}", shown(&path.to_string_lossy()));
        return Err(Stop::record(FailureCode::ForbiddenPath, message));
    }
    let mut uri = prefix.to_owned();
    for part in path.components().filter(|c| matches!(c, Component::Normal(_))) {
        uri.push('/');
        uri.push_str(&part.as_os_str().to_string_lossy());
    }
    Ok(uri)
}

/// What became of one reference.
struct One {
    bytes: Result<Bytes, Fault>,
    attempts: u32,
    blame: Blame,
}

#[derive(Debug, Default)]
struct Blame {
    host: Option<String>,
    credentials: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes() {
        assert_eq!(below_prefix("s3://b/x", Path::new("./a b/c%20.jpg")).unwrap(), "s3://b/x/a b/c%20.jpg");
        for bad in ["../a", "/a", "a/../../b"] {
            assert!(below_prefix("s3://b/x", Path::new(bad)).is_err(), "{bad}");
        }
        assert!(Root::open("http://host/", None).is_err());
        assert!(matches!(Root::open("auto", Some("s3://b/p/")), Ok(Root::Object(p)) if p == "s3://b/p"));
        assert!(matches!(Root::open("auto", None), Ok(Root::None)));
    }
}
