//! Kafka clusters: KRaft brokers with Kafka's own jars from Maven Central.
//!
//! # Guarantees
//! - A broker that was killed comes back with its data by `up` or [`Cluster::start_broker`]; `down` removes the data.
//! - A data folder is used only if it was formatted to its end.
//!
//! # Assumptions
//! A JDK 17 or later, and Maven 3.8 or later the first time.

use super::components::Row;
use super::{Doing, Lab, LabError, NODE_IP, net, packages, parts, process, secure, step};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The version of Kafka that brokers and tools have. 4.2.2 and 4.4.0 have no kafka-tools on Maven Central.
pub const VERSION: &str = "4.1.2";
const POM: &str = include_str!("../../assets/kafka/pom.xml");
const BROKER: &str = include_str!("../../assets/kafka/broker.properties");
const DEPENDENCY_PLUGIN: &str =
    "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies";

/// The cluster that is backed up.
pub const SOURCE: Cluster = Cluster {
    name: "source",
    port: 9092,
    extra: "",
};
/// The cluster that is restored into.
pub const TARGET: Cluster = Cluster {
    name: "target",
    port: 9192,
    extra: "",
};

/// A cluster of one or three combined brokers and controllers. Tests may run more of them beside [`SOURCE`] and [`TARGET`].
#[derive(Debug, Clone, Copy)]
pub struct Cluster<'a> {
    pub name: &'a str,
    /// Client port of the first broker; the others follow, controllers are 1000 above.
    pub port: u16,
    /// More lines for the broker's properties; they win over those of the template.
    pub extra: &'a str,
}

/// Kafka's jars, fetched once.
pub fn libs(lab: &Lab) -> Result<PathBuf, LabError> {
    let version = format!(
        "{VERSION}-{}",
        parts::key(&[POM.as_bytes(), DEPENDENCY_PLUGIN.as_bytes()])
    );
    parts::part(lab, "kafka", &version, |folder| {
        let maven = packages::toolchain("mvn", "Maven 3.8 or later (Debian: maven)")?;
        let pom = folder.join("pom.xml");
        fs::write(&pom, POM).doing(|| format!("write {}", pom.display()))?;
        let mut command = Command::new(maven);
        command.args([
            "--batch-mode",
            "--quiet",
            DEPENDENCY_PLUGIN,
            "-DincludeScope=runtime",
        ]);
        command
            .arg(format!("-Dkafka.version={VERSION}"))
            .arg(format!("-DoutputDirectory={}", folder.display()));
        process::run(command.arg("--file").arg(&pom)).map(drop)
    })
}

const ARCHIVE: &str = "broker.jsa";

/// The folder of the class data archive (JEP 350) of a broker, not made: with it a broker needs half the CPU time to start.
fn class_archive(lab: &Lab, java: &Path) -> Result<PathBuf, LabError> {
    // An archive fits one build of the JVM only, which the file `release` beside `bin` describes.
    let java = fs::canonicalize(java).doing(|| format!("resolve {}", java.display()))?;
    let release = java
        .parent()
        .and_then(Path::parent)
        .map(|home| home.join("release"));
    let release = release
        .and_then(|path| fs::read(path).ok())
        .unwrap_or_default();
    let version = parts::key(&[
        java.as_os_str().as_encoded_bytes(),
        &release,
        libs(lab)?.as_os_str().as_encoded_bytes(),
    ]);
    Ok(lab.cache.join("third-party").join(CLASSES).join(version))
}

const CLASSES: &str = "kafka-classes";

/// Makes the class archive if it is not there: by a broker that starts once beside the others.
fn make_class_archive(lab: &Lab) -> Result<(), LabError> {
    let folder = class_archive(lab, &toolchain()?)?;
    let version = folder
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let made = parts::part(lab, CLASSES, &version, |folder| {
        let cluster = Cluster {
            name: CLASSES,
            port: 19092,
            extra: "",
        };
        cluster.down(lab)?;
        cluster.prepare(lab, 1)?;
        let archive = format!(
            "-XX:ArchiveClassesAtExit={}",
            folder.join(ARCHIVE).display()
        );
        let mut broker = java(lab, &["-Xmx384m", &archive], None, "kafka.Kafka")?;
        process::spawn(
            lab,
            &cluster.broker(1),
            broker.arg(cluster.properties_file(lab, 1)),
        )?;
        cluster.wait_broker(lab, 1)?;
        // The JVM writes the archive when it ends in good order.
        process::stop(lab, &cluster.broker(1), Duration::from_secs(60))?;
        cluster.down(lab)
    });
    made.map(drop)
}

fn toolchain() -> Result<PathBuf, LabError> {
    packages::toolchain(
        "java",
        "a JDK 17 or later (Debian: openjdk-17-jdk-headless)",
    )
}

/// A Java command inside the namespace with Kafka's jars (and `more`, after them) on its class path.
pub fn java(
    lab: &Lab,
    options: &[&str],
    more: Option<&Path>,
    class: &str,
) -> Result<Command, LabError> {
    let java = toolchain()?;
    let archive = class_archive(lab, &java)?.join(ARCHIVE);
    let jars = format!("{}/*", libs(lab)?.display());
    // The jars first: the class archive is only used when the class path begins with that of the broker.
    let class_path = more.map_or_else(|| jars.clone(), |more| format!("{jars}:{}", more.display()));
    let mut command = net::command(lab, java)?;
    if archive.exists() {
        // The JVM does without an archive that does not fit; it need not warn.
        command
            .arg(format!("-XX:SharedArchiveFile={}", archive.display()))
            .args(["-Xlog:disable", "-Xlog:all=error:stderr"]);
    }
    command.args([
        "-XX:+UseSerialGC",
        "-XX:-UsePerfData",
        "-Xshare:auto",
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    ]);
    command.args([
        // It warns when offsets of a partition are asked for that is not assigned, which is nothing to worry about.
        "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.clients.consumer.internals.OffsetFetcherUtils=error",
        "-Dorg.slf4j.simpleLogger.showDateTime=true",
        "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSS",
    ]);
    // Since 4.0 Kafka fetches tokens and their keys from nowhere else.
    command.arg(format!(
        "-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={}",
        secure::tokens::ALLOWED
    ));
    command.args(options).arg("-cp").arg(class_path).arg(class);
    Ok(command)
}

/// The cluster and number of a broker of the lab, by the name that `status` shows.
pub fn by_name(broker: &str) -> Option<(Cluster<'static>, u16)> {
    let (cluster, id) = broker.rsplit_once('-')?;
    let cluster = COMPONENTS
        .into_iter()
        .find(|known| cluster == format!("kafka-{}", known.name))?;
    Some((cluster, id.parse().ok()?))
}

/// The clusters that are components of the lab.
const COMPONENTS: [Cluster; 4] = [SOURCE, TARGET, secure::ONE, secure::THREE];

/// Kills the brokers of all clusters but the lab's own, and removes their data: what a test ran for itself.
pub fn down_others(lab: &Lab) -> Result<(), LabError> {
    let running = process::running(lab);
    let others = running
        .iter()
        .filter_map(|(name, _)| name.strip_prefix("kafka-")?.rsplit_once('-'))
        .map(|(cluster, _)| cluster)
        .filter(|cluster| COMPONENTS.iter().all(|known| known.name != *cluster));
    for name in others {
        let cluster = Cluster {
            name,
            port: 0,
            extra: "",
        };
        cluster.down(lab)?;
    }
    Ok(())
}

impl Cluster<'_> {
    /// The process name of broker `id`, counted from 1.
    pub fn broker(&self, id: u16) -> String {
        format!("kafka-{}-{id}", self.name)
    }

    /// The client port of broker `id`, counted from 1.
    pub fn client_port(&self, id: u16) -> u16 {
        self.port + id - 1
    }

    fn folder(&self, lab: &Lab) -> PathBuf {
        lab.state(&format!("kafka-{}", self.name))
    }

    /// The data folder of broker `id`; partition folders are in it.
    pub fn data(&self, lab: &Lab, id: u16) -> PathBuf {
        self.folder(lab).join(id.to_string()).join("data")
    }

    /// Brokers that the cluster was made with; 0 if there is none.
    pub fn brokers(&self, lab: &Lab) -> u16 {
        let path = self.folder(lab).join("brokers");
        fs::read_to_string(path)
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(0)
    }

    /// The bootstrap servers as clients want them; valid while the cluster is up.
    pub fn bootstrap(&self, lab: &Lab) -> String {
        let servers: Vec<_> = (1..=self.brokers(lab).max(1))
            .map(|id| format!("{NODE_IP}:{}", self.client_port(id)))
            .collect();
        servers.join(",")
    }

    /// Starts the brokers that do not run and waits until each serves clients.
    pub fn up(&self, lab: &Lab, brokers: u16) -> Result<(), LabError> {
        let made = self.brokers(lab);
        if made != 0 && made != brokers {
            return Err(LabError::State(format!(
                "cluster {} has {made} broker(s), not {brokers}; remove it first with `cargo lab down kafka`",
                self.name
            )));
        }
        make_class_archive(lab)?;
        self.prepare(lab, brokers)?;
        for id in 1..=brokers {
            self.spawn_broker(lab, id)?;
        }
        (1..=brokers).try_for_each(|id| {
            step(
                &format!(
                    "{} serves {NODE_IP}:{}",
                    self.broker(id),
                    self.client_port(id)
                ),
                || self.wait_broker(lab, id),
            )
        })
    }

    /// Formats the data folders that are not.
    fn prepare(&self, lab: &Lab, brokers: u16) -> Result<(), LabError> {
        let folder = self.folder(lab);
        fs::create_dir_all(&folder).doing(|| format!("create {}", folder.display()))?;
        fs::write(folder.join("brokers"), brokers.to_string())
            .doing(|| format!("write {}/brokers", folder.display()))?;
        std::thread::scope(|scope| {
            let threads: Vec<_> = (1..=brokers)
                .map(|id| scope.spawn(move || self.format(lab, id)))
                .collect();
            threads.into_iter().try_for_each(|thread| {
                thread.join().unwrap_or_else(|_| {
                    Err(LabError::State(format!(
                        "formatting a broker of {} panicked",
                        self.name
                    )))
                })
            })
        })
    }

    /// The properties of broker `id`.
    pub(super) fn properties_file(&self, lab: &Lab, id: u16) -> PathBuf {
        self.folder(lab)
            .join(id.to_string())
            .join("broker.properties")
    }

    /// Starts broker `id` again after it was stopped or killed, and waits until it serves.
    pub fn start_broker(&self, lab: &Lab, id: u16) -> Result<(), LabError> {
        self.spawn_broker(lab, id)?;
        self.wait_broker(lab, id)
    }

    /// Stops broker `id`; its data stays.
    pub fn stop_broker(&self, lab: &Lab, id: u16) -> Result<(), LabError> {
        process::stop(lab, &self.broker(id), Duration::from_secs(30))
    }

    /// Kills broker `id` as a power failure would; its data stays.
    pub fn kill_broker(&self, lab: &Lab, id: u16) -> Result<(), LabError> {
        process::kill_now(lab, &self.broker(id))
    }

    /// Makes broker `id` stand still until the guard goes: its connections stay, and nothing is answered.
    pub fn pause_broker(&self, lab: &Lab, id: u16) -> Result<process::Paused, LabError> {
        process::pause(lab, &self.broker(id))
    }

    /// Kills all brokers and removes their data.
    pub fn down(&self, lab: &Lab) -> Result<(), LabError> {
        // Their data goes too: nothing is gained by an orderly stop.
        let prefix = format!("kafka-{}-", self.name);
        for (name, _) in process::running(lab) {
            if name
                .strip_prefix(&prefix)
                .is_some_and(|id| id.parse::<u16>().is_ok())
            {
                process::kill_now(lab, &name)?;
            }
        }
        parts::remove(&self.folder(lab))
    }

    /// One row for each broker.
    pub fn status(&self, lab: &Lab) -> Vec<Row> {
        let row = |id| {
            Row::of_process(
                lab,
                &self.broker(id),
                &format!("{NODE_IP}:{}", self.client_port(id)),
            )
        };
        (1..=self.brokers(lab).max(1)).map(row).collect()
    }

    /// The broker's properties.
    fn properties(&self, lab: &Lab, id: u16, brokers: u16) -> String {
        let controller_port = |id| self.client_port(id) + 1000;
        let voters: Vec<_> = (1..=brokers)
            .map(|id| format!("{id}@{NODE_IP}:{}", controller_port(id)))
            .collect();
        let (replicas, in_sync) = if brokers < 3 { (1, 1) } else { (3, 2) };
        let values = [
            ("@ID@", id.to_string()),
            // The place of its ports after those of the first.
            ("@INDEX@", (id - 1).to_string()),
            ("@VOTERS@", voters.join(",")),
            ("@NODE_IP@", NODE_IP.to_owned()),
            ("@PORT@", self.client_port(id).to_string()),
            ("@CONTROLLER_PORT@", controller_port(id).to_string()),
            ("@DATA@", self.data(lab, id).display().to_string()),
            ("@REPLICAS@", replicas.to_string()),
            ("@IN_SYNC@", in_sync.to_string()),
        ];
        let text = values.iter().fold(
            format!("{BROKER}{}\n", self.extra),
            |text, (name, value)| text.replace(name, value),
        );
        debug_assert!(
            !text.lines().any(|line| !line.starts_with('#')
                && line.contains('@')
                && !line.contains("voters")),
            "{text}"
        );
        text
    }

    /// Writes the broker's properties and formats its data folder, unless it is formatted.
    fn format(&self, lab: &Lab, id: u16) -> Result<(), LabError> {
        let folder = self.folder(lab).join(id.to_string());
        let formatted = folder.join("formatted");
        if formatted.exists() {
            return Ok(());
        }
        parts::remove(&folder)?;
        fs::create_dir_all(&folder).doing(|| format!("create {}", folder.display()))?;
        let properties = self.properties_file(lab, id);
        fs::write(&properties, self.properties(lab, id, self.brokers(lab)))
            .doing(|| format!("write {}", properties.display()))?;
        let mut command = java(
            lab,
            &["-Xmx128m", "-XX:TieredStopAtLevel=1"],
            None,
            "kafka.tools.StorageTool",
        )?;
        // A cluster id is 16 bytes in URL-safe base64 without padding; the cluster's name makes it, so that two clusters never agree.
        let cluster_id = format!(
            "{:A<21}A",
            format!("Lab_{}", self.name)
                .chars()
                .take(21)
                .collect::<String>()
        );
        process::run(
            command
                .args(["format", "-t", &cluster_id, "-c"])
                .arg(&properties),
        )?;
        fs::write(&formatted, "").doing(|| format!("write {}", formatted.display()))
    }

    fn spawn_broker(&self, lab: &Lab, id: u16) -> Result<(), LabError> {
        let name = self.broker(id);
        if process::is_running(lab, &name) {
            return Ok(());
        }
        let properties = self.properties_file(lab, id);
        let mut command = java(lab, &["-Xms64m", "-Xmx384m"], None, "kafka.Kafka")?;
        process::spawn(lab, &name, command.arg(&properties)).map(drop)
    }

    fn wait_broker(&self, lab: &Lab, id: u16) -> Result<(), LabError> {
        process::wait_ready(lab, &self.broker(id), Duration::from_secs(60), || {
            net::listens(lab, self.client_port(id))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_filled_for_three_brokers() {
        let lab = Lab {
            name: "x".to_owned(),
            cache: "/c".into(),
            run: "/c/run/x".into(),
            given: None,
        };
        let text = Cluster {
            name: "t",
            port: 9300,
            extra: "a=b@ID@",
        }
        .properties(&lab, 2, 3);
        assert!(text.contains("node.id=2\n"));
        assert!(text.contains(
            "controller.quorum.voters=1@198.18.0.2:10300,2@198.18.0.2:10301,3@198.18.0.2:10302\n"
        ));
        assert!(
            text.contains("listeners=CLIENT://198.18.0.2:9301,CONTROLLER://198.18.0.2:10301\n")
        );
        assert!(text.contains("min.insync.replicas=2\n"));
        assert!(text.ends_with("a=b2\n"));
    }
}
