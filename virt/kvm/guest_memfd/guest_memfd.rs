// SPDX-License-Identifier: GPL-2.0

//! guest_memfd: guest memory behind a file descriptor.
//!
//! This is [`virt/kvm/guest_memfd.c`] in Rust, with the same uAPI and the same callers. The kernel
//! must not access guest memory that is in the page cache, and here the types say so: contents can
//! be accessed in a [`NewFolio`], which is not in the page cache yet. A [`LockedFolio`], which is
//! in the page cache, and a [`Folio`] give no access to contents.
//!
//! An *inode* is the memory. An open *file* of it is one virtual machine's view of the memory: its
//! *memslots*, each bound to a range of pages.
//!
//! KVM maps pages into stage 2 without a reference to the folio. It also maps pages into
//! `gfn_to_pfn_cache`s, and must not access those after they left the file. Two protocols make that
//! safe: a guest fault retries if pages were unmapped since it asked for one
//! ([`kvm`], "Invalidation"), and folios are removed only from pages that were unmapped, and cannot
//! be mapped again meanwhile ([`kernel::fs::inode`], "Removing folios").
//!
//! # Files of this crate
//!
//! Each imports from those above it only:
//!
//! ```text
//! range          flags             sizes, guest frame numbers; the flags of the ioctl
//! kvm                              virtual machines, memslots, locks, invalidation    unsafe
//! memslots                         which memslot is bound to which pages              unsafe, once
//! inode                            the memory: folios, and the file system
//! invalidate                       unmapping pages from guests
//! guest_fault    user_fault        page faults of guests, and of userspace
//! fallocate      populate          allocating, punching holes; contents for TDX and SNP
//! memory_failure                   hardware errors
//! file                             operations, creation, binding memslots
//! exports                          kvm_gmem_*(), for C                                unsafe
//! ```
//!
//! `kvm.c` and `kvm.h` are the C side of `kvm` and `exports`.
//!
//! # Where to look
//!
//! The functions in [`exports`], by their C callers, and where they lead:
//!
//! * `kvm_init()` and `kvm_exit()` call `kvm_gmem_init()` and `kvm_gmem_exit()`, which mount and
//!   unmount [`inode::FS`], and create and destroy a workqueue.
//! * `KVM_CREATE_GUEST_MEMFD` calls `kvm_gmem_create()`: [`file::create`].
//! * `kvm_set_memory_region()` calls `kvm_gmem_prepare_memory_region()` for a new memslot, which
//!   [`file::check`]s it against its file.
//! * `kvm_set_memslot()` calls `kvm_gmem_commit_memory_region()`, which binds the memslot:
//!   [`file::bind`], [`memslots::Files::bind`].
//! * `kvm_free_memslot()` calls `kvm_gmem_unbind()`: [`file::unbind`].
//! * Stage 2 faults, `gfn_to_pfn_cache` (`pfncache_gmem.c`) and some code of the architectures call
//!   `kvm_gmem_get_pfn()`: [`guest_fault::get_pfn`], which takes the page from
//!   [`inode::get_folio`].
//! * TDX and SNP call `kvm_gmem_populate()`: `populate::populate`.
//!
//! The VFS calls [`file::GuestMemfd`], the operations on a file:
//!
//! * `fallocate()`: [`fallocate::fallocate`], which also punches holes;
//! * `mmap()` and page faults: [`user_fault`];
//! * `release()`, after the last reference to a file was put: unmaps the guest, and unbinds all
//!   memslots of the file.
//!
//! [`kernel::fs::inode`] and the page cache call [`inode::Memory`], as [`InodeData`], which is
//! implemented in [`file`](mod@file):
//!
//! * to unmap pages before folios are removed: [`invalidate::unmap`];
//! * when memory fails: [`memory_failure`];
//! * when a folio was removed: `kvm::reclaim`.
//!
//! # Locks
//!
//! The locks that this crate takes, and `slots_lock` and `slots_arch_lock`, which its callers hold.
//! From the outermost to the innermost:
//!
//! | lock                       | held for writing by           | held for reading by           |
//! |----------------------------|-------------------------------|-------------------------------|
//! | `kvm->slots_lock`          | binding, unbinding (unless    | -                             |
//! |                            | the VM is being destroyed),   |                               |
//! |                            | closing a file, populating    |                               |
//! | `kvm->slots_arch_lock`     | binding                       | -                             |
//! | `mapping->invalidate_lock` | binding, unbinding, closing a | `fallocate()` when it         |
//! |                            | file, populating, punching    | allocates, memory failure     |
//! |                            | holes                         |                               |
//! | folio lock                 | adding, finding and removing  | -                             |
//! |                            | a folio                       |                               |
//! | `kvm->gpc_aliases.lock`    | unmapping from a              | -                             |
//! |                            | `gfn_to_pfn_cache`            |                               |
//! | `kvm->mmu_lock`            | unmapping from stage 2        | -                             |
//! | the maple tree's, in       | binding, unbinding, going     | -                             |
//! | [`memslots`]               | over the memslots of a range  |                               |
//!
//! Here a page fault of userspace or of a guest takes the folio lock only. Its caller holds the
//! mmap lock or the VMA lock, or `kvm->srcu`, and takes `mmu_lock` after that.
//!
//! Memory failure holds the folio lock before it looks for guests that have the page mapped, which
//! is the wrong order. So it only tries to take the `invalidate_lock`; if that fails, a work item
//! unmaps the page.
//!
//! [`virt/kvm/guest_memfd.c`]: srctree/virt/kvm/guest_memfd.c
//! [`Folio`]: kernel::mm::folio::Folio
//! [`InodeData`]: kernel::fs::inode::InodeData
//! [`LockedFolio`]: kernel::mm::folio::LockedFolio
//! [`NewFolio`]: kernel::mm::folio::NewFolio

#![crate_name = "guest_memfd"]
// Nothing in this crate is public; its documentation is built with private items.
#![allow(rustdoc::private_intra_doc_links)]

mod exports;
mod fallocate;
mod file;
mod flags;
mod guest_fault;
mod inode;
mod invalidate;
mod kvm;
mod memory_failure;
mod memslots;
#[cfg(CONFIG_HAVE_KVM_ARCH_GMEM_POPULATE)]
mod populate;
mod range;
mod user_fault;

// `#[vtable]` looks for it here.
use kvm::LocalModule;

/// The prefix of messages in the kernel log, as `module!` would define it.
#[allow(dead_code)]
const __LOG_PREFIX: &[u8] = b"kvm\0";
