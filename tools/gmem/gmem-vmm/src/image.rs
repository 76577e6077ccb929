// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Files that the guest boots from: whole, of this architecture, and no larger than its RAM.

use std::{fs, path::Path};

use object::{
    LittleEndian,
    pe::{IMAGE_FILE_MACHINE_AMD64, IMAGE_FILE_MACHINE_ARM64, ImageNtHeaders64},
    read::pe::ImageNtHeaders,
};

use crate::{arch, error::Error};

/// Reads a kernel, in a form that this architecture boots.
pub fn kernel(path: &Path) -> Result<(arch::KernelKind, Vec<u8>), Error> {
    let data = read(path)?;
    let wrong = |why: String| Error::Image {
        path: path.into(),
        why,
    };
    match machine(&data) {
        Some(machine) if machine != arch::NAME => {
            return Err(wrong(format!(
                "a kernel for {machine}, and this machine is {}",
                arch::NAME
            )));
        }
        _ => (),
    }
    let kind = arch::KernelKind::of(&data).ok_or_else(|| {
        wrong(format!(
            "not a kernel: it does not begin with {}",
            arch::KERNELS
        ))
    })?;
    let end = end_of_pe(&data).or_else(|| kind.end(&data)).unwrap_or(0);
    if end > data.len() as u64 {
        return Err(wrong(format!(
            "truncated: it has {} bytes, of {end}",
            data.len()
        )));
    }
    Ok((kind, data))
}

/// Reads an initial RAM disk. If it is not compressed, it can be seen whether it is whole.
pub fn initrd(path: &Path) -> Result<Vec<u8>, Error> {
    const MAGIC: &[u8] = b"070701";
    const LAST: &[u8] = b"TRAILER!!!";

    let data = read(path)?;
    let whole = || data.windows(LAST.len()).rev().any(|name| name == LAST);
    if data.starts_with(MAGIC) && !whole() {
        return Err(Error::Image {
            path: path.into(),
            why: format!("truncated: it has {} bytes, and no end", data.len()),
        });
    }
    Ok(data)
}

/// Reads a file into the VMM's own memory.
fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::File {
        path: path.into(),
        source,
    })
}

/// Which architecture a kernel says it is for, if it says so.
fn machine(data: &[u8]) -> Option<&'static str> {
    const EM_X86_64: u16 = 62;
    const EM_AARCH64: u16 = 183;

    let half = |at: usize| Some(u16::from_le_bytes(data.get(at..at + 2)?.try_into().ok()?));
    match data.get(..4)? {
        b"\x7fELF" => match half(18)? {
            EM_X86_64 => Some("x86_64"),
            EM_AARCH64 => Some("arm64"),
            _ => Some("another architecture"),
        },
        _ => match pe_header(data)?.0.file_header().machine.get(LittleEndian) {
            IMAGE_FILE_MACHINE_AMD64 => Some("x86_64"),
            IMAGE_FILE_MACHINE_ARM64 => Some("arm64"),
            _ => Some("another architecture"),
        },
    }
}

/// Linux kernels that UEFI can start are PE files as well: their header, and where its section
/// table begins.
fn pe_header(data: &[u8]) -> Option<(&ImageNtHeaders64, u64)> {
    let dos = object::pe::ImageDosHeader::parse(data).ok()?;
    let mut offset = u64::from(dos.nt_headers_offset());
    let (headers, _) = ImageNtHeaders64::parse(data, &mut offset).ok()?;
    Some((headers, offset))
}

/// Where the last section of such a file ends.
fn end_of_pe(data: &[u8]) -> Option<u64> {
    let (headers, offset) = pe_header(data)?;
    headers
        .sections(data, offset)
        .ok()?
        .iter()
        .map(|section| {
            u64::from(section.pointer_to_raw_data.get(LittleEndian))
                + u64::from(section.size_of_raw_data.get(LittleEndian))
        })
        .max()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with<R>(name: &str, contents: &[u8], act: impl FnOnce(&Path) -> R) -> R {
        let path = std::env::temp_dir().join(format!("gmem-vmm.{}.{name}", std::process::id()));
        fs::write(&path, contents).unwrap();
        let result = act(&path);
        fs::remove_file(&path).unwrap();
        result
    }

    fn error(name: &str, contents: &[u8]) -> String {
        let error = with(name, contents, |path| kernel(path).map(|_| ()).unwrap_err());
        error.to_string()
    }

    #[test]
    fn initrds_end_with_a_trailer() {
        let whole = b"070701 a file, 070701 TRAILER!!!\0\0";
        assert!(with("whole", whole, |path| initrd(path)
            .is_ok_and(|i| i == whole)));
        assert!(with("part", &whole[..25], |path| {
            initrd(path).is_err_and(|e| e.to_string().contains("truncated: it has 25 bytes"))
        }));
        // What it would look like when it is compressed, it cannot tell.
        assert!(with("xz", b"\xfd7zXZ", |path| initrd(path).is_ok()));
    }

    #[test]
    fn what_is_no_kernel_is_told() {
        assert!(error("empty", b"").contains("not a kernel"));
        assert!(error("text", &[b'x'; 5000]).contains("not a kernel"));
        let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
        elf.resize(64, 0);
        elf[18] = 8;
        assert!(error("mips", &elf).contains("a kernel for another architecture"));
        assert!(matches!(
            kernel(Path::new("/nonexistent/vmlinuz")),
            Err(Error::File { .. })
        ));
    }
}
