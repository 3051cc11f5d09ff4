//! Writing into a folder, and reading parts of what is in it. The rest is `LocalFileSystem`'s.
//!
//! Parts are read here since `LocalFileSystem` takes new memory for each of them and fills it with zeros first, a fifth of a restore's
//! CPU, and goes to another thread twice, to open the file and to read it (`cargo lab bench data`).
//!
//! # Guarantees
//! - Nothing is written before something is to be created: a folder that can only be read is as good for reading.
//! - An object appears whole and durable, under its name, or not at all: it is written and flushed in `.staging` and then linked, so
//!   that a name that is taken stays as it is. File systems without hard links (FUSE, CIFS) get a lock and a rename.
//! - What a killed process left in `.staging` is removed after [`LEFTOVER_AGE`] by whoever writes next. A live writer's file is
//!   younger than any attempt is long; were one removed all the same, its writer would get an error, and nobody a damaged object.
//!
//! # Assumptions
//! The folder is on one file system, and no object's key begins with a dot.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Take, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use object_store::PutPayload;

/// Name of the file whose lock serialises what the file system cannot do by itself.
const LOCK: &str = ".lock";
/// Where objects are written before they have a name.
const STAGING: &str = ".staging";
/// By the file system's own clock.
const LEFTOVER_AGE: Duration = Duration::from_secs(24 * 3600);

/// A folder that holds a store.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    root: Arc<Path>,
    /// Whether objects can be linked; known once it was tried.
    pub(super) hard_links: Arc<OnceLock<bool>>,
}

/// A file in `.staging`, removed when it is not needed any more.
struct Staged(PathBuf);

impl Drop for Staged {
    fn drop(&mut self) {
        // Renamed away, or a leftover like those of killed processes.
        drop(fs::remove_file(&self.0));
    }
}

impl Folder {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.into(),
            hard_links: Arc::default(),
        }
    }

    /// Creates a file; `AlreadyExists` where there is one.
    pub(super) async fn create(&self, key: &str, content: PutPayload) -> io::Result<()> {
        let (folder, target) = (self.clone(), self.root.join(key));
        blocking(move || {
            let hard_links = folder.prepare()?;
            let staged = folder.stage(&content)?;
            make_folders(parent(&target)?)?;
            if hard_links {
                fs::hard_link(&staged.0, &target)?;
            } else {
                let _lock = folder.lock_now()?;
                if fs::exists(&target)? {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                fs::rename(&staged.0, &target)?;
            }
            sync_folder(parent(&target)?)
        })
        .await
    }

    /// Replaces the content of a file.
    pub(super) async fn replace(&self, key: &str, content: PutPayload) -> io::Result<()> {
        let (folder, target) = (self.clone(), self.root.join(key));
        blocking(move || {
            folder.prepare()?;
            let staged = folder.stage(&content)?;
            fs::rename(&staged.0, &target)?;
            sync_folder(parent(&target)?)
        })
        .await
    }

    /// Hands a part of a file over to be read. It ends where the file does, and is empty beyond that.
    pub(super) async fn read_part<T: Send + 'static>(
        &self,
        key: &str,
        range: Range<u64>,
        read: impl FnOnce(Take<File>) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let path = self.root.join(key);
        blocking(move || {
            let mut file = File::open(path)?;
            file.seek(SeekFrom::Start(range.start))?;
            read(file.take(range.end.saturating_sub(range.start)))
        })
        .await
    }

    /// Waits for the lock; it is given back by dropping the file, and by the system when the process dies.
    pub(super) async fn lock(&self) -> io::Result<File> {
        let folder = self.clone();
        blocking(move || folder.lock_now()).await
    }

    fn lock_now(&self) -> io::Result<File> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.root.join(LOCK))?;
        file.lock()?;
        Ok(file)
    }

    /// Writes and flushes a file that has no name yet.
    fn stage(&self, content: &PutPayload) -> io::Result<Staged> {
        let name = format!("{}#1", uuid::Uuid::new_v4());
        let staged = Staged(self.root.join(STAGING).join(name));
        let mut file = File::create_new(&staged.0)?;
        for piece in content {
            file.write_all(piece)?;
        }
        file.sync_all()?;
        Ok(staged)
    }

    /// Makes the staging folder, removes what is old in it, and tries whether the file system has hard links; once.
    fn prepare(&self) -> io::Result<bool> {
        if let Some(known) = self.hard_links.get() {
            return Ok(*known);
        }
        let staging = self.root.join(STAGING);
        make_folders(&staging)?;
        let probe = self.stage(&PutPayload::new())?;
        let now = fs::metadata(&probe.0)?.modified()?;
        for entry in fs::read_dir(&staging)? {
            remove_leftover(&entry?.path(), now)?;
        }
        let link = Staged(self.root.join(format!(".probe-{}#1", uuid::Uuid::new_v4())));
        let linked = fs::hard_link(&probe.0, &link.0).is_ok();
        Ok(*self.hard_links.get_or_init(|| linked))
    }
}

/// Removes a file that is older than [`LEFTOVER_AGE`]; another writer may be faster, or be done with it.
fn remove_leftover(file: &Path, now: SystemTime) -> io::Result<()> {
    let absent = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    let written = match fs::metadata(file).and_then(|metadata| metadata.modified()) {
        Err(error) if absent(&error) => return Ok(()),
        written => written?,
    };
    if now.duration_since(written).unwrap_or_default() < LEFTOVER_AGE {
        return Ok(());
    }
    match fs::remove_file(file) {
        Err(error) if absent(&error) => Ok(()),
        removed => removed,
    }
}

/// Makes a folder and what is above it, each durable.
fn make_folders(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let above = parent(folder)?;
    make_folders(above)?;
    match fs::create_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    sync_folder(above)
}

fn parent(path: &Path) -> io::Result<&Path> {
    path.parent()
        .ok_or_else(|| io::ErrorKind::NotADirectory.into())
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_killed_writer_left_goes_when_it_is_old() {
        let root = tempfile::tempdir().unwrap();
        let staging = root.path().join(STAGING);
        fs::create_dir(&staging).unwrap();
        for (name, age) in [("old#1", LEFTOVER_AGE * 2), ("live#1", LEFTOVER_AGE / 2)] {
            let file = File::create(staging.join(name)).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
        }
        let folder = Folder::new(root.path());
        folder
            .create("a/b", PutPayload::from_static(b"x"))
            .await
            .unwrap();
        let left = fs::read_dir(&staging).unwrap();
        let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["live#1"]);
        assert_eq!(fs::read(root.path().join("a/b")).unwrap(), b"x");
    }
}
