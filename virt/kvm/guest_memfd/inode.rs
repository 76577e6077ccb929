// SPDX-License-Identifier: GPL-2.0

//! The memory: inodes, their folios, and the file system that they are in.
//!
//! An inode is created with its size and flags, and without folios. A folio is allocated when
//! somebody needs the page: for a guest fault, a page fault of userspace, or `fallocate()`. It is
//! cleared at that point, before it is added to the page cache, because the kernel cannot write to
//! it later. It stays until a hole is punched there, or the inode is evicted.

use crate::{
    flags::{
        Flag,
        Flags, //
    },
    kvm::WhileVms,
    memslots::View, //
};
use kernel::{
    alloc::{
        self,
        flags::{
            __GFP_NOWARN,
            __GFP_RETRY_MAYFAIL,
            GFP_HIGHUSER, //
        }, //
    },
    bindings::GUEST_MEMFD_MAGIC,
    fs::{
        inode::Inode,
        pseudo::{
            Mount,
            PseudoFs,
            PseudoFsType, //
        },
        File, //
    },
    mm::{
        folio::{
            Init,
            LockedFolio,
            NewFolio, //
        },
        mempolicy::SharedPolicy,
        pgoff::{
            Order,
            PageIndex, //
        }, //
    },
    prelude::*,
    sync::{
        new_mutex,
        ArcBorrow,
        Mutex, //
    },
};
use pin_init::pin_init_array_from_fn;

/// The number of locks with which large folios are allocated.
const ALLOC_LOCKS: usize = 8;

/// The data of an inode.
#[pin_data]
pub(crate) struct Memory {
    flags: Flags,
    order: Order,
    #[pin]
    policy: SharedPolicy,
    #[pin]
    alloc_locks: [Mutex<()>; ALLOC_LOCKS],
}

impl Memory {
    /// Creates the data of an inode with these flags, and folios of this order.
    pub(crate) fn new(flags: Flags, order: Order) -> impl PinInit<Self> {
        pin_init!(Self {
            flags,
            order,
            policy <- SharedPolicy::new(),
            alloc_locks <- pin_init_array_from_fn(|_| new_mutex!((), "Memory::alloc_locks")),
        })
    }

    /// Returns whether the inode was created with `flag`.
    pub(crate) fn has(&self, flag: Flag) -> bool {
        self.flags.contains(flag)
    }

    /// Returns the flags with which folios are allocated, charged and added.
    ///
    /// No task is killed for a large folio.
    fn gfp(&self) -> alloc::Flags {
        match self.order {
            Order::PAGE => GFP,
            _ => GFP | __GFP_NOWARN | __GFP_RETRY_MAYFAIL,
        }
    }

    /// Returns the order of the folios.
    pub(crate) fn order(&self) -> Order {
        self.order
    }

    /// Returns the lock to be held while the large folio that begins at `first` is allocated.
    ///
    /// Tasks that need the same folio wait for the first one. There may be memory for no other, and
    /// each would zap it, and flush all TLBs.
    fn alloc_lock(&self, first: PageIndex) -> &Mutex<()> {
        let block = first.as_usize().wrapping_shr(self.order.as_u32());

        &self.alloc_locks[block % ALLOC_LOCKS]
    }

    /// Returns the memory policies.
    pub(crate) fn policy(&self) -> &SharedPolicy {
        &self.policy
    }
}

impl PseudoFsType for Memory {
    const NAME: &'static CStr = c"guest_memfd";
    const MAGIC: u32 = GUEST_MEMFD_MAGIC;
}

/// The file system.
pub(crate) static FS: PseudoFs<Memory> = PseudoFs::new();

/// The mount of the file system.
pub(crate) static MOUNT: WhileVms<Mount<Memory>> = WhileVms::new();

/// The flags with which folios are allocated.
pub(crate) const GFP: alloc::Flags = GFP_HIGHUSER;

/// Allocates a folio that begins at `index`, on the node that the memory policy asks for.
///
/// # Errors
///
/// `ENOMEM`. There may be no large folio although memory is free, so the allocator does not warn.
pub(crate) fn alloc_folio(inode: &Inode<Memory>, index: PageIndex) -> Result<NewFolio<Init>> {
    let memory = inode.data();

    Ok(memory
        .policy()
        .alloc_zeroed(index, memory.order(), memory.gfp())?)
}

/// Returns the folio at `index`, which is added if there is none.
///
/// # Errors
///
/// `ENOMEM`.
pub(crate) fn get_folio(inode: &Inode<Memory>, index: PageIndex) -> Result<LockedFolio<'_>> {
    let mapping = inode.mapping();
    let order = inode.data().order();
    let first = index.align_down(order);
    let mut alone = None;

    loop {
        match mapping.lock_folio(index) {
            Ok(folio) => return Ok(folio),
            Err(err) if err == ENOENT => {}
            Err(err) => return Err(err),
        }
        if order != Order::PAGE && alone.is_none() {
            alone = Some(inode.data().alloc_lock(first).lock());
            continue;
        }
        match mapping.add_folio(alloc_folio(inode, first)?, first, inode.data().gfp()) {
            Ok(folio) => return Ok(folio),
            // Another task added one meanwhile.
            Err(err) if err.error == EEXIST => {}
            Err(err) => return Err(err.error),
        }
    }
}

/// An open guest_memfd: the file, its memory, and its VM's view of the memory.
#[derive(Clone, Copy)]
pub(crate) struct Opened<'a> {
    pub(crate) file: &'a File,
    pub(crate) inode: &'a Inode<Memory>,
    pub(crate) view: ArcBorrow<'a, View>,
}
