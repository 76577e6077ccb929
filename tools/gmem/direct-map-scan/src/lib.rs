// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Reads all RAM through `/proc/kcore`, that is through the kernel's own mappings, and reports
//! where a pattern stands. What the kernel has no mapping of cannot be found.
//!
//! The pattern must not find itself: see [`Pattern`]. What was found once may be found again, in
//! the buffers that it was read through, so that a number of hits can be a few too many. None is
//! none.

mod kcore;
mod pattern;

pub use kcore::{Kind, Segment};
pub use pattern::Pattern;

use std::{
    collections::BTreeSet,
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

/// Where the kernel shows its memory, as an ELF core file.
pub const KCORE: &str = "/proc/kcore";

/// Bytes that are read at once.
const CHUNK: usize = 64 << 10;
const PAGE_SIZE: u64 = 4096;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file could not be opened.
    #[error("cannot open {path}: {source}; it takes root, and a kernel with CONFIG_PROC_KCORE")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The headers could not be read.
    #[error("cannot read the headers of {path}: {source}")]
    Headers {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The headers are not those of a core file.
    #[error("{path} is not a 64-bit ELF core file of this machine: {source}")]
    Elf {
        /// The file.
        path: PathBuf,
        /// Why.
        source: object::Error,
    },
    /// The file has no segment that is RAM: nothing would ever be found in it.
    #[error(
        "{path} has no segment with physical addresses; is kptr_restrict or lockdown hiding them?"
    )]
    NoRam {
        /// The file.
        path: PathBuf,
    },
}

/// A page that has the pattern in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hit {
    /// Its physical address.
    pub physical: u64,
    /// The kernel's virtual address of it.
    pub virt: u64,
    /// Which of the kernel's mappings it was found through.
    pub kind: Kind,
}

/// What a scan saw.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Pages with the pattern, by physical address, one for each mapping.
    pub hits: BTreeSet<Hit>,
    /// Bytes that were read and compared.
    pub scanned: u64,
    /// Bytes that could not be read: not mapped, or no memory.
    pub unreadable: u64,
}

impl Report {
    /// The number of physical pages that have the pattern in them.
    pub fn pages(&self) -> usize {
        let pages: BTreeSet<u64> = self.hits.iter().map(|hit| hit.physical).collect();
        pages.len()
    }
}

/// Looks for `pattern` in all RAM that the kernel has mapped.
///
/// # Errors
///
/// Any [`Error`], before the scan begins. What cannot be read in it is skipped and counted.
pub fn scan(pattern: &Pattern) -> Result<Report, Error> {
    scan_file(Path::new(KCORE), pattern)
}

/// Looks for `pattern` in the RAM that a core file like [`KCORE`] has.
///
/// # Errors
///
/// As [`scan`].
pub fn scan_file(path: &Path, pattern: &Pattern) -> Result<Report, Error> {
    let file = File::open(path).map_err(|source| Error::Open {
        path: path.into(),
        source,
    })?;
    let segments = kcore::ram_segments(&file, path)?;

    let mut report = Report::default();
    // One more pattern's length: what is at the end of a chunk may go on in the next.
    let mut buf = vec![0u8; CHUNK + Pattern::LEN - 1];
    for segment in &segments {
        for start in (0..segment.size).step_by(CHUNK) {
            let len = (segment.size - start).min(buf.len() as u64) as usize;
            scan_chunk(&file, segment, start, &mut buf[..len], pattern, &mut report);
        }
    }
    Ok(report)
}

/// Scans one chunk, and page by page if it cannot be read as a whole.
fn scan_chunk(
    file: &File,
    segment: &Segment,
    start: u64,
    buf: &mut [u8],
    pattern: &Pattern,
    report: &mut Report,
) {
    if file
        .read_exact_at(buf, segment.file_offset + start)
        .is_err()
    {
        if buf.len() as u64 > PAGE_SIZE {
            let mut at = 0;
            while at < buf.len() {
                let end = buf.len().min(at + PAGE_SIZE as usize);
                let part = &mut buf[at..end];
                scan_chunk(file, segment, start + at as u64, part, pattern, report);
                at = end;
            }
        } else {
            report.unreadable += buf.len() as u64;
        }
        return;
    }

    report.scanned += buf.len().min(CHUNK) as u64;
    let mut found = false;
    for at in pattern.find_in(buf) {
        found = true;
        let offset = (start + at as u64) & !(PAGE_SIZE - 1);
        report.hits.insert(Hit {
            physical: segment.physical + offset,
            virt: segment.virt + offset,
            kind: segment.kind,
        });
    }
    if found {
        // Do not find our own copy later on.
        buf.fill(0);
        std::hint::black_box(buf);
    }
}
