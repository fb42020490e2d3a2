//! Finding files: a local tree, or everything below a prefix in an object store, as names with `/` and what is known of each.
//!
//! Local links to files are followed (whether they may leave the root is `load`'s question), links to folders are not
//! entered, since they may form circles; they are counted. Whatever is no folder is listed, devices and pipes too: their
//! rows say what they are.

use std::ffi::OsStr;
use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use futures::TryStreamExt;
use globset::{Glob, GlobBuilder, GlobSet, GlobSetBuilder};
use object_store::ObjectStore;
use object_store::path::Path as ObjectPath;

use crate::error::{Error, Result};
use crate::store::{Folder, unavailable};

/// How to open a file that was found.
#[derive(Debug, Clone)]
pub(crate) enum Handle {
    /// On a local disk.
    Local(PathBuf),
    /// In an object store.
    Remote {
        /// The bucket.
        store: Arc<dyn ObjectStore>,
        /// The object.
        path: ObjectPath,
    },
}

/// A file.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// Below the folder that was searched, with `/`.
    pub(crate) below: String,
    pub(crate) handle: Handle,
    /// Bytes.
    pub(crate) size: u64,
    /// Modification time, nanoseconds since 1970.
    pub(crate) mtime_ns: i64,
    /// Of an object.
    pub(crate) e_tag: Option<String>,
}

/// What a search left out or could not say, for the person who started it.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Links to folders.
    pub(crate) links: u64,
    /// Names that are not UTF-8.
    pub(crate) unreadable_names: u64,
    /// Files and folders that the search left out by name.
    pub(crate) hidden: u64,
    /// Files that were named before.
    pub(crate) repeated: u64,
}

/// What a search lists, by path below the folder.
pub(crate) trait Choice: Sync {
    /// Nothing of this name, nor below it, is listed. Asked for every folder and file.
    fn leaves_out(&self, path: &str) -> bool;
    /// A file of this name is listed.
    fn takes(&self, path: &str) -> bool;
}

/// All that `choice` takes below `folder`, sorted by the bytes of the path below it. `sink` is not entered.
pub(crate) async fn search(
    folder: &Folder,
    sink: Option<&Folder>,
    choice: &dyn Choice,
    counts: &mut Counts,
) -> Result<Vec<Found>> {
    let mut found = match folder {
        Folder::Local(root) => {
            let sink = match sink {
                Some(Folder::Local(sink)) => std::fs::canonicalize(sink).ok(),
                _ => None,
            };
            super::blocking(|| walk(root, sink.as_deref(), choice, counts))?
        }
        Folder::Remote { store, prefix, url } => {
            let sink = match sink {
                Some(Folder::Remote { url, .. }) => Some(format!("{}/", url.trim_end_matches('/'))),
                _ => None,
            };
            let url = url.trim_end_matches('/');
            let mut found = Vec::new();
            let mut objects = store.list(Some(prefix));
            while let Some(object) = objects.try_next().await.map_err(|error| unavailable(url.to_owned(), &error))? {
                let Some(below) = below(&object.location, prefix) else { continue };
                if sink.as_ref().is_some_and(|sink| format!("{url}/{below}").starts_with(sink)) {
                    continue;
                }
                // An object has no folders that could have been left out on the way to it.
                let ends = below.match_indices('/').map(|(end, _)| end).chain([below.len()]);
                if ends.into_iter().any(|end| choice.leaves_out(&below[..end])) {
                    counts.hidden += u64::from(choice.takes(&below));
                } else if choice.takes(&below) {
                    found.push(Found {
                        below,
                        handle: Handle::Remote { store: store.clone(), path: object.location },
                        size: object.size,
                        mtime_ns: object.last_modified.timestamp_nanos_opt().unwrap_or(0),
                        e_tag: object.e_tag,
                    });
                }
            }
            found
        }
    };
    found.sort_unstable_by(|a, b| a.below.cmp(&b.below));
    Ok(found)
}

/// The path of object `location` below `prefix`; `None` for the prefix itself.
fn below(location: &ObjectPath, prefix: &ObjectPath) -> Option<String> {
    let rest = location.as_ref().strip_prefix(prefix.as_ref())?;
    let rest = if prefix.as_ref().is_empty() { rest } else { rest.strip_prefix('/')? };
    (!rest.is_empty()).then(|| rest.to_owned())
}

fn walk(root: &Path, sink: Option<&Path>, choice: &dyn Choice, counts: &mut Counts) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    // Folders to enter, with the prefix of the paths below them.
    let mut folders = vec![(root.to_owned(), String::new())];
    while let Some((folder, prefix)) = folders.pop() {
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            // A folder that was removed while we looked is no folder of this tree; one that cannot be read hides images.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !prefix.is_empty() => continue,
            Err(error) => return Err(Error::disk(folder, error)),
        };
        for entry in entries {
            let entry = entry.map_err(|error| Error::disk(&folder, error))?;
            let (path, name) = (entry.path(), entry.file_name());
            let below = format!("{prefix}{}", name.to_string_lossy());
            let kind = entry.file_type().map_err(|error| Error::disk(&path, error))?;
            if kind.is_dir() {
                if choice.leaves_out(&below) {
                    counts.hidden += 1;
                } else if sink.is_none_or(|sink| !is_same(&path, sink, &name)) {
                    folders.push((path, format!("{below}/")));
                }
                continue;
            }
            let is_taken = choice.takes(&below);
            if kind.is_symlink() && std::fs::metadata(&path).is_ok_and(|metadata| metadata.is_dir()) {
                counts.links += u64::from(!choice.leaves_out(&below));
                continue;
            }
            if !is_taken {
                continue;
            }
            if choice.leaves_out(&below) {
                counts.hidden += 1;
                continue;
            }
            // Of what a link points to; of the link itself where that is missing.
            let metadata = match kind.is_symlink() {
                true => std::fs::metadata(&path).or_else(|_| entry.metadata()),
                false => entry.metadata(),
            };
            let metadata = match metadata {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(Error::disk(path, error)),
            };
            counts.unreadable_names += u64::from(name.to_str().is_none());
            let mtime_ns = mtime_ns(&metadata);
            found.push(Found { below, handle: Handle::Local(path), size: metadata.len(), mtime_ns, e_tag: None });
        }
    }
    Ok(found)
}

/// Whether folder `path`, called `name`, is the folder `sink` (canonical). Asks the disk only where the names agree.
fn is_same(path: &Path, sink: &Path, name: &OsStr) -> bool {
    sink.file_name() == Some(name) && std::fs::canonicalize(path).is_ok_and(|path| path == sink)
}

fn mtime_ns(metadata: &Metadata) -> i64 {
    let Ok(time) = metadata.modified() else { return 0 };
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |ns| -ns),
    }
}

/// `glob` with `*` and `?` that stay within one folder's names; `key` is where it stands in the pipeline file.
pub(crate) fn glob(key: &str, glob: &str, case_insensitive: bool) -> Result<Glob> {
    let built = GlobBuilder::new(glob).literal_separator(true).case_insensitive(case_insensitive).build();
    built.map_err(|error| Error::Config(format!("{key}: the glob {glob:?} cannot be read: {}", error.kind())))
}

/// A set of globs, case-insensitive.
pub(crate) fn globs(key: &str, patterns: &[String]) -> Result<GlobSet> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        set.add(glob(key, pattern, true)?);
    }
    set.build().map_err(|error| Error::Config(format!("{key}: {error}")))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    struct Jpegs;

    impl Choice for Jpegs {
        fn leaves_out(&self, path: &str) -> bool {
            path.rsplit('/').next().is_some_and(|name| name.starts_with('.'))
        }

        fn takes(&self, path: &str) -> bool {
            path.ends_with(".jpg")
        }
    }

    fn names(found: &[Found]) -> Vec<&str> {
        found.iter().map(|found| found.below.as_str()).collect()
    }

    #[tokio::test]
    async fn walks_a_tree_in_the_order_of_bytes() {
        let dir = tempfile::tempdir().unwrap();
        for path in
            ["b.jpg", "a/z.jpg", "a.jpg", "a/.hidden.jpg", ".git/x.jpg", "a/b/c.jpg", "a-b/x.jpg", "out/o.jpg", "t.txt"]
        {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        std::os::unix::fs::symlink(dir.path(), dir.path().join("a/circle")).unwrap();
        std::os::unix::fs::symlink("../b.jpg", dir.path().join("a/link.jpg")).unwrap();
        std::os::unix::fs::symlink("nowhere", dir.path().join("a/broken.jpg")).unwrap();
        let mut counts = Counts::default();
        let (root, sink) = (Folder::Local(dir.path().into()), Folder::Local(dir.path().join("out")));
        let found = search(&root, Some(&sink), &Jpegs, &mut counts).await.unwrap();
        assert_eq!(
            names(&found),
            ["a-b/x.jpg", "a.jpg", "a/b/c.jpg", "a/broken.jpg", "a/link.jpg", "a/z.jpg", "b.jpg"]
        );
        assert_eq!(found[4].size, 1);
        assert_eq!((counts.links, counts.hidden, counts.unreadable_names), (1, 2, 0));
    }

    #[tokio::test]
    async fn names_that_are_not_utf_8_are_listed() {
        use std::os::unix::ffi::OsStrExt;
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(OsStr::from_bytes(b"a\xff.jpg")), "x").unwrap();
        let mut counts = Counts::default();
        let found = search(&Folder::Local(dir.path().into()), None, &Jpegs, &mut counts).await.unwrap();
        assert_eq!((names(&found), counts.unreadable_names), (vec!["a\u{fffd}.jpg"], 1));
    }

    #[tokio::test]
    async fn lists_a_prefix_without_the_sink() {
        use object_store::ObjectStoreExt;
        let store: Arc<dyn ObjectStore> = Arc::new(object_store::memory::InMemory::new());
        for path in ["p/b.jpg", "p/a/z.jpg", "p/.git/x.jpg", "p/out/o.jpg", "p/out2/o.jpg", "pq/x.jpg", "p/t.txt"] {
            store.put(&path.into(), "x".into()).await.unwrap();
        }
        let folder = |prefix: &str| Folder::Remote {
            store: store.clone(),
            prefix: prefix.into(),
            url: format!("s3://b/{prefix}"),
        };
        let mut counts = Counts::default();
        let found = search(&folder("p"), Some(&folder("p/out")), &Jpegs, &mut counts).await.unwrap();
        assert_eq!(names(&found), ["a/z.jpg", "b.jpg", "out2/o.jpg"]);
        assert_eq!(counts.hidden, 1);
        assert!(found[0].e_tag.is_some());
    }
}
