//! Local files below the root: no `..`, no way out through a symbolic link, nothing but regular files.
//!
//! Every path is opened relative to a handle of the root by `cap-std`, which lets the kernel refuse what leaves it, so
//! there is no moment between check and use. Opening does not block (a FIFO without a writer would), and what was opened
//! is asked for its kind and size before a byte is read.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use cap_std::ambient_authority;
use cap_std::fs::{Dir, MetadataExt, OpenOptions, OpenOptionsExt};
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::load::body::Stop;
use crate::load::reference::climbs;
use crate::load::reference::shown;
use crate::sample::{FailureCode, Listed};
use crate::stage::Fault;

/// The folder that local references stay below.
#[derive(Debug)]
pub(crate) struct LocalRoot {
    dir: Dir,
    /// Absolute, as the user wrote it, and with symbolic links resolved: an absolute reference may begin with either.
    given: PathBuf,
    real: PathBuf,
}

impl LocalRoot {
    /// Opens the folder. `Error::Config` if it is none.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        // A relative root such as `""` (the folder of `refs.parquet`) is the working directory.
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let open = || -> io::Result<Self> {
            Ok(Self {
                dir: Dir::open_ambient_dir(path, ambient_authority())?,
                given: std::path::absolute(path)?,
                real: path.canonicalize()?,
            })
        };
        open().map_err(|e| {
            Error::Config(format!("load.root: {}: {e}: name the folder that the images are in", path.display()))
        })
    }

    /// The path below the root, or a refusal.
    pub(crate) fn below(&self, path: &Path) -> Result<PathBuf, Stop> {
        let refuse = |why: &str| {
            let message = format!("{}: {why} load.root = {}", shown(&path.to_string_lossy()), self.given.display());
            Err(Stop::record(FailureCode::ForbiddenPath, message))
        };
        if climbs(path) {
            return refuse("has a `..`, which could leave");
        }
        let below = if path.is_absolute() {
            match path.strip_prefix(&self.given).or_else(|_| path.strip_prefix(&self.real)) {
                Ok(below) => below,
                Err(_) => return refuse("does not lie below"),
            }
        } else {
            path
        };
        Ok(below.components().filter(|c| matches!(c, std::path::Component::Normal(_))).collect())
    }

    /// Opens a path that [`Self::below`] gave, and says how many bytes it has.
    fn open_file(&self, path: &Path) -> Result<(File, u64, i64), Stop> {
        if path.as_os_str().is_empty() {
            return Err(Stop::record(FailureCode::NotAFile, "the reference is the root itself"));
        }
        // Opening a device can do things (rewind a tape), so look first; what counts is the second look, at the open file.
        let look = self.dir.metadata(path).map_err(|e| self.failed(path, e))?;
        check_kind(look.is_file(), path)?;
        let mut options = OpenOptions::new();
        options.read(true).custom_flags((OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32);
        let file = self.dir.open_with(path, &options).map_err(|e| self.failed(path, e))?;
        let found = file.metadata().map_err(|e| self.failed(path, e))?;
        check_kind(found.is_file(), path)?;
        let mtime_ns = found.mtime().saturating_mul(1_000_000_000).saturating_add(found.mtime_nsec());
        Ok((file.into_std(), found.len(), mtime_ns))
    }

    /// Reads a whole file, once `admit` has agreed to its size in bytes. Blocks.
    pub(crate) fn read(
        &self,
        path: &Path,
        listed: Option<Listed>,
        admit: impl FnOnce(u64) -> Result<(), Stop>,
    ) -> Result<Bytes, Stop> {
        let (mut file, size, mtime_ns) = match self.open_file(path) {
            Err(Stop::Final(Fault::Record(FailureCode::ForbiddenPath, why))) => {
                // An absolute link to a place inside the root is refused by the kernel as a way out. Try the real path.
                let real = self.real.join(path).canonicalize().ok();
                match real.as_deref().and_then(|p| p.strip_prefix(&self.real).ok()) {
                    Some(inside) => self.open_file(inside)?,
                    None => return Err(Stop::record(FailureCode::ForbiddenPath, why)),
                }
            }
            other => other?,
        };
        if let Some(listed) = listed {
            let same_time = listed.mtime_ns == 0 || listed.mtime_ns == mtime_ns;
            if listed.size != size || !same_time {
                let what = if same_time {
                    format!("{} bytes were listed and {size} are there", listed.size)
                } else {
                    "it was written to since it was listed".to_owned()
                };
                return Err(Stop::record(
                    FailureCode::SourceChanged,
                    format!("{}: {what}", shown(&path.to_string_lossy())),
                ));
            }
        }
        admit(size)?;
        let mut bytes = vec![0; size as usize];
        match file.read_exact(&mut bytes) {
            Ok(()) => Ok(bytes.into()),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err(Stop::record(
                FailureCode::Io,
                format!("{}: became shorter while it was read", shown(&path.to_string_lossy())),
            )),
            Err(e) => Err(self.failed(path, e)),
        }
    }

    /// What an error means: most are the file's own fault; a system without file handles or mounts is not.
    fn failed(&self, path: &Path, error: io::Error) -> Stop {
        let record = |code| Stop::record(code, format!("{}: {error}", shown(&path.to_string_lossy())));
        match Errno::from_io_error(&error) {
            Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::STALE | Errno::NOTCONN) => {
                Stop::Final(Fault::Run(Error::disk(self.given.join(path), error)))
            }
            Some(Errno::NOENT | Errno::NOTDIR) => record(FailureCode::NotFound),
            Some(Errno::ISDIR | Errno::NXIO | Errno::NODEV) => record(FailureCode::NotAFile),
            Some(Errno::NAMETOOLONG | Errno::INVAL | Errno::ILSEQ) => record(FailureCode::BadReference),
            Some(Errno::XDEV) => record(FailureCode::ForbiddenPath),
            // cap-std's own refusal carries no system code.
            None if error.kind() == io::ErrorKind::PermissionDenied => record(FailureCode::ForbiddenPath),
            None if error.kind() == io::ErrorKind::InvalidInput => record(FailureCode::BadReference),
            _ => record(FailureCode::Io),
        }
    }
}

fn check_kind(is_file: bool, path: &Path) -> Result<(), Stop> {
    if is_file {
        return Ok(());
    }
    Err(Stop::record(
        FailureCode::NotAFile,
        format!("{}: a folder, device, FIFO or socket", shown(&path.to_string_lossy())),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below() {
        let dir = tempfile::tempdir().unwrap();
        let root = LocalRoot::open(dir.path()).unwrap();
        assert_eq!(root.below(Path::new("./a//b.jpg")).unwrap(), Path::new("a/b.jpg"));
        assert_eq!(root.below(&dir.path().join("a.jpg")).unwrap(), Path::new("a.jpg"));
        for bad in ["../a", "a/../../b", "a/../b", "/etc/passwd", "/"] {
            let refused = root.below(Path::new(bad));
            assert!(matches!(refused, Err(Stop::Final(Fault::Record(FailureCode::ForbiddenPath, _)))), "{bad}");
        }
        assert!(LocalRoot::open(&dir.path().join("missing")).is_err());
    }
}
