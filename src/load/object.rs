//! `s3://`, `gs://` and `az://` references, through [`Stores`].
//!
//! What a store's options name (an endpoint on a private network, say) is open for that store: the guard concerns
//! addresses that records choose.

use bytes::Bytes;
use futures::StreamExt;
use object_store::{GetOptions, ObjectStore};

use crate::load::body::{Allowance, Body, Stop};
use crate::load::reference::shown;
use crate::sample::{FailureCode, Listed};
use crate::store::{Answer, Stores};

/// Fetches the object that `uri` names.
pub(crate) async fn get(
    stores: &Stores,
    uri: &str,
    listed: Option<Listed>,
    allowance: &Allowance,
    max: u64,
) -> Result<Bytes, Stop> {
    Stores::check_uri(uri)
        .map_err(|e| Stop::record(FailureCode::BadReference, e.to_string().replace(uri, &shown(uri))))?;
    // A store that cannot be opened has no (complete) credentials or options: no fault of the record.
    let (store, path) = stores.open(uri).map_err(|e| Stop::record(FailureCode::Unauthorized, e.to_string()))?;
    let found = store.get_opts(&path, GetOptions::default()).await.map_err(|e| classify(uri, &e))?;
    if let Some(listed) = listed {
        // A listing tells the time more finely than the answer to a request does.
        let same_time =
            listed.mtime_ns == 0 || listed.mtime_ns.div_euclid(1_000_000_000) == found.meta.last_modified.timestamp();
        if listed.size != found.meta.size || !same_time {
            let message = format!("{}: not the object that was listed (size or time differ)", shown(uri));
            return Err(Stop::record(FailureCode::SourceChanged, message));
        }
    }
    let mut body = Body::new(allowance, max, Some(found.meta.size))?;
    let mut pieces = found.into_stream();
    while let Some(piece) = pieces.next().await {
        body.push(&piece.map_err(|e| classify(uri, &e))?)?;
    }
    body.finish()
}

/// What a store's error means. The store's own text is left out where it would repeat the URL with its query.
fn classify(uri: &str, error: &object_store::Error) -> Stop {
    use object_store::Error as E;
    let uri = shown(uri);
    let record = |code, what: &str| Stop::record(code, format!("{uri}: {what}"));
    match error {
        E::NotFound { .. } => return record(FailureCode::NotFound, "there is no such object"),
        E::InvalidPath { .. } => return record(FailureCode::BadReference, "no object can have this name"),
        _ => {}
    }
    let answer = Answer::of(error);
    let message = format!("{uri}: {answer}");
    match answer {
        answer if answer.refuses_credentials() => Stop::record(FailureCode::Unauthorized, message),
        Answer::Status(403, _) => Stop::record(FailureCode::AccessDenied, message),
        Answer::Status(404, _) => Stop::record(FailureCode::NotFound, message),
        Answer::Status(408, _) | Answer::Silent => Stop::again(FailureCode::Timeout, message),
        Answer::Status(429, _) => Stop::again(FailureCode::RateLimited, message),
        Answer::Status(500.., _) | Answer::Failed => Stop::again(FailureCode::ServerError, message),
        Answer::Status(..) => Stop::record(FailureCode::HttpStatus, message),
        Answer::Dns => Stop::again(FailureCode::Dns, message),
        Answer::Connect => Stop::again(FailureCode::Connect, message),
        Answer::Broken => Stop::again(FailureCode::BadResponse, message),
        // Credentials that could not be had, in the main.
        Answer::Other(_) | Answer::NoCredentials => Stop::record(FailureCode::Unauthorized, message),
    }
}
