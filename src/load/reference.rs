//! What a reference names: parses the string of [`Reference::Uri`](crate::sample::Reference::Uri) into a [`Place`].
//!
//! A string without one of our schemes is a path and taken literally: `%20`, `?`, `#`, blanks and colons are characters of
//! a file's name, since datasets hold what a file system gave them, not what a browser would have made of it. Only `file:`
//! and `http(s):` are URLs with percent-encoding; `s3://`, `gs://` and `az://` keys are literal, as other tools take them.

use std::path::{Component, Path, PathBuf};

use url::Url;

use crate::load::inline;
use crate::sample::FailureCode;

/// A reference, taken apart but not yet checked against a root or a guard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place<'a> {
    /// A path as written; may be absolute.
    Path(PathBuf),
    /// An `http` or `https` URL.
    Http(Url),
    /// An `s3://`, `gs://` or `az://` URI, as written.
    Object(&'a str),
    /// What stands behind `data:`.
    Data(&'a str),
}

/// A code and a message for the row.
pub type Refused = (FailureCode, String);

/// No path or URL that anybody serves is longer, bytes.
const LONGEST: usize = 64 << 10;

/// False if `reference` is too long to name, or hold, a file of `max` bytes.
pub(crate) fn fits(reference: &str, max: u64) -> bool {
    reference.len() <= LONGEST || strip_scheme(reference.trim(), "data").is_some_and(|data| inline::fits(data, max))
}

/// What is wrong with a reference that does not fit; `start` is all that was kept of it.
pub(crate) fn too_long(start: &str, length: u64, max: u64) -> Refused {
    if strip_scheme(start.trim(), "data").is_some() {
        return (
            FailureCode::TooLarge,
            format!("data: URI of {length} characters: more than load.max_mib = {} MiB", max >> 20),
        );
    }
    (FailureCode::BadReference, format!("{}: {length} bytes, longer than a path or URL can be", shown(start)))
}

/// Parses a reference. `Err` with `BadReference` for what is neither a path nor a URI with a scheme known here.
pub fn parse(reference: &str) -> Result<Place<'_>, Refused> {
    let bad = |why: &str| Err((FailureCode::BadReference, format!("{}: {why}", shown(reference))));
    let trimmed = reference.trim();
    if trimmed.is_empty() {
        return bad("the reference is empty");
    }
    // Before anything else: a data URI may hold a hundred megabytes.
    if let Some(data) = strip_scheme(trimmed, "data") {
        return Ok(Place::Data(data));
    }
    if reference.len() > LONGEST {
        return Err(too_long(reference, reference.len() as u64, 0));
    }
    if reference.contains('\0') {
        return bad("has a NUL character");
    }
    if strip_scheme(trimmed, "http").is_some() || strip_scheme(trimmed, "https").is_some() {
        return match Url::parse(trimmed) {
            // `http:/host` and `http:host` are typing errors that a browser forgives; here they are more likely a cut URL.
            Ok(url) if url.has_host() && trimmed.contains("://") => Ok(Place::Http(url)),
            Ok(_) => bad("not a URL: there is no host"),
            Err(e) => bad(&format!("not a URL: {e}")),
        };
    }
    if strip_scheme(trimmed, "file").is_some() {
        return match Url::parse(trimmed).ok().and_then(|url| url.to_file_path().ok()) {
            Some(path) if !path.as_os_str().as_encoded_bytes().contains(&0) => Ok(Place::Path(path)),
            _ => bad("not a file URL of this machine: write file:///path"),
        };
    }
    if let Some((scheme, _)) = trimmed.split_once("://")
        && is_scheme(scheme)
    {
        return match scheme.to_ascii_lowercase().as_str() {
            "s3" | "gs" | "az" => Ok(Place::Object(trimmed)),
            other => bad(&format!("scheme `{other}` is not supported: use file, http, https, s3, gs, az or data")),
        };
    }
    if let [drive, b':', b'\\' | b'/', ..] = reference.as_bytes()
        && drive.is_ascii_alphabetic()
    {
        return bad("a Windows path: write it relative to load.root, with `/`");
    }
    Ok(Place::Path(PathBuf::from(reference)))
}

/// Whether `path` has a `..`.
pub(crate) fn climbs(path: &Path) -> bool {
    path.components().any(|c| c == Component::ParentDir)
}

/// `text` behind `scheme:`, if it begins so.
fn strip_scheme<'a>(text: &'a str, scheme: &str) -> Option<&'a str> {
    let head = text.get(..scheme.len())?;
    head.eq_ignore_ascii_case(scheme).then(|| text[scheme.len()..].strip_prefix(':'))?
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

/// A reference for a message: never long, and without a URL's password and query, which may be secret.
pub(crate) fn shown(reference: &str) -> String {
    let mut text = reference.trim();
    if strip_scheme(text, "data").is_some() {
        return "data: URI".to_owned();
    }
    let mut cleaned = String::new();
    let web = |scheme: &str| !matches!(scheme.to_ascii_lowercase().as_str(), "s3" | "gs" | "az" | "file");
    let split = text.split_once("//").filter(|(scheme, _)| {
        let scheme = scheme.strip_suffix(':').unwrap_or(scheme);
        scheme.is_empty() || is_scheme(scheme) && web(scheme)
    });
    if let Some((scheme, rest)) = split {
        let rest = rest.split(['?', '#']).next().unwrap_or_default();
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let host = authority.rsplit('@').next().unwrap_or_default();
        cleaned = format!("{scheme}//{host}{path}");
        text = &cleaned;
    }
    const LONGEST: usize = 200;
    match text.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}…", text[..at].escape_debug()),
        None if cleaned.is_empty() => text.escape_debug().to_string(),
        None => cleaned.escape_debug().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_literal() {
        for path in
            ["a.jpg", "a b%20c?d#e.jpg", "dir/ü.png", "./a.jpg", "foo:bar.jpg", "a\\b.jpg", "/abs/x", "//x/y", " a"]
        {
            assert_eq!(parse(path), Ok(Place::Path(PathBuf::from(path))), "{path}");
        }
    }

    #[test]
    fn uris() {
        assert_eq!(parse("file:///a%20b"), Ok(Place::Path(PathBuf::from("/a b"))));
        assert_eq!(parse("FILE:///x"), Ok(Place::Path(PathBuf::from("/x"))));
        assert_eq!(parse(" s3://b/a b?c#d "), Ok(Place::Object("s3://b/a b?c#d")));
        assert_eq!(parse("DATA:,x"), Ok(Place::Data(",x")));
        assert!(matches!(parse("\thttps://host/a b.jpg\n"), Ok(Place::Http(u)) if u.path() == "/a%20b.jpg"));
        for bad in [
            "",
            "  ",
            "a\0b",
            "ftp://host/x",
            "http:/host/x",
            "http:host",
            "http://",
            "http://[::1/x",
            "file://other/x",
            "file:///a%00b",
            "C:\\photos\\a.jpg",
            "c:/photos/a.jpg",
            "gopher://x",
        ] {
            assert!(matches!(parse(bad), Err((FailureCode::BadReference, _))), "{bad}: {:?}", parse(bad));
        }
    }

    #[test]
    fn messages_hold_no_secret_and_are_short() {
        assert_eq!(shown("https://user:pw@host/a?token=x#y"), "https://host/a");
        assert_eq!(shown("http://host?token=x"), "http://host");
        assert_eq!(shown("data:image/png;base64,AAAA"), "data: URI");
        assert_eq!(shown("a\nb"), "a\\nb");
        assert!(shown(&"ü".repeat(9999)).chars().count() < 210);
    }
}
