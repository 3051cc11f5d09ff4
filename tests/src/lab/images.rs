//! Container images without a container tool: docker-archive files, as `docker save` writes them.
//!
//! # Guarantees
//! - The same entries give the same bytes: times are 0, the owner is root, paths are sorted.
//! - A tag made from the contents names them: a changed binary is another image, an unchanged one is not imported twice.

mod archive;

pub use archive::{Entry, RootFs, build_archive};

use super::parts::{key, lock, part};
use super::process::run;
use super::{Doing, Lab, LabError, cargo, packages, step};
use archive::{hex, layer};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where images of the lab claim to come from; nothing answers at this name.
const HOST: &str = "kafka-backup.local";
/// Changes when the layout of images changes, so that old archives in the cache are not taken.
const LAYOUT: &str = "2";
/// User and group of our programs in their images.
pub const USER: u32 = 10001;
/// Where an image says what it is made of.
pub const MATERIALS: &str = "/sbom.cdx.json";
/// The version of cargo-cyclonedx.
pub const CYCLONEDX: &str = "0.5.9";
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// An image in a docker-archive file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// What a pod's `image` field says.
    pub reference: String,
    pub archive: PathBuf,
}

/// The images of this checkout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    pub worker: Image,
    pub controller: Image,
}

/// The first process of every pod's sandbox, as an image.
pub fn pause(lab: &Lab) -> Result<Image, LabError> {
    const SOURCE: &str = include_str!("../../assets/kubernetes/pause.c");
    let tag = key(&[SOURCE.as_bytes(), LAYOUT.as_bytes()]);
    let reference = format!("{HOST}/pause:{tag}");
    let compiler = packages::toolchain("cc", "a C compiler (Debian package gcc, with libc6-dev)")?;
    let folder = part(lab, "pause", &tag, |folder| {
        let source = folder.join("pause.c");
        let program = folder.join("pause");
        fs::write(&source, SOURCE).doing(|| format!("write {}", source.display()))?;
        run(Command::new(compiler)
            .args(["-static", "-Os", "-s", "-o"])
            .arg(&program)
            .arg(&source))?;
        let rootfs = RootFs::from([(
            "/pause".to_owned(),
            Entry::File {
                source: program,
                mode: 0o755,
            },
        )]);
        build_archive(
            &rootfs,
            &reference,
            &["/pause"],
            "65535:65535",
            &folder.join("image.tar"),
        )
    })?;
    Ok(Image {
        reference: format!("{HOST}/pause:{tag}"),
        archive: folder.join("image.tar"),
    })
}

/// Compiles worker and controller of this checkout (release profile).
pub fn compile(lab: &Lab) -> Result<(), LabError> {
    step("compiled worker and controller", || {
        run(cargo::release(lab, "build")?.arg("--bins")).map(drop)
    })
}

/// Compiles worker and controller and makes an image of each.
pub fn worker_and_controller(lab: &Lab) -> Result<Built, LabError> {
    compile(lab)?;
    step("made images of worker and controller", || {
        Ok(Built {
            worker: program(lab, "worker")?,
            controller: program(lab, "controller")?,
        })
    })
}

/// The image of `/kafka-backup-NAME`, with certificates for stores outside.
fn program(lab: &Lab, name: &str) -> Result<Image, LabError> {
    let built = lab
        .target()
        .join("release")
        .join(format!("kafka-backup-{name}"));
    let folder = folder(lab)?;
    let _lock = lock(&folder.join("lock"))?;
    let stripped = folder.join(format!("kafka-backup-{name}"));
    strip(&built, &stripped)?;
    let path = format!("/kafka-backup-{name}");
    let mut rootfs = of_programs(&[(&path, &stripped)])?;
    if Path::new(CERTIFICATES).exists() {
        rootfs.insert(
            CERTIFICATES.to_owned(),
            Entry::File {
                source: PathBuf::from(CERTIFICATES),
                mode: 0o644,
            },
        );
    }
    let materials = Entry::File {
        source: materials(lab, name, &folder)?,
        mode: 0o644,
    };
    rootfs.insert(MATERIALS.to_owned(), materials);
    keep(&folder, name, &rootfs, &[&path])
}

/// The bill of materials of a program (CycloneDX), made as in the Dockerfiles.
fn materials(lab: &Lab, name: &str, folder: &Path) -> Result<PathBuf, LabError> {
    let tool = part(lab, "cargo-cyclonedx", CYCLONEDX, |folder| {
        let target = folder.join("target");
        let install = ["install", "--quiet", "--locked", "--version", CYCLONEDX];
        run(Command::new(cargo::program()?)
            .args(install)
            .args(["cargo-cyclonedx", "--root"])
            .arg(folder)
            .arg("--target-dir")
            .arg(&target))?;
        fs::remove_dir_all(&target).doing(|| format!("remove {}", target.display()))
    })?;
    let workspace = cargo::workspace();
    run(Command::new(tool.join("bin/cargo-cyclonedx"))
        .current_dir(workspace)
        .args(["cyclonedx", "--format", "json", "--spec-version", "1.5"])
        .arg("--manifest-path")
        .arg(format!("{name}/Cargo.toml"))
        // Nothing of it changes unless the materials do.
        .env("SOURCE_DATE_EPOCH", "0"))?;
    let kept = folder.join(format!("kafka-backup-{name}.cdx.json"));
    for member in ["shared", "controller", "worker", "tests"] {
        // The tool writes one beside each manifest of the workspace.
        let made = workspace.join(format!("{member}/kafka-backup-{member}.cdx.json"));
        let text = fs::read(&made).doing(|| format!("read {}", made.display()))?;
        fs::remove_file(&made).doing(|| format!("remove {}", made.display()))?;
        if member == name {
            fs::write(&kept, text).doing(|| format!("write {}", kept.display()))?;
        }
    }
    Ok(kept)
}

/// An image of programs of this machine, for pods of tests: `bash` and `sleep` say what they see without an image from elsewhere.
pub fn of_machine(
    lab: &Lab,
    name: &str,
    programs: &[&str],
    entrypoint: &[&str],
) -> Result<Image, LabError> {
    let folder = folder(lab)?;
    let _lock = lock(&folder.join("lock"))?;
    let mut found = Vec::new();
    for program in programs {
        let missing = || {
            LabError::State(format!(
                "the image {name} needs {program}, which this machine does not have"
            ))
        };
        found.push((
            format!("/bin/{program}"),
            packages::find(program).ok_or_else(missing)?,
        ));
    }
    let found: Vec<(&str, &Path)> = found
        .iter()
        .map(|(path, source)| (path.as_str(), source.as_path()))
        .collect();
    keep(&folder, name, &of_programs(&found)?, entrypoint)
}

fn folder(lab: &Lab) -> Result<PathBuf, LabError> {
    let folder = lab.cache.join("images");
    fs::create_dir_all(&folder).doing(|| format!("create {}", folder.display()))?;
    Ok(folder)
}

/// Programs (path in the image, file), the shared libraries that they name, an empty /tmp, and a user who may not do much.
fn of_programs(programs: &[(&str, &Path)]) -> Result<RootFs, LabError> {
    let user = format!("kafka-backup:x:{USER}:{USER}::/tmp:/sbin/nologin\n");
    let mut rootfs = RootFs::from([
        ("/tmp".to_owned(), Entry::Folder { mode: 0o1777 }),
        (
            "/etc/passwd".to_owned(),
            Entry::Text {
                text: user,
                mode: 0o644,
            },
        ),
    ]);
    for (path, source) in programs {
        rootfs.insert(
            (*path).to_owned(),
            Entry::File {
                source: source.to_path_buf(),
                mode: 0o755,
            },
        );
        for library in libraries(&run(Command::new("ldd").arg(source))?) {
            rootfs.insert(
                library.clone(),
                Entry::File {
                    source: PathBuf::from(library),
                    mode: 0o755,
                },
            );
        }
    }
    Ok(rootfs)
}

/// Writes an image under the tag of its contents, unless it is there, and removes older ones of that name.
fn keep(
    folder: &Path,
    name: &str,
    rootfs: &RootFs,
    entrypoint: &[&str],
) -> Result<Image, LabError> {
    let contents = [
        layer(rootfs)?.as_slice(),
        entrypoint.join(" ").as_bytes(),
        LAYOUT.as_bytes(),
    ]
    .concat();
    let tag: String = hex(&contents).chars().take(12).collect();
    let reference = format!("{HOST}/{name}:{tag}");
    let archive = folder.join(format!("{name}-{tag}.tar"));
    if archive.exists() {
        return Ok(Image { reference, archive });
    }
    let partial = folder.join("partial");
    build_archive(
        rootfs,
        &reference,
        entrypoint,
        &format!("{USER}:{USER}"),
        &partial,
    )?;
    // A node that runs an older one has its own copy.
    for old in fs::read_dir(folder)
        .doing(|| format!("list {}", folder.display()))?
        .flatten()
    {
        if old
            .file_name()
            .to_str()
            .is_some_and(|file| file.starts_with(&format!("{name}-")) && file.ends_with(".tar"))
        {
            fs::remove_file(old.path()).doing(|| format!("remove {}", old.path().display()))?;
        }
    }
    fs::rename(&partial, &archive).doing(|| format!("rename {}", partial.display()))?;
    Ok(Image { reference, archive })
}

/// Copies a binary without debug information, or as it is when there is no `strip`.
fn strip(binary: &Path, to: &Path) -> Result<(), LabError> {
    match packages::find("strip") {
        Some(strip) => run(Command::new(strip).arg("-o").arg(to).arg(binary)).map(drop),
        None => fs::copy(binary, to)
            .map(drop)
            .doing(|| format!("copy {}", binary.display())),
    }
}

/// The absolute paths in what `ldd` says: libraries and the loader, but not the kernel's vdso.
fn libraries(ldd: &str) -> Vec<String> {
    let word = |line: &str| {
        line.split_ascii_whitespace()
            .find(|word| word.starts_with('/'))
            .map(str::to_owned)
    };
    ldd.lines().filter_map(word).collect()
}

#[cfg(test)]
mod tests {
    use super::libraries;

    #[test]
    fn libraries_are_the_files_that_ldd_names() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        assert_eq!(
            libraries(text),
            [
                "/lib/x86_64-linux-gnu/libc.so.6",
                "/lib64/ld-linux-x86-64.so.2"
            ]
        );
        assert_eq!(libraries("\tstatically linked\n"), [""; 0]);
    }
}
