//! Apache Kafka brokers, as processes of their own: KRaft, loopback, free ports, files in a temporary folder.
//!
//! ```text
//! let Some(broker) = Broker::shared() else { return };          one for all tests: do not hurt it
//! let Some(broker) = Broker::start(Setup::default()) else { return };     one to hurt: kill, restart, freeze, thaw
//! ```

use std::collections::HashSet;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use tempfile::TempDir;

use crate::guard::Guarded;
use crate::jars::jars;

/// Who may speak to the TLS listener.
pub(crate) const USER: &str = "lm4lv";
pub(crate) const PASSWORD: &str = "open-sesame";

/// What kind of brokers.
#[derive(Default)]
pub(crate) struct Setup {
    /// Three instead of one, with replication factor 3 and two replicas in sync.
    pub(crate) three: bool,
    /// A listener with SASL over TLS, too.
    pub(crate) tls: bool,
    /// More lines of `server.properties`.
    pub(crate) properties: Vec<(&'static str, &'static str)>,
}

/// One broker or three.
pub(crate) struct Broker {
    nodes: Vec<Node>,
    authority: PathBuf,
    // Last: gone only when the processes are.
    _dir: TempDir,
}

struct Node {
    port: u16,
    tls_port: u16,
    folder: PathBuf,
    libs: PathBuf,
    process: Mutex<Option<Guarded>>,
}

impl Broker {
    /// The broker that the tests of this process share; `None` where it cannot be had.
    pub(crate) fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<Broker>> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(Setup { tls: true, ..Setup::default() })).as_ref()
    }

    /// Starts brokers and waits until they answer; `None` where they cannot be had.
    pub(crate) fn start(setup: Setup) -> Option<Self> {
        let libs = match jars() {
            Ok(libs) => libs,
            Err(why) if std::env::var_os("LM4LV_REQUIRE_KAFKA").is_some_and(|value| value == "1") => {
                panic!("LM4LV_REQUIRE_KAFKA=1, but {why}")
            }
            Err(why) => {
                // Past the harness, which shows what a test prints only if it fails.
                static SAID: OnceLock<()> = OnceLock::new();
                SAID.get_or_init(|| {
                    let said = format!("SKIPPED: all tests that need a real Kafka broker, since {why}\n");
                    std::io::stderr().write_all(said.as_bytes()).unwrap();
                });
                return None;
            }
        };
        let dir = tempfile::tempdir().unwrap();
        let authority = dir.path().join("ca.pem");
        if setup.tls {
            key_store(dir.path(), &authority);
        }
        let count = if setup.three { 3 } else { 1 };
        let controllers: Vec<u16> = (0..count).map(|_| free_port()).collect();
        let voters: Vec<String> =
            controllers.iter().enumerate().map(|(i, port)| format!("{}@127.0.0.1:{port}", i + 1)).collect();
        let nodes = controllers.iter().enumerate().map(|(i, controller)| {
            let folder = dir.path().join(format!("node-{i}"));
            std::fs::create_dir(&folder).unwrap();
            let node = Node {
                port: free_port(),
                tls_port: free_port(),
                folder,
                libs: libs.clone(),
                process: Mutex::new(None),
            };
            let text = node.properties(i + 1, *controller, &voters.join(","), &setup, dir.path());
            std::fs::write(node.folder.join("server.properties"), text).unwrap();
            node.java(&[
                "kafka.tools.StorageTool",
                "format",
                "-t",
                "bG00bHYta2Fma2EtdGVzdA",
                "-c",
                "server.properties",
            ]);
            node
        });
        let broker = Self { nodes: nodes.collect(), authority, _dir: dir };
        (0..count).for_each(|node| broker.restart(node));
        broker.wait();
        Some(broker)
    }

    /// `host:port`, of all brokers.
    pub(crate) fn bootstrap(&self) -> String {
        self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect::<Vec<_>>().join(",")
    }

    /// The same of the listeners with SASL over TLS.
    pub(crate) fn tls_bootstrap(&self) -> String {
        self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.tls_port)).collect::<Vec<_>>().join(",")
    }

    /// What a client of those listeners sets, with a password that is right or not.
    pub(crate) fn tls_properties(&self, password: &str) -> Vec<(&'static str, String)> {
        vec![
            ("security.protocol", "SASL_SSL".into()),
            ("sasl.mechanism", "PLAIN".into()),
            ("sasl.username", USER.into()),
            ("sasl.password", password.into()),
            ("ssl.ca.location", self.authority.display().to_string()),
        ]
    }

    /// A client's configuration.
    pub(crate) fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.bootstrap());
        config
    }

    /// Kills broker `node` (from 0) with SIGKILL.
    pub(crate) fn kill(&self, node: usize) {
        if let Some(mut process) = self.nodes[node].process().take() {
            process.kill();
        }
    }

    /// Starts broker `node` again, on the same ports and files; does not wait until it answers.
    pub(crate) fn restart(&self, node: usize) {
        let node = &self.nodes[node];
        let command = node.command(&["kafka.Kafka", "server.properties"]);
        let process = Guarded::start(&command, &node.folder, &[], &node.folder.join("log.txt"));
        *node.process() = Some(process);
    }

    /// Freezes broker `node` with SIGSTOP.
    pub(crate) fn pause(&self, node: usize) {
        self.nodes[node].process().as_mut().unwrap().signal("STOP");
    }

    /// Thaws it.
    pub(crate) fn resume(&self, node: usize) {
        self.nodes[node].process().as_mut().unwrap().signal("CONT");
    }

    /// Waits until every broker is known to the others.
    pub(crate) fn wait(&self) {
        let began = Instant::now();
        let client: BaseConsumer = self.config().create().unwrap();
        loop {
            let known = client.fetch_metadata(None, Duration::from_secs(1)).map_or(0, |known| known.brokers().len());
            if known == self.nodes.len() {
                return;
            }
            for node in &self.nodes {
                let mut process = node.process();
                let process = process.as_mut().unwrap();
                assert!(process.ended().is_none(), "the broker has ended:\n{}", process.tail());
                assert!(began.elapsed() < Duration::from_secs(90), "the broker does not answer:\n{}", process.tail());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Node {
    fn process(&self) -> MutexGuard<'_, Option<Guarded>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn command(&self, what: &[&str]) -> Vec<String> {
        let classes = format!("{}/*", self.libs.display());
        let java = ["java", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", &classes];
        java.iter().chain(what).map(ToString::to_string).collect()
    }

    fn java(&self, what: &[&str]) {
        let command = self.command(what);
        let output = Command::new(&command[0]).args(&command[1..]).current_dir(&self.folder).output().unwrap();
        assert!(output.status.success(), "{what:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn properties(&self, id: usize, controller: u16, voters: &str, setup: &Setup, dir: &Path) -> String {
        let Self { port, tls_port, folder, .. } = self;
        let (replicas, in_sync) = if setup.three { (3, 2) } else { (1, 1) };
        let mut listeners = format!("PLAINTEXT://127.0.0.1:{port}");
        if setup.tls {
            listeners.push_str(&format!(",SECURE://127.0.0.1:{tls_port}"));
        }
        let mut text = format!(
            "process.roles=broker,controller\n\
             node.id={id}\n\
             controller.quorum.voters={voters}\n\
             listeners={listeners},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners={listeners}\n\
             inter.broker.listener.name=PLAINTEXT\n\
             controller.listener.names=CONTROLLER\n\
             listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SECURE:SASL_SSL\n\
             log.dirs={}\n\
             default.replication.factor={replicas}\n\
             min.insync.replicas={in_sync}\n\
             offsets.topic.replication.factor={replicas}\n\
             offsets.topic.num.partitions=4\n\
             transaction.state.log.replication.factor={replicas}\n\
             transaction.state.log.min.isr={in_sync}\n\
             transaction.state.log.num.partitions=4\n\
             share.coordinator.state.topic.replication.factor={replicas}\n\
             share.coordinator.state.topic.min.isr={in_sync}\n\
             share.coordinator.state.topic.num.partitions=4\n\
             group.initial.rebalance.delay.ms=0\n\
             group.min.session.timeout.ms=1000\n\
             broker.session.timeout.ms=2000\n\
             broker.heartbeat.interval.ms=300\n\
             message.max.bytes=12582912\n\
             replica.fetch.max.bytes=12582912\n\
             log.retention.check.interval.ms=1000\n\
             auto.create.topics.enable=false\n",
            folder.join("data").display(),
        );
        if setup.tls {
            text.push_str(&format!(
                "sasl.enabled.mechanisms=PLAIN\n\
                 listener.name.secure.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \
                 user_{USER}=\"{PASSWORD}\";\n\
                 ssl.keystore.type=PKCS12\n\
                 ssl.keystore.location={}\n\
                 ssl.keystore.password=keystore\n",
                dir.join("keys.p12").display(),
            ));
        }
        for (key, value) in &setup.properties {
            text.push_str(&format!("{key}={value}\n"));
        }
        text
    }
}

/// A key for 127.0.0.1 and its certificate, which signs itself.
fn key_store(dir: &Path, authority: &Path) {
    let keytool = |arguments: &str| {
        let common = "-alias broker -keystore keys.p12 -storetype PKCS12 -storepass keystore";
        let arguments = arguments.split(' ').chain(common.split(' '));
        let output = Command::new("keytool").args(arguments).current_dir(dir).output().unwrap();
        assert!(output.status.success(), "keytool: {}", String::from_utf8_lossy(&output.stdout));
    };
    keytool("-genkeypair -keyalg EC -validity 30 -dname CN=127.0.0.1 -ext SAN=ip:127.0.0.1,dns:localhost");
    keytool(&format!("-exportcert -rfc -file {}", authority.display()));
}

/// A port that nobody listens at and that the system gives to no outgoing connection: a broker that is away for a while must get
/// it again, and a client that keeps connecting to it must not meet itself.
fn free_port() -> u16 {
    static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let given = given.get_or_insert_default();
    loop {
        let port = 12_000 + (uuid::Uuid::new_v4().as_u128() % 20_000) as u16;
        if given.insert(port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
