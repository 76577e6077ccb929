// SPDX-License-Identifier: Apache-2.0 OR MIT

use vm_memory::GuestAddress;

use crate::{Flags, Missing};

/// What went wrong, by the call that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// This host does not have some of the flags, for this VM.
    #[error("guest_memfd with {flags} is not to be had: {missing}")]
    Unsupported {
        /// The flags that were asked for and are not there.
        flags: Flags,
        /// What is missing.
        missing: Missing,
    },
    /// `KVM_CREATE_GUEST_MEMFD` failed.
    #[error("KVM_CREATE_GUEST_MEMFD of {size} bytes with {flags}: {source}")]
    Create {
        /// In bytes.
        size: u64,
        /// As passed.
        flags: Flags,
        /// The errno.
        source: kvm_ioctls::Error,
    },
    /// The new descriptor could not be made close-on-exec.
    #[error("fcntl(F_SETFD, FD_CLOEXEC) on a guest_memfd: {0}")]
    Cloexec(std::io::Error),
    /// There are no huge pages for this memory.
    #[error("guest memory in huge pages is not possible: {0}")]
    NoHugePages(&'static str),
    /// Not all memory could be allocated.
    #[error(
        "only {} of {} MiB of guest memory could be allocated: {source}", done >> 20, size >> 20
    )]
    Allocate {
        /// In bytes; more may be allocated.
        done: u64,
        /// In bytes.
        size: u64,
        /// The errno.
        source: std::io::Error,
    },
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
    /// Ranges of guest memory are empty, overlap, are not in ascending order, or more than there
    /// are addresses.
    #[error("these ranges cannot be a guest's memory: {0}")]
    Ranges(String),
    /// Something to be put into guest memory does not fit there.
    #[error("{len} bytes do not fit into guest memory at {:#x}: {source}", addr.0)]
    Access {
        /// Where in the guest.
        addr: GuestAddress,
        /// In bytes.
        len: u64,
        /// What vm-memory says.
        source: vm_memory::GuestMemoryError,
    },
    /// What was to be put into guest memory could not be read.
    #[error("reading what goes to guest memory at {:#x}: {source}", addr.0)]
    Read {
        /// Where in the guest it would have gone.
        addr: GuestAddress,
        /// The errno.
        source: std::io::Error,
    },
}
