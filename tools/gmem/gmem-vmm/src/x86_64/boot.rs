// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Loading a kernel as `Documentation/arch/x86/boot.rst` says, and the 64-bit boot protocol.

use std::io::Cursor;

use guest_memfd::GuestRam;
use linux_loader::loader::{
    BzImage, Elf, KernelLoader,
    bootparam::{boot_e820_entry, boot_params, setup_header},
};
use object::{
    Endianness,
    elf::{FileHeader64, PT_LOAD},
    read::elf::{FileHeader, ProgramHeader},
};
use vm_memory::{ByteValued, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::{GAP, PAGE_SIZE, acpi};
use crate::{error::Error, machine::command_line};

/// `struct boot_params`, called the zero page.
const ZERO_PAGE: u64 = 0x7000;
const COMMAND_LINE: u64 = 0x2_0000;
/// The rest of the first MiB is no RAM on a PC.
const LOW_END: u64 = 0xa_0000;
const HIGH_MEMORY: u64 = 0x10_0000;

/// `startup_64` in what a bzImage loads.
const ENTRY_64: u64 = 0x200;
const BOOT_FLAG: u16 = 0xaa55;
const HEADER: u32 = u32::from_le_bytes(*b"HdrS");
/// A boot loader without a number of its own.
const LOADER: u8 = 0xff;
const XLF_KERNEL_64: u16 = 1;
/// What kernels take at least, and all that a vmlinux says about it.
const COMMAND_LINE_SIZE: usize = 2048;
const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;

/// A kernel's form.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum KernelKind {
    BzImage,
    Elf,
}

impl KernelKind {
    pub fn of(data: &[u8]) -> Option<Self> {
        if data.get(0x202..0x206) == Some(&HEADER.to_le_bytes()) {
            Some(Self::BzImage)
        } else if FileHeader64::<Endianness>::parse(data).is_ok() {
            Some(Self::Elf)
        } else {
            None
        }
    }

    /// The size that a whole file has at least.
    pub fn end(self, data: &[u8]) -> Option<u64> {
        match self {
            Self::BzImage => {
                let sectors = u64::from(*data.get(0x1f1)?);
                let paragraphs = u32::from_le_bytes(data.get(0x1f4..0x1f8)?.try_into().ok()?);
                Some((sectors + 1) * 512 + u64::from(paragraphs) * 16)
            }
            Self::Elf => {
                let header = FileHeader64::<Endianness>::parse(data).ok()?;
                let endian = header.endian().ok()?;
                // Without its program headers it is not whole.
                let Ok(segments) = header.program_headers(endian, data) else {
                    return Some(u64::MAX);
                };
                segments
                    .iter()
                    .filter(|s| s.p_type(endian) == PT_LOAD)
                    .map(|s| s.p_offset(endian).saturating_add(s.p_filesz(endian)))
                    .max()
            }
        }
    }
}

/// Where the guest begins.
pub struct Entry {
    pub rip: u64,
    /// What the protocol has in RSI.
    pub zero_page: u64,
}

/// Loads kernel, initial RAM disk and command line.
pub fn load(
    ram: &GuestRam,
    kind: KernelKind,
    kernel: &[u8],
    initrd: Option<&[u8]>,
    words: &[String],
) -> Result<Entry, Error> {
    let memory = ram.memory();
    let low = ram.size().min(GAP);
    let too_small = |what, needs: u64| Error::TooSmall {
        what,
        needs: needs.div_ceil(1 << 20),
        has: low >> 20,
        near: ram.size() > GAP,
    };
    // What its header says fits where the file ends, at least.
    if HIGH_MEMORY + kernel.len() as u64 > low {
        return Err(too_small("the kernel", HIGH_MEMORY + kernel.len() as u64));
    }

    let mut file = Cursor::new(kernel);
    let high = Some(GuestAddress(HIGH_MEMORY));
    let failed = |_| too_small("the kernel", low + PAGE_SIZE);
    let mut params = boot_params::default();
    let (loaded, rip) = match kind {
        KernelKind::BzImage => {
            let loaded = BzImage::load(memory, None, &mut file, high).map_err(failed)?;
            let rip = loaded.kernel_load.0 + ENTRY_64;
            (loaded, rip)
        }
        KernelKind::Elf => {
            let loaded = Elf::load(memory, None, &mut file, high).map_err(failed)?;
            let rip = loaded.kernel_load.0;
            (loaded, rip)
        }
    };
    params.hdr = loaded.setup_header.unwrap_or(setup_header {
        boot_flag: BOOT_FLAG,
        header: HEADER,
        cmdline_size: COMMAND_LINE_SIZE as u32 - 1,
        initrd_addr_max: u32::MAX,
        xloadflags: XLF_KERNEL_64,
        ..Default::default()
    });
    // Where it runs, and what it needs there before it knows where RAM is.
    let end = match kind {
        KernelKind::BzImage => {
            let start = params.hdr.pref_address.max(loaded.kernel_load.0);
            start + u64::from(params.hdr.init_size)
        }
        KernelKind::Elf => loaded.kernel_end,
    }
    .max(loaded.kernel_end);
    if end > low {
        return Err(too_small("the kernel", end));
    }

    if let Some(initrd) = initrd {
        // At the top of what the kernel can reach.
        let size = initrd.len() as u64;
        let top = low.min(u64::from(params.hdr.initrd_addr_max) + 1);
        let needs = end + size.next_multiple_of(PAGE_SIZE);
        if needs > top {
            return Err(too_small("kernel and initial RAM disk", needs));
        }
        let at = (top - size) & !(PAGE_SIZE - 1);
        ram.load(GuestAddress(at), initrd)?;
        params.hdr.ramdisk_image = at as u32;
        params.hdr.ramdisk_size = size as u32;
    }

    let max = COMMAND_LINE_SIZE.min(params.hdr.cmdline_size as usize + 1);
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let line = command_line(&words, max)?;
    ram.load(GuestAddress(COMMAND_LINE), &line[..])?;
    params.hdr.cmd_line_ptr = COMMAND_LINE as u32;

    params.hdr.type_of_loader = LOADER;
    params.acpi_rsdp_addr = acpi::RSDP;
    add_e820(&mut params, 0, LOW_END, E820_RAM);
    add_e820(&mut params, LOW_END, HIGH_MEMORY, E820_RESERVED);
    for region in memory.iter() {
        let start = region.start_addr().0;
        add_e820(
            &mut params,
            start.max(HIGH_MEMORY),
            start + region.len(),
            E820_RAM,
        );
    }
    ram.load(GuestAddress(ZERO_PAGE), params.as_slice())?;
    Ok(Entry {
        rip,
        zero_page: ZERO_PAGE,
    })
}

fn add_e820(params: &mut boot_params, addr: u64, end: u64, kind: u32) {
    params.e820_table[usize::from(params.e820_entries)] = boot_e820_entry {
        addr,
        size: end - addr,
        r#type: kind,
    };
    params.e820_entries += 1;
}
