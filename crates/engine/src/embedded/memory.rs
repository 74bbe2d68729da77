//! What was listed before and has not changed since: looking whether it has takes a tenth of reading it anew, and a
//! rollout lists many times.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use domain::InstanceId;

use super::home::Home;
use super::instance::{Snapshot, State};
use super::process::PidFd;
use crate::InstanceStatus;

/// Everything in an instance's directory that its status is made of. They are never written in place, so another content
/// is another file.
const FILES: [&str; 5] = ["record.json", "shim.json", "state.json", "exit.json", "stop"];

/// Inode, length, and time of change of each of [`FILES`], where it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp([Option<(u64, u64, i64, i64)>; FILES.len()]);

impl Stamp {
    /// To be taken before what it stands for is read.
    pub fn of(home: &Home) -> io::Result<Stamp> {
        let mut stamp = Stamp([None; FILES.len()]);
        for (name, seen) in FILES.iter().zip(&mut stamp.0) {
            *seen = match fs::metadata(home.join(name)) {
                Ok(file) => Some((file.ino(), file.len(), file.ctime(), file.ctime_nsec())),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
        }
        Ok(stamp)
    }
}

#[derive(Debug, Default)]
pub struct Memory(HashMap<InstanceId, Remembered>);

#[derive(Debug)]
struct Remembered {
    stamp: Stamp,
    /// Readable once the shim has ended; `None` where it has.
    shim: Option<PidFd>,
    status: InstanceStatus,
}

impl Memory {
    /// The status that was read last, if it still holds.
    pub fn recall(&self, id: InstanceId, stamp: &Stamp) -> io::Result<Option<&InstanceStatus>> {
        let Some(known) = self.0.get(&id).filter(|known| known.stamp == *stamp) else {
            return Ok(None);
        };
        let ended = match &known.shim {
            Some(shim) => shim.wait(Duration::ZERO)?,
            None => false,
        };
        Ok((!ended).then_some(&known.status))
    }

    /// Remembers what was read after `stamp` was taken, unless it can change by itself.
    pub fn keep(&mut self, stamp: Stamp, snapshot: Snapshot, status: InstanceStatus) {
        let shim = match snapshot.state {
            State::Alive(shim) => Some(shim),
            State::Exited(_) => None,
            State::Orphaned => return,
        };
        self.0.insert(status.id, Remembered { stamp, shim, status });
    }

    /// Forgets those that are not listed any more. `listed` is in order.
    pub fn retain(&mut self, listed: &[InstanceStatus]) {
        self.0
            .retain(|id, _| listed.binary_search_by_key(id, |status| status.id).is_ok());
    }
}
