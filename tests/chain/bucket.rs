//! The store that these tests run on: memory, or a real bucket where `LM4LV_S3_BUCKET` names one, reached as the product
//! reaches it, with endpoint and keys from the environment (`AWS_ENDPOINT`, `AWS_ACCESS_KEY_ID`, …).

use std::fmt;
use std::future::Future;
use std::sync::{Arc, LazyLock};

use futures::stream::{BoxStream, StreamExt};
use lm4lv::store::{Folder, Stores};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// An empty store.
pub(crate) fn store() -> Arc<dyn ObjectStore> {
    static BUCKET: LazyLock<Option<Arc<dyn ObjectStore>>> = LazyLock::new(|| {
        let Ok(bucket) = std::env::var("LM4LV_S3_BUCKET") else {
            eprintln!("LM4LV_S3_BUCKET is not set: on a store in memory only, see scripts/object_store.py");
            return None;
        };
        match Stores::default().folder(&format!("s3://{bucket}")).unwrap() {
            Folder::Remote { store, .. } => Some(Arc::new(OffTheClock(store))),
            Folder::Local(_) => unreachable!(),
        }
    });
    match &*BUCKET {
        Some(bucket) => Arc::new(PrefixStore::new(Arc::clone(bucket), uuid::Uuid::new_v4().to_string())),
        None => Arc::new(InMemory::new()),
    }
}

/// A store that answers in real time to callers whose clock is paused: a paused clock does not advance while a blocking task
/// runs, so each request is one, and none times out.
#[derive(Debug)]
struct OffTheClock(Arc<dyn ObjectStore>);

impl fmt::Display for OffTheClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

async fn off_the_clock<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    static REAL: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| tokio::runtime::Runtime::new().unwrap());
    tokio::task::spawn_blocking(|| REAL.block_on(work)).await.unwrap()
}

#[async_trait::async_trait]
impl ObjectStore for OffTheClock {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let (store, path) = (Arc::clone(&self.0), path.clone());
        off_the_clock(async move { store.put_opts(&path, payload, options).await }).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let (store, path) = (Arc::clone(&self.0), path.clone());
        off_the_clock(async move {
            let GetResult { payload, meta, range, attributes, extensions } = store.get_opts(&path, options).await?;
            let whole = GetResult {
                payload,
                meta: meta.clone(),
                range: range.clone(),
                attributes: attributes.clone(),
                extensions: extensions.clone(),
            };
            let bytes = whole.bytes().await?;
            let payload = GetResultPayload::Stream(futures::stream::iter([Ok(bytes)]).boxed());
            Ok(GetResult { payload, meta, range, attributes, extensions })
        })
        .await
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, prefix) = (Arc::clone(&self.0), prefix.cloned());
        let found = off_the_clock(async move { store.list(prefix.as_ref()).collect::<Vec<_>>().await });
        futures::stream::once(found).flat_map(futures::stream::iter).boxed()
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = Arc::clone(&self.0);
        let delete = move |path: Result<Path>| {
            let store = Arc::clone(&store);
            off_the_clock(async move {
                let path = path?;
                store.delete(&path).await.map(|()| path)
            })
        };
        paths.then(delete).boxed()
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        unimplemented!("parts go up in one request")
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        unimplemented!("not used")
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        unimplemented!("not used")
    }
}
