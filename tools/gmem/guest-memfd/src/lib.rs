// SPDX-License-Identifier: Apache-2.0 OR MIT

//! guest_memfd for VMMs built on [`kvm_ioctls`]: what a VMM does with it for ordinary guests, whose
//! memory is one file that the VMM maps too.
//!
//! Kernel documentation: `Documentation/virt/kvm/api.rst`, `KVM_CREATE_GUEST_MEMFD`.

use std::{
    fs::File,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::Arc,
};

use kvm_bindings::{KVM_MEM_GUEST_MEMFD, kvm_create_guest_memfd, kvm_userspace_memory_region2};
use kvm_ioctls::VmFd;
use vm_memory::{FileOffset, MmapRegion};

/// The capability that enumerates the flags of `KVM_CREATE_GUEST_MEMFD` (`<linux/kvm.h>`).
pub const KVM_CAP_GUEST_MEMFD_FLAGS: libc::c_ulong = 244;
/// The file can be mapped by userspace.
pub const GUEST_MEMFD_FLAG_MMAP: u64 = 1 << 0;
/// All memory is shared with the host's userspace from the start.
pub const GUEST_MEMFD_FLAG_INIT_SHARED: u64 = 1 << 1;
/// The kernel has no mapping of the memory: it is not in the direct map.
pub const GUEST_MEMFD_FLAG_NO_DIRECT_MAP: u64 = 1 << 2;

/// What went wrong, by the call that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel does not have some of the flags, for this type of VM.
    #[error(
        "KVM does not support guest_memfd flags {missing:#x} for this VM (it has {supported:#x}): \
         0x1 is MMAP, 0x2 INIT_SHARED, 0x4 NO_DIRECT_MAP; the kernel may be too old, \
         or the VM of a type that cannot have them"
    )]
    UnsupportedFlags {
        /// The flags that were asked for and are not there.
        missing: u64,
        /// The flags that are there.
        supported: u64,
    },
    /// `KVM_CREATE_GUEST_MEMFD` failed.
    #[error("KVM_CREATE_GUEST_MEMFD of {size} bytes with flags {flags:#x}: {source}")]
    Create {
        /// In bytes.
        size: u64,
        /// As passed.
        flags: u64,
        /// The errno.
        source: kvm_ioctls::Error,
    },
    /// The new descriptor could not be made close-on-exec.
    #[error("fcntl(F_SETFD, FD_CLOEXEC) on a guest_memfd: {0}")]
    Cloexec(std::io::Error),
    /// The file could not be mapped.
    #[error("mmap of a guest_memfd: {0}")]
    Map(#[from] vm_memory::mmap::MmapRegionError),
    /// `KVM_SET_USER_MEMORY_REGION2` failed.
    #[error(
        "KVM_SET_USER_MEMORY_REGION2 of slot {slot} at guest address {guest_addr:#x}: {source}"
    )]
    Bind {
        /// The memslot.
        slot: u32,
        /// Where in the guest.
        guest_addr: u64,
        /// The errno.
        source: kvm_ioctls::Error,
    },
    /// The memory could not be taken away from a guest.
    #[error("KVM_SET_USER_MEMORY_REGION2 of no memory in slot {slot}: {source}")]
    Unbind {
        /// The memslot.
        slot: u32,
        /// The errno.
        source: kvm_ioctls::Error,
    },
}

/// The flags that [`GuestMemfd::create`] takes for this VM, zero where KVM does not know them.
pub fn supported_flags(vm: &VmFd) -> u64 {
    u64::try_from(vm.check_extension_raw(KVM_CAP_GUEST_MEMFD_FLAGS)).unwrap_or(0)
}

/// A guest_memfd file. Owns the descriptor, which is closed with it, and on `exec`.
#[derive(Debug)]
pub struct GuestMemfd {
    file: Arc<File>,
    size: u64,
}

impl GuestMemfd {
    /// Creates a file of `size` bytes, a multiple of the page size, for `vm`.
    ///
    /// # Errors
    ///
    /// [`Error::UnsupportedFlags`] before anything is tried, [`Error::Create`] with what the
    /// kernel says.
    pub fn create(vm: &VmFd, size: u64, flags: u64) -> Result<Self, Error> {
        let supported = supported_flags(vm);
        let missing = flags & !supported;
        if missing != 0 {
            return Err(Error::UnsupportedFlags { missing, supported });
        }

        let fd = vm
            .create_guest_memfd(kvm_create_guest_memfd {
                size,
                flags,
                ..Default::default()
            })
            .map_err(|source| Error::Create {
                size,
                flags,
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
        })
    }

    /// The size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The file, for `fallocate`.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Allocates what is missing of `len` bytes from `offset`, both multiples of the page size.
    ///
    /// # Errors
    ///
    /// The errno of `fallocate(2)`: `EINVAL` past the end of the file, `ENOMEM`.
    pub fn allocate(&self, offset: u64, len: u64) -> std::io::Result<()> {
        self.fallocate(0, offset, len)
    }

    /// Frees `len` bytes from `offset`, both multiples of the page size.
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

    /// Maps the whole file, shared, readable and writable. Needs [`GUEST_MEMFD_FLAG_MMAP`] and
    /// [`GUEST_MEMFD_FLAG_INIT_SHARED`].
    ///
    /// Whatever is to be in the guest's memory is copied to this mapping. With
    /// [`GUEST_MEMFD_FLAG_NO_DIRECT_MAP`], it cannot be the target of direct I/O.
    ///
    /// # Errors
    ///
    /// [`Error::Map`].
    pub fn map(&self) -> Result<MmapRegion, Error> {
        let size = usize::try_from(self.size).unwrap_or(usize::MAX);
        Ok(MmapRegion::from_file(
            FileOffset::from_arc(Arc::clone(&self.file), 0),
            size,
        )?)
    }

    /// Makes the whole file the guest's memory at `guest_addr`, with `mapping` of it for what KVM
    /// itself reads and writes there.
    ///
    /// # Errors
    ///
    /// [`Error::Bind`].
    ///
    /// # Safety
    ///
    /// `mapping` comes from [`map`](Self::map) of this file, and outlives the slot. Nobody has
    /// references into it while a vCPU runs.
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
            memory_size: self.size,
            userspace_addr: mapping.as_ptr() as u64,
            guest_memfd_offset: 0,
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
    fn an_unsupported_flag_is_named() {
        let text = Error::UnsupportedFlags {
            missing: GUEST_MEMFD_FLAG_NO_DIRECT_MAP,
            supported: 3,
        }
        .to_string();
        assert!(text.contains("flags 0x4"), "{text}");
        assert!(text.contains("it has 0x3"), "{text}");
        assert!(text.contains("0x4 NO_DIRECT_MAP"), "{text}");
    }

    #[test]
    fn a_failed_call_is_named() {
        let text = Error::Create {
            size: 1,
            flags: 3,
            source: kvm_ioctls::Error::new(libc::EINVAL),
        }
        .to_string();
        assert!(
            text.starts_with("KVM_CREATE_GUEST_MEMFD of 1 bytes"),
            "{text}"
        );
        assert!(text.contains("Invalid argument"), "{text}");
    }
}
