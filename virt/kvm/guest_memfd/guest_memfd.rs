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
//! KVM maps pages into stage 2 without a reference to the folio. For its own access it maps some
//! pages with a `gfn_to_pfn_cache`. Neither may be used after a page left the file, and two
//! protocols ensure that. A guest fault retries if its page was unmapped after the fault began to
//! look it up ([`kvm`], "Invalidation"). Folios are removed only after their pages were unmapped,
//! and while they cannot be mapped again ([`kernel::fs::inode`], "Removing folios").
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
//!   `kvm_gmem_get_pfn()`: [`guest_fault::get_pfn`], which checks, without a lock, that the memslot
//!   is still bound ([`memslots::View::is_bound`]), and takes the page from [`inode::get_folio`].
//! * TDX and SNP call `kvm_gmem_populate()`: `populate::populate`.
//!
//! The VFS calls [`file::GuestMemfd`], the operations on a file:
//!
//! * `fallocate()`: [`fallocate::fallocate`], which also punches holes: under the `invalidate_lock`
//!   it unmaps the pages from stage 2 and then from `gfn_to_pfn_cache`s ([`invalidate::unmap`]),
//!   removes the folios (`kvm::reclaim` for each), and then lets guests map the pages again;
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
//! | `Memory::alloc_locks`      | adding a large folio          | -                             |
//! | folio lock                 | adding, finding and removing  | -                             |
//! |                            | a folio                       |                               |
//! | `kvm->gpc_aliases.lock`    | unmapping from a              | -                             |
//! |                            | `gfn_to_pfn_cache`            |                               |
//! | `kvm->mmu_lock`            | unmapping from stage 2        | -                             |
//! | the maple tree's, in       | binding, unbinding, going     | -                             |
//! | [`memslots`]               | over the memslots of a range  |                               |
//!
//! The `invalidate_lock` protects the bindings ([`memslots::Files`]). Unmapping pages reads them
//! under it; guest faults read them without a lock. The maple tree's lock is taken within it,
//! for single accesses.
//!
//! A page fault takes the folio lock only, and for a new large folio one of `alloc_locks`. The
//! caller of a userspace fault holds the mmap lock or the VMA lock. The caller of a guest fault
//! holds `kvm->srcu` or `slots_lock`, and takes `mmu_lock` when it has the page, after the folio
//! was unlocked.
//!
//! Memory failure calls with the folio lock held, but the `invalidate_lock`, which unmapping from
//! guests needs, comes before that. So it only tries to take it; if that fails, a work item unmaps
//! the page.
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
