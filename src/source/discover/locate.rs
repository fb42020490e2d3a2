//! From an entry of `source.parquet.path` (file, folder, glob or URL) to the files that it names.
//!
//! Locally a file that exists is meant before a glob of the same letters; in a URL `*`, `?`, `[` and `{` always make a glob.

use std::path::{Component, Path, PathBuf};

use globset::GlobMatcher;
use object_store::ObjectStoreExt;
use url::Url;

use super::Look;
use crate::error::{Error, Result};
use crate::source::files::{self, Choice, Counts, Found, Handle, search};
use crate::store::{Folder, unavailable};

/// The files that an entry of `path` names, with the names that the plan gives them: the entry as written (without `./` and
/// the like), and what lies below it.
pub(super) async fn locate(entry: &str, look: &Look<'_>, counts: &mut Counts) -> Result<Vec<(String, Found)>> {
    let below = |root: &str, found: Vec<Found>| {
        let root = root.trim_end_matches('/').to_owned();
        let join = move |found: Found| match root.as_str() {
            "." => (found.below.clone(), found),
            root => (format!("{root}/{}", found.below), found),
        };
        found.into_iter().map(join).collect::<Vec<_>>()
    };
    let is_remote = entry.split_once("://").is_some_and(|(scheme, _)| !scheme.eq_ignore_ascii_case("file"));
    if is_remote {
        if let Some((base, pattern)) = split_glob(entry) {
            if base.split_once("://").is_none_or(|(_, bucket)| bucket.is_empty()) {
                return Err(Error::Config(format!("source.parquet.path: {entry}: a glob cannot stand for the bucket")));
            }
            let choice = Matching::new(pattern)?;
            return Ok(below(base, search(&look.stores.folder(base)?, look.sink, &choice, counts).await?));
        }
        let folder = look.stores.folder(entry)?;
        if let Folder::Remote { store, prefix, .. } = &folder
            && !entry.ends_with('/')
            && !prefix.as_ref().is_empty()
        {
            match store.head(prefix).await {
                Ok(object) => {
                    let handle = Handle::Remote { store: store.clone(), path: prefix.clone() };
                    let found =
                        Found { below: String::new(), handle, size: object.size, mtime_ns: 0, e_tag: object.e_tag };
                    return Ok(vec![(entry.to_owned(), found)]);
                }
                Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(unavailable(entry.to_owned(), &error)),
            }
        }
        return Ok(below(entry, search(&folder, look.sink, &AllParquet, counts).await?));
    }
    let path = local_path(entry)?;
    let name = path.to_string_lossy().into_owned();
    match std::fs::metadata(&path) {
        Ok(metadata) if metadata.is_dir() => {
            Ok(below(&name, search(&Folder::Local(path), look.sink, &AllParquet, counts).await?))
        }
        Ok(metadata) => {
            let handle = Handle::Local(path);
            Ok(vec![(name, Found { below: String::new(), handle, size: metadata.len(), mtime_ns: 0, e_tag: None })])
        }
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            let Some((base, pattern)) = split_glob(&name) else { return Ok(Vec::new()) };
            let base = if base.is_empty() && !name.starts_with('/') { "." } else { base };
            let root = PathBuf::from(if base.is_empty() { "/" } else { base });
            if !root.is_dir() {
                return Ok(Vec::new());
            }
            let choice = Matching::new(pattern)?;
            Ok(below(base, search(&Folder::Local(root), look.sink, &choice, counts).await?))
        }
        Err(error) => Err(Error::disk(path, error)),
    }
}

/// A path or `file://` URL as a path without `.` and doubled or trailing slashes, so that it is written in one way only.
pub(super) fn local_path(entry: &str) -> Result<PathBuf> {
    let path = match entry.split_once("://") {
        None => PathBuf::from(entry),
        Some(_) => Url::parse(entry)
            .ok()
            .and_then(|url| url.to_file_path().ok())
            .ok_or_else(|| Error::Config(format!("{entry}: not a file URL of this machine: write file:///path")))?,
    };
    let path: PathBuf = path.components().filter(|component| *component != Component::CurDir).collect();
    Ok(if path.as_os_str().is_empty() { PathBuf::from(".") } else { path })
}

/// The folder above the first component with a glob's characters, and the rest; `None` if there is no such component.
fn split_glob(path: &str) -> Option<(&str, &str)> {
    let special = path.find(['*', '?', '[', '{'])?;
    Some(match path[..special].rfind('/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => ("", path),
    })
}

fn is_hidden(path: &str) -> bool {
    path.rsplit('/').next().is_some_and(|name| name.starts_with(['.', '_']))
}

/// All Parquet files of a folder but those that other tools hide.
struct AllParquet;

impl Choice for AllParquet {
    fn leaves_out(&self, path: &str) -> bool {
        is_hidden(path)
    }

    fn takes(&self, path: &str) -> bool {
        Path::new(path).extension().is_some_and(|extension| extension.eq_ignore_ascii_case("parquet"))
    }
}

/// What a glob of `path` matches; hidden files only if it says so.
struct Matching {
    glob: GlobMatcher,
    hidden: bool,
}

impl Matching {
    fn new(pattern: &str) -> Result<Self> {
        let glob = files::glob("source.parquet.path", pattern, false)?.compile_matcher();
        Ok(Self { glob, hidden: pattern.split('/').any(is_hidden) })
    }
}

impl Choice for Matching {
    fn leaves_out(&self, path: &str) -> bool {
        !self.hidden && is_hidden(path)
    }

    fn takes(&self, path: &str) -> bool {
        self.glob.is_match(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_written_in_one_way() {
        for (entry, path) in
            [("./a//b/./c/", "a/b/c"), ("/a/b", "/a/b"), (".", "."), ("file:///a/b%20c", "/a/b c"), ("../a", "../a")]
        {
            assert_eq!(local_path(entry).unwrap(), PathBuf::from(path), "{entry}");
        }
        assert!(local_path("file://host/a").is_err());
    }

    #[test]
    fn globs_are_split_at_the_last_plain_folder() {
        assert_eq!(split_glob("a/b/*.parquet"), Some(("a/b", "*.parquet")));
        assert_eq!(split_glob("*.parquet"), Some(("", "*.parquet")));
        assert_eq!(split_glob("s3://b/x?/y.parquet"), Some(("s3://b", "x?/y.parquet")));
        assert_eq!(split_glob("a/b.parquet"), None);
    }
}
