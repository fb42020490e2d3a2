//! What an object store's error means, in words short enough for a person and a log: object_store's own repeat the URL, the
//! time taken, and whole XML documents.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use object_store::Error as StoreError;
use object_store::client::{HttpError, HttpErrorKind};

/// Where clouds keep a machine's own credentials. object_store asks there when it was given none.
const METADATA: &[&str] = &["://169.254.169.254", "://169.254.170.2", "://metadata.google.internal"];

/// One for the process, since folders are opened in a dozen places that know nothing of each other.
static ERRORS: Mutex<BTreeMap<&str, u64>> = Mutex::new(BTreeMap::new());

/// Requests to stores that failed since the process began, by kind, such as `server_error`; those for images that records name
/// are not among them.
pub fn errors() -> BTreeMap<&'static str, u64> {
    ERRORS.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// How a store failed to do as it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// An HTTP status, and the store's own word for the reason (`AccessDenied`), if it gave one.
    Status(u16, Option<String>),
    /// An error within an answer that began well.
    Failed,
    /// There are no credentials, neither configured nor from the machine.
    NoCredentials,
    /// The endpoint's name has no address.
    Dns,
    /// No connection.
    Connect,
    /// No answer in time.
    Silent,
    /// The answer was cut or is not HTTP.
    Broken,
    /// Anything else, as object_store says it.
    Other(String),
}

impl Answer {
    /// What `error` means.
    pub(crate) fn of(error: &StoreError) -> Self {
        let mut chain = error.to_string();
        let mut kind = None;
        let mut cause = error.source();
        while let Some(inner) = cause {
            kind = kind.or_else(|| inner.downcast_ref::<HttpError>().map(HttpError::kind));
            chain = format!("{chain}: {inner}");
            cause = inner.source();
        }
        if METADATA.iter().any(|host| chain.contains(host)) {
            return Self::NoCredentials;
        }
        // object_store's type that holds the status is private; its words are not.
        let status = match error {
            StoreError::NotFound { .. } => Some(404),
            StoreError::PermissionDenied { .. } => Some(403),
            StoreError::Unauthenticated { .. } => Some(401),
            _ => chain.split_once("status code: ").and_then(|(_, rest)| rest.get(..3)?.parse().ok()),
        };
        if let Some(status) = status {
            return Self::Status(status, reason(&chain));
        }
        match kind {
            Some(HttpErrorKind::Connect) if chain.contains("dns error") || chain.contains("failed to lookup") => {
                Self::Dns
            }
            Some(HttpErrorKind::Connect) => Self::Connect,
            Some(HttpErrorKind::Timeout) => Self::Silent,
            Some(_) => Self::Broken,
            None if chain.contains("Server returned error response") => Self::Failed,
            None => Self::Other(error.to_string()),
        }
    }

    /// Counts it among [`errors`].
    pub(super) fn count(&self) {
        *ERRORS.lock().unwrap_or_else(PoisonError::into_inner).entry(self.kind()).or_default() += 1;
    }

    /// In one word, a failure code's where there is such a one.
    fn kind(&self) -> &'static str {
        match self {
            Self::Status(401, _) | Self::NoCredentials => "unauthorized",
            Self::Status(403, _) => "access_denied",
            Self::Status(404, _) => "not_found",
            Self::Status(429, _) => "rate_limited",
            Self::Status(500.., _) | Self::Failed => "server_error",
            Self::Status(..) => "http_status",
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::Silent => "timeout",
            Self::Broken => "bad_response",
            Self::Other(_) => "other",
        }
    }

    /// True if who we are, or say we are, was refused. (S3 answers 400 once a temporary token has run out.)
    pub(crate) fn refuses_credentials(&self) -> bool {
        match self {
            Self::Status(401, _) | Self::NoCredentials => true,
            Self::Status(400, Some(reason)) => {
                matches!(reason.as_str(), "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired")
            }
            _ => false,
        }
    }
}

/// The `<Code>` of an answer's XML.
fn reason(text: &str) -> Option<String> {
    let code = text.split_once("<Code>")?.1.split_once("</Code>")?.0;
    let is_word = !code.is_empty() && code.len() <= 64 && code.chars().all(|c| c.is_ascii_alphanumeric());
    is_word.then(|| code.to_owned())
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status, reason) => {
                write!(f, "the store answered {status}")?;
                match status {
                    401 => write!(f, " Unauthorized")?,
                    403 => write!(f, " Forbidden")?,
                    404 => write!(f, " Not Found")?,
                    429 => write!(f, " Too Many Requests")?,
                    503 => write!(f, " Service Unavailable")?,
                    _ => {}
                }
                reason.as_ref().map_or(Ok(()), |reason| write!(f, " ({reason})"))
            }
            Self::Failed => write!(f, "the store answered with an error"),
            Self::NoCredentials => write!(
                f,
                "there are no credentials for this store, neither in the environment (AWS_ACCESS_KEY_ID and \
                 AWS_SECRET_ACCESS_KEY, or your cloud's) nor under `stores` in the pipeline file nor from the machine itself; \
                 `skip_signature: true` under `stores` asks without"
            ),
            Self::Dns => write!(f, "the store's host has no address"),
            Self::Connect => write!(f, "no connection to the store"),
            Self::Silent => write!(f, "the store went silent"),
            Self::Broken => write!(f, "the store's answer was cut or broken"),
            Self::Other(text) => write!(f, "{text}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(text: &str) -> Answer {
        Answer::of(&StoreError::Generic { store: "S3", source: text.to_owned().into() })
    }

    #[test]
    fn words_are_short() {
        let xml = "Error performing GET http://h/b?list-type=2 in 6ms - Server returned non-2xx status code: 404 Not Found: \
                   <?xml version=\"1.0\"?>\n<Error><Code>NoSuchBucket</Code><Message>long</Message></Error>";
        assert_eq!(generic(xml).to_string(), "the store answered 404 Not Found (NoSuchBucket)");
        let hostile = "status code: 500 x: <Code>a\u{1b}[31m\nb</Code>";
        assert_eq!(generic(hostile).to_string(), "the store answered 500");
        let metadata =
            "Error performing PUT http://169.254.169.254/latest/api/token in 4ms - status code: 403 Forbidden";
        assert_eq!(generic(metadata), Answer::NoCredentials);
        let expired = "status code: 400 Bad Request: <Error><Code>ExpiredToken</Code></Error>";
        assert!(
            generic(expired).refuses_credentials() && !generic("status code: 400 Bad Request").refuses_credentials()
        );
        assert!(matches!(generic("what is this"), Answer::Other(text) if text.contains("what is this")));
    }
}
