//! Starting a shim.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::process::{Command, Stdio};

use super::home::Home;
use super::launch::{LaunchOrder, ORDER_MAX};
use super::shim::EXIT_TAKEN;

/// Bytes of a shim's complaint that are kept.
const COMPLAINT_MAX: u64 = 4 << 10;

/// Starts a shim on an instance's directory and returns once one has taken it on: this one, or one that was faster.
///
/// The shim inherits neither environment nor descriptors. The order, secrets included, goes through a pipe.
pub fn spawn(shim_command: &[OsString], home: &Home, order: &LaunchOrder) -> io::Result<()> {
    let (program, leading) = shim_command
        .split_first()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no command for shims is configured"))?;
    let mut bytes = serde_json::to_vec(order).map_err(|_| io::Error::other("the order cannot be written"))?;
    if bytes.len() as u64 > ORDER_MAX {
        let told = format!(
            "its settings take {} bytes, and {ORDER_MAX} is the most: make config or secrets smaller",
            bytes.len()
        );
        bytes.fill(0);
        return Err(io::Error::new(io::ErrorKind::InvalidInput, told));
    }
    let mut command = Command::new(program);
    command
        .args(leading)
        .arg("--dir")
        .arg(home.path())
        .env_clear()
        .current_dir("/");
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("cannot run {}: {error}", program.display())))?;
    // A shim that found the instance taken closes its end without reading: not an error of its own.
    let sent = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(&bytes));
    bytes.fill(0);
    let mut complaint = String::new();
    if let Some(stderr) = child.stderr.take() {
        let _ = stderr.take(COMPLAINT_MAX).read_to_string(&mut complaint);
    }
    let status = child.wait()?;
    match status.code() {
        Some(0) => sent,
        Some(code) if code == i32::from(EXIT_TAKEN) && home.shim()?.is_some() => Ok(()),
        _ => Err(io::Error::other(format!(
            "the shim did not start ({status}): {}",
            complaint.trim()
        ))),
    }
}
