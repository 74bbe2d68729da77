//! Reads everything that instances print, also of those that are removed meanwhile.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::load::Delivered;

/// How often new log files are looked for. An instance lives longer than this before it prints what counts.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Most files that are held open at once.
const FILES_MAX: usize = 4_096;

/// A thread that opens each log file as it appears and keeps it open: what is written to it can be read to its end
/// even after it was unlinked or rotated.
pub struct LogTail {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<String>>>,
}

impl LogTail {
    pub(super) fn start(instances: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = stop.clone();
        let thread = thread::spawn(move || {
            let mut files = HashMap::new();
            while !flag.load(Ordering::Relaxed) {
                open_new(&instances, &mut files);
                thread::sleep(LOOK_EVERY);
            }
            open_new(&instances, &mut files);
            files.into_values().map(read_all).collect()
        });
        LogTail {
            stop,
            thread: Some(thread),
        }
    }

    /// The text of every log file that was seen.
    pub fn finish(mut self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .take()
            .and_then(|thread| thread.join().ok())
            .unwrap_or_default()
    }

    /// The ids that apps say they were given.
    pub fn delivered(self) -> Delivered {
        let mut delivered = Delivered::default();
        self.finish()
            .iter()
            .flat_map(|text| text.lines())
            .for_each(|line| delivered.read_line(line));
        delivered
    }
}

impl Drop for LogTail {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Keyed by device and inode, so that a rotated file is one file.
fn open_new(instances: &Path, files: &mut HashMap<(u64, u64), File>) {
    let Ok(entries) = fs::read_dir(instances) else { return };
    let logs = entries
        .flatten()
        .filter_map(|entry| fs::read_dir(entry.path()).ok())
        .flatten()
        .flatten();
    let logs = logs.filter(|entry| entry.file_name().to_string_lossy().contains("log"));
    for entry in logs {
        let Ok(about) = entry.metadata() else { continue };
        let key = (about.dev(), about.ino());
        if about.is_file()
            && files.len() < FILES_MAX
            && !files.contains_key(&key)
            && let Ok(file) = File::open(entry.path())
        {
            files.insert(key, file);
        }
    }
}

fn read_all(mut file: File) -> String {
    let mut bytes = Vec::new();
    // A log is capped by the engine; what cannot be read is not there.
    let _ = file.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use uuid::Uuid;

    use super::*;
    use crate::load::{Audit, Outcome, PostRecord};

    #[test]
    fn lines_of_a_removed_instance_are_read_to_the_last() {
        let scratch = tempfile::tempdir().expect("a directory");
        let instance = scratch.path().join("a");
        fs::create_dir(&instance).expect("made");
        let mut log = File::create(instance.join("log.1")).expect("made");
        let tail = LogTail::start(scratch.path().to_path_buf());
        let [first, last] = [Uuid::from_u128(1), Uuid::from_u128(2)];
        writeln!(log, "delivered {first}").expect("written");
        let file = instance.join("log.1");
        let open = || {
            fs::read_dir("/proc/self/fd").map_or(0, |fds| {
                fds.flatten()
                    .filter(|fd| fs::read_link(fd.path()).is_ok_and(|path| path == file))
                    .count()
            })
        };
        crate::system::eventually(Duration::from_secs(5), "the tail has it open beside us", || open() == 2);
        fs::remove_dir_all(&instance).expect("removed");
        writeln!(log, "delivered {last}").expect("written");
        let delivered = tail.delivered();
        let sent = [first, last].map(|id| PostRecord {
            id,
            outcome: Outcome::Ok,
        });
        assert!(Audit::new(&sent, &delivered).lost.is_empty(), "{delivered:?}");
    }
}
