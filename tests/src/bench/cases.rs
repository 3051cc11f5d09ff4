//! What the data bench measures, and what it should find.

use std::fmt;

use super::{OURS, READING, Row, STORING, WRITING, tls};

pub(super) const CODECS: [&str; 3] = ["none", "lz4", "zstd"];
/// What the names of the long cases begin with: so many times the bytes of a main case.
const LONG: &str = "20GB ";
const LONG_TIMES: u64 = 20;

/// A topic that is measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Topic {
    pub(super) size: u32,
    pub(super) codec: &'static str,
    pub(super) partitions: u32,
    pub(super) records: u64,
    /// One record in each batch.
    pub(super) single: bool,
    /// All is measured, and the backup several times.
    pub(super) main: bool,
    /// Takes long and much room: only when it is named.
    pub(super) long: bool,
}

/// A process that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    ReadAndStore,
    /// What the reader before it has stored.
    Write,
    Backup,
    /// What the backup before it left.
    Restore,
    ToS3,
    ToZstd,
}

impl Kind {
    pub(super) fn is_repeated(self) -> bool {
        matches!(
            self,
            Self::Read | Self::ReadAndStore | Self::Write | Self::Backup | Self::Restore
        )
    }

    /// Whether it fills a topic of the target from what the one before it left.
    pub(super) fn writes(self) -> bool {
        matches!(self, Self::Write | Self::Restore)
    }
}

impl Topic {
    pub(super) fn name(&self) -> String {
        let size = match self.size {
            size if size < 1000 => format!("{size}B"),
            size => format!("{}KB", size / 1000),
        };
        let single = if self.single { " single" } else { "" };
        let long = if self.long { LONG } else { "" };
        format!("{long}{size} {} {}p{single}", self.codec, self.partitions)
    }

    /// Whether it is among those that somebody asked for by parts of their names; all that do not take long where nobody did.
    pub(super) fn is_chosen(&self, only: &[String]) -> bool {
        let name = self.name();
        let mut naming = only.iter().filter(|part| name.contains(part.as_str()));
        match self.long {
            true => naming.any(|part| part.contains(LONG.trim_end())),
            false => only.is_empty() || naming.next().is_some(),
        }
    }

    pub(super) fn kinds(&self) -> Vec<Kind> {
        if self.single {
            return vec![Kind::Backup, Kind::ToZstd];
        }
        if self.long {
            return vec![Kind::Backup];
        }
        let mut kinds = vec![Kind::Read, Kind::ReadAndStore];
        if self.main {
            kinds.push(Kind::Write);
        }
        kinds.push(Kind::Backup);
        if self.main {
            kinds.extend([Kind::Restore, Kind::ToS3]);
        }
        if self.main && self.codec == "none" {
            kinds.push(Kind::ToZstd);
        }
        kinds
    }
}

/// The main topics have `records` records of 1 KB, the others a quarter of their bytes.
pub(super) fn topics(records: u64) -> Vec<Topic> {
    let topic = |size: u32, codec, partitions, main| Topic {
        size,
        codec,
        partitions,
        records: if main {
            records
        } else {
            records * 250 / u64::from(size)
        },
        single: false,
        main,
        long: false,
    };
    let mut topics = Vec::new();
    for codec in CODECS {
        topics.push(topic(1000, codec, 16, true));
    }
    for (size, partitions) in [(100, 16), (10_000, 16), (1000, 1), (1000, 200)] {
        for codec in CODECS {
            topics.push(topic(size, codec, partitions, false));
        }
    }
    topics.push(Topic {
        single: true,
        ..topic(1000, "none", 16, false)
    });
    topics.push(Topic {
        long: true,
        main: false,
        records: records * LONG_TIMES,
        ..topic(1000, "none", 16, true)
    });
    topics
}

/// Figures beside what they should be.
pub(super) struct Goals(Vec<String>);

impl Goals {
    pub(super) fn of(rows: &[Row]) -> Self {
        let mut lines = Vec::new();
        for ours in rows.iter().filter(|row| row.subject == OURS) {
            let other = |subject| {
                rows.iter()
                    .find(|row| row.case == ours.case && row.subject == subject)
            };
            let main = CODECS
                .iter()
                .position(|codec| ours.case == format!("backup 1KB {codec} 16p folder"));
            if let (Some(storing), Some(reading)) = (other(STORING), other(READING)) {
                let cpu = ours.cpu_s / storing.cpu_s;
                let goal = main.map(|at| format!(" (goal {})", [0.4, 0.2, 0.06][at]));
                lines.push(format!(
                    "{}: CPU {cpu:.2} of {STORING}{}, wall {:.2} of {READING}",
                    ours.case,
                    goal.unwrap_or_default(),
                    ours.wall_s / reading.wall_s,
                ));
            }
            if ours.case.starts_with(&format!("backup {LONG}")) {
                lines.push(format!("{}: {:.0} MiB (goal 64)", ours.case, ours.peak_mib));
            }
            let restored = CODECS
                .iter()
                .position(|codec| ours.case == format!("restore 1KB {codec} 16p folder"));
            if let (Some(writing), Some(at)) = (other(WRITING), restored) {
                lines.push(format!(
                    "{}: {:.2} CPU s/GB (goal {}), CPU {:.2} and wall {:.2} of {WRITING} (goal for the wall {}), {:.0} MiB (goal 64)",
                    ours.case,
                    ours.cpu_s / ours.gb,
                    [0.6, 1.0, 0.7][at],
                    ours.cpu_s / writing.cpu_s,
                    ours.wall_s / writing.wall_s,
                    [0.5, 1.0, 1.0][at],
                    ours.peak_mib,
                ));
            }
            if let Some(at) = main {
                lines.push(format!(
                    "{}: {:.2} CPU s/GB (goal {}), {:.0} MiB (goal 64)",
                    ours.case,
                    ours.cpu_s / ours.gb,
                    [1.2, 0.8, 0.3][at],
                    ours.peak_mib,
                ));
            }
            if let Some(stored) = ours.stored_gb.filter(|_| ours.case.ends_with("to zstd")) {
                lines.push(format!(
                    "{}: {:.0} MB/GB (goal 250) at {:.1} CPU s/GB (goal 4), {:.0} MiB (goal 64)",
                    ours.case,
                    stored / ours.gb * 1000.0,
                    ours.cpu_s / ours.gb,
                    ours.peak_mib,
                ));
            }
        }
        for codec in CODECS {
            let [plain, tls] =
                tls::names(codec).map(|case| rows.iter().find(|row| row.case == case));
            if let (Some(plain), Some(tls)) = (plain, tls) {
                lines.push(format!(
                    "{}: CPU {:.2}, wall {:.2} of that without",
                    tls.case,
                    tls.cpu_s / plain.cpu_s,
                    tls.wall_s / plain.wall_s,
                ));
            }
        }
        Self(lines)
    }
}

impl fmt::Display for Goals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_have_names_of_their_own_and_a_quarter_of_the_bytes() {
        let all = topics(1_000_000);
        let mut names: Vec<String> = all.iter().map(Topic::name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all.len());
        for topic in &all {
            let bytes = topic.records * u64::from(topic.size);
            let expected = match (topic.main, topic.long) {
                (true, _) => 1_000_000_000,
                (false, false) => 250_000_000,
                (false, true) => 20_000_000_000,
            };
            assert_eq!(bytes, expected, "{}", topic.name());
        }
    }

    #[test]
    fn a_long_case_is_measured_only_when_it_is_named() {
        let chosen = |only: &[&str]| -> Vec<String> {
            let only: Vec<String> = only.iter().map(|part| part.to_string()).collect();
            let all = topics(1_000_000);
            let chosen = all.iter().filter(|topic| topic.is_chosen(&only));
            chosen.map(Topic::name).collect()
        };
        let long = "20GB 1KB none 16p";
        assert!(!chosen(&[]).iter().any(|name| name == long));
        assert_eq!(
            chosen(&["1KB none 16p"]),
            ["1KB none 16p", "1KB none 16p single"]
        );
        assert_eq!(chosen(&["20GB"]), [long]);
        assert_eq!(chosen(&["idle"]), [""; 0]);
    }
}
