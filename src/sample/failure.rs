//! Why rows fail: the codes, and what each says about trying again.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Why one row failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The column `error_code`.
    pub code: FailureCode,
    /// The column `error_message`.
    pub message: String,
}

macro_rules! failure_codes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal, $class:ident;)+) => {
        /// The values of `error_code`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum FailureCode { $($(#[doc = $doc])+ $variant,)+ }

        impl FailureCode {
            /// Every code, in the order of the documentation.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The value in the column.
            pub fn as_str(self) -> &'static str { match self { $(Self::$variant => $name,)+ } }

            /// What it means, one sentence.
            pub fn describe(self) -> &'static str { match self { $(Self::$variant => concat!($($doc),+).trim_ascii(),)+ } }

            /// Whose fault it is, which decides what a retry is worth.
            pub fn class(self) -> FailureClass { match self { $(Self::$variant => FailureClass::$class,)+ } }
        }
    };
}

/// What a failure says about trying again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// The record itself is bad: the same again next time.
    Permanent,
    /// May differ another day: worth `where: { status: [failed] }`.
    Transient,
    /// Looks like a fault of a host or a network: provisional until the breaker is known to be closed.
    Fault,
}

failure_codes! {
    /// The reference is null.
    NullReference = "null_reference", Permanent;
    /// The reference cannot be read as a path or URI, or its scheme is not supported.
    BadReference = "bad_reference", Permanent;
    /// The message could not be read; its bytes are in `raw`.
    BadMessage = "bad_message", Permanent;
    /// The path leaves `load.root` (`..`, an absolute path elsewhere, or a symbolic link): set `load.root` to the folder meant.
    ForbiddenPath = "forbidden_path", Permanent;
    /// The host is, resolves to, or redirects to an address that `load.allow` does not open.
    ForbiddenAddress = "forbidden_address", Permanent;
    /// The server asked not to be used this way (`X-Robots-Tag`).
    OptedOut = "opted_out", Permanent;
    /// No such file, object or page (404, 410).
    NotFound = "not_found", Permanent;
    /// A folder, device, FIFO or socket, not a file.
    NotAFile = "not_a_file", Permanent;
    /// The file is not the one that the plan listed (size, time or ETag differ).
    SourceChanged = "source_changed", Permanent;
    /// Another refusal of the server (4xx), or more redirects than allowed.
    HttpStatus = "http_status", Permanent;
    /// The file could not be read.
    Io = "io", Transient;
    /// The server cut the body short or broke the protocol.
    BadResponse = "bad_response", Transient;
    /// `load.deadline_s` passed before the bytes were here.
    Timeout = "timeout", Transient;
    /// Too many requests (429), also after the retries.
    RateLimited = "rate_limited", Transient;
    /// Credentials are missing or wrong (401).
    Unauthorized = "unauthorized", Fault;
    /// Access is denied (403).
    AccessDenied = "access_denied", Fault;
    /// The server failed (5xx), also after the retries.
    ServerError = "server_error", Fault;
    /// The host's name has no address.
    Dns = "dns", Fault;
    /// No connection to the host (refused, unreachable, TLS).
    Connect = "connect", Fault;
    /// More bytes than `load.max_mib`.
    TooLarge = "too_large", Permanent;
    /// More pixels than `load.max_mpx`.
    TooManyPixels = "too_many_pixels", Permanent;
    /// Wider or taller than `load.max_aspect` allows.
    BadAspect = "bad_aspect", Permanent;
    /// No bytes.
    Empty = "empty", Permanent;
    /// Not JPEG, PNG, WebP, GIF, BMP or TIFF.
    UnknownFormat = "unknown_format", Permanent;
    /// A known format with a feature that is not supported.
    Unsupported = "unsupported", Permanent;
    /// Truncated or broken image data.
    Corrupt = "corrupt", Permanent;
    /// The image is smaller than the crop asks for.
    TooSmall = "too_small", Permanent;
    /// The target that the source names has another size than the image.
    SizeMismatch = "size_mismatch", Permanent;
    /// A step of the recipe cannot be applied to this image or lacks its column.
    Degrade = "degrade", Permanent;
    /// The record's task is none of the model's, or it names none and `restore` gives none.
    Task = "task", Permanent;
    /// The image cannot be written in the encoding asked for.
    Encode = "encode", Permanent;
}
