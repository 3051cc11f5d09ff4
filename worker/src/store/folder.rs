//! What a folder needs beside `LocalFileSystem`: a look at what the file system can do, and a lock.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

/// Name of the file whose lock serialises what the file system cannot do by itself.
const LOCK: &str = ".lock";

/// A folder that holds a store.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    root: PathBuf,
    /// Create-only is made by hard links; some file systems (FUSE, CIFS) have none.
    pub(super) hard_links: bool,
}

impl Folder {
    /// Tries what the file system can do. Also proves that the folder can be written to.
    pub(super) fn probe(root: &Path) -> io::Result<Self> {
        let name = |suffix: &str| root.join(format!(".probe-{}{suffix}", uuid::Uuid::new_v4()));
        let (file, link) = (name(""), name("-link"));
        File::create_new(&file)?;
        let linked = fs::hard_link(&file, &link);
        fs::remove_file(&file)?;
        let hard_links = linked.is_ok();
        if hard_links {
            fs::remove_file(&link)?;
        }
        Ok(Self {
            root: root.to_owned(),
            hard_links,
        })
    }

    /// Waits for the lock; it is given back by dropping the file, and by the system when the process dies.
    pub(super) async fn lock(&self) -> io::Result<File> {
        let path = self.root.join(LOCK);
        let lock = move || {
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(path)?;
            file.lock()?;
            Ok(file)
        };
        tokio::task::spawn_blocking(lock)
            .await
            .map_err(io::Error::other)?
    }
}
