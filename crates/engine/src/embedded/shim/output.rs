//! The program's output, on its way from two pipes to the log, and the program's end.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, read};

use super::super::log::{LINE_MAX, LogWriter, format_line};
use super::super::process::PidFd;
use super::now_us;
use crate::{Exit, Stream};

/// Bytes of a tail line; the log has it whole.
const TAIL_LINE_MAX: usize = 1 << 10;
const READ_SIZE: usize = 16 << 10;

pub struct Output {
    log: LogWriter,
    pipes: Vec<Pipe>,
    tail: VecDeque<Vec<u8>>,
}

struct Pipe {
    stream: Stream,
    fd: OwnedFd,
    /// A line whose end has not been seen yet.
    partial: Vec<u8>,
}

/// How the process ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Status {
    pub code: Option<i32>,
    pub signal: Option<i32>,
}

impl Output {
    pub fn new(log: LogWriter) -> Output {
        Output {
            log,
            pipes: Vec::new(),
            tail: VecDeque::new(),
        }
    }

    /// A pipe whose other end the program gets.
    pub fn pipe(&mut self, stream: Stream) -> io::Result<OwnedFd> {
        let (read_end, write_end) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        // Only our end may be non-blocking: the program's end is its standard output.
        let flags = nix::fcntl::OFlag::O_NONBLOCK;
        nix::fcntl::fcntl(&read_end, nix::fcntl::FcntlArg::F_SETFL(flags))?;
        self.pipes.push(Pipe {
            stream,
            fd: read_end,
            partial: Vec::new(),
        });
        Ok(write_end)
    }

    /// Copies output until the process has ended and nothing is left in the pipes.
    pub fn follow(&mut self, init: Pid) -> Status {
        let pidfd = PidFd::open(init.as_raw()).ok().flatten();
        while let Some(pidfd) = &pidfd {
            match self.wait_for_something(pidfd) {
                Ok(true) => break,
                Ok(false) | Err(Errno::EINTR) => self.drain(),
                Err(_) => break,
            }
        }
        let status = reap(init);
        // The namespace died with its first process, so nobody writes any more: what is there is all there is.
        self.drain();
        self.flush_partial_lines();
        status
    }

    /// Blocks until there is output (false) or the process has ended (true).
    fn wait_for_something(&self, pidfd: &PidFd) -> Result<bool, Errno> {
        let mut fds = vec![PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        fds.extend(
            self.pipes
                .iter()
                .map(|pipe| PollFd::new(pipe.fd.as_fd(), PollFlags::POLLIN)),
        );
        poll(&mut fds, PollTimeout::NONE)?;
        Ok(fds[0].any() == Some(true))
    }

    /// Reads until the pipes are empty; a pipe that all writers closed is dropped.
    fn drain(&mut self) {
        let mut buffer = [0u8; READ_SIZE];
        let mut pipes = std::mem::take(&mut self.pipes);
        pipes.retain_mut(|pipe| {
            loop {
                match read(&pipe.fd, &mut buffer) {
                    Ok(0) => {
                        self.end_line(pipe);
                        return false;
                    }
                    Ok(count) => self.take(pipe, &buffer[..count]),
                    Err(Errno::EINTR) => {}
                    Err(Errno::EAGAIN) => return true,
                    Err(_) => return false,
                }
            }
        });
        self.pipes = pipes;
    }

    fn flush_partial_lines(&mut self) {
        let mut pipes = std::mem::take(&mut self.pipes);
        pipes.iter_mut().for_each(|pipe| self.end_line(pipe));
    }

    /// Writes the whole lines in `bytes` in one go and keeps the rest for later.
    fn take(&mut self, pipe: &mut Pipe, bytes: &[u8]) {
        let at_us = now_us();
        let mut formatted = Vec::with_capacity(bytes.len() + 64);
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let ends = piece.ends_with(b"\n");
            let text = if ends { &piece[..piece.len() - 1] } else { piece };
            pipe.partial.extend_from_slice(text);
            while pipe.partial.len() >= LINE_MAX {
                let line: Vec<u8> = pipe.partial.drain(..LINE_MAX).collect();
                self.line(&mut formatted, at_us, pipe.stream, &line);
            }
            if ends {
                let line = std::mem::take(&mut pipe.partial);
                self.line(&mut formatted, at_us, pipe.stream, &line);
            }
        }
        if !formatted.is_empty() {
            self.log.append(&formatted);
        }
    }

    fn end_line(&mut self, pipe: &mut Pipe) {
        if !pipe.partial.is_empty() {
            let mut formatted = Vec::new();
            let line = std::mem::take(&mut pipe.partial);
            self.line(&mut formatted, now_us(), pipe.stream, &line);
            self.log.append(&formatted);
        }
    }

    fn line(&mut self, formatted: &mut Vec<u8>, at_us: i64, stream: Stream, text: &[u8]) {
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        format_line(formatted, at_us, stream, text);
        if self.tail.len() == Exit::TAIL_LINES {
            self.tail.pop_front();
        }
        self.tail.push_back(text[..text.len().min(TAIL_LINE_MAX)].to_vec());
    }

    /// The last lines, oldest first.
    pub fn into_tail(self) -> Vec<String> {
        self.tail
            .iter()
            .map(|line| String::from_utf8_lossy(line).into_owned())
            .collect()
    }
}

fn reap(init: Pid) -> Status {
    loop {
        match waitpid(init, None) {
            Ok(WaitStatus::Exited(_, code)) => {
                return Status {
                    code: Some(code),
                    signal: None,
                };
            }
            Ok(WaitStatus::Signaled(_, signal, _)) => {
                return Status {
                    code: None,
                    signal: Some(signal as i32),
                };
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return Status::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::log::{self, FILE_MAX};
    use std::io::Write;

    fn written(bytes: &[u8]) -> Vec<String> {
        let dir = tempfile::tempdir().expect("a directory");
        let mut output = Output::new(LogWriter::open(dir.path(), FILE_MAX).expect("a log"));
        let mut end = std::fs::File::from(output.pipe(Stream::Stdout).expect("a pipe"));
        for piece in bytes.chunks(4096) {
            end.write_all(piece).expect("room in the pipe");
            output.drain();
        }
        drop(end);
        output.drain();
        let chunk = log::read(dir.path(), None, 1000, 4 << 20, true).expect("readable");
        chunk.lines.into_iter().map(|line| line.text).collect()
    }

    #[test]
    fn lines_come_out_as_they_went_in_even_without_a_last_line_end() {
        assert_eq!(written(b"one\r\ntwo\n\nlast"), ["one", "two", "", "last"]);
    }

    #[test]
    fn an_endless_line_is_cut_into_several_and_nothing_is_lost() {
        let long = vec![b'x'; LINE_MAX * 2 + 5];
        let lines = written(&long);
        assert_eq!(
            lines.iter().map(String::len).collect::<Vec<_>>(),
            [LINE_MAX, LINE_MAX, 5]
        );
    }
}
