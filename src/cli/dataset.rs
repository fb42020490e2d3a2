//! What the commands that read a finished dataset share.

use lm4lv::Result;
use lm4lv::report::rows::Dataset;
use lm4lv::store::Stores;

/// What is said in the help of each command that takes a dataset.
pub(crate) const REMOTE: &str = "\
DIR is a local folder or an s3://, gs:// or az:// URL. Credentials and options of object stores come from the
environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, AWS_ALLOW_HTTP, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_NAME …).";

/// Opens the dataset in `dir`. `Error::Config` if there is none.
pub(crate) async fn open(dir: &str) -> Result<Dataset> {
    Dataset::open(Stores::default().folder(dir)?, dir).await
}
