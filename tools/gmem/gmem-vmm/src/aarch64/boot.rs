// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Loading a kernel as `Documentation/arch/arm64/booting.rst` says.

use std::io::Cursor;

use guest_memfd::GuestRam;
use linux_loader::loader::{KernelLoader, PE};
use vm_memory::GuestAddress;

use super::{PAGE_SIZE, RAM};
use crate::error::Error;

/// What arm64 takes of a command line.
pub const COMMAND_LINE_SIZE: usize = 2048;
/// A device tree is no larger, and is at the end of RAM.
const TREE_SIZE: u64 = 2 << 20;

/// A kernel's form.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum KernelKind {
    Image,
}

impl KernelKind {
    pub fn of(data: &[u8]) -> Option<Self> {
        (data.get(56..60)? == b"ARM\x64").then_some(Self::Image)
    }

    /// The size that a whole file has at least: the header does not say; its PE header may.
    pub fn end(self, _data: &[u8]) -> Option<u64> {
        None
    }
}

/// Where things are in the guest's memory.
pub struct Loaded {
    pub entry: u64,
    pub tree: u64,
    /// Start and end.
    pub initrd: Option<(u64, u64)>,
}

/// Loads kernel and initial RAM disk.
pub fn load(
    ram: &GuestRam,
    KernelKind::Image: KernelKind,
    kernel: &[u8],
    initrd: Option<&[u8]>,
) -> Result<Loaded, Error> {
    let end_of_ram = RAM + ram.size();
    let too_small = |what, end: u64| Error::TooSmall {
        what,
        needs: (end - RAM).div_ceil(1 << 20),
        has: ram.size() >> 20,
        near: false,
    };
    // Its size in memory, with what is not in the file.
    let size = kernel
        .get(16..24)
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, u64::from_le_bytes)
        .clamp(kernel.len() as u64, u64::from(u32::MAX));
    let needs = RAM + size + TREE_SIZE;
    if needs > end_of_ram {
        return Err(too_small("the kernel", needs));
    }
    let loaded = PE::load(
        ram.memory(),
        Some(GuestAddress(RAM)),
        &mut Cursor::new(kernel),
        None,
    )
    .map_err(|_| too_small("the kernel", end_of_ram + PAGE_SIZE))?;

    let entry = loaded.kernel_load.0;
    let tree = (end_of_ram - TREE_SIZE) & !(TREE_SIZE - 1);
    let initrd = match initrd {
        None => None,
        Some(initrd) => {
            let len = initrd.len() as u64;
            let needs = entry + size + len.next_multiple_of(PAGE_SIZE);
            if needs > tree {
                return Err(too_small(
                    "kernel and initial RAM disk",
                    needs + 2 * TREE_SIZE,
                ));
            }
            let start = (tree - len) & !(PAGE_SIZE - 1);
            ram.load(GuestAddress(start), initrd)?;
            Some((start, start + len))
        }
    };
    Ok(Loaded {
        entry,
        tree,
        initrd,
    })
}

impl Loaded {
    /// Puts the device tree where the kernel looks for it.
    pub fn put_tree(&self, ram: &GuestRam, tree: &[u8]) -> Result<(), Error> {
        ram.load(GuestAddress(self.tree), tree)?;
        Ok(())
    }
}
