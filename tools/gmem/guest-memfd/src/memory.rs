// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::{io::Read, sync::Arc};

use kvm_ioctls::VmFd;
use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
    MmapRegion, mmap::MmapRegionError,
};

use crate::{
    Error, GUEST_MEMFD_FLAG_INIT_SHARED, GUEST_MEMFD_FLAG_MMAP, GUEST_MEMFD_FLAG_PAGE_ORDER,
    GuestMemfd, flags::page_size, pmd_order, supported_flags,
};

/// The flags that it takes to map the file.
const SHARED: u64 = GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED;

/// Whether a guest's memory comes in huge pages: 2 MiB, with pages of 4 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HugePages {
    /// If there are enough of them, else in single pages.
    Auto,
    /// Or not at all.
    On,
}

/// How much of what is loaded is in the VMM's own memory at a time.
const CHUNK: usize = 64 << 10;

/// All memory of a guest: one guest_memfd, mapped, and bound to a VM range by range.
///
/// File, offset, userspace address and guest address of each range belong together, and KVM does
/// not check that they do; here they cannot be mixed up. The memslots are numbered from 0 and are
/// gone before the memory is unmapped, whatever else keeps the VM.
pub struct GuestRam {
    vm: Arc<VmFd>,
    slots: u32,
    file: GuestMemfd,
    ranges: Vec<(GuestAddress, u64)>,
    memory: GuestMemoryMmap,
}

impl GuestRam {
    /// Creates the memory of `vm`: `ranges` of a guest address and a number of bytes, both
    /// multiples of the page size, in ascending order. `flags` are those besides the two that it
    /// takes to map the file.
    ///
    /// # Errors
    ///
    /// [`Error::Ranges`], and those of [`GuestMemfd::create`], [`GuestMemfd::map_at`] and
    /// [`GuestMemfd::bind`].
    pub fn create(
        vm: &Arc<VmFd>,
        ranges: &[(GuestAddress, u64)],
        flags: u64,
    ) -> Result<Self, Error> {
        let size = total(ranges)?;
        Self::of_file(vm, ranges, GuestMemfd::create(vm, size, flags | SHARED)?)
    }

    /// Creates the memory of `vm` in huge pages, as [`create`](Self::create) otherwise, and
    /// allocates all of it. [`GuestMemfd::order`] of [`file`](Self::file) says what came of it.
    ///
    /// A huge page that is missing later would end the guest, so it is now or never. `progress` is
    /// called with the bytes that are allocated and the bytes of all.
    ///
    /// # Errors
    ///
    /// Those of [`create`](Self::create). With [`HugePages::On`] also [`Error::NoHugePages`] if the
    /// kernel does not have them, or `ranges` are not multiples of them, and [`Error::Allocate`] if
    /// there are not enough of them. With [`HugePages::Auto`], there are single pages instead,
    /// which are allocated on first touch.
    pub fn create_in_huge_pages(
        vm: &Arc<VmFd>,
        ranges: &[(GuestAddress, u64)],
        flags: u64,
        huge: HugePages,
        progress: impl FnMut(u64, u64),
    ) -> Result<Self, Error> {
        match Self::try_huge_pages(vm, ranges, flags, progress) {
            Err(Error::NoHugePages(_) | Error::Allocate { .. }) if huge == HugePages::Auto => {
                Self::create(vm, ranges, flags)
            }
            result => result,
        }
    }

    fn try_huge_pages(
        vm: &Arc<VmFd>,
        ranges: &[(GuestAddress, u64)],
        flags: u64,
        progress: impl FnMut(u64, u64),
    ) -> Result<Self, Error> {
        let size = total(ranges)?;
        let order = pmd_order()
            .filter(|_| supported_flags(vm).0 & GUEST_MEMFD_FLAG_PAGE_ORDER != 0)
            .ok_or(Error::NoHugePages("this kernel does not have them"))?;
        let block = page_size() << order;
        if ranges.iter().any(|(_, len)| len % block != 0) {
            return Err(Error::NoHugePages("the ranges are not multiples of them"));
        }
        let file = GuestMemfd::create_in_blocks(vm, size, flags | SHARED, order)?;
        file.allocate_all(progress)?;
        Self::of_file(vm, ranges, file)
    }

    fn of_file(
        vm: &Arc<VmFd>,
        ranges: &[(GuestAddress, u64)],
        file: GuestMemfd,
    ) -> Result<Self, Error> {
        let mut regions = Vec::new();
        let mut offset = 0;
        for &(addr, len) in ranges {
            let size = usize::try_from(len).map_err(|_| {
                Error::Map(MmapRegionError::Mmap(std::io::Error::from_raw_os_error(
                    libc::ENOMEM,
                )))
            })?;
            let region = file.map_at(offset, size)?;
            regions.push(GuestRegionMmap::new(region, addr).ok_or_else(|| past_the_end(addr))?);
            offset += len;
        }
        let memory =
            GuestMemoryMmap::from_regions(regions).map_err(|e| Error::Ranges(e.to_string()))?;

        let mut ram = Self {
            vm: Arc::clone(vm),
            slots: 0,
            file,
            ranges: ranges.to_vec(),
            memory,
        };
        for region in ram.memory.iter() {
            let mapping: Arc<MmapRegion> = region.get_mmap();
            // SAFETY: The mapping is of this file. `memory` keeps it until `drop` has removed the
            // slot. vm-memory gives out no references.
            unsafe {
                ram.file
                    .bind(vm, ram.slots, region.start_addr().0, &mapping)?
            };
            ram.slots += 1;
        }
        Ok(ram)
    }

    /// The memory by guest address, as the rust-vmm crates want it. Clones stay mapped for as
    /// long as they are kept.
    pub fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// The file, for [`allocate`](GuestMemfd::allocate).
    pub fn file(&self) -> &GuestMemfd {
        &self.file
    }

    /// The size in bytes.
    pub fn size(&self) -> u64 {
        self.file.size()
    }

    /// Frees `len` bytes of guest memory from `addr`, both multiples of a page, or a huge page. The
    /// guest finds zeroes there.
    ///
    /// # Errors
    ///
    /// The errno of `fallocate(2)`; `EINVAL` if they are not within one range.
    pub fn punch_hole(&self, addr: GuestAddress, len: u64) -> std::io::Result<()> {
        let offset = offset_of(&self.ranges, addr, len)
            .ok_or_else(|| std::io::Error::from_raw_os_error(libc::EINVAL))?;
        self.file.punch_hole(offset, len)
    }

    /// Copies all of `source` to guest memory from `addr`, and returns how many bytes it was.
    ///
    /// It goes through a buffer: a `read(2)` straight to guest memory would fail where it is
    /// direct I/O, and what the file system does there is not guaranteed otherwise.
    ///
    /// # Errors
    ///
    /// [`Error::Read`]; [`Error::Access`] if it does not fit, after what fits was written.
    pub fn load(&self, addr: GuestAddress, mut source: impl Read) -> Result<u64, Error> {
        let mut buffer = vec![0; CHUNK];
        let mut done = 0;
        loop {
            let read = match source.read(&mut buffer) {
                Ok(0) => return Ok(done),
                Ok(read) => read,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(Error::Read { addr, source }),
            };
            // An overflow is past every range's end.
            let at = GuestAddress(addr.0.saturating_add(done));
            self.memory
                .write_slice(&buffer[..read], at)
                .map_err(|source| Error::Access {
                    addr: at,
                    len: read as u64,
                    source,
                })?;
            done += read as u64;
        }
    }
}

impl Drop for GuestRam {
    fn drop(&mut self) {
        for slot in 0..self.slots {
            // It cannot fail: the slot is there, and removing takes no memory that is not there.
            let _ = GuestMemfd::unbind(&self.vm, slot);
        }
    }
}

fn past_the_end(addr: GuestAddress) -> Error {
    Error::Ranges(format!("that at {:#x} has no end", addr.0))
}

/// The number of bytes of `ranges`, which are as they have to be.
fn total(ranges: &[(GuestAddress, u64)]) -> Result<u64, Error> {
    let mut end = 0;
    let mut size = 0u64;
    for &(addr, len) in ranges {
        if len == 0 {
            return Err(Error::Ranges(format!("that at {:#x} is empty", addr.0)));
        }
        if addr.0 < end {
            return Err(Error::Ranges(format!(
                "that at {:#x} is not behind the one before",
                addr.0
            )));
        }
        end = addr.0.checked_add(len).ok_or_else(|| past_the_end(addr))?;
        // No more than the end of the last.
        size += len;
    }
    if size == 0 {
        return Err(Error::Ranges("there are none".into()));
    }
    Ok(size)
}

/// Where in the file `len` bytes from `addr` are.
fn offset_of(ranges: &[(GuestAddress, u64)], addr: GuestAddress, len: u64) -> Option<u64> {
    let mut offset = 0;
    for &(start, size) in ranges {
        match addr.0.checked_sub(start.0) {
            Some(within) if within < size => {
                return (len <= size - within).then_some(offset + within);
            }
            _ => offset += size,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(list: &[(u64, u64)]) -> Vec<(GuestAddress, u64)> {
        list.iter().map(|&(a, s)| (GuestAddress(a), s)).collect()
    }

    #[test]
    fn ranges_add_up() {
        let two = ranges(&[(0, 0x10000), (0x100000, 0x4000)]);
        assert!(matches!(total(&two), Ok(0x14000)));
    }

    #[test]
    fn ranges_that_cannot_be_are_refused() {
        for (wrong, why) in [
            (&[][..], "there are none"),
            (&[(0x1000, 0)], "that at 0x1000 is empty"),
            (
                &[(0, 0x2000), (0x1000, 0x1000)],
                "that at 0x1000 is not behind",
            ),
            (
                &[(0x2000, 0x1000), (0, 0x1000)],
                "that at 0x0 is not behind",
            ),
            (&[(u64::MAX - 0xfff, 0x2000)], "has no end"),
        ] {
            let text = total(&ranges(wrong)).map_or_else(|e| e.to_string(), |n| n.to_string());
            assert!(text.contains(why), "{wrong:x?}: {text}");
        }
    }

    #[test]
    fn addresses_become_offsets() {
        let two = ranges(&[(0, 0x10000), (0x100000, 0x4000)]);
        let offset = |addr, len| offset_of(&two, GuestAddress(addr), len);
        assert_eq!(offset(0, 0x10000), Some(0));
        assert_eq!(offset(0xf000, 0x1000), Some(0xf000));
        assert_eq!(offset(0x101000, 0x3000), Some(0x11000));
        assert_eq!(offset(0xf000, 0x2000), None, "past the end of the range");
        assert_eq!(offset(0x10000, 0x1000), None, "in the gap");
        assert_eq!(offset(0x101000, u64::MAX), None);
    }
}
