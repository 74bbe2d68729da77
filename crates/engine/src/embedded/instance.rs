//! One instance as its directory and the kernel tell it. Everything here blocks shortly.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::cgroup;
use super::home::{Home, Record, Running};
use super::log;
use super::process::PidFd;
use crate::{Exit, InstanceStatus, Phase};

/// How long what was killed may take to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(10);
const TAIL_BYTES: usize = 64 << 10;

/// What is known of an instance at one moment.
pub struct Snapshot {
    pub record: Record,
    pub running: Option<Running>,
    pub state: State,
}

pub enum State {
    /// Its shim lives.
    Alive(PidFd),
    Exited(Exit),
    /// Its shim is gone and did not say how the program ended.
    Orphaned,
}

/// Reads one directory. `None`: nobody ever took this instance on completely, and nothing of it runs; or it was removed
/// meanwhile.
///
/// # Errors
/// Something runs, or may run, and it cannot be told what (invariant 20).
pub fn read(home: &Home) -> io::Result<Option<Snapshot>> {
    match read_files(home) {
        Err(_) if !home.path().exists() => Ok(None),
        read => read,
    }
}

fn read_files(home: &Home) -> io::Result<Option<Snapshot>> {
    let record = match home.record() {
        Ok(Some(record)) => record,
        Ok(None) | Err(_) if home.lock()?.is_some() => return Ok(None),
        Ok(None) => {
            return Err(io::Error::other(format!(
                "{} belongs to a shim but has no record",
                home.path().display()
            )));
        }
        Err(error) => return Err(error),
    };
    if let Some(exit) = home.exit()? {
        return Ok(Some(Snapshot {
            running: home.running().unwrap_or_default(),
            record,
            state: State::Exited(exit),
        }));
    }
    let Some(shim) = home.shim()? else {
        // Between "taken on" and "the shim is known": either a shim holds the lock and is about to be known, or the
        // control plane was killed here, and the instance is to be started again.
        return match home.lock()? {
            Some(_) => Ok(None),
            None => Err(io::Error::other(format!(
                "{} is being started by another process",
                home.path().display()
            ))),
        };
    };
    let state = match shim.open()? {
        Some(pidfd) if !pidfd.wait(Duration::ZERO)? => State::Alive(pidfd),
        // It may have written its last word since we looked for it.
        _ => home.exit()?.map_or(State::Orphaned, State::Exited),
    };
    Ok(Some(Snapshot {
        running: home.running()?,
        record,
        state,
    }))
}

impl Snapshot {
    pub fn status(&self, home: &Home) -> InstanceStatus {
        let phase = match &self.state {
            State::Exited(exit) => Phase::Exited(Box::new(exit.clone())),
            State::Orphaned => Phase::Exited(Box::new(Exit {
                at_us: now_us(),
                asked: home.stop_was_asked(),
                ..Exit::default()
            })),
            State::Alive(_) if home.stop_was_asked() => Phase::Stopping,
            State::Alive(_) if self.running.is_some() => Phase::Running,
            State::Alive(_) => Phase::Starting,
        };
        let running = self.running.as_ref().filter(|_| matches!(self.state, State::Alive(_)));
        InstanceStatus {
            id: self.record.id,
            phase,
            address: self.record.address.map(Into::into),
            pid: running.and_then(|running| running.init.pid.try_into().ok()),
            started_at_us: self.running.as_ref().map(|running| running.started_at_us),
        }
    }
}

/// Makes sure that nothing of an instance without a shim runs on, and writes down that it ended in an unknown way.
///
/// The kernel has killed the container with its shim; this is for the program that found a way around that.
pub fn settle(home: &Home, record: &Record) -> io::Result<()> {
    if let Ok(Some(running)) = home.running()
        && let Some(init) = running.init.open()?
    {
        init.signal(libc::SIGKILL)?;
        init.wait(KILL_LIMIT)?;
    }
    if let Some(group) = &record.cgroup {
        cgroup::kill(group)?;
        cgroup::remove(group);
    }
    if matches!(home.exit(), Ok(None) | Err(_)) {
        let chunk = log::read(home.path(), None, Exit::TAIL_LINES, TAIL_BYTES, true).unwrap_or_default();
        home.write_exit(&Exit {
            asked: home.stop_was_asked(),
            at_us: now_us(),
            tail: chunk.lines.into_iter().map(|line| line.text).collect(),
            ..Exit::default()
        })?;
    }
    Ok(())
}

pub fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_removed_meanwhile_is_no_trouble() {
        let dir = tempfile::tempdir().expect("a directory");
        let home = Home::new(dir.path().join("removed"));
        assert!(read(&home).expect("no error").is_none());
    }
}
