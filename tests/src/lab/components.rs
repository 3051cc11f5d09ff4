//! The declarative list of the lab's components, and what `up`, `down` and `status` do with it.

use super::{
    Lab, LabError, at_once, azurite, chain, kafka, kubernetes, net, packages, parts, process,
    prometheus,
    secure::{self, Secured, tokens},
    step, store, versitygw,
};
use std::time::Instant;

/// What the command line asks of the components.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Brokers of each Kafka cluster: 1 or 3.
    pub brokers: u16,
}

impl Default for Options {
    fn default() -> Self {
        Self { brokers: 1 }
    }
}

/// One line of `cargo lab status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub name: String,
    pub state: String,
    pub pid: Option<i32>,
    pub address: String,
    pub memory_mib: Option<u64>,
}

impl Row {
    /// The row of a process that the lab recorded under `name`.
    pub fn of_process(lab: &Lab, name: &str, address: &str) -> Self {
        let pid = process::pid(lab, name);
        Self {
            name: name.to_owned(),
            state: if pid.is_some() { "running" } else { "down" }.to_owned(),
            pid,
            address: address.to_owned(),
            memory_mib: pid.and_then(process::memory_mib),
        }
    }
}

/// A part of the lab that can be started and stopped by itself.
pub struct Component {
    pub name: &'static str,
    pub about: &'static str,
    /// Whether it is started when no component is named.
    pub by_default: bool,
    /// Components that must be up before.
    pub needs: &'static [&'static str],
    /// Programs, by name or path, and the Debian packages that have them.
    pub packages: &'static [(&'static str, &'static str)],
    /// Starts what is not running and waits until it serves; clears what an interrupted start left.
    pub up: fn(&Lab, Options) -> Result<(), LabError>,
    /// Stops everything and removes its state; nothing to do is fine.
    pub down: fn(&Lab) -> Result<(), LabError>,
    pub status: fn(&Lab) -> Vec<Row>,
}

/// All components. Their order is only that of `status`.
pub static COMPONENTS: &[Component] = &[
    Component {
        name: net::HOLDER,
        about: "the network namespace in which all others run",
        by_default: true,
        needs: &[],
        packages: net::PACKAGES,
        up: |lab, _| net::up(lab),
        down: net::down,
        status: |lab| vec![Row::of_process(lab, net::HOLDER, super::NODE_IP)],
    },
    Component {
        name: "kafka",
        about: "the Kafka cluster that is backed up",
        by_default: true,
        needs: &[net::HOLDER],
        packages: &[],
        up: |lab, options| kafka::SOURCE.up(lab, options.brokers),
        down: |lab| kafka::SOURCE.down(lab),
        status: |lab| kafka::SOURCE.status(lab),
    },
    Component {
        name: "kafka-target",
        about: "the Kafka cluster that is restored into",
        by_default: true,
        needs: &[net::HOLDER],
        packages: &[],
        up: |lab, options| kafka::TARGET.up(lab, options.brokers),
        down: |lab| kafka::TARGET.down(lab),
        status: |lab| kafka::TARGET.status(lab),
    },
    Component {
        name: store::NAME,
        about: "an S3 object store (SeaweedFS)",
        by_default: true,
        needs: &[net::HOLDER],
        packages: store::PACKAGES,
        up: |lab, _| store::up(lab),
        down: store::down,
        status: |lab| vec![Row::of_process(lab, store::NAME, store::ENDPOINT)],
    },
    Component {
        name: versitygw::NAME,
        about: "another S3 object store (versitygw), for tests of stores",
        by_default: false,
        needs: &[net::HOLDER],
        packages: &[],
        up: |lab, _| versitygw::up(lab),
        down: versitygw::down,
        status: |lab| vec![Row::of_process(lab, versitygw::NAME, versitygw::ENDPOINT)],
    },
    Component {
        name: azurite::NAME,
        about: "Azure Blob Storage (Azurite), for tests of stores",
        by_default: false,
        needs: &[net::HOLDER],
        packages: azurite::PACKAGES,
        up: |lab, _| azurite::up(lab),
        down: azurite::down,
        status: |lab| vec![Row::of_process(lab, azurite::NAME, azurite::ENDPOINT)],
    },
    Component {
        name: tokens::NAME,
        about: "a token server (OAuth 2), and the certificates of the secured Kafka clusters; ports 11090 and 11091",
        by_default: false,
        needs: &[net::HOLDER],
        packages: secure::PACKAGES,
        up: |lab, _| tokens::up(lab),
        down: tokens::down,
        status: |lab| vec![Row::of_process(lab, tokens::NAME, tokens::ENDPOINT)],
    },
    Component {
        name: "kafka-secure",
        about: "a Kafka broker with TLS, SASL and ACLs, for tests of them; ports 11100 to 11160",
        by_default: false,
        needs: &[tokens::NAME],
        packages: &[],
        up: |lab, _| Secured::one(lab).up(),
        down: |lab| Secured::one(lab).down(),
        status: |lab| Secured::one(lab).status(),
    },
    Component {
        name: "kafka-secure3",
        about: "three such brokers; ports 11200 to 11262",
        by_default: false,
        needs: &[tokens::NAME],
        packages: &[],
        up: |lab, _| Secured::three(lab).up(),
        down: |lab| Secured::three(lab).down(),
        status: |lab| Secured::three(lab).status(),
    },
    Component {
        name: kubernetes::NAME,
        about: "a Kubernetes node: API server, kubelet, containerd and all",
        by_default: true,
        needs: &[net::HOLDER],
        packages: &kubernetes::PACKAGES,
        up: |lab, _| kubernetes::up(lab),
        down: kubernetes::down,
        status: kubernetes::status,
    },
    Component {
        name: prometheus::NAME,
        about: "Prometheus, scraping the controller",
        by_default: true,
        needs: &[net::HOLDER],
        packages: prometheus::PACKAGES,
        up: |lab, _| prometheus::up(lab),
        down: prometheus::down,
        status: |lab| vec![Row::of_process(lab, prometheus::NAME, prometheus::ENDPOINT)],
    },
];

/// What a name on the command line stands for: `kafka` means both clusters.
fn expand<'a>(names: &[&'a str]) -> Vec<&'a str> {
    names
        .iter()
        .flat_map(|name| {
            if *name == "kafka" {
                vec!["kafka", "kafka-target"]
            } else {
                vec![*name]
            }
        })
        .collect()
}

fn named<'a>(list: &'a [Component], name: &str) -> Result<&'a Component, LabError> {
    list.iter()
        .find(|component| component.name == name)
        .ok_or_else(|| {
            let names: Vec<_> = list.iter().map(|component| component.name).collect();
            LabError::State(format!(
                "there is no component {name:?}; there are {}",
                names.join(", ")
            ))
        })
}

/// The wanted components (all if none is named) and what they need, in waves: all of a wave may start at once.
fn waves<'a>(list: &'a [Component], wanted: &[&str]) -> Result<Vec<Vec<&'a Component>>, LabError> {
    let mut names: Vec<&str> = if wanted.is_empty() {
        list.iter().map(|component| component.name).collect()
    } else {
        expand(wanted)
    };
    let mut index = 0;
    while index < names.len() {
        for need in named(list, names[index])?.needs {
            if !names.contains(need) {
                names.push(need);
            }
        }
        index += 1;
    }
    let mut left: Vec<&Component> = list
        .iter()
        .filter(|component| names.contains(&component.name))
        .collect();
    let mut waves = Vec::new();
    while !left.is_empty() {
        let (ready, rest): (Vec<_>, Vec<_>) = left.iter().partition(|component| {
            !component
                .needs
                .iter()
                .any(|need| left.iter().any(|other| other.name == *need))
        });
        if ready.is_empty() {
            return Err(LabError::State(
                "the components need each other in a circle".to_owned(),
            ));
        }
        waves.push(ready);
        left = rest;
    }
    Ok(waves)
}

/// The names of all components.
pub fn all() -> Vec<&'static str> {
    COMPONENTS.iter().map(|component| component.name).collect()
}

/// Starts the wanted components (those of every day if none is named) and what they need.
pub fn up(lab: &Lab, wanted: &[&str], options: Options) -> Result<(), LabError> {
    let every_day = COMPONENTS.iter().filter(|component| component.by_default);
    let every_day: Vec<&str> = every_day.map(|component| component.name).collect();
    let wanted = if wanted.is_empty() {
        &every_day
    } else {
        wanted
    };
    let waves = waves(COMPONENTS, wanted)?;
    let start = Instant::now();
    let programs: Vec<_> = waves
        .iter()
        .flatten()
        .flat_map(|component| component.packages.iter().copied())
        .collect();
    packages::require(&programs)?;
    {
        // One at a time: the network decides whether what runs is ours to use or a leftover to end.
        let _lock = lock(lab, "up")?;
        clear_leftovers(lab)?;
        net::up(lab)?;
    }
    lab.program()?;
    for wave in waves {
        let errors = at_once(
            wave.iter()
                .map(|component| || up_one(lab, component, options)),
        );
        if !errors.is_empty() {
            return Err(LabError::Several(errors));
        }
    }
    eprintln!(
        "{:>8.1} s  lab {:?} is up",
        start.elapsed().as_secs_f64(),
        lab.name
    );
    Ok(())
}

fn up_one(lab: &Lab, component: &Component, options: Options) -> Result<(), LabError> {
    let _lock = lock(lab, component.name)?;
    step(&format!("{} is up", component.name), || {
        (component.up)(lab, options)
    })
}

fn lock(lab: &Lab, component: &str) -> Result<std::fs::File, LabError> {
    parts::lock(&lab.run.join("locks").join(component))
}

/// When the network's holder is gone, whatever is left of the lab runs in a namespace that nobody can enter: it is ended.
fn clear_leftovers(lab: &Lab) -> Result<(), LabError> {
    if process::is_running(lab, net::HOLDER) {
        return Ok(());
    }
    let left = process::running(lab).len();
    stop(lab, &[])?;
    if left > 0 {
        println!("            ended {left} processes of an earlier run that was interrupted");
    }
    Ok(())
}

/// Stops the named components and those that need them; all if none is named. Their state is removed, their logs stay.
pub fn down(lab: &Lab, wanted: &[&str]) -> Result<(), LabError> {
    let _lock = lock(lab, "up")?;
    stop(lab, wanted)
}

fn stop(lab: &Lab, wanted: &[&str]) -> Result<(), LabError> {
    let all = waves(COMPONENTS, &[])?;
    let doomed = doomed(COMPONENTS, &expand(wanted))?;
    let mut errors = Vec::new();
    for wave in all.iter().rev() {
        let wave: Vec<_> = wave
            .iter()
            .filter(|component| doomed.contains(&component.name))
            .collect();
        errors.extend(at_once(
            wave.iter().map(|component| || down_one(lab, component)),
        ));
    }
    if wanted.is_empty() {
        // Also processes that tests started beside the components, and those whose record was lost.
        for (name, _) in process::running(lab) {
            errors.extend(process::stop(lab, &name, std::time::Duration::from_secs(5)).err());
        }
        match process::sweep(lab) {
            Ok(0) => {}
            Ok(count) => {
                println!("            ended {count} unrecorded processes of an earlier run")
            }
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(LabError::Several(errors))
    }
}

fn down_one(lab: &Lab, component: &Component) -> Result<(), LabError> {
    let _lock = lock(lab, component.name)?;
    (component.down)(lab)
}

/// The wanted components and all that need them, directly or not.
fn doomed(list: &[Component], wanted: &[&str]) -> Result<Vec<&'static str>, LabError> {
    if wanted.is_empty() {
        return Ok(list.iter().map(|component| component.name).collect());
    }
    let mut doomed = Vec::new();
    for name in wanted {
        doomed.push(named(list, name)?.name);
    }
    loop {
        let more: Vec<_> = list
            .iter()
            .filter(|c| {
                !doomed.contains(&c.name) && c.needs.iter().any(|need| doomed.contains(need))
            })
            .map(|c| c.name)
            .collect();
        if more.is_empty() {
            return Ok(doomed);
        }
        doomed.extend(more);
    }
}

/// The table of `cargo lab status`.
pub fn status(lab: &Lab) -> String {
    let mut table = format!(
        "{:<18} {:<10} {:>8} {:>8}  {}\n",
        "NAME", "STATE", "PID", "MiB", "ADDRESS"
    );
    let rows: Vec<Row> = COMPONENTS
        .iter()
        .flat_map(|component| (component.status)(lab))
        .collect();
    let listed: Vec<String> = rows.iter().map(|row| row.name.clone()).collect();
    let others = process::running(lab)
        .into_iter()
        .filter(|(name, _)| !listed.contains(name))
        .map(|(name, _)| Row::of_process(lab, &name, ""));
    for row in rows.iter().cloned().chain(others) {
        let pid = row
            .pid
            .map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        let memory = row
            .memory_mib
            .map_or_else(|| "-".to_owned(), |mib| mib.to_string());
        table.push_str(&format!(
            "{:<18} {:<10} {pid:>8} {memory:>8}  {}\n",
            row.name, row.state, row.address
        ));
    }
    table
}

/// Prints an error of the lab with its causes.
pub fn complain(error: &LabError) {
    eprintln!("error: {}", chain(error));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(waves: &[Vec<&Component>]) -> Vec<Vec<&'static str>> {
        waves
            .iter()
            .map(|wave| wave.iter().map(|component| component.name).collect())
            .collect()
    }

    const fn fake(name: &'static str, needs: &'static [&'static str]) -> Component {
        Component {
            name,
            about: "",
            by_default: true,
            needs,
            packages: &[],
            up: |_, _| Ok(()),
            down: |_| Ok(()),
            status: |_| Vec::new(),
        }
    }

    #[test]
    fn needs_come_first_and_independents_share_a_wave() {
        let list = [
            fake("c", &["b"]),
            fake("a", &[]),
            fake("b", &["a"]),
            fake("d", &["a"]),
        ];
        assert_eq!(
            names(&waves(&list, &[]).unwrap()),
            [vec!["a"], vec!["b", "d"], vec!["c"]]
        );
        assert_eq!(
            names(&waves(&list, &["d"]).unwrap()),
            [vec!["a"], vec!["d"]]
        );
    }

    #[test]
    fn circle_and_unknown_name_are_errors() {
        let list = [fake("a", &["b"]), fake("b", &["a"])];
        assert!(waves(&list, &[]).is_err());
        let error = waves(COMPONENTS, &["kafak"])
            .map(|_| ())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("kafak") && error.contains("kafka-target"),
            "{error}"
        );
    }

    #[test]
    fn kafka_stands_for_both_clusters() {
        assert_eq!(
            names(&waves(COMPONENTS, &["kafka"]).unwrap()),
            [vec!["net"], vec!["kafka", "kafka-target"]]
        );
    }

    #[test]
    fn what_needs_a_stopped_component_stops_too() {
        let list = [
            fake("a", &[]),
            fake("b", &["a"]),
            fake("c", &["b"]),
            fake("d", &[]),
        ];
        assert_eq!(doomed(&list, &["a"]).unwrap(), ["a", "b", "c"]);
    }
}
