//! Apache Kafka's jars, through Maven, kept in `$LM4LV_KAFKA_CACHE` or `~/.cache/lm4lv/kafka-<version>`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const VERSION: &str = "4.1.1";

const POM: &str = r#"<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>lm4lv</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>VERSION</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-nop</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
"#;

/// The folder of jars, fetched if it is not there yet; else why it cannot be had.
pub(crate) fn jars() -> Result<PathBuf, String> {
    if !runs("java") {
        return Err("there is no java".into());
    }
    let cache = match (std::env::var_os("LM4LV_KAFKA_CACHE"), std::env::var_os("HOME")) {
        (Some(cache), _) => PathBuf::from(cache),
        (None, Some(home)) => Path::new(&home).join(format!(".cache/lm4lv/kafka-{VERSION}")),
        (None, None) => return Err("neither LM4LV_KAFKA_CACHE nor HOME is set".into()),
    };
    if cache.join("libs").is_dir() {
        return Ok(cache.join("libs"));
    }
    if !runs("mvn") {
        return Err("there is no mvn to fetch Apache Kafka with".into());
    }
    fetch(&cache).map_err(|error| format!("Apache Kafka could not be fetched into {}: {error}", cache.display()))?;
    Ok(cache.join("libs"))
}

fn runs(program: &str) -> bool {
    let version = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    version.is_ok_and(|status| status.success())
}

/// Fetches into a folder beside, which takes its name when it is complete. Other processes wait.
fn fetch(cache: &Path) -> Result<(), std::io::Error> {
    let parent = cache.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent)?;
    let lock = fs::File::create(parent.join(".lm4lv-kafka.lock"))?;
    lock.lock()?;
    if cache.join("libs").is_dir() {
        return Ok(());
    }
    let folder = tempfile::tempdir_in(parent)?;
    fs::write(folder.path().join("pom.xml"), POM.replace("VERSION", VERSION))?;
    let status = Command::new("mvn")
        .args(["-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=libs", "-DincludeScope=runtime"])
        .current_dir(folder.path())
        .status()?;
    if !status.success() {
        return Err(std::io::Error::other(format!("mvn ended with {status}")));
    }
    fs::rename(folder.keep(), cache)
}
