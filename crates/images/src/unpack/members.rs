//! The members of a tar stream, with every extension header read under a cap.
//!
//! The `tar` crate reads headers and checks their sums; names and attributes that come in extra members (PAX, GNU) are
//! put together here, because the crate would read such a member into memory whatever its size. A PAX size that
//! contradicts the header's is refused: two readers must not disagree about where the next member begins.

use std::cell::Cell;
use std::io::{self, Read};

use tar::{Archive, EntryType};

use crate::error::{ImageError, Result, printable};
use crate::stream::Fault;

/// Longest path in a layer, and longest link target; what the kernel takes.
const PATH_MAX: usize = 4095;
/// Longest component.
const NAME_MAX: usize = 255;
/// Deepest path. Keeps every walk over the tree within a process's ordinary descriptor limit.
const DEPTH_MAX: usize = 255;
/// Most bytes of one extension member.
const EXTENSION_BYTES_MAX: u64 = 1 << 20;
/// Most extended attributes of one entry, and most bytes of one.
const XATTRS_MAX: usize = 32;
const XATTR_VALUE_MAX: usize = 16 * 1024;

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    File {
        size: u64,
    },
    Directory,
    Symlink {
        target: Vec<u8>,
    },
    /// A second name for `target`, a path of the same layer.
    HardLink {
        target: EntryPath,
    },
    /// A device, fifo or socket.
    Special,
}

/// One entry, checked for what can be checked without a file system.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub path: EntryPath,
    pub kind: Kind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds and nanoseconds since the epoch.
    pub mtime: (i64, i64),
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A relative path of ordinary components, joined by `/`. The root is the empty path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct EntryPath(Vec<u8>);

impl EntryPath {
    /// # Errors
    /// [`ImageError::Escapes`] for absolute paths and `..`, [`ImageError::Corrupt`] for what no file can be called.
    pub(super) fn parse(raw: &[u8]) -> Result<EntryPath> {
        let entry = || printable(raw);
        let corrupt = |problem: &str| ImageError::corrupt(format!("the layer entry `{}`", entry()), problem);
        if raw.contains(&0) {
            return Err(corrupt("its name has a NUL byte"));
        }
        if raw.len() > PATH_MAX {
            return Err(corrupt("its path is too long"));
        }
        if raw.first() == Some(&b'/') {
            return Err(ImageError::Escapes {
                entry: entry(),
                problem: "its path is absolute",
            });
        }
        let mut path = Vec::with_capacity(raw.len());
        let mut depth = 0;
        for component in raw.split(|b| *b == b'/') {
            match component {
                b"" | b"." => continue,
                b".." => {
                    return Err(ImageError::Escapes {
                        entry: entry(),
                        problem: "its path contains `..`",
                    });
                }
                long if long.len() > NAME_MAX => return Err(corrupt("a part of its path is too long")),
                _ => depth += 1,
            }
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(component);
        }
        if depth > DEPTH_MAX {
            return Err(corrupt("its path is too deep"));
        }
        Ok(EntryPath(path))
    }

    /// A path that our own records hold.
    pub(crate) fn trusted(bytes: Vec<u8>) -> EntryPath {
        EntryPath(bytes)
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Parent and last component; `None` for the root.
    pub(crate) fn split(&self) -> Option<(EntryPath, &[u8])> {
        if self.is_root() {
            return None;
        }
        match self.0.iter().rposition(|b| *b == b'/') {
            Some(at) => Some((EntryPath(self.0[..at].to_vec()), &self.0[at + 1..])),
            None => Some((EntryPath::default(), &self.0)),
        }
    }

    pub(crate) fn join(&self, name: &[u8]) -> EntryPath {
        let mut path = self.0.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        EntryPath(path)
    }

    pub(crate) fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|b| *b == b'/').filter(|component| !component.is_empty())
    }

    pub(crate) fn shown(&self) -> String {
        if self.is_root() {
            "/".to_owned()
        } else {
            printable(&self.0)
        }
    }
}

/// What extension members say about the next ordinary one.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, i64)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    any: bool,
}

/// Blocks of a tar stream.
const BLOCK: u64 = 512;

/// A stream that may end right behind the content of its last entry: what is missing of that entry's last block is made
/// up (umoci's `insert` writes such layers, and other readers take them). What lacks content ends where it ends.
struct Lenient<'c, R> {
    inner: R,
    position: u64,
    /// Where the content of the entry that is being read ends.
    content_end: &'c Cell<u64>,
}

impl<R: Read> Read for Lenient<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut count = self.inner.read(buffer)?;
        let content_end = self.content_end.get();
        let missing = content_end.next_multiple_of(BLOCK).saturating_sub(self.position);
        if count == 0 && self.position >= content_end && missing > 0 {
            count = buffer.len().min(missing as usize);
            buffer[..count].fill(0);
        }
        self.position += count as u64;
        Ok(count)
    }
}

/// Calls `visit` for each entry of the tar stream `source`, with the content of files, and returns the stream behind
/// the last one. `what` names the archive in errors; `fault` explains failed reads.
pub(super) fn for_each<R: Read>(
    source: R,
    what: &str,
    fault: &Fault,
    mut visit: impl FnMut(Member, &mut dyn Read) -> Result<()>,
) -> Result<R> {
    let content_end = Cell::new(0);
    let mut archive = Archive::new(Lenient {
        inner: source,
        position: 0,
        content_end: &content_end,
    });
    let mut extensions = Extensions::default();
    let entries = archive.entries().map_err(|error| fault.explain(what, error))?.raw(true);
    for entry in entries {
        let mut entry = entry.map_err(|error| fault.explain(what, error))?;
        content_end.set(entry.raw_file_position().saturating_add(entry.size()));
        let kind = entry.header().entry_type();
        match kind {
            EntryType::GNULongName | EntryType::GNULongLink | EntryType::XHeader | EntryType::XGlobalHeader => {
                let body = extension_body(&mut entry, what, fault)?;
                extensions.read(kind, body, what)?;
            }
            _ => {
                let member = std::mem::take(&mut extensions).apply(&entry)?;
                visit(member, &mut entry)?;
            }
        }
    }
    if extensions.any {
        return Err(ImageError::corrupt(what, "it ends after an extension header"));
    }
    Ok(archive.into_inner().inner)
}

fn extension_body<R: Read>(entry: &mut tar::Entry<'_, R>, what: &str, fault: &Fault) -> Result<Vec<u8>> {
    if entry.size() > EXTENSION_BYTES_MAX {
        return Err(ImageError::corrupt(
            what,
            format!("an extension header is over {EXTENSION_BYTES_MAX} bytes"),
        ));
    }
    let mut body = Vec::new();
    entry
        .read_to_end(&mut body)
        .map_err(|error| fault.explain(what, error))?;
    Ok(body)
}

impl Extensions {
    fn read(&mut self, kind: EntryType, body: Vec<u8>, what: &str) -> Result<()> {
        let trimmed = |mut body: Vec<u8>| {
            if body.last() == Some(&0) {
                body.pop();
            }
            body
        };
        match kind {
            // Global headers carry comments (git writes its commit there); nothing of them applies to a layer's files.
            EntryType::XGlobalHeader => return Ok(()),
            EntryType::GNULongName => self.path = Some(trimmed(body)),
            EntryType::GNULongLink => self.link = Some(trimmed(body)),
            _ => self.read_pax(&body, what)?,
        }
        self.any = true;
        Ok(())
    }

    fn read_pax(&mut self, body: &[u8], what: &str) -> Result<()> {
        let bad = |problem: &str| ImageError::corrupt(format!("a PAX header of {what}"), problem);
        let mut rest = body;
        while !rest.is_empty() {
            let (key, value, after) = pax_record(rest).ok_or_else(|| bad("a record is malformed"))?;
            rest = after;
            let number = || {
                std::str::from_utf8(value)
                    .ok()
                    .and_then(|text| text.parse::<u64>().ok())
            };
            match key {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => self.size = Some(number().ok_or_else(|| bad("size is not a number"))?),
                b"uid" => self.uid = Some(number().ok_or_else(|| bad("uid is not a number"))?),
                b"gid" => self.gid = Some(number().ok_or_else(|| bad("gid is not a number"))?),
                b"mtime" => self.mtime = Some(pax_time(value).ok_or_else(|| bad("mtime is not a time"))?),
                sparse if sparse.starts_with(b"GNU.sparse.") => return Err(sparse_refused(what)),
                other => self.read_xattr(other, value, what)?,
            }
        }
        Ok(())
    }

    fn read_xattr(&mut self, key: &[u8], value: &[u8], what: &str) -> Result<()> {
        let Some(name) = key.strip_prefix(b"SCHILY.xattr.") else {
            return Ok(());
        };
        if !name.starts_with(b"user.") || name.starts_with(b"user.overlay.") {
            return Ok(());
        }
        let fits = self.xattrs.len() < XATTRS_MAX && name.len() <= NAME_MAX && value.len() <= XATTR_VALUE_MAX;
        if !fits || name.contains(&0) {
            return Err(ImageError::corrupt(
                what,
                "an entry has too many or too large extended attributes",
            ));
        }
        self.xattrs.push((name.to_vec(), value.to_vec()));
        Ok(())
    }

    fn apply<R: Read>(self, entry: &tar::Entry<'_, R>) -> Result<Member> {
        let header = entry.header();
        let raw_path = self.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let named = || format!("the layer entry `{}`", printable(&raw_path));
        let bad = |error: std::io::Error| ImageError::corrupt(named(), error);
        let path = EntryPath::parse(&raw_path)?;
        let header_size = header.entry_size().map_err(bad)?;
        if self.size.is_some_and(|size| size != header_size) {
            return Err(ImageError::corrupt(
                named(),
                "its two sizes (header and PAX) differ, or it is over 8 GiB",
            ));
        }
        let link = self
            .link
            .or_else(|| header.link_name_bytes().map(|link| link.into_owned()))
            .unwrap_or_default();
        let kind = match header.entry_type() {
            // Old tars mark a directory by a final slash only.
            EntryType::Regular | EntryType::Continuous if raw_path.ends_with(b"/") => Kind::Directory,
            EntryType::Regular | EntryType::Continuous => Kind::File { size: header_size },
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink => Kind::Symlink {
                target: symlink_target(link, named())?,
            },
            EntryType::Link => Kind::HardLink {
                target: EntryPath::parse(&link)?,
            },
            EntryType::Char | EntryType::Block | EntryType::Fifo => Kind::Special,
            EntryType::GNUSparse => return Err(sparse_refused(&named())),
            other => {
                let problem = format!("it is of an unknown type ({:#04x})", other.as_byte());
                return Err(ImageError::corrupt(named(), problem));
            }
        };
        let id = |pax: Option<u64>, plain: std::io::Result<u64>| -> Result<u32> {
            let wide = pax.map_or(plain, Ok).map_err(bad)?;
            // The all-ones id means "leave as it is" to the kernel.
            u32::try_from(wide)
                .ok()
                .filter(|id| *id != u32::MAX)
                .ok_or_else(|| ImageError::corrupt(named(), "its owner is not a 32-bit number"))
        };
        let seconds = i64::try_from(header.mtime().unwrap_or(0)).unwrap_or(0);
        Ok(Member {
            kind,
            mode: header.mode().map_err(bad)? & 0o7777,
            uid: id(self.uid, header.uid())?,
            gid: id(self.gid, header.gid())?,
            mtime: self.mtime.unwrap_or((seconds, 0)),
            xattrs: self.xattrs,
            path,
        })
    }
}

fn sparse_refused(what: &str) -> ImageError {
    ImageError::Unsupported {
        what: format!("the sparse file in {what}"),
        advice: "build the layer without sparse files".to_owned(),
    }
}

fn symlink_target(target: Vec<u8>, entry: String) -> Result<Vec<u8>> {
    if target.is_empty() || target.len() > PATH_MAX || target.contains(&0) {
        return Err(ImageError::corrupt(
            entry,
            "it links to something that cannot be a path",
        ));
    }
    Ok(target)
}

/// Splits `"<length> <key>=<value>\n"` off.
fn pax_record(rest: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = rest.iter().position(|b| *b == b' ')?;
    let length: usize = std::str::from_utf8(&rest[..space]).ok()?.parse().ok()?;
    let record = rest.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|b| *b == b'=')?;
    Some((&record[..equals], &record[equals + 1..], &rest[length..]))
}

/// `1700000000.123456789`, possibly negative.
fn pax_time(value: &[u8]) -> Option<(i64, i64)> {
    let text = std::str::from_utf8(value).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nanos: i64 = format!("{fraction:0<9.9}").parse().ok()?;
    match (seconds < 0, nanos) {
        (_, 0) => Some((seconds, 0)),
        (true, nanos) => Some((seconds.checked_sub(1)?, 1_000_000_000 - nanos)),
        (false, nanos) => Some((seconds, nanos)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_path_is_reduced_to_its_components_or_refused() {
        for (raw, path) in [
            ("./a/b/", "a/b"),
            ("a//b", "a/b"),
            (".", ""),
            ("./", ""),
            ("a/./b", "a/b"),
            ("...", "..."),
        ] {
            assert_eq!(EntryPath::parse(raw.as_bytes()).expect(raw).as_bytes(), path.as_bytes());
        }
        for bad in [
            "/",
            "/etc/passwd",
            "..",
            "a/..",
            "../a",
            "a/../b",
            "./..",
            "a/b/../../../c",
        ] {
            assert!(
                matches!(EntryPath::parse(bad.as_bytes()), Err(ImageError::Escapes { .. })),
                "{bad}"
            );
        }
        let (long, deep) = ("x".repeat(256), "d/".repeat(256));
        for bad in ["a\0b", &long, &deep, &"y/".repeat(3000)] {
            assert!(
                matches!(EntryPath::parse(bad.as_bytes()), Err(ImageError::Corrupt { .. })),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn pax_times_read_with_fractions_and_before_the_epoch() {
        assert_eq!(pax_time(b"12.5"), Some((12, 500_000_000)));
        assert_eq!(pax_time(b"12"), Some((12, 0)));
        assert_eq!(pax_time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(pax_time(b"1.0000000019"), Some((1, 1)));
        for bad in [&b"x"[..], b"", b"1.x", b"1e9", b"\xff"] {
            assert_eq!(pax_time(bad), None);
        }
    }

    proptest! {
        /// C6.13: whatever the bytes are, reading them ends, and no path has a component that leads up or out.
        #[test]
        fn no_stream_yields_a_path_that_leads_out(noise in proptest::collection::vec(any::<u8>(), 0..4096)) {
            let visit = |member: Member, _: &mut dyn Read| {
                assert!(member.path.components().all(|c| c != b".." && !c.contains(&0) && !c.contains(&b'/')));
                Ok(())
            };
            let _ = for_each(&noise[..], "noise", &Fault::default(), visit);
        }

        #[test]
        fn no_pax_body_breaks_the_reader(body in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = Extensions::default().read_pax(&body, "noise");
        }
    }
}
