// SPDX-License-Identifier: GPL-2.0

//! Userspace mappings of a file, and page faults in them.

use crate::{
    flags::Flag,
    inode::{
        self,
        Memory, //
    },
    range, //
};
use kernel::{
    fs::inode::Inode,
    mm::{
        folio::LockedFolio,
        pgoff::{
            Order,
            PageIndex, //
        }, //
    },
    prelude::*, //
};

/// Checks whether userspace may map the file.
///
/// A file that can be mapped may still be private to the guest. Then each access is a SIGBUS.
///
/// # Errors
///
/// `ENODEV` if the file was created without `GUEST_MEMFD_FLAG_MMAP`.
pub(crate) fn mmap(inode: &Inode<Memory>) -> Result {
    if !inode.data().has(Flag::Mmap) {
        return Err(ENODEV);
    }
    Ok(())
}

/// Returns the folio to be mapped at `index`.
///
/// # Errors
///
/// `EFAULT` (SIGBUS) beyond the end of the file, for memory that is private to the guest, and if
/// there is no memory for a large folio; `ENOMEM`.
pub(crate) fn fault(inode: &Inode<Memory>, index: PageIndex) -> Result<LockedFolio<'_>> {
    let in_file = range::file_pages(inode.size()).contains(index);

    if !in_file || !inode.data().has(Flag::InitShared) {
        return Err(EFAULT);
    }
    match inode::get_folio(inode, index) {
        Ok(folio) => Ok(folio),
        // Without memory for a large folio, no task is killed, and the fault would be repeated.
        Err(_) if inode.data().order() != Order::PAGE => Err(EFAULT),
        Err(err) => Err(err),
    }
}
