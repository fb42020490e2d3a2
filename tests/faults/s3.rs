//! A little S3 on loopback: as much of it as a run asks, create-if-absent and ranges included, and faults on demand. Real
//! semantics are tested against a real server (`scripts/object_store.py`).

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use percent_encoding::percent_decode_str;
use url::Url;

/// Gives the status to refuse a request with, such as `PUT photos/a.jpg` (the bucket left out), or [`LOST`].
type Fault = Box<dyn FnMut(&str) -> Option<u16> + Send>;

/// The request is done, but its answer is lost: the connection ends.
pub(crate) const LOST: u16 = 0;

#[derive(Default)]
struct Shelf {
    objects: BTreeMap<String, Vec<u8>>,
    fault: Option<Fault>,
}

/// A running server with one bucket, `bucket`; it ends with the test.
pub(crate) struct S3 {
    address: SocketAddr,
    shelf: Arc<Mutex<Shelf>>,
}

impl S3 {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let server = Self { address: listener.local_addr().unwrap(), shelf: Arc::default() };
        let shelf = Arc::clone(&server.shelf);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let shelf = Arc::clone(&shelf);
                // Errors are the client going away.
                std::thread::spawn(move || answer(stream, &shelf));
            }
        });
        server
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap()
    }

    /// The `stores` section that leads here.
    pub(crate) fn stores(&self) -> String {
        self.stores_at(&format!("http://{}", self.address))
    }

    pub(crate) fn stores_at(&self, endpoint: &str) -> String {
        format!(
            "stores: {{ \"s3://bucket\": {{ endpoint: \"{endpoint}\", allow_http: \"true\", region: us-east-1, \
             access_key_id: k, secret_access_key: s }} }}\n"
        )
    }

    /// Refuses from now on what `fault` says.
    pub(crate) fn fail(&self, fault: impl FnMut(&str) -> Option<u16> + Send + 'static) {
        self.shelf().fault = Some(Box::new(fault));
    }

    pub(crate) fn heal(&self) {
        self.shelf().fault = None;
    }

    /// Puts the files of `folder` below `prefix`.
    pub(crate) fn upload(&self, folder: &Path, prefix: &str) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = format!("{prefix}/{}", path.file_name().unwrap().to_str().unwrap());
            self.shelf().objects.insert(name, std::fs::read(path).unwrap());
        }
    }

    /// Copies what is below `prefix` into `folder`, replacing it.
    pub(crate) fn download(&self, prefix: &str, folder: &Path) {
        std::fs::remove_dir_all(folder).ok();
        for (name, bytes) in &self.shelf().objects {
            let Some(below) = name.strip_prefix(&format!("{prefix}/")) else { continue };
            let path = folder.join(below);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
    }
}

fn answer(stream: TcpStream, shelf: &Mutex<Shelf>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let (method, rest) = lines[0].split_once(' ')?;
    let url = Url::parse(&format!("http://host{}", rest.split(' ').next()?)).ok()?;
    let header = |name: &str| {
        let mut pairs = lines[1..].iter().filter_map(|line| line.split_once(": "));
        pairs.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    };
    let mut body = vec![0; header("content-length").and_then(|n| n.parse().ok()).unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    let path = percent_decode_str(url.path()).decode_utf8().ok()?.into_owned();
    let key = path.strip_prefix("/bucket").unwrap_or_default().trim_start_matches('/').to_owned();
    let (status, headers, content) = {
        let mut shelf = shelf.lock().unwrap();
        match shelf.fault.as_mut().and_then(|fault| fault(&format!("{method} {key}"))) {
            Some(LOST) => {
                serve(method, &key, &url, &header, body, &mut shelf.objects);
                return None;
            }
            Some(status) => {
                let code = if status == 403 { "AccessDenied" } else { "SlowDown" };
                (
                    status,
                    String::new(),
                    format!("<?xml version=\"1.0\"?>\n<Error><Code>{code}</Code></Error>").into_bytes(),
                )
            }
            None if !path.starts_with("/bucket") => no_such("NoSuchBucket"),
            None => serve(method, &key, &url, &header, body, &mut shelf.objects),
        }
    };
    let head =
        format!("HTTP/1.1 {status} x\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n", content.len());
    let mut stream = stream;
    stream.write_all(head.as_bytes()).ok()?;
    if method != "HEAD" {
        stream.write_all(&content).ok()?;
    }
    stream.flush().ok()
}

type Reply = (u16, String, Vec<u8>);

fn no_such(code: &str) -> Reply {
    (404, String::new(), format!("<Error><Code>{code}</Code></Error>").into_bytes())
}

fn serve<'a>(
    method: &str,
    key: &str,
    url: &Url,
    header: &dyn Fn(&str) -> Option<&'a str>,
    body: Vec<u8>,
    objects: &mut BTreeMap<String, Vec<u8>>,
) -> Reply {
    let tag = |bytes: &[u8]| format!("\"{}\"", blake3::hash(bytes).to_hex());
    if key.is_empty() {
        let asked = |name: &str| url.query_pairs().find(|(n, _)| n == name).map(|(_, v)| v.into_owned());
        let (prefix, after) = (asked("prefix").unwrap_or_default(), asked("start-after").unwrap_or_default());
        let listed = objects.iter().filter(|(name, _)| name.starts_with(&prefix) && **name > after);
        let listed: String = listed
            .map(|(name, bytes)| {
                format!(
                    "<Contents><Key>{name}</Key><LastModified>2026-11-01T00:00:00.000Z</LastModified>\
                     <ETag>{}</ETag><Size>{}</Size></Contents>",
                    tag(bytes).replace('"', "&quot;"),
                    bytes.len()
                )
            })
            .collect();
        let xml = format!("<ListBucketResult><IsTruncated>false</IsTruncated>{listed}</ListBucketResult>");
        return (200, String::new(), xml.into_bytes());
    }
    if method == "PUT" {
        if header("if-none-match") == Some("*") && objects.contains_key(key) {
            return (412, String::new(), b"<Error><Code>PreconditionFailed</Code></Error>".to_vec());
        }
        let headers = format!("ETag: {}\r\n", tag(&body));
        objects.insert(key.to_owned(), body);
        return (200, headers, Vec::new());
    }
    let Some(bytes) = objects.get(key) else { return no_such("NoSuchKey") };
    let headers = format!("ETag: {}\r\nLast-Modified: Sun, 01 Nov 2026 00:00:00 GMT\r\n", tag(bytes));
    let range = header("range").and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    let Some((from, to)) = range else { return (200, headers, bytes.clone()) };
    let length = bytes.len();
    let (from, end) = match (from.parse::<usize>(), to.parse::<usize>()) {
        (Ok(from), Ok(to)) => (from, (to + 1).min(length)),
        (Ok(from), Err(_)) => (from, length),
        (Err(_), Ok(last)) => (length.saturating_sub(last), length),
        _ => (0, length),
    };
    let headers = format!("{headers}Content-Range: bytes {from}-{}/{length}\r\n", end - 1);
    (206, headers, bytes[from..end].to_vec())
}
