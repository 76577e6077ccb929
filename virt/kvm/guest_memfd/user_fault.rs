// SPDX-License-Identifier: GPL-2.0

//! Page faults of userspace.

use crate::{
    memory::{
        get_folio,
        Memory, //
    },
    range, //
};
use kernel::{
    fs::inode::Inode,
    mm::folio::LockedFolio,
    prelude::*, //
};

/// Returns the folio at `index`, in pages.
///
/// # Errors
///
/// `EFAULT` (SIGBUS) past the end of the file, and for memory that is private to the guest;
/// `ENOMEM`.
pub(crate) fn fault(inode: &Inode<Memory>, index: usize) -> Result<LockedFolio<'_>> {
    if index >= range::page_count(inode.size()) || !inode.data().flags().is_shared() {
        return Err(EFAULT);
    }
    get_folio(inode, index)
}
