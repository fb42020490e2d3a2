//! Which addresses may be asked: the public ones, and what `load.allow` opens.
//!
//! References come from strangers' crawls, so nothing on this machine, its network or its cloud's metadata service may be
//! reachable through one. The check is on *addresses*, and on the very addresses that are then connected to:
//! [`Guard::resolve`] is the HTTP client's only resolver and hands on only what passed, so a name that answers
//! differently a moment later gains nothing. Addresses written in the URL itself never reach a resolver; [`Guard::url`]
//! checks those, and the scheme, before each request and after each redirect.
//!
//! Closed are all blocks that the IANA special-purpose registries (RFC 6890 and successors) call not globally reachable,
//! and IPv6 addresses that carry such an IPv4 address (mapped, NAT64, 6to4). Deprecated carriers (IPv4-compatible,
//! Teredo, site-local) are closed as a whole.
//!
//! Proxies from the environment are not used: with one, the proxy would resolve names, and nothing here could be promised.
//!
//! More than half of this file is tables and the addresses that its tests try.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use futures::future::BoxFuture;
use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use crate::error::{Error, Result};
use crate::sample::FailureCode;
use crate::stage::Fault;

/// Where cloud providers answer with a machine's credentials and settings.
const METADATA: &[IpAddr] = &[
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)), // AWS, Azure, Google, Oracle, DigitalOcean, …
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),   // AWS ECS
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)),  // AWS EKS
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),   // Azure, a public address
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)), // Alibaba
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),     // Oracle
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)), // AWS
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)), // AWS EKS
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)), // Google
];

/// IPv4 blocks that are not globally reachable: first address and prefix length.
const CLOSED_V4: &[([u8; 4], u8)] = &[
    ([0, 0, 0, 0], 8),       // this network
    ([10, 0, 0, 0], 8),      // private
    ([100, 64, 0, 0], 10),   // carrier-grade NAT
    ([127, 0, 0, 0], 8),     // loopback
    ([169, 254, 0, 0], 16),  // link-local
    ([172, 16, 0, 0], 12),   // private
    ([192, 0, 0, 0], 24),    // protocol assignments
    ([192, 0, 2, 0], 24),    // documentation
    ([192, 88, 99, 0], 24),  // 6to4 relays
    ([192, 168, 0, 0], 16),  // private
    ([198, 18, 0, 0], 15),   // benchmarking
    ([198, 51, 100, 0], 24), // documentation
    ([203, 0, 113, 0], 24),  // documentation
    ([224, 0, 0, 0], 4),     // multicast
    ([240, 0, 0, 0], 4),     // reserved, broadcast
];

/// Blocks inside `2000::/3` (all other IPv6 is not global unicast) that are closed: first two groups and prefix length.
const CLOSED_V6: &[([u16; 2], u8)] = &[
    ([0x2001, 0x0000], 23), // protocol assignments, Teredo, benchmarking, ORCHID
    ([0x2001, 0x0db8], 32), // documentation
    ([0x3fff, 0x0000], 20), // documentation
];

/// Asks for the addresses of a host's name.
pub trait Lookup: Send + Sync + 'static {
    /// The addresses of `host`, in the order to try them. An `Err` or an empty list means that the name has none.
    fn lookup(&self, host: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>>;
}

/// The system's resolver.
#[derive(Debug, Clone, Copy)]
pub struct SystemLookup;

impl Lookup for SystemLookup {
    fn lookup(&self, host: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host((host, 0)).await?.map(|a| a.ip()).collect()) })
    }
}

/// The rules of `load.allow`.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    hosts: Vec<String>,
    suffixes: Vec<String>,
    networks: Vec<IpNet>,
}

/// Why a name led to no address.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// All its addresses are closed.
    #[error(
        "{host} resolves to {address}, which is not a public address: name the host or its network in load.allow if it is yours"
    )]
    Closed { host: String, address: IpAddr },
    /// It has none.
    #[error("{host} has no address: {reason}")]
    NoAddress { host: String, reason: String },
}

impl Guard {
    /// Reads `load.allow`: host names, `*.suffix`, addresses, networks. `Error::Config` names a bad entry.
    pub fn new(allow: &[String]) -> Result<Self> {
        let mut guard = Self::default();
        for entry in allow {
            let bare = entry.trim().trim_end_matches('.').to_ascii_lowercase();
            let name = bare.strip_prefix("*.").unwrap_or(&bare);
            if let Ok(network) = bare.parse::<IpNet>() {
                guard.networks.push(network.trunc());
            } else if let Ok(address) = bare.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
                guard.networks.push(address.into());
            } else if !matches!(Host::parse(name), Ok(Host::Domain(domain)) if domain == name) || name.contains('*') {
                let what = "write a host (images.svc), a suffix (*.svc), an address or a network (10.0.0.0/8)";
                return Err(Error::Config(format!("load.allow: `{entry}`: {what}")));
            } else if bare.len() > name.len() {
                guard.suffixes.push(bare[1..].to_owned());
            } else {
                guard.hosts.push(bare);
            }
        }
        Ok(guard)
    }

    /// Checks a URL before it is asked: `http` or `https`, with a host, and if the host is an address, an open one.
    pub(crate) fn url(&self, url: &Url) -> Result<(), Fault> {
        let refuse = |why: String| Err(Fault::Record(FailureCode::ForbiddenAddress, why));
        if !matches!(url.scheme(), "http" | "https") {
            return refuse(format!("scheme `{}` may not be asked for", url.scheme()));
        }
        let address: IpAddr = match url.host() {
            Some(Host::Ipv4(address)) => address.into(),
            Some(Host::Ipv6(address)) => address.into(),
            Some(Host::Domain(_)) => return Ok(()),
            None => return refuse("the URL has no host".to_owned()),
        };
        if self.open(address) {
            return Ok(());
        }
        refuse(format!("{address} is not a public address: name it or its network in load.allow if it is yours"))
    }

    /// Whether `address` may be connected to.
    pub fn open(&self, address: IpAddr) -> bool {
        let plain = address.to_canonical();
        let exactly = |n: &IpNet, a: IpAddr| n.prefix_len() == n.max_prefix_len() && n.addr() == a;
        if self.networks.iter().any(|n| exactly(n, address) || exactly(n, plain)) {
            return true;
        }
        if METADATA.contains(&reached(address)) {
            return false;
        }
        public(plain) || self.networks.iter().any(|n| n.contains(&address) || n.contains(&plain))
    }

    /// Whether the name `host` is open whatever it resolves to (a metadata address excepted).
    fn names(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        self.hosts.contains(&host) || self.suffixes.iter().any(|s| host.len() > s.len() && host.ends_with(s.as_str()))
    }

    /// The addresses of `host` that may be connected to, never an empty list.
    pub(crate) async fn resolve(&self, host: &str, lookup: &dyn Lookup) -> Result<Vec<IpAddr>, Refusal> {
        let none = |reason: String| Refusal::NoAddress { host: host.to_owned(), reason };
        let found = lookup.lookup(host.to_owned()).await.map_err(|e| none(e.to_string()))?;
        let first = *found.first().ok_or_else(|| none("the answer is empty".to_owned()))?;
        let named = self.names(host);
        let open = |a: &IpAddr| self.open(*a) || (named && !METADATA.contains(&reached(*a)));
        let open: Vec<_> = found.into_iter().filter(open).collect();
        if open.is_empty() { Err(Refusal::Closed { host: host.to_owned(), address: first }) } else { Ok(open) }
    }
}

fn embedded(high: u16, low: u16) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
}

/// The address that a packet for `address` comes to in the end: the IPv4 address inside a mapped, NAT64 or 6to4 one.
fn reached(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address.to_canonical() else { return address.to_canonical() };
    match v6.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => embedded(high, low),
        _ => IpAddr::V6(v6),
    }
}

/// Whether the address is globally reachable.
fn public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !CLOSED_V4.iter().any(|(block, length)| {
            let mask = u32::MAX << (32 - length);
            v4.to_bits() & mask == u32::from_be_bytes(*block)
        }),
        IpAddr::V6(v6) => {
            let s = v6.segments();
            let open_inside = |inner: IpAddr| public(inner) && !METADATA.contains(&inner);
            match s {
                [0, 0, 0, 0, 0, 0xffff, a, b] => open_inside(embedded(a, b)),
                [0x64, 0xff9b, 0, 0, 0, 0, a, b] => open_inside(embedded(a, b)), // NAT64, RFC 6052
                [0x2002, a, b, ..] => open_inside(embedded(a, b)),               // 6to4, RFC 3056
                _ => {
                    let top = u32::from(s[0]) << 16 | u32::from(s[1]);
                    let closed = |(block, length): &([u16; 2], u8)| {
                        let mask = u32::MAX << (32 - length);
                        top & mask == (u32::from(block[0]) << 16 | u32::from(block[1])) & mask
                    };
                    s[0] & 0xe000 == 0x2000 && !CLOSED_V6.iter().any(closed)
                }
            }
        }
    }
}

/// The HTTP client's resolver: looks up, then lets through only open addresses.
pub(crate) struct GuardedResolver {
    pub(crate) guard: Arc<Guard>,
    pub(crate) lookup: Arc<dyn Lookup>,
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (guard, lookup) = (self.guard.clone(), self.lookup.clone());
        Box::pin(async move {
            let addresses = guard.resolve(name.as_str(), lookup.as_ref()).await?;
            // Port 0: the client puts the URL's own there.
            Ok(Box::new(addresses.into_iter().map(|a| SocketAddr::new(a, 0))) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(allow: &[&str]) -> Guard {
        Guard::new(&allow.iter().map(|s| s.to_string()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn closed_by_default() {
        for closed in [
            "0.0.0.0",
            "0.1.2.3",
            "10.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "100.100.100.200",
            "127.0.0.1",
            "127.9.9.9",
            "168.63.129.16",
            "169.254.169.254",
            "169.254.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.192",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.9",
            "224.0.0.1",
            "239.255.255.250",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::8.8.8.8",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:168.63.129.16",
            "64:ff9b::7f00:1",
            "64:ff9b::a83f:8110",
            "64:ff9b:1::808:808",
            "100::1",
            "2001::1",
            "2001:0:4136:e378:8000:63bf:3fff:fdd2",
            "2001:2::1",
            "2001:10::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "2002:c0a8:101::1",
            "3fff::1",
            "fc00::1",
            "fd00:ec2::254",
            "fd12:3456::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "4000::1",
        ] {
            assert!(!guard(&[]).open(closed.parse().unwrap()), "{closed} is open");
        }
        for open in [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "198.17.0.1",
            "198.20.0.1",
            "223.255.255.255",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
            "2002:808:808::1",
            "2001:4860:4860::8888",
            "2606:4700::1111",
            "2a00:1450::1",
        ] {
            assert!(guard(&[]).open(open.parse().unwrap()), "{open} is closed");
        }
    }

    #[test]
    fn allow_opens_networks_but_metadata_only_by_name() {
        let wide = guard(&["10.0.0.0/8", "169.254.0.0/16", "fd00::/8", "127.0.0.1"]);
        for (address, open) in [
            ("10.9.9.9", true),
            ("::ffff:10.9.9.9", true),
            ("169.254.7.7", true),
            ("169.254.169.254", false),
            ("fd12::1", true),
            ("fd00:ec2::254", false),
            ("127.0.0.1", true),
            ("127.0.0.2", false),
            ("192.168.0.1", false),
        ] {
            assert_eq!(wide.open(address.parse().unwrap()), open, "{address}");
        }
        assert!(guard(&["169.254.169.254"]).open("169.254.169.254".parse().unwrap()));
        for bad in ["", "10.0.0.0/33", "http://host/", "host:80", "*", "a b", "*.*.x", "a/b"] {
            assert!(Guard::new(&[bad.to_owned()]).is_err(), "{bad}");
        }
    }

    #[test]
    fn urls() {
        let check = |url: &str| guard(&[]).url(&Url::parse(url).unwrap()).is_ok();
        // Every spelling of an address that a browser would take.
        for closed in [
            "http://127.0.0.1/",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://0177.0.0.1/",
            "http://127.1/",
            "http://①②⑦.0.0.1/",
            "https://[::1]:8443/",
            "http://[::ffff:7f00:1]/",
            "http://user@169.254.169.254/latest",
            "ftp://example.com/",
            "file:///etc/passwd",
            "gopher://example.com/",
        ] {
            assert!(!check(closed), "{closed}");
        }
        assert!(check("http://example.com/") && check("https://8.8.8.8/") && check("https://[2606:4700::1111]/"));
    }

    struct Fixed(Vec<IpAddr>);

    impl Lookup for Fixed {
        fn lookup(&self, _: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
            let answer = self.0.clone();
            Box::pin(async move { Ok(answer) })
        }
    }

    #[test]
    fn names_are_judged_by_their_addresses() {
        let resolve = |guard: &Guard, host: &str, answer: &[&str]| {
            let lookup = Fixed(answer.iter().map(|a| a.parse().unwrap()).collect());
            futures::executor::block_on(guard.resolve(host, &lookup))
        };
        let shut = guard(&[]);
        assert!(matches!(resolve(&shut, "evil.example", &["127.0.0.1"]), Err(Refusal::Closed { .. })));
        assert!(matches!(resolve(&shut, "gone.example", &[]), Err(Refusal::NoAddress { .. })));
        // Of a mixed answer only the public part is ever connected to.
        assert_eq!(resolve(&shut, "mixed.example", &["10.0.0.1", "8.8.8.8"]).unwrap().len(), 1);
        let named = guard(&["Images.svc", "*.lan"]);
        assert!(resolve(&named, "images.svc", &["10.0.0.1"]).is_ok());
        assert!(resolve(&named, "images.svc.", &["10.0.0.1"]).is_ok());
        assert!(resolve(&named, "a.lan", &["192.168.0.9"]).is_ok());
        for (host, answer) in [("lan", "10.0.0.1"), ("xlan", "10.0.0.1"), ("a.lan", "169.254.169.254")] {
            assert!(resolve(&named, host, &[answer]).is_err(), "{host}");
        }
    }
}
