//! A look at the raw bytes of a request's head, for what hyper is kind enough to put right.
//!
//! Hyper takes a bare line feed for a line's end, and `Content-Length` beside `Transfer-Encoding` for the latter alone.
//! What we forward is unambiguous either way, since it is written anew. But something in front of us may have read the
//! same bytes otherwise and think that another request begins elsewhere: so such a request is refused (C6.9).

/// Reads along while a head comes in, in pieces of any size.
#[derive(Default)]
pub struct HeadGuard {
    /// The beginning of a line whose end has not come yet, as much of it as decides.
    partial: Vec<u8>,
    has_length: bool,
    has_coding: bool,
    ended: bool,
    bad: bool,
}

/// The longer of the two names that are looked for, with its colon.
const DECIDES: usize = "transfer-encoding:".len();

impl HeadGuard {
    /// Another head begins.
    pub fn begin(&mut self) {
        let mut partial = std::mem::take(&mut self.partial);
        partial.clear();
        *self = HeadGuard {
            partial,
            ..HeadGuard::default()
        };
    }

    /// Whether this head may have been read otherwise by somebody else.
    pub fn is_bad(&self) -> bool {
        self.bad
    }

    /// More bytes of the head, perhaps with what follows it: the rest is left alone.
    pub fn read(&mut self, mut bytes: &[u8]) {
        while !self.ended && !self.bad {
            let Some(at) = bytes.iter().position(|byte| *byte == b'\n') else {
                return self.keep(bytes);
            };
            let (line, rest) = bytes.split_at(at);
            bytes = &rest[1..];
            if self.partial.is_empty() {
                self.line(line, line.len(), line.last());
            } else {
                let last = line.last().or(self.partial.last()).copied();
                self.keep(line);
                let partial = std::mem::take(&mut self.partial);
                self.line(&partial, partial.len(), last.as_ref());
                self.partial = partial;
                self.partial.clear();
            }
        }
    }

    /// A line without its line feed, or the part of it that decides; `last` is its true last byte.
    fn line(&mut self, line: &[u8], len: usize, last: Option<&u8>) {
        if last != Some(&b'\r') {
            self.bad = true;
            return;
        }
        // An empty line before the request line is allowed, and skipped by hyper; the next line tells.
        self.ended = len == 1;
        match line.first() {
            Some(b'c' | b'C') => self.has_length |= names(line, b"content-length:"),
            Some(b't' | b'T') => self.has_coding |= names(line, b"transfer-encoding:"),
            _ => {}
        }
        self.bad = self.has_length && self.has_coding;
    }

    /// Keeps the beginning of a line, and its last byte at the end of that.
    fn keep(&mut self, bytes: &[u8]) {
        let room = DECIDES.saturating_sub(self.partial.len());
        self.partial.extend_from_slice(&bytes[..bytes.len().min(room)]);
        if let (Some(last), true) = (bytes.last(), bytes.len() > room) {
            self.partial.truncate(DECIDES);
            self.partial.push(*last);
        }
    }
}

fn names(line: &[u8], name: &[u8]) -> bool {
    line.get(..name.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Read whole and in pieces of every size, with the same result.
    fn is_bad(head: &str) -> bool {
        let verdicts: Vec<bool> = (1..=head.len())
            .map(|size| {
                let mut guard = HeadGuard::default();
                guard.begin();
                head.as_bytes().chunks(size).for_each(|piece| guard.read(piece));
                guard.is_bad()
            })
            .collect();
        assert!(
            verdicts.iter().all(|verdict| *verdict == verdicts[0]),
            "the pieces matter for {head:?}: {verdicts:?}"
        );
        verdicts[0]
    }

    #[test]
    fn a_line_ends_with_cr_and_lf() {
        assert!(!is_bad(
            "GET / HTTP/1.1\r\nHost: a\r\nX-Rather-Long-Header-Name: and its value\r\n\r\n"
        ));
        assert!(is_bad("GET / HTTP/1.1\nHost: a\r\n\r\n"));
        assert!(is_bad("GET / HTTP/1.1\r\nHost: a\n\r\n"));
        assert!(is_bad("GET / HTTP/1.1\r\nX-Rather-Long-Header-Name: value\n\r\n"));
        assert!(is_bad("GET / HTTP/1.1\r\nHost: a\r\n\n"));
    }

    #[test]
    fn a_length_beside_a_coding_is_ambiguous_in_either_order() {
        assert!(!is_bad(
            "POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc"
        ));
        assert!(!is_bad(
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        ));
        assert!(is_bad(
            "POST / HTTP/1.1\r\nContent-Length: 3\r\ntransfer-encoding: chunked\r\n\r\n"
        ));
        assert!(is_bad(
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nA: b\r\nCONTENT-LENGTH:3\r\n\r\n"
        ));
    }

    #[test]
    fn what_follows_the_head_is_not_looked_at() {
        assert!(!is_bad(
            "POST / HTTP/1.1\r\nContent-Length: 30\r\n\r\nany\nthing\r\nTransfer-Encoding: x\r\n"
        ));
    }
}
