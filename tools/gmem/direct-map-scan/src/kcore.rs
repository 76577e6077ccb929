// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The segments of `/proc/kcore`.

use std::{fs::File, os::unix::fs::FileExt, path::Path};

use object::{
    NativeEndian,
    elf::{FileHeader64, PT_LOAD, ProgramHeader64},
    read::elf::{FileHeader, ProgramHeader},
};

use crate::Error;

/// Enough for the ELF header and some thousand program headers; the notes behind them do not
/// matter.
const HEADERS: usize = 256 << 10;

/// Which of the kernel's mappings of RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The direct map: all RAM.
    DirectMap,
    /// The kernel image's own: a second mapping of the pages that it was loaded to.
    KernelImage,
}

/// A range of RAM that the kernel has mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it is in the file.
    pub file_offset: u64,
    /// The physical address that it begins at.
    pub physical: u64,
    /// The virtual address that it begins at.
    pub virt: u64,
    /// Bytes.
    pub size: u64,
    /// Which mapping.
    pub kind: Kind,
}

/// Reads which segments are RAM: those that have a physical address.
pub(crate) fn ram_segments(file: &File, path: &Path) -> Result<Vec<Segment>, Error> {
    let mut headers = vec![0u8; HEADERS];
    let mut len = 0;
    while len < headers.len() {
        match file.read_at(&mut headers[len..], len as u64) {
            Ok(0) => break,
            Ok(n) => len += n,
            // Behind the headers there is memory, which need not be readable.
            Err(_) if len > 0 => break,
            Err(source) => {
                return Err(Error::Headers {
                    path: path.into(),
                    source,
                });
            }
        }
    }
    let segments = parse(&headers[..len]).map_err(|source| Error::Elf {
        path: path.into(),
        source,
    })?;
    if segments.is_empty() {
        return Err(Error::NoRam { path: path.into() });
    }
    Ok(segments)
}

fn parse(headers: &[u8]) -> Result<Vec<Segment>, object::Error> {
    let header = FileHeader64::<NativeEndian>::parse(headers)?;
    let endian = header.endian()?;
    let segments = header.program_headers(endian, headers)?;
    let ram: Vec<_> = segments
        .iter()
        .filter(|s| s.p_type(endian) == PT_LOAD && s.p_filesz(endian) > 0)
        // Ranges without a linear relation to physical memory, such as vmalloc's, have -1 (or 0,
        // in old kernels). They are not looked at: a vmap() of a page would be missed.
        .filter(|s| {
            s.p_paddr(endian) != u64::MAX && (s.p_paddr(endian), s.p_vaddr(endian)) != (0, 0)
        })
        .collect();
    // The direct map is linear, and below the image on every architecture that maps that apart.
    let distance =
        |s: &ProgramHeader64<NativeEndian>| s.p_vaddr(endian).wrapping_sub(s.p_paddr(endian));
    let direct_map = ram
        .iter()
        .min_by_key(|s| s.p_vaddr(endian))
        .map(|s| distance(s));
    Ok(ram
        .iter()
        .map(|s| Segment {
            file_offset: s.p_offset(endian),
            physical: s.p_paddr(endian),
            virt: s.p_vaddr(endian),
            size: s.p_filesz(endian),
            kind: if Some(distance(s)) == direct_map {
                Kind::DirectMap
            } else {
                Kind::KernelImage
            },
        })
        .collect())
}
