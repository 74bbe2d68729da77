//! Streams of untrusted bytes: counted, capped, decompressed, and carried from async to blocking code.

use std::cell::{Cell, RefCell};
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::rc::Rc;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::error::{ImageError, Result};

/// Size of the buffers through which content moves.
pub(crate) const BUFFER_BYTES: usize = 128 * 1024;

/// Where a reader below leaves the reason why it stopped, since the layers above only carry `io::Error`.
#[derive(Clone, Default)]
pub(crate) struct Fault(Rc<RefCell<Option<ImageError>>>);

impl Fault {
    fn raise(&self, error: ImageError) -> io::Error {
        self.0.borrow_mut().get_or_insert(error);
        io::Error::other("stopped by a limit")
    }

    /// The reason that was left below, else `error` as corruption of `what`.
    pub(crate) fn explain(&self, what: &str, error: impl ToString) -> ImageError {
        self.0
            .borrow_mut()
            .take()
            .unwrap_or_else(|| ImageError::corrupt(what, error))
    }
}

/// A cap with the name under which the user finds it.
#[derive(Clone)]
pub(crate) struct Cap {
    pub what: String,
    pub limit: &'static str,
    pub bytes: u64,
}

impl Cap {
    pub(crate) fn exceeded(&self) -> ImageError {
        ImageError::too_large(self.what.clone(), self.limit, self.bytes)
    }
}

/// Counts what passes, for whoever holds the other end of `count`.
pub(crate) struct Counted<R> {
    inner: R,
    count: Rc<Cell<u64>>,
}

impl<R> Counted<R> {
    pub(crate) fn new(inner: R) -> (Counted<R>, Rc<Cell<u64>>) {
        let count = Rc::new(Cell::new(0));
        (
            Counted {
                inner,
                count: Rc::clone(&count),
            },
            count,
        )
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.count.set(self.count.get() + n as u64);
        Ok(n)
    }
}

/// Fails, rather than ends, at a cap; optionally also when it has grown too many times larger than its source.
pub(crate) struct Capped<R> {
    inner: R,
    read: u64,
    cap: Cap,
    ratio: Option<Ratio>,
    fault: Fault,
}

/// At most `times` as many bytes as came out of `source`, above a grace.
pub(crate) struct Ratio {
    pub source: Rc<Cell<u64>>,
    pub times: u64,
    pub grace_bytes: u64,
    pub limit: &'static str,
}

impl<R> Capped<R> {
    pub(crate) fn new(inner: R, cap: Cap, ratio: Option<Ratio>, fault: Fault) -> Capped<R> {
        Capped {
            inner,
            read: 0,
            cap,
            ratio,
            fault,
        }
    }

    fn check(&self) -> io::Result<()> {
        if self.read > self.cap.bytes {
            return Err(self.fault.raise(self.cap.exceeded()));
        }
        if let Some(ratio) = &self.ratio {
            let allowed = ratio.source.get().saturating_mul(ratio.times);
            if self.read > ratio.grace_bytes && self.read > allowed {
                let what = format!("the compression ratio of {}", self.cap.what);
                return Err(self.fault.raise(ImageError::too_large(what, ratio.limit, ratio.times)));
            }
        }
        Ok(())
    }
}

impl<R: Read> Read for Capped<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.read += n as u64;
        self.check()?;
        Ok(n)
    }
}

/// How a stream is compressed, by its first bytes. Names and media types are not asked: they may lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    fn of(head: &[u8]) -> Result<Compression> {
        let refuse = |name: &str| {
            Err(ImageError::Unsupported {
                what: format!("compression with {name}"),
                advice: "use a plain tar archive, gzip or zstd".to_owned(),
            })
        };
        match head {
            [0x1f, 0x8b, ..] => Ok(Compression::Gzip),
            // A Zstandard frame, or a skippable frame before one.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Compression::Zstd),
            [b'B', b'Z', b'h', b'0'..=b'9', ..] => refuse("bzip2"),
            [0xfd, b'7', b'z', b'X', b'Z', 0] => refuse("xz"),
            [b'P', b'K', 3, 4, ..] => refuse("zip"),
            _ => Ok(Compression::None),
        }
    }
}

/// The plain bytes of `source`, whichever of the supported compressions it uses.
pub(crate) fn decompressed<'a>(mut source: impl Read + 'a, what: &str) -> Result<(Box<dyn Read + 'a>, Compression)> {
    const MAGIC_BYTES: u64 = 6;
    let mut head = Vec::with_capacity(MAGIC_BYTES as usize);
    source
        .by_ref()
        .take(MAGIC_BYTES)
        .read_to_end(&mut head)
        .map_err(|error| ImageError::corrupt(what, error))?;
    let compression = Compression::of(&head)?;
    let whole = BufReader::with_capacity(BUFFER_BYTES, Cursor::new(head).chain(source));
    let plain: Box<dyn Read + 'a> = match compression {
        Compression::None => Box::new(whole),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(whole)),
        Compression::Zstd => Box::new(zstd_stream(whole).map_err(|error| ImageError::corrupt(what, error))?),
    };
    Ok((plain, compression))
}

/// A frame may ask for a window of any size; 128 MiB is what the reference tool accepts without being told to.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

fn zstd_stream<'a, R: BufRead + 'a>(source: R) -> io::Result<zstd::Decoder<'a, R>> {
    let mut decoder = zstd::Decoder::with_buffer(source)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
    Ok(decoder)
}

/// What an async producer hands to a blocking consumer.
pub(crate) enum Piece {
    Data(Bytes),
    /// Everything so far is void; the content starts again.
    Restart,
    /// The content is complete. A channel that closes without it was cut off.
    End,
}

/// Pieces under way between the two sides; each is as large as the network made it.
const PIECES_MAX: usize = 16;

pub(crate) fn pipe() -> (mpsc::Sender<Piece>, mpsc::Receiver<Piece>) {
    mpsc::channel(PIECES_MAX)
}

/// The blocking end of a [`pipe`] whose producer never restarts.
pub(crate) struct PipeReader {
    pieces: mpsc::Receiver<Piece>,
    current: Bytes,
    ended: bool,
}

impl PipeReader {
    pub(crate) fn new(pieces: mpsc::Receiver<Piece>) -> PipeReader {
        PipeReader {
            pieces,
            current: Bytes::new(),
            ended: false,
        }
    }
}

impl Read for PipeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !self.ended {
            match self.pieces.blocking_recv() {
                Some(Piece::Data(bytes)) => self.current = bytes,
                Some(Piece::End) => self.ended = true,
                Some(Piece::Restart) | None => {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the upload was cut off"));
                }
            }
        }
        let n = self.current.len().min(buffer.len());
        buffer[..n].copy_from_slice(&self.current.split_to(n));
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn cap(bytes: u64) -> Cap {
        Cap {
            what: "it".into(),
            limit: "some_bytes",
            bytes,
        }
    }

    #[test]
    fn a_capped_stream_passes_exactly_its_cap_and_fails_after_it() {
        let fault = Fault::default();
        let mut out = Vec::new();
        Capped::new(&[0u8; 10][..], cap(10), None, fault.clone())
            .read_to_end(&mut out)
            .expect("at the cap");
        let error = Capped::new(&[0u8; 11][..], cap(10), None, fault.clone()).read_to_end(&mut out);
        let error = fault.explain("it", error.expect_err("over the cap"));
        assert!(matches!(
            error,
            ImageError::TooLarge {
                limit: "some_bytes",
                allowed: 10,
                ..
            }
        ));
    }

    #[test]
    fn a_gzip_bomb_is_stopped_by_its_ratio_long_before_the_size_cap() {
        let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        for _ in 0..256 {
            bomb.write_all(&[0; 64 * 1024]).expect("memory");
        }
        let bomb = bomb.finish().expect("memory");
        let (counted, source) = Counted::new(&bomb[..]);
        let (plain, _) = decompressed(counted, "it").expect("gzip");
        let ratio = Ratio {
            source,
            times: 100,
            grace_bytes: 1 << 20,
            limit: "layer_ratio",
        };
        let fault = Fault::default();
        let mut out = Vec::new();
        let result = Capped::new(plain, cap(u64::MAX), Some(ratio), fault.clone()).read_to_end(&mut out);
        assert!(matches!(
            fault.explain("it", result.expect_err("a bomb")),
            ImageError::TooLarge {
                limit: "layer_ratio",
                ..
            }
        ));
        assert!(out.len() < 8 << 20, "{} bytes came through", out.len());
    }

    #[test]
    fn the_compression_is_told_by_content_and_unsupported_ones_are_named() {
        let xz = [0xfd, b'7', b'z', b'X', b'Z', 0, 0];
        let Err(error) = decompressed(&xz[..], "it") else {
            panic!("xz is not supported")
        };
        assert!(error.to_string().contains("xz"), "{error}");
        let (_, kind) = decompressed(&b""[..], "it").expect("nothing is plain");
        assert_eq!(kind, Compression::None);
    }

    #[test]
    fn a_pipe_that_closes_without_an_end_is_an_error_not_an_end_of_file() {
        let (sender, receiver) = pipe();
        sender.try_send(Piece::Data(Bytes::from_static(b"half"))).expect("room");
        drop(sender);
        let mut out = Vec::new();
        assert!(PipeReader::new(receiver).read_to_end(&mut out).is_err());
        assert_eq!(out, b"half");
    }
}
