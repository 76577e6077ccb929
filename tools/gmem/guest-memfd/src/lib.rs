// SPDX-License-Identifier: Apache-2.0 OR MIT

//! guest_memfd for VMMs built on [`kvm_ioctls`] and [`vm_memory`]: guest memory that the host
//! kernel has no mapping of, so that it cannot read it, not even speculatively.
//!
//! # A guest's memory
//!
//! [`probe`] says whether the host can do it, and if not, why not. [`GuestRam`] is all memory of
//! an ordinary guest, ready to be used: a guest_memfd, the VMM's mapping of it, and the memslots.
//!
//! ```no_run
//! use std::{fs::File, sync::Arc};
//!
//! use guest_memfd::{GUEST_MEMFD_FLAG_NO_DIRECT_MAP, GuestRam};
//! use kvm_ioctls::Kvm;
//! use vm_memory::GuestAddress;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let vm = Arc::new(Kvm::new()?.create_vm()?);
//! let ranges = [(GuestAddress(0), 256 << 20)];
//! let ram = GuestRam::create(&vm, &ranges, GUEST_MEMFD_FLAG_NO_DIRECT_MAP)?;
//! ram.load(GuestAddress(0x10_0000), File::open("program")?)?;
//! // Devices get `ram.memory().clone()`, and vCPUs run.
//! # Ok(())
//! # }
//! ```
//!
//! [`GuestMemfd`] is the file by itself, for a VMM that has an order of its own.
//!
//! # What to know
//!
//! - Memory comes zeroed and on first touch, by the guest or the VMM. [`GuestMemfd::allocate`] is
//!   cheaper per page, since it flushes the TLBs of all CPUs once for many.
//! - Whatever takes the page rather than copying fails with `EFAULT`: `O_DIRECT`, `vmsplice()`,
//!   vfio. Block devices copy through buffers.
//! - The kernel's documentation, `Documentation/virt/kvm/no-direct-map.rst`, has the whole list;
//!   `Documentation/virt/kvm/api.rst` has `KVM_CREATE_GUEST_MEMFD`.

mod error;
mod file;
mod flags;
mod memory;

pub use crate::{
    error::Error,
    file::GuestMemfd,
    flags::{
        Flags, GUEST_MEMFD_FLAG_INIT_SHARED, GUEST_MEMFD_FLAG_MMAP, GUEST_MEMFD_FLAG_NO_DIRECT_MAP,
        GUEST_MEMFD_FLAG_PAGE_ORDER, KVM_CAP_GUEST_MEMFD_FLAGS, Missing, Support, pmd_order, probe,
        supported_flags,
    },
    memory::{GuestRam, HugePages},
};
