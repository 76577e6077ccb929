// SPDX-License-Identifier: GPL-2.0

//! Hardware errors in memory, and memory that goes back to the host.

use crate::{
    boundary,
    invalidate,
    memory::{
        GuestMemfd,
        Memory, //
    }, //
};
use core::ops::Range;
use kernel::{
    fs::inode::Inode,
    mm::aops::{
        AddressSpaceOperations,
        FreedFolio, //
    }, //
};

/// Unmaps `pages` from guests, which have an error, and stay in the file until they are removed.
///
/// Context: with no folio locked.
pub(crate) fn unmap(inode: &Inode<Memory>, pages: Range<usize>) {
    let locked = inode.invalidate_lock_shared();

    drop(invalidate::start(inode, &locked, pages));
}

impl AddressSpaceOperations for GuestMemfd {
    type Inode = Memory;

    const FREES_FOLIOS: bool = cfg!(CONFIG_HAVE_KVM_ARCH_GMEM_RECLAIM);

    /// What becomes of the range is for userspace to decide. A guest that touches the page again
    /// has KVM find out, which tells the VMM.
    fn memory_failure(inode: &Inode<Memory>, pages: Range<usize>) {
        // Punching a hole waits for the folio, which is locked here, and has this lock.
        match inode.try_invalidate_lock_shared() {
            Some(locked) => drop(invalidate::start(inode, &locked, pages)),
            None => boundary::defer_memory_failure(inode, pages),
        }
    }

    fn free_folio(folio: FreedFolio) {
        boundary::reclaim(&folio);
    }
}
