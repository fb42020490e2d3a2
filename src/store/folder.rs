//! What can be done in a [`Folder`]: create-if-absent, read, list.
//!
//! Each method makes one try. A store that does not answer, or refuses the credentials, is `Error::Unavailable`, which
//! [`patiently`] and [`Patience`] try again for as long as the run allows; a local disk's refusal is `Error::Disk` and final.
//! Local creation is our own (a synced file, hard-linked to its name, the folder synced) and not object_store's, which
//! stages files beside the target, where a reader would see them. (Long, because both kinds of folder stand side by side in
//! each method, and one suite of tests holds both to the same promises.)
//!
//! (long because every promise is kept twice: by a local folder and by an object store)

use std::future::Future;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path as ObjectPath;
use object_store::{Error as StoreError, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};
use tokio::time::Instant;
use uuid::Uuid;

use super::answer::Answer;
use super::{Create, Entry, Folder};
use crate::error::{Error, Result};

/// Where a local folder keeps files that have no name yet, on the same file system as their names-to-be.
const STAGING: &str = ".lm4lv/scratch";

/// First and longest wait between two tries.
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Waits between tries: 250 ms doubling to 30 s, up to a quarter of jitter, until `give_up` after the first failure.
#[derive(Debug)]
pub struct Patience {
    give_up: Duration,
    wait: Duration,
    since: Option<Instant>,
    /// What did not answer last.
    what: Option<String>,
}

impl Patience {
    /// Gives up `give_up` after the first failure in a row.
    pub fn new(give_up: Duration) -> Self {
        Self { give_up, wait: FIRST_WAIT, since: None, what: None }
    }

    /// Waits before another try. The error comes back if it is not `Error::Unavailable`, or if `give_up` is over.
    pub async fn after(&mut self, error: Error) -> Result<()> {
        let Error::Unavailable { what, reason } = &error else { return Err(error) };
        let since = *self.since.get_or_insert_with(Instant::now);
        if since.elapsed() >= self.give_up {
            let s = self.give_up.as_secs();
            let reason = format!("{reason}; gave up after {s} s (run.storm.give_up_s), run again to go on");
            return Err(Error::Unavailable { what: what.clone(), reason });
        }
        let left = self.give_up.saturating_sub(since.elapsed());
        self.what = Some(what.clone());
        tracing::warn!(%what, %reason, giving_up_in_s = left.as_secs(), "no answer to work with: trying again");
        let jitter = (Uuid::new_v4().as_u128() % 256) as u32;
        tokio::time::sleep(self.wait + self.wait * jitter / 1024).await;
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
        Ok(())
    }

    /// Forgets the failures so far: there was an answer.
    pub fn answered(&mut self) {
        self.wait = FIRST_WAIT;
        if let Some(since) = self.since.take() {
            tracing::info!(what = self.what, after_s = since.elapsed().as_secs(), "there is an answer again");
        }
    }
}

/// Tries again while the answer is `Error::Unavailable`, for `give_up` at most; then that error.
pub async fn patiently<T, F: Future<Output = Result<T>>>(
    give_up: Duration,
    mut attempt: impl FnMut() -> F,
) -> Result<T> {
    let mut patience = Patience::new(give_up);
    loop {
        match attempt().await {
            Ok(value) => {
                patience.answered();
                return Ok(value);
            }
            Err(error) => patience.after(error).await?,
        }
    }
}

impl Folder {
    /// A folder of this machine, which need not be there yet.
    pub(super) fn local(place: &str, path: PathBuf) -> Result<Self> {
        match std::fs::metadata(&path) {
            Ok(there) if !there.is_dir() => Err(Error::Config(format!("{place}: is a file: name a folder"))),
            Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => {
                Err(Error::Config(format!("{place:?}: cannot be a path")))
            }
            _ => Ok(Self::Local(path)),
        }
    }

    /// Where `name` is, as a person would write it.
    pub fn place(&self, name: &str) -> String {
        match self {
            Self::Local(root) => root.join(name).display().to_string(),
            Self::Remote { url, .. } if name.is_empty() => url.clone(),
            Self::Remote { url, .. } => format!("{}/{name}", url.trim_end_matches('/')),
        }
    }

    /// Creates `name` below the folder if nothing is there: atomic, durable before it returns, never overwriting.
    /// After `Error::Unavailable` the object may be there all the same: read it back.
    pub async fn create(&self, name: &str, bytes: Bytes) -> Result<Create> {
        match self {
            Self::Local(root) => {
                let staged = Staged::write(root, &bytes).await?;
                link(root, name, &staged.0).await
            }
            Self::Remote { store, .. } => {
                let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
                match store.put_opts(&self.object(name), PutPayload::from(bytes), options).await {
                    Ok(_) => Ok(Create::Done),
                    // 412 where the object stands; 409 where another request for it is in flight.
                    Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }) => Ok(Create::Exists),
                    Err(error) => Err(self.failed(name, error)),
                }
            }
        }
    }

    /// As [`Self::create`] with the bytes of local `file`: a hard link of it where the folder is local (a copy, if it lies
    /// on another file system), else one PUT, for which the file is read into memory.
    pub async fn create_from_file(&self, name: &str, file: &Path) -> Result<Create> {
        match self {
            Self::Local(root) => {
                sync(file).await?;
                link(root, name, file).await
            }
            Self::Remote { .. } => {
                let bytes = tokio::fs::read(file).await.map_err(|e| Error::disk(file, e))?;
                self.create(name, Bytes::from(bytes)).await
            }
        }
    }

    /// Writes `name` whether or not something is there; readers see the old bytes or the new.
    pub async fn put(&self, name: &str, bytes: Bytes) -> Result<()> {
        match self {
            Self::Local(root) => {
                let staged = Staged::write(root, &bytes).await?;
                let target = root.join(name);
                make_folders(root, &target).await?;
                tokio::fs::rename(&staged.0, &target).await.map_err(|e| Error::disk(&target, e))?;
                sync_folders(root, &target).await
            }
            Self::Remote { store, .. } => {
                store.put(&self.object(name), PutPayload::from(bytes)).await.map_err(|e| self.failed(name, e))?;
                Ok(())
            }
        }
    }

    /// The whole object, `None` if there is none.
    pub async fn get(&self, name: &str) -> Result<Option<Bytes>> {
        match self {
            Self::Local(root) => {
                let path = root.join(name);
                absent_is_none(&path, tokio::fs::read(&path).await.map(Bytes::from))
            }
            Self::Remote { store, .. } => {
                let got = match store.get(&self.object(name)).await {
                    Ok(got) => got.bytes().await,
                    Err(error) => Err(error),
                };
                self.not_found_is_none(name, got)
            }
        }
    }

    /// The object's size in bytes, `None` if there is none.
    pub async fn size(&self, name: &str) -> Result<Option<u64>> {
        match self {
            Self::Local(root) => {
                let path = root.join(name);
                absent_is_none(&path, tokio::fs::metadata(&path).await.map(|m| m.len()))
            }
            Self::Remote { store, .. } => {
                self.not_found_is_none(name, store.head(&self.object(name)).await.map(|meta| meta.size))
            }
        }
    }

    /// Bytes `range` of the object, which must lie inside it; `None` if there is no object.
    pub async fn range(&self, name: &str, range: Range<u64>) -> Result<Option<Bytes>> {
        match self {
            Self::Local(root) => {
                let path = root.join(name);
                absent_is_none(&path, read_range(&path, range).await.map(Bytes::from))
            }
            Self::Remote { store, .. } => {
                self.not_found_is_none(name, store.get_range(&self.object(name), range).await)
            }
        }
    }

    /// Everything below sub-folder `under` (recursively), sorted by name; nothing if there is no such folder.
    pub async fn list(&self, under: &str) -> Result<Vec<Entry>> {
        self.list_after(under, None).await
    }

    /// As [`Self::list`], but only names (`under` and all) that sort behind `after`.
    pub async fn list_after(&self, under: &str, after: Option<&str>) -> Result<Vec<Entry>> {
        let mut entries = match self {
            Self::Local(root) => {
                let mut entries = Vec::new();
                walk(root, under, &mut entries).await?;
                entries.retain(|entry| after.is_none_or(|after| entry.name.as_str() > after));
                entries
            }
            Self::Remote { store, prefix, .. } => {
                let below = self.object(under);
                let found = match after {
                    Some(after) => store.list_with_offset(Some(&below), &self.object(after)),
                    None => store.list(Some(&below)),
                };
                let found: Vec<_> = found.try_collect().await.map_err(|e| self.failed(under, e))?;
                let name = |location: &ObjectPath| {
                    let parts = location.prefix_match(prefix)?;
                    Some(parts.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/"))
                };
                found
                    .into_iter()
                    .filter_map(|meta| {
                        Some(Entry {
                            name: name(&meta.location)?,
                            size: meta.size,
                            modified: meta.last_modified.into(),
                        })
                    })
                    .collect()
            }
        };
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// The path in the store of `name` below a remote folder.
    pub(crate) fn object(&self, name: &str) -> ObjectPath {
        let start = match self {
            Self::Local(_) => ObjectPath::default(),
            Self::Remote { prefix, .. } => prefix.clone(),
        };
        name.split('/').filter(|part| !part.is_empty()).fold(start, |path, part| path.join(part))
    }

    fn not_found_is_none<T>(&self, name: &str, got: Result<T, StoreError>) -> Result<Option<T>> {
        match got {
            Ok(value) => Ok(Some(value)),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed(name, error)),
        }
    }

    /// What a store's error means to a run.
    fn failed(&self, name: &str, error: StoreError) -> Error {
        let what = self.place(name);
        match error {
            StoreError::NotSupported { .. } | StoreError::NotImplemented { .. } => Error::Config(format!(
                "{what}: this store cannot create an object only if it is absent, which parts need: {error}"
            )),
            StoreError::InvalidPath { .. } | StoreError::UnknownConfigurationKey { .. } => {
                Error::Config(format!("{what}: {error}"))
            }
            error => unavailable(what, &error),
        }
    }
}

/// What a store's refusal means to a run; `what` is the URL. A missing object is the caller's question: what is missing here is
/// the bucket. Wrong or missing credentials may be renewed while the run waits.
pub(crate) fn unavailable(what: String, error: &StoreError) -> Error {
    let answer = Answer::of(error);
    answer.count();
    match answer {
        Answer::Status(404, _) => Error::Config(format!("{what}: no such bucket or container: {answer}")),
        answer => Error::Unavailable { what, reason: answer.to_string() },
    }
}

/// A written and synced file without a name of its own yet; gone when dropped, whether or not it was linked.
struct Staged(PathBuf);

impl Staged {
    async fn write(root: &Path, bytes: &[u8]) -> Result<Self> {
        let staged = Self(root.join(STAGING).join(format!("create-{}", Uuid::new_v4().simple())));
        make_folders(root, &staged.0).await?;
        let written = async {
            let mut file = tokio::fs::File::create_new(&staged.0).await?;
            file.write_all(bytes).await?;
            // tokio writes behind our back; without this a full disk would go unnoticed: `sync_all` says nothing of it.
            file.flush().await?;
            file.sync_all().await
        };
        written.await.map_err(|e| Error::disk(&staged.0, e))?;
        Ok(staged)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After a rename there is nothing to remove.
        std::fs::remove_file(&self.0).ok();
    }
}

/// Hard-links the synced file `staged` to `root/name` if nothing is there, and syncs the folders.
async fn link(root: &Path, name: &str, staged: &Path) -> Result<Create> {
    let target = root.join(name);
    make_folders(root, &target).await?;
    match tokio::fs::hard_link(staged, &target).await {
        Ok(()) => {
            sync_folders(root, &target).await?;
            Ok(Create::Done)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            // Whoever made it may not have synced it yet; what we do next may rest on it.
            sync_folders(root, &target).await?;
            Ok(Create::Exists)
        }
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            let near = Staged(root.join(STAGING).join(format!("create-{}", Uuid::new_v4().simple())));
            make_folders(root, &near.0).await?;
            tokio::fs::copy(staged, &near.0).await.map_err(|e| Error::disk(&near.0, e))?;
            sync(&near.0).await?;
            Box::pin(link(root, name, &near.0)).await
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported) => {
            let hint = format!("{error} (the folder must be writable and its file system must have hard links)");
            Err(Error::disk(target, io::Error::new(error.kind(), hint)))
        }
        Err(error) => Err(Error::disk(target, error)),
    }
}

/// Makes the folders above `target` that are missing, `root` and those above it included, each durably.
async fn make_folders(root: &Path, target: &Path) -> Result<()> {
    let mut missing = Vec::new();
    let mut folder = target.parent();
    while let Some(path) = folder.filter(|path| !path.as_os_str().is_empty()) {
        if tokio::fs::metadata(path).await.is_ok_and(|m| m.is_dir()) {
            break;
        }
        missing.push(path);
        folder = path.parent();
    }
    for path in missing.iter().rev() {
        match tokio::fs::create_dir(path).await {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Error::disk(*path, error)),
        }
        // Folders below the root are synced with their content; above it nobody else does it.
        if !path.starts_with(root) || *path == root {
            sync(path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))).await?;
        }
    }
    Ok(())
}

/// Syncs the folder of `target` and those above it up to `root`.
async fn sync_folders(root: &Path, target: &Path) -> Result<()> {
    for folder in target.ancestors().skip(1) {
        sync(folder).await?;
        if folder == root {
            break;
        }
    }
    Ok(())
}

/// Flushes a file's or folder's content to the disk.
async fn sync(path: &Path) -> Result<()> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let synced = async { tokio::fs::File::open(path).await?.sync_all().await };
    synced.await.map_err(|e| Error::disk(path, e))
}

async fn read_range(path: &Path, range: Range<u64>) -> io::Result<Vec<u8>> {
    let mut file = tokio::fs::File::open(path).await?;
    file.seek(io::SeekFrom::Start(range.start)).await?;
    let mut bytes = Vec::new();
    file.take(range.end.saturating_sub(range.start)).read_to_end(&mut bytes).await?;
    Ok(bytes)
}

fn absent_is_none<T>(path: &Path, got: io::Result<T>) -> Result<Option<T>> {
    match got {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(Error::disk(path, error)),
    }
}

/// Adds the files below `root/under`, without following symbolic links to folders.
async fn walk(root: &Path, under: &str, entries: &mut Vec<Entry>) -> Result<()> {
    let mut folders = vec![under.trim_matches('/').to_owned()];
    while let Some(folder) = folders.pop() {
        let path = root.join(&folder);
        let Some(mut found) = absent_is_none(&path, tokio::fs::read_dir(&path).await)? else { continue };
        while let Some(entry) = found.next_entry().await.map_err(|e| Error::disk(&path, e))? {
            let own = entry.file_name().to_string_lossy().into_owned();
            let name = if folder.is_empty() { own } else { format!("{folder}/{own}") };
            let kind = entry.file_type().await.map_err(|e| Error::disk(entry.path(), e))?;
            if kind.is_dir() {
                folders.push(name);
            } else if let Some(meta) = absent_is_none(&entry.path(), entry.metadata().await)? {
                let modified = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                entries.push(Entry { name, size: meta.len(), modified });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn remote() -> Folder {
        Folder::Remote {
            store: Arc::new(object_store::memory::InMemory::new()),
            prefix: ObjectPath::from("some/where"),
            url: "mem://bucket/some/where".to_owned(),
        }
    }

    /// One suite for both kinds of folder.
    async fn keeps_its_promises(folder: &Folder) {
        assert_eq!(folder.get("a/b").await.unwrap(), None);
        assert!(folder.list("a").await.unwrap().is_empty());
        assert_eq!(folder.create("a/b", Bytes::from_static(b"one")).await.unwrap(), Create::Done);
        assert_eq!(folder.create("a/b", Bytes::from_static(b"two")).await.unwrap(), Create::Exists);
        assert_eq!(folder.get("a/b").await.unwrap().unwrap(), "one");
        assert_eq!(folder.size("a/b").await.unwrap(), Some(3));
        assert_eq!(folder.size("a/c").await.unwrap(), None);
        assert_eq!(folder.range("a/b", 1..3).await.unwrap().unwrap(), "ne");
        folder.put("a/b", Bytes::from_static(b"three")).await.unwrap();
        assert_eq!(folder.get("a/b").await.unwrap().unwrap(), "three");
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("file");
        std::fs::write(&file, b"from a file").unwrap();
        assert_eq!(folder.create_from_file("a/0/z", &file).await.unwrap(), Create::Done);
        assert_eq!(folder.create_from_file("a/0/z", &file).await.unwrap(), Create::Exists);
        folder.create("ab", Bytes::from_static(b"not below a")).await.unwrap();
        let names = |entries: Vec<Entry>| entries.into_iter().map(|e| e.name).collect::<Vec<_>>();
        assert_eq!(names(folder.list("a").await.unwrap()), ["a/0/z", "a/b"]);
        assert_eq!(names(folder.list_after("a", Some("a/0/z")).await.unwrap()), ["a/b"]);
        assert_eq!(folder.list("a").await.unwrap()[0].size, 11);
    }

    #[tokio::test]
    async fn a_local_folder_keeps_its_promises() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("not/there/yet");
        keeps_its_promises(&Folder::Local(root.clone())).await;
        assert_eq!(std::fs::read_dir(root.join(STAGING)).unwrap().count(), 0, "nothing stays behind");
    }

    #[tokio::test]
    async fn a_remote_folder_keeps_its_promises() {
        keeps_its_promises(&remote()).await;
    }

    #[tokio::test]
    async fn one_of_many_creators_wins() {
        let dir = tempfile::tempdir().unwrap();
        for folder in [Folder::Local(dir.path().to_owned()), remote()] {
            let tries = (0..16u8).map(|i| folder.create("x", Bytes::copy_from_slice(&[i])));
            let done = futures::future::try_join_all(tries).await.unwrap();
            assert_eq!(done.iter().filter(|c| **c == Create::Done).count(), 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn patience_ends_with_the_last_error() {
        let begin = Instant::now();
        let mut tries = 0;
        let result: Result<()> = patiently(Duration::from_secs(60), || {
            tries += 1;
            async { Err(Error::Unavailable { what: "x".into(), reason: "503".into() }) }
        })
        .await;
        assert!(matches!(result, Err(Error::Unavailable { .. })));
        assert!(tries > 6 && begin.elapsed() >= Duration::from_secs(60) && begin.elapsed() < Duration::from_secs(120));
    }
}
