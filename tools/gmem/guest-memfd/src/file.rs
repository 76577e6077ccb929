// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::{
    fs::File,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::Arc,
};

use kvm_bindings::{KVM_MEM_GUEST_MEMFD, kvm_create_guest_memfd, kvm_userspace_memory_region2};
use kvm_ioctls::{Cap, VmFd};
use vm_memory::{FileOffset, MmapRegion};

use crate::{Error, Flags, GUEST_MEMFD_FLAG_PAGE_ORDER, Missing, supported_flags};

/// The most that [`GuestMemfd::allocate_all`] allocates by one system call.
const ALLOCATED_AT_ONCE: u64 = 1 << 30;

/// A guest_memfd file. Owns the descriptor, which is closed with it, and on `exec`.
#[derive(Debug)]
pub struct GuestMemfd {
    file: Arc<File>,
    size: u64,
    order: u32,
}

impl GuestMemfd {
    /// Creates a file of `size` bytes, a multiple of the page size, for `vm`.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] before anything is tried, [`Error::Create`] with what the
    /// kernel says.
    pub fn create(vm: &VmFd, size: u64, flags: u64) -> Result<Self, Error> {
        Self::create_in_blocks(vm, size, flags, 0)
    }

    /// Creates a file whose memory is allocated, mapped and freed in blocks of `2^order` pages:
    /// `order` is 0 or [`pmd_order`](crate::pmd_order).
    ///
    /// Everything about the file is in multiples of a block: `size`, what is allocated and freed,
    /// and the offsets at which it is mapped and bound. Where there is no free block, allocating
    /// fails with `ENOMEM`; touching the memory instead is a `SIGBUS`, and ends a guest. So
    /// [`allocate`](Self::allocate) all of it first, and create another file if that fails, as
    /// [`GuestRam::create_in_huge_pages`](crate::GuestRam::create_in_huge_pages) does.
    ///
    /// # Errors
    ///
    /// As [`create`](Self::create).
    pub fn create_in_blocks(
        vm: &VmFd,
        size: u64,
        mut flags: u64,
        order: u32,
    ) -> Result<Self, Error> {
        if order != 0 {
            flags |= GUEST_MEMFD_FLAG_PAGE_ORDER;
        }
        let has = supported_flags(vm);
        if flags & !has.0 != 0 {
            return Err(Error::Unsupported {
                flags: Flags(flags),
                missing: match has {
                    Flags(0) if !vm.check_extension(Cap::GuestMemfd) => Missing::GuestMemfd,
                    Flags(0) => Missing::Capability,
                    _ => Missing::Vm { has },
                },
            });
        }

        let fd = vm
            .create_guest_memfd(kvm_create_guest_memfd {
                size,
                flags,
                // The first of them is `page_order`, where the kernel has the flag.
                reserved: [u64::from(order), 0, 0, 0, 0, 0],
            })
            .map_err(|source| Error::Create {
                size,
                flags: Flags(flags),
                source,
            })?;
        // SAFETY: KVM just gave us this descriptor, nobody else knows it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: F_SETFD has no effect on memory, and the descriptor is open.
        if unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
            return Err(Error::Cloexec(std::io::Error::last_os_error()));
        }
        Ok(Self {
            file: Arc::new(File::from(fd)),
            size,
            order,
        })
    }

    /// The size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The order of the blocks in which memory is allocated; 0 for single pages.
    pub fn order(&self) -> u32 {
        self.order
    }

    /// The file, for `fallocate`.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Allocates what is missing of `len` bytes from `offset`, both multiples of a page, or a block.
    ///
    /// # Errors
    ///
    /// The errno of `fallocate(2)`: `EINVAL` past the end of the file, `ENOMEM`.
    pub fn allocate(&self, offset: u64, len: u64) -> std::io::Result<()> {
        self.fallocate(0, offset, len)
    }

    /// Allocates all of the file that is missing, a part at a time, and calls `progress` before
    /// each part and at the end, with the bytes that are allocated and the bytes of all.
    ///
    /// # Errors
    ///
    /// [`Error::Allocate`].
    pub fn allocate_all(&self, mut progress: impl FnMut(u64, u64)) -> Result<(), Error> {
        let mut done = 0;
        while done < self.size {
            progress(done, self.size);
            let len = (self.size - done).min(ALLOCATED_AT_ONCE);
            self.allocate(done, len).map_err(|source| Error::Allocate {
                done,
                size: self.size,
                source,
            })?;
            done += len;
        }
        progress(done, self.size);
        Ok(())
    }

    /// Frees `len` bytes from `offset`, both multiples of a page, or a block.
    ///
    /// # Errors
    ///
    /// The errno of `fallocate(2)`.
    pub fn punch_hole(&self, offset: u64, len: u64) -> std::io::Result<()> {
        self.fallocate(libc::FALLOC_FL_PUNCH_HOLE, offset, len)
    }

    fn fallocate(&self, mode: i32, offset: u64, len: u64) -> std::io::Result<()> {
        let mode = libc::FALLOC_FL_KEEP_SIZE | mode;
        // SAFETY: No pointers are passed, and the descriptor is open.
        let ret = unsafe {
            libc::fallocate(
                self.file.as_raw_fd(),
                mode,
                offset as libc::off_t,
                len as libc::off_t,
            )
        };
        if ret == 0 {
            Ok(())
        } else {
            Err(std::io::Error::last_os_error())
        }
    }

    /// Maps the whole file, shared, readable and writable. Needs
    /// [`GUEST_MEMFD_FLAG_MMAP`](crate::GUEST_MEMFD_FLAG_MMAP) and
    /// [`GUEST_MEMFD_FLAG_INIT_SHARED`](crate::GUEST_MEMFD_FLAG_INIT_SHARED).
    ///
    /// Whatever is to be in the guest's memory is copied to this mapping. With
    /// [`GUEST_MEMFD_FLAG_NO_DIRECT_MAP`](crate::GUEST_MEMFD_FLAG_NO_DIRECT_MAP), it cannot be the
    /// target of direct I/O.
    ///
    /// # Errors
    ///
    /// [`Error::Map`].
    pub fn map(&self) -> Result<MmapRegion, Error> {
        let size = usize::try_from(self.size).unwrap_or(usize::MAX);
        self.map_at(0, size)
    }

    /// Maps `size` bytes from `offset`, a multiple of the page size; otherwise as
    /// [`map`](Self::map).
    ///
    /// # Errors
    ///
    /// [`Error::Map`].
    pub fn map_at(&self, offset: u64, size: usize) -> Result<MmapRegion, Error> {
        let file = FileOffset::from_arc(Arc::clone(&self.file), offset);
        Ok(MmapRegion::from_file(file, size)?)
    }

    /// Makes the part of the file that `mapping` maps the guest's memory at `guest_addr`, with
    /// that mapping for what KVM itself reads and writes there.
    ///
    /// # Errors
    ///
    /// [`Error::Bind`].
    ///
    /// # Safety
    ///
    /// `mapping` comes from [`map`](Self::map) or [`map_at`](Self::map_at) of this file, and
    /// outlives the slot. Nobody has references into it while a vCPU runs.
    pub unsafe fn bind(
        &self,
        vm: &VmFd,
        slot: u32,
        guest_addr: u64,
        mapping: &MmapRegion,
    ) -> Result<(), Error> {
        let region = kvm_userspace_memory_region2 {
            slot,
            flags: KVM_MEM_GUEST_MEMFD,
            guest_phys_addr: guest_addr,
            memory_size: mapping.size() as u64,
            userspace_addr: mapping.as_ptr() as u64,
            guest_memfd_offset: mapping.file_offset().map_or(0, FileOffset::start),
            guest_memfd: self.file.as_raw_fd() as u32,
            ..Default::default()
        };
        // SAFETY: The caller promises that the range is mapped for as long as the slot exists.
        unsafe { vm.set_user_memory_region2(region) }.map_err(|source| Error::Bind {
            slot,
            guest_addr,
            source,
        })
    }

    /// Removes a memslot of `vm` that [`bind`](Self::bind) made. The memory stays.
    ///
    /// # Errors
    ///
    /// [`Error::Unbind`].
    pub fn unbind(vm: &VmFd, slot: u32) -> Result<(), Error> {
        let nothing = kvm_userspace_memory_region2 {
            slot,
            ..Default::default()
        };
        // SAFETY: Nothing is given to KVM.
        unsafe { vm.set_user_memory_region2(nothing) }
            .map_err(|source| Error::Unbind { slot, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_call_is_named() {
        let text = Error::Create {
            size: 1,
            flags: Flags(3),
            source: kvm_ioctls::Error::new(libc::EINVAL),
        }
        .to_string();
        assert!(
            text.starts_with("KVM_CREATE_GUEST_MEMFD of 1 bytes with flags 0x3 MMAP INIT_SHARED"),
            "{text}"
        );
        assert!(text.contains("Invalid argument"), "{text}");
    }
}
