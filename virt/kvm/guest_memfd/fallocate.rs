// SPDX-License-Identifier: GPL-2.0

//! Allocating memory before it is used, and giving it back.

use crate::{
    invalidate,
    memory::{
        alloc_folio,
        get_folio,
        Memory, //
    },
    range, //
};
use core::ops::Range;
use kernel::{
    bindings::{
        loff_t,
        FALLOC_FL_KEEP_SIZE,
        FALLOC_FL_PUNCH_HOLE, //
    },
    current,
    fs::inode::Inode,
    mm::address_space::FolioBatch,
    prelude::*,
    task::cond_resched, //
};

/// `fallocate(2)`; `offset` and `len` in bytes.
///
/// # Errors
///
/// `EOPNOTSUPP` for a mode that does not keep the size, or does something else than to allocate or
/// to punch a hole; `EINVAL` if the range is not one of whole pages, or, to allocate, not within
/// the file; `ENOMEM`; `EINTR` after a part was allocated.
pub(crate) fn fallocate(inode: &Inode<Memory>, mode: u32, offset: loff_t, len: loff_t) -> Result {
    if mode & FALLOC_FL_KEEP_SIZE == 0 || mode & !(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE) != 0
    {
        return Err(EOPNOTSUPP);
    }
    let pages = range::pages(offset, len)?;

    if mode & FALLOC_FL_PUNCH_HOLE != 0 {
        punch_hole(inode, pages);
        return Ok(());
    }
    if pages.end > range::page_count(inode.size()) {
        return Err(EINVAL);
    }
    allocate(inode, pages)
}

fn punch_hole(inode: &Inode<Memory>, pages: Range<usize>) {
    let locked = inode.invalidate_lock();
    let invalidation = invalidate::start(inode, &locked, pages.clone());

    locked.truncate(pages);

    drop(invalidation);
}

fn allocate(inode: &Inode<Memory>, pages: Range<usize>) -> Result {
    // Nothing of it is punched before all of it is there.
    let _locked = inode.invalidate_lock_shared();
    let mut index = pages.start;

    while index < pages.end {
        if current!().signal_pending() {
            return Err(EINTR);
        }

        index = if inode.mapping().no_direct_map() {
            allocate_batch(inode, index..pages.end)?
        } else {
            get_folio(inode, index)?.next_index()
        };
        cond_resched();
    }
    Ok(())
}

/// Fills holes in the `pages`, as many as one batch takes, and returns where to go on.
fn allocate_batch(inode: &Inode<Memory>, mut pages: Range<usize>) -> Result<usize> {
    /// Where all is there already, a batch would never be full.
    const MOST: usize = 512;

    let mapping = inode.mapping();
    let mut batch = FolioBatch::new();
    let mut result = Ok(());
    pages.end = pages.end.min(pages.start.saturating_add(MOST));

    while !pages.is_empty() && !batch.is_full() {
        let index = pages.start;

        if !mapping.contains(index) {
            match alloc_folio(inode, index) {
                Ok(folio) => batch.push(folio, index)?,
                Err(err) => {
                    result = Err(err);
                    break;
                }
            }
        }
        pages.start = index.saturating_add(1);
    }

    // What there was memory for is inserted in any case.
    mapping.insert_batch(&mut batch)?;
    result?;
    Ok(pages.start)
}
