//! Folders that parts and plans live in, local or in an object store, behind one small set of promises; and the opening of
//! object stores, for everything that names one by URL.
//!
//! [`Stores`] keeps its clients: one for each bucket and set of options, so that ten thousand references into one bucket
//! share one connection pool and one set of credentials. Option values may be secrets: they are never printed, and
//! serialise as `[redacted]`.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::path::Path as ObjectPath;
use object_store::{BackoffConfig, ClientConfigKey, ObjectStore, RetryConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};
use url::Url;

use crate::error::{Error, Result};

mod answer;
mod folder;

pub(crate) use answer::Answer;
pub use answer::errors;
pub(crate) use folder::unavailable;
pub use folder::{Patience, patiently};

/// Clients kept at once. References can name any number of buckets, so the cache must not grow with them.
const MAX_CLIENTS: usize = 64;

/// The pipeline file's `stores`: options by URL prefix, under object_store's own names (`region`, `endpoint`,
/// `allow_http`, `access_key_id`, …). The longest prefix that fits wins; credentials also come from the environment.
#[derive(Clone, Default, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Stores {
    /// Options by URL prefix such as `s3://photos` or `s3://photos/private`; values may be secrets.
    pub options: BTreeMap<String, BTreeMap<String, String>>,
    #[serde(skip)]
    clients: Clients,
}

/// Open clients by bucket and the prefix whose options they were made with; shared by the clones of a [`Stores`].
type Clients = Arc<Mutex<HashMap<(String, String), Arc<dyn ObjectStore>>>>;

impl fmt::Debug for Stores {
    /// Prefixes and option names, no values.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.options.iter().map(|(k, v)| (k, v.keys().collect::<Vec<_>>()))).finish()
    }
}

impl PartialEq for Stores {
    fn eq(&self, other: &Self) -> bool {
        self.options == other.options
    }
}

impl Eq for Stores {}

impl Serialize for Stores {
    /// With `[redacted]` for every value.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(
            self.options.iter().map(|(prefix, options)| {
                (prefix, options.keys().map(|k| (k, "[redacted]")).collect::<BTreeMap<_, _>>())
            }),
        )
    }
}

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
        prefix: ObjectPath,
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
    /// When it was written, by the store's clock; a disk that does not tell gives the epoch.
    pub modified: SystemTime,
}

/// The kinds of object store, by URL scheme.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    S3,
    Gs,
    Az,
}

/// An object's URI, taken apart: `s3://bucket/some key` → (`s3`, `bucket`, `some key`).
struct ObjectUri<'a> {
    scheme: Scheme,
    bucket: &'a str,
    key: &'a str,
}

impl<'a> ObjectUri<'a> {
    fn parse(uri: &'a str) -> Result<Self> {
        let bad = |why: &str| Error::Config(format!("{uri}: {why}"));
        let (scheme, rest) = uri.split_once("://").ok_or_else(|| bad("not a URL"))?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "s3" => Scheme::S3,
            "gs" => Scheme::Gs,
            "az" => Scheme::Az,
            other => return Err(bad(&format!("unknown scheme `{other}`: use s3, gs or az"))),
        };
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        // The name becomes part of a host name in some addressing styles, so nothing but a bucket's own characters.
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '$');
        if bucket.is_empty() || !bucket.chars().all(legal) {
            return Err(bad("the bucket's name is missing or has characters that no bucket has"));
        }
        Ok(Self { scheme, bucket, key })
    }
}

/// A builder of each kind with the environment's credentials, our limits, and then the user's options.
macro_rules! build_store {
    ($builder:ty, $client_key:path, $with_bucket:ident, $bucket:expr, $options:expr, $prefix:expr) => {{
        let mut builder = <$builder>::from_env().$with_bucket($bucket).with_retry(retries());
        for (key, value) in client_defaults() {
            builder = builder.with_config($client_key(key), value);
        }
        for (key, value) in $options {
            let key = key
                .to_ascii_lowercase()
                .parse()
                .map_err(|_| Error::Config(format!("stores: `{}`: unknown option `{key}`", $prefix)))?;
            builder = builder.with_config(key, value);
        }
        builder.build().map(|store| Arc::new(store) as Arc<dyn ObjectStore>)
    }};
}

/// Callers try again themselves, with a backoff that knows their deadline; these few only bridge a dropped connection.
fn retries() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(200),
            max_backoff: Duration::from_secs(2),
            base: 2.0,
        },
        max_retries: 2,
        retry_timeout: Duration::from_secs(30),
    }
}

/// object_store's default of 30 s for a whole request is too short to upload a part of 128 MiB over a slow line; what
/// must not happen is silence.
fn client_defaults() -> [(ClientConfigKey, &'static str); 3] {
    [
        (ClientConfigKey::Timeout, "600s"),
        (ClientConfigKey::ReadTimeout, "60s"),
        (ClientConfigKey::ConnectTimeout, "10s"),
    ]
}

impl Stores {
    /// Stores with these options, by URL prefix.
    pub fn new(options: BTreeMap<String, BTreeMap<String, String>>) -> Self {
        Self { options, clients: Clients::default() }
    }

    /// Opens the folder that `place` names: a path, `file://`, `s3://`, `gs://` or `az://` URL.
    /// `Error::Config` for an unknown scheme or option.
    pub fn folder(&self, place: &str) -> Result<Folder> {
        if place.is_empty() {
            return Err(Error::Config("a folder's path is empty".to_owned()));
        }
        match place.split_once("://") {
            None => Folder::local(place, PathBuf::from(place)),
            Some((scheme, _)) if scheme.eq_ignore_ascii_case("file") => {
                match Url::parse(place).ok().and_then(|url| url.to_file_path().ok()) {
                    Some(path) => Folder::local(place, path),
                    None => Err(Error::Config(format!("{place}: not a file URL of this machine: write file:///path"))),
                }
            }
            Some(_) => {
                let (store, prefix) = self.open(place)?;
                Ok(Folder::Remote { store, prefix, url: place.trim_end_matches('/').to_owned() })
            }
        }
    }

    /// Opens the store of an `s3`, `gs` or `az` URL; the path is the URL's, percent-decoded.
    /// `Error::Config` for an unknown scheme or option, or a path that cannot be an object's.
    pub fn object(&self, url: &Url) -> Result<(Arc<dyn ObjectStore>, ObjectPath)> {
        let uri = ObjectUri::parse(url.as_str())?;
        let path = ObjectPath::from_url_path(url.path()).map_err(|e| Error::Config(format!("{url}: {e}")))?;
        Ok((self.client(&uri, url.as_str())?, path))
    }

    /// As [`Self::object`], with everything behind the bucket taken literally (`%`, `?`, `#` and blanks too), as other
    /// tools take `s3://` references.
    pub fn open(&self, uri: &str) -> Result<(Arc<dyn ObjectStore>, ObjectPath)> {
        let parsed = ObjectUri::parse(uri)?;
        let path = ObjectPath::parse(parsed.key).map_err(|e| Error::Config(format!("{uri}: {e}")))?;
        Ok((self.client(&parsed, uri)?, path))
    }

    /// Checks an `s3`, `gs` or `az` URI as [`Self::open`] reads it, without opening anything.
    pub fn check_uri(uri: &str) -> Result<()> {
        let parsed = ObjectUri::parse(uri)?;
        ObjectPath::parse(parsed.key).map(drop).map_err(|e| Error::Config(format!("{uri}: {e}")))
    }

    /// The options of the longest prefix that `uri` starts with, ending at a `/` or at the end of `uri`.
    fn options_for(&self, uri: &str) -> Option<(&str, &BTreeMap<String, String>)> {
        let fits = |prefix: &&str| {
            uri.strip_prefix(prefix.trim_end_matches('/')).is_some_and(|r| r.is_empty() || r.starts_with('/'))
        };
        self.options
            .iter()
            .map(|(prefix, options)| (prefix.as_str(), options))
            .filter(|(prefix, _)| fits(prefix))
            .max_by_key(|(prefix, _)| prefix.trim_end_matches('/').len())
    }

    fn client(&self, uri: &ObjectUri<'_>, whole: &str) -> Result<Arc<dyn ObjectStore>> {
        let none = BTreeMap::new();
        let (prefix, options) = self.options_for(whole).unwrap_or(("", &none));
        let key = (format!("{:?}://{}", uri.scheme, uri.bucket), prefix.to_owned());
        // A panic while the lock was held leaves a map that is as good as before.
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let bucket = uri.bucket;
        let client = match uri.scheme {
            Scheme::S3 => {
                build_store!(AmazonS3Builder, AmazonS3ConfigKey::Client, with_bucket_name, bucket, options, prefix)
            }
            Scheme::Gs => build_store!(
                GoogleCloudStorageBuilder,
                GoogleConfigKey::Client,
                with_bucket_name,
                bucket,
                options,
                prefix
            ),
            Scheme::Az => build_store!(
                MicrosoftAzureBuilder,
                AzureConfigKey::Client,
                with_container_name,
                bucket,
                options,
                prefix
            ),
        }
        .map_err(|e| {
            let at = if prefix.is_empty() { whole } else { prefix };
            Error::Config(format!("{at}: the store cannot be opened: {e}: see `stores` in the pipeline file"))
        })?;
        if clients.len() >= MAX_CLIENTS {
            clients.clear();
        }
        clients.insert(key, client.clone());
        Ok(client)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn stores(yaml: &[(&str, &[(&str, &str)])]) -> Stores {
        let owned = |o: &[(&str, &str)]| o.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        Stores::new(yaml.iter().map(|(prefix, options)| (prefix.to_string(), owned(options))).collect())
    }

    #[test]
    fn places() {
        let stores = Stores::default();
        assert!(matches!(stores.folder("out/x"), Ok(Folder::Local(p)) if p == Path::new("out/x")));
        assert!(matches!(stores.folder("file:///a%20b"), Ok(Folder::Local(p)) if p == Path::new("/a b")));
        for bad in ["", "ftp://host/x", "file://elsewhere/x", "s3:///x", "s3://a@b/x", "s3://bucket/../x"] {
            assert!(matches!(stores.folder(bad), Err(Error::Config(_))), "{bad}");
        }
    }

    #[test]
    fn longest_prefix_wins_at_a_boundary() {
        let stores = stores(&[("s3://a", &[("region", "1")]), ("s3://a/b/", &[("region", "2")]), ("gs://", &[])]);
        let region = |uri| stores.options_for(uri).and_then(|(_, o)| o.get("region")).map(String::as_str);
        assert_eq!(region("s3://a/x"), Some("1"));
        assert_eq!(region("s3://a/b/x"), Some("2"));
        assert_eq!(region("s3://a/bc"), Some("1"));
        assert_eq!(region("s3://ab/x"), None);
        assert!(stores.options_for("gs://any/x").is_some());
    }

    #[test]
    fn clients_are_shared_and_bounded() {
        let stores = stores(&[("s3://", &[("region", "eu-central-1"), ("skip_signature", "true")])]);
        let (a, path) = stores.open("s3://photos/a b%20c?d#e.jpg").unwrap();
        assert_eq!(path.as_ref(), "a b%20c?d#e.jpg");
        let (b, path) = stores.object(&Url::parse("s3://photos/x/a%20b.jpg").unwrap()).unwrap();
        assert_eq!(path.as_ref(), "x/a b.jpg");
        assert!(Arc::ptr_eq(&a, &b));
        for i in 0..MAX_CLIENTS + 10 {
            stores.open(&format!("s3://bucket-{i}/x")).unwrap();
        }
        assert!(stores.clients.lock().unwrap().len() <= MAX_CLIENTS);
    }

    #[test]
    fn unknown_option_is_named_and_values_never_are() {
        let stores = stores(&[("s3://p", &[("acess_key", "hunter2"), ("region", "r")])]);
        let error = stores.open("s3://p/x").unwrap_err().to_string();
        assert!(error.contains("acess_key") && !error.contains("hunter2"), "{error}");
        let shown = format!("{stores:?} {}", serde_json::to_string(&stores).unwrap());
        assert!(shown.contains("acess_key") && !shown.contains("hunter2"), "{shown}");
    }
}
