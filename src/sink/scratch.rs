//! The local folder in which a process builds its parts: its own, locked while the process lives, swept by the next.
//!
//! `ROOT/lm4lv-<uuid>/` holds the files, `ROOT/lm4lv-<uuid>.lock` beside it the lock, taken before the folder is made and
//! checked to be still in place, so that a sweep can never mistake a folder in use for one left behind.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use uuid::Uuid;

use crate::error::{Error, Result};

/// Files that [`crate::store::Folder`] stages are in use for moments; a day later their process is dead.
const STALE: Duration = Duration::from_secs(24 * 3600);

/// This process's folder; removed when dropped.
#[derive(Debug)]
pub(crate) struct Scratch {
    folder: PathBuf,
    lock: PathBuf,
    /// Holds the lock.
    _file: File,
}

impl Scratch {
    /// Sweeps what dead processes left below `root` and makes a folder of our own there.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        fs::create_dir_all(root).map_err(|e| Error::disk(root, e))?;
        sweep(root);
        loop {
            let name = format!("lm4lv-{}", Uuid::new_v4().simple());
            let (folder, lock) = (root.join(&name), root.join(format!("{name}.lock")));
            let file = File::create_new(&lock).map_err(|e| Error::disk(&lock, e))?;
            match file.try_lock() {
                Ok(()) => {}
                // A sweep has got hold of it and is about to remove it.
                Err(TryLockError::WouldBlock) => continue,
                // Without locks nothing can be swept either, see below.
                Err(TryLockError::Error(error)) => {
                    tracing::warn!(path = %lock.display(), %error, "this file system has no locks: remove old scratch folders by hand");
                }
            }
            let same = |a: fs::Metadata, b: fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
            let in_place = fs::metadata(&lock).and_then(|there| Ok(same(there, file.metadata()?)));
            if !in_place.unwrap_or(false) {
                continue;
            }
            // The system's temporary folder is everybody's; images may not be.
            fs::DirBuilder::new().mode(0o700).create(&folder).map_err(|e| Error::disk(&folder, e))?;
            return Ok(Self { folder, lock, _file: file });
        }
    }

    /// A path for the part called `part`.
    pub(crate) fn file(&self, part: &str) -> ScratchFile {
        ScratchFile(self.folder.join(format!("{part}.parquet")))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove(&self.folder, |path| fs::remove_dir_all(path));
        remove(&self.lock, |path| fs::remove_file(path));
    }
}

/// A file in the scratch folder, removed when dropped.
#[derive(Debug)]
pub(crate) struct ScratchFile(PathBuf);

impl ScratchFile {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for ScratchFile {
    fn drop(&mut self) {
        remove(&self.0, |path| fs::remove_file(path));
    }
}

/// What cannot be removed now is left for a later sweep.
fn remove(path: &Path, how: impl Fn(&Path) -> io::Result<()>) {
    match how(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::debug!(path = %path.display(), %error, "cannot remove a scratch file");
        }
        _ => {}
    }
}

fn sweep(root: &Path) {
    let Ok(entries) = fs::read_dir(root) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if let Some(name) = name.strip_suffix(".lock").filter(|name| name.starts_with("lm4lv-")) {
            let Ok(file) = File::open(&path) else { continue };
            if file.try_lock().is_ok() {
                remove(&root.join(name), |path| fs::remove_dir_all(path));
                remove(&path, |path| fs::remove_file(path));
            }
        } else if name.starts_with("create-") {
            let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|at| at.elapsed().ok());
            if age.is_some_and(|age| age > STALE) {
                remove(&path, |path| fs::remove_file(path));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dead_are_swept_and_the_living_are_not() {
        let root = tempfile::tempdir().unwrap();
        let alive = Scratch::open(root.path()).unwrap();
        let kept = alive.file("a");
        fs::write(kept.path(), b"x").unwrap();
        fs::write(root.path().join("lm4lv-dead.lock"), b"").unwrap();
        fs::create_dir(root.path().join("lm4lv-dead")).unwrap();
        fs::write(root.path().join("lm4lv-dead/part.parquet"), b"x").unwrap();
        fs::write(root.path().join("somebody's file"), b"x").unwrap();
        let other = Scratch::open(root.path()).unwrap();
        assert!(!root.path().join("lm4lv-dead").exists() && !root.path().join("lm4lv-dead.lock").exists());
        assert!(kept.path().exists() && root.path().join("somebody's file").exists());
        drop(kept);
        drop((alive, other));
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }
}
