//! A tiny HTTP server on loopback for the tests of `load`: each request goes to a function that says what to answer, byte
//! for byte, so that answers can be as wrong as need be.
#![expect(dead_code, reason = "each test file uses its own part")]
#![expect(clippy::unwrap_used, reason = "tests")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use lm4lv::checkpoint::{Partition, Position};
use lm4lv::load::{Fetched, LoadConfig, Loader};
use lm4lv::sample::{FailureCode, Record, Reference};
use lm4lv::stage::Fault;
use lm4lv::store::Stores;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What is sent back.
pub(crate) enum Reply {
    /// Status line and headers without the last empty line, then the body; the connection closes.
    Raw(String, Vec<u8>),
    /// 200 with that length, then one byte at this interval.
    Drip(usize, Duration),
    /// 200 without a length, then zeros for as long as somebody reads.
    Endless,
}

impl Reply {
    /// 200 with the right length.
    pub(crate) fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self::with(200, &[], body)
    }

    /// Any status and headers, with the right length.
    pub(crate) fn with(status: u16, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        Self::Raw(format!("HTTP/1.1 {status} x\r\n{headers}Content-Length: {}\r\n", body.len()), body)
    }

    pub(crate) fn redirect(to: &str) -> Self {
        Self::with(302, &[("Location", to)], "")
    }
}

/// A request's path, and its head in lower case.
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) head: String,
}

/// A running server; it ends with the test's runtime.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    /// Connections so far.
    pub(crate) connections: Arc<AtomicUsize>,
    /// Most requests that were being answered at one time.
    pub(crate) most_at_once: Arc<AtomicUsize>,
    /// Paths asked for, in order.
    pub(crate) asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub(crate) async fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST, 0, answer).await
    }

    pub(crate) async fn start_at(
        ip: Ipv4Addr,
        port: u16,
        answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((ip, port)).await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            connections: Arc::default(),
            most_at_once: Arc::default(),
            asked: Arc::default(),
        };
        let (connections, most, asked) =
            (server.connections.clone(), server.most_at_once.clone(), server.asked.clone());
        let (answer, now) = (Arc::new(answer), Arc::new(AtomicUsize::new(0)));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                let (answer, now, most, asked) = (answer.clone(), now.clone(), most.clone(), asked.clone());
                tokio::spawn(async move {
                    let mut stream = stream;
                    let Some(request) = read_head(&mut stream).await else { return };
                    asked.lock().unwrap().push(request.path.clone());
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    send(&mut stream, answer(&request)).await;
                    now.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        server
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn read_head(stream: &mut TcpStream) -> Option<Request> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head.split(' ').nth(1)?.to_owned();
    Some(Request { path, head: head.to_lowercase() })
}

/// Errors are the client going away, as it should.
async fn send(stream: &mut TcpStream, reply: Reply) -> Option<()> {
    match reply {
        Reply::Raw(head, body) => {
            // A moment's work, so that requests overlap where they may.
            tokio::time::sleep(Duration::from_millis(2)).await;
            stream.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes()).await.ok()?;
            stream.write_all(&body).await.ok()?;
            stream.shutdown().await.ok()
        }
        Reply::Drip(length, pause) => {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.ok()?;
            for _ in 0..length {
                stream.write_all(b"x").await.ok()?;
                tokio::time::sleep(pause).await;
            }
            Some(())
        }
        Reply::Endless => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").await.ok()?;
            loop {
                stream.write_all(&[0; 65_536]).await.ok()?;
            }
        }
    }
}

/// A config for quick tests: the loopback address is open, retries come fast.
pub(crate) fn config() -> LoadConfig {
    LoadConfig { allow: vec!["127.0.0.1".to_owned()], retry_base_ms: 1, deadline_s: 5.0, ..LoadConfig::default() }
}

pub(crate) fn loader(config: &LoadConfig) -> Loader {
    Loader::new(config, &Stores::default(), None, 64 << 20).unwrap()
}

pub(crate) fn record(reference: Reference) -> Record {
    Record::new("key", reference, Position { partition: Partition::of_file(0, 0), offset: 0 })
}

pub(crate) fn uri(reference: &str) -> Record {
    record(Reference::Uri(reference.to_owned()))
}

/// The bytes, or the code of the failure.
pub(crate) fn outcome(fetched: &Fetched) -> Result<Bytes, FailureCode> {
    match &fetched.input {
        Ok(bytes) => Ok(bytes.clone()),
        Err(Fault::Record(code, message)) => {
            assert!(!message.is_empty() && message.len() < 1000 && !message.ends_with('.'), "{message}");
            Err(*code)
        }
        Err(Fault::Run(error)) => panic!("the run would stop: {error}"),
    }
}

pub(crate) async fn fetch(loader: &Loader, reference: &str) -> Result<Bytes, FailureCode> {
    outcome(&loader.fetch(&uri(reference)).await)
}
