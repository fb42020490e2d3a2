//! `http(s)` references: one request at a time, redirects left to the caller, everything in the answer distrusted.
//!
//! The client follows no redirect, uses no proxy, keeps no cookies and unpacks no `Content-Encoding`; it connects only to
//! addresses that the [`guard`](crate::load::guard) passed. Each request's headers are looked up by its own URL, so none
//! travels with a redirect to somebody else.

use std::error::Error as _;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_ENCODING, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Client, StatusCode};
use url::Url;

use crate::error::Error;
use crate::load::body::{Allowance, Body, Stop};
use crate::load::config::{Headers, LoadConfig};
use crate::load::guard::{Guard, GuardedResolver, Lookup, Refusal};
use crate::load::reference::shown;
use crate::sample::FailureCode;
use crate::stage::Fault;

/// Longest wait for a connection, and for the next piece of an answer. Both are retried within the record's deadline.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const READ_TIMEOUT: Duration = Duration::from_secs(20);

/// The name that `X-Robots-Tag` may address.
const AGENT: &str = "lm4lv";

/// What one request led to.
pub(crate) enum Answer {
    Bytes(Bytes),
    Redirect(Url),
}

/// The HTTP client, made when the first `http` reference comes.
pub(crate) struct Http {
    client: OnceLock<Result<Client, String>>,
    guard: Arc<Guard>,
    lookup: Arc<dyn Lookup>,
    headers: Vec<(Url, HeaderMap)>,
    disallowed: Vec<String>,
    max_bytes: u64,
}

impl Http {
    pub(crate) fn new(config: &LoadConfig, guard: Guard, lookup: Arc<dyn Lookup>) -> Self {
        Self {
            client: OnceLock::new(),
            guard: Arc::new(guard),
            lookup,
            headers: parse_headers(&config.headers),
            disallowed: config.disallowed_header_directives.iter().map(|d| d.trim().to_ascii_lowercase()).collect(),
            max_bytes: config.max_bytes(),
        }
    }

    fn client(&self) -> Result<&Client, Stop> {
        let build = || {
            let resolver = GuardedResolver { guard: self.guard.clone(), lookup: self.lookup.clone() };
            Client::builder()
                .user_agent(concat!("lm4lv/", env!("CARGO_PKG_VERSION")))
                .redirect(reqwest::redirect::Policy::none())
                .referer(false)
                .no_proxy()
                .dns_resolver(Arc::new(resolver))
                .connect_timeout(CONNECT_TIMEOUT)
                .read_timeout(READ_TIMEOUT)
                .build()
                .map_err(|e| chain(&e))
        };
        self.client.get_or_init(build).as_ref().map_err(|e| {
            Stop::Final(Fault::Run(Error::Config(format!("http references cannot be fetched on this machine: {e}"))))
        })
    }

    /// The configured headers of the longest prefix that `url` starts with: same scheme, host and port, and its path up to
    /// a `/` or the end.
    fn headers_for(&self, url: &Url) -> Option<&HeaderMap> {
        let fits = |prefix: &Url| {
            let below = |rest: &str| prefix.path().ends_with('/') || rest.is_empty() || rest.starts_with('/');
            prefix.scheme() == url.scheme()
                && prefix.host() == url.host()
                && prefix.port_or_known_default() == url.port_or_known_default()
                && url.path().strip_prefix(prefix.path()).is_some_and(below)
        };
        let longest = self.headers.iter().filter(|(prefix, _)| fits(prefix)).max_by_key(|(p, _)| p.path().len());
        longest.map(|(_, headers)| headers)
    }

    /// Whether a request for `url` carries something of ours that could be a credential. What stands in the reference itself
    /// (`user:password@`) is not ours: whoever wrote the list put it there, and its refusal says nothing of the run.
    pub(crate) fn credentials(&self, url: &Url) -> bool {
        let harmless = ["user-agent", "accept", "accept-language", "referer"];
        let secret = |headers: &HeaderMap| headers.keys().any(|name| !harmless.contains(&name.as_str()));
        self.headers_for(url).is_some_and(secret)
    }

    /// Checks what can be checked before a connection is made.
    pub(crate) fn check(&self, url: &Url) -> Result<(), Stop> {
        self.guard.url(url).map_err(Stop::Final)
    }

    /// One request, its answer's body included.
    pub(crate) async fn get(&self, url: &Url, allowance: &Allowance) -> Result<Answer, Stop> {
        let mut request = self.client()?.get(url.clone());
        if let Some(headers) = self.headers_for(url) {
            request = request.headers(headers.clone());
        }
        let mut response = request.send().await.map_err(classify)?;
        let status = response.status();
        if status.is_redirection()
            && let Some(location) = response.headers().get(LOCATION)
        {
            return redirect(url, location).map(Answer::Redirect);
        }
        if !status.is_success() {
            return Err(refused(status, response.headers()));
        }
        if opted_out(response.headers(), &self.disallowed) {
            return Err(Stop::record(FailureCode::OptedOut, "X-Robots-Tag forbids this use"));
        }
        if let Some(coding) = response.headers().get(CONTENT_ENCODING)
            && coding != "identity"
        {
            let message = format!("Content-Encoding {coding:?}, which was not asked for");
            return Err(Stop::record(FailureCode::BadResponse, message));
        }
        let mut body = Body::new(allowance, self.max_bytes, response.content_length())?;
        while let Some(piece) = response.chunk().await.map_err(classify)? {
            body.push(&piece)?;
        }
        body.finish().map(Answer::Bytes)
    }
}

/// `headers` was checked with the pipeline file; what does not parse is not there.
fn parse_headers(headers: &Headers) -> Vec<(Url, HeaderMap)> {
    let parse_one = |(name, value): (&String, &String)| {
        let mut value = HeaderValue::try_from(value).ok()?;
        value.set_sensitive(true);
        Some((HeaderName::try_from(name).ok()?, value))
    };
    let parse = |(prefix, headers): (&String, &_)| -> Option<(Url, HeaderMap)> {
        let headers: &std::collections::BTreeMap<String, String> = headers;
        Some((Url::parse(prefix).ok()?, headers.iter().filter_map(parse_one).collect()))
    };
    headers.0.iter().filter_map(parse).collect()
}

fn redirect(from: &Url, location: &HeaderValue) -> Result<Url, Stop> {
    let to = std::str::from_utf8(location.as_bytes()).ok().and_then(|to| from.join(to).ok());
    let mut to = to.ok_or_else(|| Stop::record(FailureCode::BadResponse, "redirects to what is not a URL"))?;
    // A server does not get to choose what we log in with.
    let without_user = to.set_username("").and_then(|()| to.set_password(None));
    if without_user.is_err() && !matches!(to.scheme(), "http" | "https") {
        let message = format!("redirects to scheme `{}`, which may not be asked for", to.scheme());
        return Err(Stop::record(FailureCode::ForbiddenAddress, message));
    }
    Ok(to)
}

/// What a status other than success means.
fn refused(status: StatusCode, headers: &HeaderMap) -> Stop {
    let message = format!("the server answered {status}");
    let code = match status.as_u16() {
        401 => FailureCode::Unauthorized,
        403 => FailureCode::AccessDenied,
        404 | 410 => FailureCode::NotFound,
        408 => FailureCode::Timeout,
        429 => FailureCode::RateLimited,
        500.. => FailureCode::ServerError,
        _ => FailureCode::HttpStatus,
    };
    match code {
        FailureCode::Timeout | FailureCode::RateLimited | FailureCode::ServerError => {
            let after = headers.get(RETRY_AFTER).and_then(|v| v.to_str().ok()).and_then(retry_after);
            Stop::Again { code, message, after }
        }
        _ => Stop::record(code, message),
    }
}

/// What an error of the client means.
fn classify(error: reqwest::Error) -> Stop {
    let error = error.without_url();
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(refusal) = inner.downcast_ref::<Refusal>() {
            return match refusal {
                Refusal::Closed { .. } => Stop::record(FailureCode::ForbiddenAddress, refusal.to_string()),
                // The resolver's final answer ("Name or service not known", "nodename nor servname provided, or not
                // known"), unlike "Temporary failure in name resolution".
                Refusal::NoAddress { reason, .. } if reason.contains("not known") => {
                    Stop::record(FailureCode::Dns, refusal.to_string())
                }
                Refusal::NoAddress { .. } => Stop::again(FailureCode::Dns, refusal.to_string()),
            };
        }
        cause = inner.source();
    }
    let message = chain(&error);
    if error.is_builder() {
        Stop::record(FailureCode::BadReference, message)
    } else if error.is_connect() {
        Stop::again(FailureCode::Connect, message)
    } else if error.is_timeout() {
        Stop::again(FailureCode::Timeout, message)
    } else {
        Stop::again(FailureCode::BadResponse, message)
    }
}

/// An error and its causes in one line.
fn chain(error: &reqwest::Error) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        message = format!("{message}: {inner}");
        cause = inner.source();
    }
    message
}

/// Whether an `X-Robots-Tag` that concerns everybody or us has one of `disallowed`. A directive may be scoped
/// (`otherbot: noindex, nofollow`), which then holds for the rest of the line up to the next name.
fn opted_out(headers: &HeaderMap, disallowed: &[String]) -> bool {
    /// Directives whose own value follows a colon.
    const WITH_VALUE: &[&str] = &["unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"];
    headers.get_all("x-robots-tag").iter().any(|line| {
        let line = String::from_utf8_lossy(line.as_bytes()).to_ascii_lowercase();
        let mut ours = true;
        line.split(',').any(|item| {
            let mut directive = item.trim();
            if let Some((name, rest)) = directive.split_once(':')
                && !WITH_VALUE.contains(&name.trim())
            {
                ours = matches!(name.trim(), "*" | AGENT);
                directive = rest.trim();
            }
            ours && disallowed.iter().any(|d| d == directive)
        })
    })
}

/// `Retry-After`: seconds, or a date (RFC 9110, the preferred form `Sun, 06 Nov 1994 08:49:37 GMT` only).
fn retry_after(value: &str) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(Duration::from_secs(http_date(value)?).saturating_sub(now))
}

/// Seconds since 1970 of an RFC 9110 `IMF-fixdate`.
fn http_date(value: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let words: Vec<&str> = value.split_ascii_whitespace().collect();
    let [_weekday, day, month, year, time, "GMT"] = words[..] else { return None };
    let month = MONTHS.iter().position(|m| *m == month)? as u64 + 1;
    let (day, year): (u64, u64) = (day.parse().ok()?, year.parse().ok()?);
    let clock: Vec<u64> = time.split(':').map(|n| n.parse().ok()).collect::<Option<_>>()?;
    let [hour, minute, second] = clock[..] else { return None };
    if !(1970..=9999).contains(&year) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Days since 1970, counting years from March, so that a leap day comes last.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

/// The URL for a message.
pub(crate) fn shown_url(url: &Url) -> String {
    shown(url.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(http_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(http_date("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(http_date("Thu, 29 Feb 2024 23:59:59 GMT"), Some(1_709_251_199));
        for bad in ["", "now", "Sun, 06 Nov 1994 08:49 GMT", "Sun, 06 Foo 1994 08:49:37 GMT", "x 0 Jan 1970 0:0:0 GMT"]
        {
            assert_eq!(http_date(bad), None, "{bad}");
        }
        assert_eq!(retry_after(" 7 "), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        assert_eq!(retry_after("soon"), None);
    }

    #[test]
    fn robots() {
        let out = |values: &[&str]| {
            let headers =
                values.iter().map(|v| (HeaderName::from_static("x-robots-tag"), HeaderValue::from_str(v).unwrap()));
            opted_out(&headers.collect(), &LoadConfig::default().disallowed_header_directives)
        };
        for yes in ["noai", "NoIndex", "nofollow, noimageai", "lm4lv: noai", "*: noindex", "otherbot: all, lm4lv: noai"]
        {
            assert!(out(&[yes]), "{yes}");
        }
        for no in [
            "",
            "all",
            "nofollow",
            "otherbot: noai",
            "otherbot: nofollow, noai",
            "unavailable_after: 25 Jun 2030 15:00:00 PST",
        ] {
            assert!(!out(&[no]), "{no}");
        }
        assert!(out(&["otherbot: noai", "noai"]));
        assert!(out(&["max-snippet: 5, noai"]));
    }

    #[test]
    fn headers_stay_with_their_origin() {
        let config: LoadConfig = serde_saphyr::from_str(
            "headers: { \"https://cdn.example/\": { A: \"1\" }, \"https://cdn.example/b\": { A: \"2\", User-Agent: x } }",
        )
        .unwrap();
        let http = Http::new(&config, Guard::default(), Arc::new(crate::load::guard::SystemLookup));
        let a = |url| http.headers_for(&Url::parse(url).unwrap()).and_then(|h| h.get("a")).map(|v| v.as_bytes()[0]);
        assert_eq!(a("https://cdn.example/x.jpg"), Some(b'1'));
        assert_eq!(a("https://CDN.example:443/b/x.jpg?q"), Some(b'2'));
        assert_eq!(a("https://cdn.example/bc"), Some(b'1'));
        for other in
            ["http://cdn.example/", "https://cdn.example.evil/", "https://cdn.example@evil/", "https://cdn.example:1/"]
        {
            assert_eq!(a(other), None, "{other}");
        }
        assert!(http.credentials(&Url::parse("https://cdn.example/x").unwrap()));
        assert!(!http.credentials(&Url::parse("https://other/x").unwrap()));
        assert!(!http.credentials(&Url::parse("https://u:p@other/x").unwrap()));
    }

    #[test]
    fn redirect_targets() {
        let from = Url::parse("https://a.example/x/y").unwrap();
        let to = |location: &str| redirect(&from, &HeaderValue::from_str(location).unwrap());
        assert_eq!(to("../z").unwrap().as_str(), "https://a.example/z");
        assert_eq!(to("//b/c").unwrap().as_str(), "https://b/c");
        assert_eq!(to("http://user:pw@b/c").unwrap().as_str(), "http://b/c");
        for scheme in ["file:///etc/passwd", "data:,x", "javascript:1"] {
            let refused = to(scheme).and_then(|u| {
                let guard = Guard::default();
                guard.url(&u).map_err(Stop::Final)
            });
            assert!(matches!(refused, Err(Stop::Final(Fault::Record(FailureCode::ForbiddenAddress, _)))), "{scheme}");
        }
        assert!(to("http://[").is_err());
    }
}
