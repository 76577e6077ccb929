// SPDX-License-Identifier: GPL-2.0

//! guest_memfd: the memory of guests, behind a file descriptor.
//!
//! The same as [`virt/kvm/guest_memfd.c`](srctree/virt/kvm/guest_memfd.c), for the same callers
//! ([`virt/kvm/guest_memfd.h`](srctree/virt/kvm/guest_memfd.h)). What this adds is that the
//! compiler knows which folio the kernel may look into: a [`NewFolio`], which is in no page cache.
//! All that this crate gets back from the page cache is a [`LockedFolio`] or a [`Folio`], which
//! have no way to the contents.
//!
//! An inode is the memory. An open file is how one virtual machine sees it, with the memslots that
//! are bound to parts of it.
//!
//! # Lock order
//!
//! ```text
//! kvm->slots_lock                     binding, unbinding, closing, populating
//!   mapping->invalidate_lock          who changes bindings or removes folios has it for writing,
//!                                     who adds folios to order, or walks bindings, for reading
//!     folio lock                      one at a time; a batch of new ones
//!     kvm->gpc_aliases.lock           unmapping from KVM itself
//!     kvm->mmu_lock                   unmapping from guests
//!       Bindings' own spinlock        one lookup or change
//! ```
//!
//! A page fault, of userspace or of a guest, takes only the folio lock, and the bindings' own.
//! Memory failure comes with the folio locked, and does not wait for `invalidate_lock`: if that is
//! not free, a work item takes it later, with no folio locked.
//!
//! [`Folio`]: kernel::mm::folio::Folio
//! [`LockedFolio`]: kernel::mm::folio::LockedFolio
//! [`NewFolio`]: kernel::mm::folio::NewFolio

#![crate_name = "guest_memfd"]

/// The name in the kernel log, as `module!` would define it.
#[allow(dead_code)]
const __LOG_PREFIX: &[u8] = b"kvm\0";

mod bindings;
mod boundary;
mod fallocate;
mod flags;
mod guest_fault;
mod invalidate;
mod memory;
mod memory_failure;
#[cfg(CONFIG_HAVE_KVM_ARCH_GMEM_POPULATE)]
mod populate;
mod range;
mod user_fault;
