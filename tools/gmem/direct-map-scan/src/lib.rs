// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Reads all RAM through `/proc/kcore`, that is through the kernel's direct map and its mapping of
//! its own image, and reports where a pattern stands. What neither has cannot be found.
//!
//! Where nothing is mapped, `/proc/kcore` reads as zeros.
//!
//! The pattern must not find itself: see [`Pattern`]. What was found once may be found again, in
//! the buffers that it was read through, so that a number of hits can be a few too many. None is
//! none.

mod guests;
mod kcore;
mod map;
pub mod page_tables;
mod pagemap;
mod pattern;

pub use kcore::{Kind, Segment};
pub use map::Map;
pub use pagemap::Pagemap;
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
    /// Debugfs shows page tables, but nothing that is a direct map.
    #[error("no direct map is in the kernel's page tables as debugfs shows them")]
    NoDirectMap,
    /// A guest's memory could not be looked at.
    #[error("a guest's memory: {call}: {source}")]
    Guest {
        /// What failed.
        call: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The segments are less than the RAM of this machine: something would not be looked at.
    #[error(
        "{path} has {direct_map} bytes of the direct map, but this machine has {ram} bytes of RAM"
    )]
    Incomplete {
        /// The file.
        path: PathBuf,
        /// In bytes.
        direct_map: u64,
        /// In bytes.
        ram: u64,
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
    /// Bytes of address space that were read and compared, mapped or not.
    pub scanned: u64,
    /// Bytes that the kernel refused to read.
    pub unreadable: u64,
}

impl Report {
    /// The number of physical pages that have the pattern in them.
    pub fn pages(&self) -> usize {
        let pages: BTreeSet<u64> = self.hits.iter().map(|hit| hit.physical).collect();
        pages.len()
    }
}

/// Looks for `pattern` in all RAM of this machine that the kernel has mapped.
///
/// # Errors
///
/// Any [`Error`], before the scan begins. What cannot be read in it is skipped and counted.
pub fn scan(pattern: &Pattern) -> Result<Report, Error> {
    let path = Path::new(KCORE);
    let (file, segments) = open(path)?;
    let direct_map = segments
        .iter()
        .filter(|segment| segment.kind == Kind::DirectMap)
        .map(|segment| segment.size)
        .sum();
    let ram = total_ram()?;
    if direct_map < ram {
        return Err(Error::Incomplete {
            path: path.into(),
            direct_map,
            ram,
        });
    }
    Ok(scan_segments(&file, &segments, pattern))
}

/// The RAM of this machine in bytes, without what the kernel itself was loaded to.
fn total_ram() -> Result<u64, Error> {
    let path = "/proc/meminfo";
    let meminfo = std::fs::read_to_string(path).map_err(|source| Error::Open {
        path: path.into(),
        source,
    })?;
    Ok(meminfo
        .lines()
        .find_map(|line| {
            line.strip_prefix("MemTotal:")?
                .trim()
                .strip_suffix(" kB")?
                .parse::<u64>()
                .ok()
        })
        .map_or(u64::MAX, |kib| kib << 10))
}

/// Looks for `pattern` in the RAM that a core file like [`KCORE`] has.
///
/// # Errors
///
/// As [`scan`].
pub fn scan_file(path: &Path, pattern: &Pattern) -> Result<Report, Error> {
    let (file, segments) = open(path)?;
    Ok(scan_segments(&file, &segments, pattern))
}

fn open(path: &Path) -> Result<(File, Vec<Segment>), Error> {
    let file = File::open(path).map_err(|source| Error::Open {
        path: path.into(),
        source,
    })?;
    let segments = kcore::ram_segments(&file, path)?;
    Ok((file, segments))
}

fn scan_segments(file: &File, segments: &[Segment], pattern: &Pattern) -> Report {
    let mut report = Report::default();
    // One more pattern's length: what is at the end of a chunk may go on in the next.
    let mut buf = vec![0u8; CHUNK + Pattern::LEN - 1];
    for segment in segments {
        for start in (0..segment.size).step_by(CHUNK) {
            let len = (segment.size - start).min(buf.len() as u64) as usize;
            scan_chunk(file, segment, start, &mut buf[..len], pattern, &mut report);
        }
    }
    report
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

#[cfg(test)]
mod tests {
    use super::*;

    use object::{
        NativeEndian, U16, U32, U64,
        elf::{ELFCLASS64, ELFDATA2LSB, ELFMAG, EV_CURRENT, FileHeader64, Ident, PT_LOAD, PT_NOTE},
        elf::{ET_CORE, ProgramHeader64},
        pod::bytes_of,
    };

    const ENDIAN: NativeEndian = NativeEndian;
    const TEXT: &str = "00112233445566778899aabbccddeeff";
    const DIRECT_MAP: u64 = 0xffff_8880_0000_0000;
    const IMAGE: u64 = 0xffff_ffff_8100_0000;
    const VMALLOC: u64 = 0xffff_c900_0000_0000;

    /// A core file with segments of (type, virtual, physical, contents), in a file of its own.
    fn core(name: &str, segments: &[(u32, u64, u64, &[u8])]) -> PathBuf {
        let mut headers = bytes_of(&FileHeader64 {
            e_ident: Ident {
                magic: ELFMAG,
                class: ELFCLASS64,
                data: ELFDATA2LSB,
                version: EV_CURRENT,
                os_abi: 0,
                abi_version: 0,
                padding: [0; 7],
            },
            e_type: U16::new(ENDIAN, ET_CORE),
            e_machine: U16::new(ENDIAN, 0),
            e_version: U32::new(ENDIAN, 1),
            e_entry: U64::new(ENDIAN, 0),
            e_phoff: U64::new(ENDIAN, 64),
            e_shoff: U64::new(ENDIAN, 0),
            e_flags: U32::new(ENDIAN, 0),
            e_ehsize: U16::new(ENDIAN, 64),
            e_phentsize: U16::new(ENDIAN, 56),
            e_phnum: U16::new(ENDIAN, segments.len() as u16),
            e_shentsize: U16::new(ENDIAN, 0),
            e_shnum: U16::new(ENDIAN, 0),
            e_shstrndx: U16::new(ENDIAN, 0),
        })
        .to_vec();
        let mut contents = Vec::new();
        for (p_type, virt, physical, bytes) in segments {
            let header = ProgramHeader64 {
                p_type: U32::new(ENDIAN, *p_type),
                p_flags: U32::new(ENDIAN, 7),
                p_offset: U64::new(ENDIAN, 4096 + contents.len() as u64),
                p_vaddr: U64::new(ENDIAN, *virt),
                p_paddr: U64::new(ENDIAN, *physical),
                p_filesz: U64::new(ENDIAN, bytes.len() as u64),
                p_memsz: U64::new(ENDIAN, bytes.len() as u64),
                p_align: U64::new(ENDIAN, 4096),
            };
            headers.extend_from_slice(bytes_of(&header));
            contents.extend_from_slice(bytes);
        }
        headers.resize(4096, 0);
        headers.extend(contents);
        let path =
            std::env::temp_dir().join(format!("direct-map-scan.{}.{name}", std::process::id()));
        std::fs::write(&path, headers).unwrap();
        path
    }

    fn scan_and_remove(path: &Path) -> Result<Report, Error> {
        let report = scan_file(path, &TEXT.parse().unwrap());
        std::fs::remove_file(path).unwrap();
        report
    }

    fn memory(len: usize, at: &[usize]) -> Vec<u8> {
        let mut bytes = vec![0u8; len];
        for &offset in at {
            for i in 0..Pattern::LEN {
                bytes[offset + i] = i as u8 * 0x11;
            }
        }
        bytes
    }

    #[test]
    fn counts_pages_not_matches() {
        let ram = memory(8 * 4096, &[0, 100, 4096, 5 * 4096 + 4080]);
        let path = core(
            "pages",
            &[(PT_LOAD, DIRECT_MAP + 0x10_0000, 0x10_0000, &ram)],
        );
        let report = scan_and_remove(&path).unwrap();
        let physical: Vec<u64> = report.hits.iter().map(|hit| hit.physical).collect();
        assert_eq!(physical, [0x10_0000, 0x10_1000, 0x10_5000]);
        assert_eq!(report.scanned, 8 * 4096);
    }

    #[test]
    fn finds_across_chunks() {
        let ram = memory(
            3 * CHUNK,
            &[CHUNK - 8, 2 * CHUNK - 1, 3 * CHUNK - Pattern::LEN],
        );
        let path = core("chunks", &[(PT_LOAD, DIRECT_MAP, 0x1000, &ram)]);
        assert_eq!(scan_and_remove(&path).unwrap().pages(), 3);
    }

    #[test]
    fn tells_the_mappings_apart() {
        let ram = memory(4096, &[8]);
        let path = core(
            "kinds",
            &[
                (PT_NOTE, 0, 0, &ram),
                (PT_LOAD, VMALLOC, u64::MAX, &ram),
                (PT_LOAD, IMAGE, 0x100_0000, &ram),
                (PT_LOAD, DIRECT_MAP + 0x100_0000, 0x100_0000, &ram),
            ],
        );
        let report = scan_and_remove(&path).unwrap();
        let kinds: Vec<Kind> = report.hits.iter().map(|hit| hit.kind).collect();
        assert_eq!(kinds, [Kind::DirectMap, Kind::KernelImage]);
        assert_eq!(report.pages(), 1);
    }

    #[test]
    fn says_what_is_wrong_with_a_file() {
        let nothing = core("no-ram", &[(PT_LOAD, VMALLOC, u64::MAX, &[0; 16])]);
        assert!(matches!(
            scan_and_remove(&nothing),
            Err(Error::NoRam { .. })
        ));

        let missing = scan_file(Path::new("/nonexistent"), &TEXT.parse().unwrap());
        assert!(matches!(missing, Err(Error::Open { .. })));

        let other =
            std::env::temp_dir().join(format!("direct-map-scan.{}.text", std::process::id()));
        std::fs::write(&other, "not an ELF file").unwrap();
        assert!(matches!(scan_and_remove(&other), Err(Error::Elf { .. })));
    }
}
