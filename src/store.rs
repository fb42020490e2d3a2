//! Folders that parts and plans live in, local or in an object store, behind one small set of promises.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use object_store::ObjectStore;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Result;

/// The pipeline file's `stores`: options by URL prefix, under object_store's own names (`region`, `endpoint`,
/// `allow_http`, `access_key_id`, …). The longest prefix that fits wins; credentials also come from the environment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Stores(pub BTreeMap<String, BTreeMap<String, String>>);

/// A folder: a local one, or a prefix in an object store.
#[derive(Debug, Clone)]
pub enum Folder {
    /// On a local disk.
    Local(PathBuf),
    /// In an object store.
    Remote {
        /// The bucket.
        store: Arc<dyn ObjectStore>,
        /// The folder's path in it.
        prefix: object_store::path::Path,
        /// As the user wrote it, for messages.
        url: String,
    },
}

/// What became of a create-if-absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Create {
    /// The object is there now, with our bytes, durably.
    Done,
    /// An object of that name was there already; nothing was written.
    Exists,
}

/// An object below a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Path below the folder, with `/`.
    pub name: String,
    /// Bytes.
    pub size: u64,
}

impl Stores {
    /// Opens the folder that `place` names: a path, `file://`, `s3://`, `gs://` or `az://` URL.
    /// `Error::Config` for an unknown scheme or option.
    pub fn folder(&self, _place: &str) -> Result<Folder> {
        todo!()
    }
}

impl Folder {
    /// Creates `name` below the folder if nothing is there: atomic, durable before it returns, never overwriting.
    pub async fn create(&self, _name: &str, _bytes: Bytes) -> Result<Create> {
        todo!()
    }

    /// The whole object, `None` if there is none.
    pub async fn get(&self, _name: &str) -> Result<Option<Bytes>> {
        todo!()
    }

    /// Everything below sub-folder `under` (recursively), sorted by name.
    pub async fn list(&self, _under: &str) -> Result<Vec<Entry>> {
        todo!()
    }
}
