// SPDX-License-Identifier: GPL-2.0

//! `fallocate(2)`: allocating memory before it is used, and punching holes.

use crate::{
    inode::{
        alloc_folio,
        get_folio,
        Memory, //
    },
    range, //
};
use kernel::{
    bindings::{
        FALLOC_FL_KEEP_SIZE,
        FALLOC_FL_PUNCH_HOLE, //
    },
    current,
    fs::{
        file::Offset,
        inode::Inode, //
    },
    mm::{
        address_space::FolioBatch,
        pgoff::{
            Order,
            PageIndex,
            PageRange, //
        }, //
    },
    prelude::*,
    task::cond_resched, //
};

/// `fallocate(2)`; `offset` and `len` in bytes.
///
/// # Errors
///
/// `EOPNOTSUPP` for a mode without `FALLOC_FL_KEEP_SIZE`, or with a flag besides that and
/// `FALLOC_FL_PUNCH_HOLE`; `EINVAL` if the range is not one of whole folios, or, when allocating,
/// not within the file; `ENOMEM`; `EINTR` for a signal. Of a range that is allocated with an error,
/// a part may have been allocated.
pub(crate) fn fallocate(inode: &Inode<Memory>, mode: u32, offset: Offset, len: Offset) -> Result {
    if mode & FALLOC_FL_KEEP_SIZE == 0 || mode & !(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE) != 0
    {
        return Err(EOPNOTSUPP);
    }
    let pages = PageRange::from_bytes(offset, len).ok_or(EINVAL)?;
    if !pages.is_aligned(inode.data().order()) {
        return Err(EINVAL);
    }

    if mode & FALLOC_FL_PUNCH_HOLE != 0 {
        inode.invalidate_lock().unmap(pages).remove_folios();
        return Ok(());
    }
    if pages.end() > range::file_pages(inode.size()).end() {
        return Err(EINVAL);
    }
    allocate(inode, pages)
}

/// Allocates all `pages` that have no folio.
fn allocate(inode: &Inode<Memory>, mut pages: PageRange) -> Result {
    // No hole is punched in the range before all of it is allocated.
    let _locked = inode.invalidate_lock_shared();

    while !pages.is_empty() {
        if current!().signal_pending() {
            return Err(EINTR);
        }

        let next = if inode.mapping().no_direct_map() && inode.data().order() == Order::PAGE {
            allocate_batch(inode, pages)?
        } else {
            get_folio(inode, pages.start())?.pages().end()
        };
        pages = pages.tail(next);
        cond_resched();
    }
    Ok(())
}

/// Allocates some of the `pages`, as many as fit into one batch, and returns where to go on.
fn allocate_batch(inode: &Inode<Memory>, mut pages: PageRange) -> Result<PageIndex> {
    /// The most pages to look at: if each has a folio already, the batch never becomes full.
    const MOST: usize = 512;

    let mapping = inode.mapping();
    let mut batch = FolioBatch::new();
    let mut result = Ok(());
    pages = pages.intersection(PageRange::new(pages.start(), MOST));

    while !pages.is_empty() && !batch.is_full() {
        let index = pages.start();

        if !mapping.has_folio(index) {
            match alloc_folio(inode, index) {
                Ok(folio) => batch.push(folio, index)?,
                Err(err) => {
                    result = Err(err);
                    break;
                }
            }
        }
        pages = pages.tail(index.saturating_add(1));
    }

    // Add those for which there was memory, in any case.
    mapping.add_batch(&mut batch)?;
    result?;
    Ok(pages.start())
}
