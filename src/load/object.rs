//! `s3://`, `gs://` and `az://` references, through [`Stores`].
//!
//! What a store's options name (an endpoint on a private network, say) is open for that store: the guard concerns
//! addresses that records choose.

use bytes::Bytes;
use futures::StreamExt;
use object_store::client::{HttpError, HttpErrorKind};
use object_store::{GetOptions, ObjectStore};

use crate::load::body::{Allowance, Body, Stop};
use crate::load::reference::shown;
use crate::sample::{FailureCode, Listed};
use crate::store::Stores;

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
        E::PermissionDenied { .. } => return record(FailureCode::AccessDenied, "the store answered 403 Forbidden"),
        E::Unauthenticated { .. } => return record(FailureCode::Unauthorized, "the store answered 401 Unauthorized"),
        E::InvalidPath { .. } => return record(FailureCode::BadReference, "no object can have this name"),
        _ => {}
    }
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(inner) = cause {
        // object_store's type that holds the status is private; its words are not.
        let text = inner.to_string();
        if let Some(status) = text.split_once("status code: ").and_then(|(_, rest)| rest.get(..3)?.parse::<u16>().ok())
        {
            let again = |code| Stop::again(code, format!("{uri}: the store answered {status}"));
            return match status {
                401 => record(FailureCode::Unauthorized, "the store answered 401 Unauthorized"),
                408 => again(FailureCode::Timeout),
                429 => again(FailureCode::RateLimited),
                500.. => again(FailureCode::ServerError),
                _ => record(FailureCode::HttpStatus, &format!("the store answered {status}")),
            };
        }
        if text.contains("Server returned error response") {
            return Stop::again(FailureCode::ServerError, format!("{uri}: the store answered with an error"));
        }
        if let Some(http) = inner.downcast_ref::<HttpError>() {
            let what = http.to_string();
            return match http.kind() {
                HttpErrorKind::Connect if what.contains("dns error") || what.contains("failed to lookup") => {
                    Stop::again(FailureCode::Dns, format!("{uri}: the store's host has no address"))
                }
                HttpErrorKind::Connect => {
                    Stop::again(FailureCode::Connect, format!("{uri}: no connection to the store"))
                }
                HttpErrorKind::Timeout => Stop::again(FailureCode::Timeout, format!("{uri}: the store went silent")),
                _ => Stop::again(FailureCode::BadResponse, format!("{uri}: the store's answer was cut or broken")),
            };
        }
        cause = inner.source();
    }
    // Credentials that could not be had, in the main.
    record(FailureCode::Unauthorized, &error.to_string())
}
