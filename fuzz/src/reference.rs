//! Any text is a place, the same when it is written out and read again, or refused; no path leaves the root, no address that
//! is closed is asked.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use futures::future::BoxFuture;
use lm4lv::load::{Guard, LoadConfig, Loader, Lookup, Place, parse};
use lm4lv::sample::{FailureCode, Reference};
use lm4lv::stage::Fault;
use lm4lv::store::Stores;
use url::Host;

use super::{record, wait};

/// Reads a reference.
pub fn reference(data: &[u8]) {
    // Whatever the bytes, they can be inlined.
    let inline = format!("data:;base64,{}", BASE64_STANDARD.encode(data));
    match fetched(&inline) {
        Ok(bytes) => assert_eq!(bytes, data),
        Err(code) => assert!(code == FailureCode::Empty && data.is_empty(), "{code:?}"),
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    match parse(text) {
        Err((code, message)) => {
            assert_eq!(code, FailureCode::BadReference);
            tidy(&message);
        }
        Ok(Place::Path(path)) => {
            assert_eq!(path.to_str().map(parse), path.to_str().map(|_| Ok(Place::Path(path.clone()))), "{text:?}");
            stays_inside(text, &path);
        }
        Ok(Place::Data(inside)) => {
            assert_eq!(parse(&format!("data:{inside}")), Ok(Place::Data(inside)));
            fetched(text).ok();
        }
        Ok(Place::Object(uri)) => {
            assert_eq!(parse(uri), Ok(Place::Object(uri)));
            Stores::check_uri(uri).ok();
        }
        Ok(Place::Http(url)) => {
            assert_eq!(parse(url.as_str()), Ok(Place::Http(url.clone())), "{text:?}");
            let address: Option<IpAddr> = match url.host() {
                Some(Host::Ipv4(address)) => Some(address.into()),
                Some(Host::Ipv6(address)) => Some(address.into()),
                // Every name resolves to this machine here.
                _ => None,
            };
            let open = address.is_some_and(|address| Guard::default().open(address));
            assert!(!open || !address.is_some_and(private), "{address:?}");
            if !open {
                let code = fetched(text).unwrap_err();
                assert!(code == FailureCode::ForbiddenAddress || address.is_none(), "{text:?}: {code:?}");
            }
        }
    }
}

/// What no one may be sent to; by the standard library's own lists.
fn private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            v4.is_loopback() || v4.is_private() || v4.is_link_local() || v4.is_unspecified() || v4.is_multicast()
        }
        IpAddr::V6(v6) => {
            v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_multicast()
                || v6.is_unique_local()
                || v6.is_unicast_link_local()
        }
    }
}

/// Messages are for one cell of a table: short, in one line, without a full stop.
fn tidy(message: &str) {
    assert!((1..2000).contains(&message.len()) && !message.ends_with('.'), "{message}");
    assert!(!message.contains(|c: char| c.is_control()), "{message:?}");
}

/// A root with one file, `in`, beside a file and a folder outside; in it links to both.
fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let outer = std::env::temp_dir().join(format!("lm4lv-fuzz-{}", std::process::id()));
        let root = outer.join("root");
        std::fs::create_dir_all(&root).unwrap();
        std::fs::create_dir_all(outer.join("beside")).unwrap();
        std::fs::write(root.join("in"), "inside").unwrap();
        std::fs::write(outer.join("out"), "outside").unwrap();
        for (link, to) in [("l", "../out"), ("d", "../beside"), ("i", "in")] {
            std::os::unix::fs::symlink(to, root.join(link)).ok();
        }
        root
    })
}

/// Only `in` can be read, by whatever name.
fn stays_inside(text: &str, path: &Path) {
    if let Ok(bytes) = fetched(text) {
        assert_eq!(bytes, b"inside", "{path:?}");
    }
}

/// The bytes, or the code of the row.
fn fetched(text: &str) -> Result<Vec<u8>, FailureCode> {
    struct Here;
    impl Lookup for Here {
        fn lookup(&self, _: String) -> BoxFuture<'static, std::io::Result<Vec<IpAddr>>> {
            Box::pin(async { Ok(vec![IpAddr::from([127, 0, 0, 1])]) })
        }
    }
    static LOADER: OnceLock<Loader> = OnceLock::new();
    let loader = LOADER.get_or_init(|| {
        let config = LoadConfig { root: root().to_str().unwrap().to_owned(), retries: 0, ..LoadConfig::default() };
        Loader::with_lookup(&config, &Stores::default(), None, 64 << 20, Arc::new(Here)).unwrap()
    });
    match wait(loader.fetch(&record(Reference::Uri(text.to_owned())))).input {
        Ok(bytes) => Ok(bytes.to_vec()),
        Err(Fault::Record(code, message)) => {
            tidy(&message);
            Err(code)
        }
        Err(Fault::Run(error)) => panic!("{text:?}: {error}"),
    }
}
