//! A disk that can be cut off: an ext4 file system on a loop device.
//!
//! The image file holds what has reached the block device. What the mounted file system only has in
//! memory is not in it, as it would not be on a disk after a power cut. A loop device keeps the order of
//! writes, so it is kinder than a disk that reorders what was never flushed.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// Size of the file system; the image is sparse.
const BYTES: u64 = 512 << 20;

/// How long the device may take to rest between two writes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A mounted image; unmounted and removed when it is dropped.
pub(crate) struct Disk {
    image: PathBuf,
    mounted: PathBuf,
}

impl Disk {
    /// Makes a file system in a directory and mounts it.
    pub(crate) fn make(dir: &Path) -> Result<Self> {
        ensure!(rustix::process::geteuid().is_root(), "loop devices and mounts are for root: run as root");
        let image = fresh(dir, "image");
        let file = fs::File::create(&image).with_context(|| format!("{} cannot be made", image.display()))?;
        file.set_len(BYTES)?;
        // The inode tables are written now, and not in the background beneath the test.
        run(
            "mkfs.ext4",
            [OsStr::new("-q"), "-E".as_ref(), "lazy_itable_init=0,lazy_journal_init=0".as_ref(), image.as_ref()],
        )?;
        Self::mount(image, dir)
    }

    /// Mounts an image, which replays its journal.
    pub(crate) fn mount(image: PathBuf, dir: &Path) -> Result<Self> {
        let mounted = fresh(dir, "mounted");
        fs::create_dir(&mounted)?;
        run("mount", ["-o".as_ref(), "loop".as_ref(), image.as_os_str(), mounted.as_os_str()])?;
        Ok(Self { image, mounted })
    }

    pub(crate) fn mounted(&self) -> &Path {
        &self.mounted
    }

    /// Copies the device as it is at one moment: while nobody writes to the file system, but the kernel
    /// may. So the copy is compared with the device, and made again until nothing has changed meanwhile.
    pub(crate) fn copy(&self) -> Result<PathBuf> {
        let dir = self.image.parent().context("an image lies in a directory")?;
        let copy = fresh(dir, "image");
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            run("cp", ["--sparse=always".as_ref(), self.image.as_os_str(), copy.as_os_str()])?;
            if Command::new("cmp").arg("-s").arg(&self.image).arg(&copy).status()?.success() {
                return Ok(copy);
            }
        }
        bail!("the device does not come to rest, so that it could be copied");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a process that was killed may hold it for a moment.
        let _ = run("umount", ["--lazy".as_ref(), self.mounted.as_os_str()]);
        let _ = fs::remove_dir(&self.mounted);
        let _ = fs::remove_file(&self.image);
    }
}

/// A path that was not used yet.
fn fresh(dir: &Path, what: &str) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    dir.join(format!("{what}-{}", COUNT.fetch_add(1, Ordering::Relaxed)))
}

fn run<'a>(program: &str, arguments: impl IntoIterator<Item = &'a OsStr>) -> Result<()> {
    let output = Command::new(program).args(arguments).output().with_context(|| format!("{program} cannot be run"))?;
    ensure!(output.status.success(), "{program} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
