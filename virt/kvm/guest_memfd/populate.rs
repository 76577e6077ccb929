// SPDX-License-Identifier: GPL-2.0

//! The first contents of private memory.

use crate::{
    boundary::{
        is_private,
        Slot,
        UserPage,
        Vm, //
    },
    guest_fault::lock_folio,
    memory::GuestMemfd, //
};
use kernel::{
    current,
    fs::operations::OpenFile,
    page::PAGE_SIZE,
    prelude::*, //
};

/// What is to be put where.
pub(crate) struct Source {
    /// Address of the first page in userspace, aligned; 0 for none.
    pub(crate) address: usize,
    /// Whether the architecture may write to the pages there.
    pub(crate) writable: bool,
}

/// Has `post_populate` fill up to `count` pages from `first`, which is in `slot`, with the source
/// page of each.
///
/// Returns how many it has filled. The caller holds `slots_lock`.
///
/// # Errors
///
/// If not even one is filled: `EINVAL` if the memory is not private; `EFAULT` if the file is being
/// closed or the source is not there; `EINTR`; those of [`lock_folio`] and of `post_populate`.
pub(crate) fn populate(
    vm: &Vm,
    slot: &Slot,
    first: u64,
    source: Source,
    count: usize,
    mut post_populate: impl FnMut(u64, usize, Option<&UserPage>) -> Result,
) -> Result<usize> {
    let file = slot.file().ok_or(EFAULT)?;
    let place = slot.placement();
    let count = count.min(place.pages().end.saturating_sub(place.index(first)));

    for done in 0..count {
        let gfn = first.wrapping_add(done as u64);
        let filled = populate_page(vm, slot, &file, gfn, &source, done, &mut post_populate);

        match filled {
            Ok(()) => {}
            Err(err) if done == 0 => return Err(err),
            Err(_) => return Ok(done),
        }
    }
    Ok(count)
}

fn populate_page(
    vm: &Vm,
    slot: &Slot,
    file: &OpenFile<GuestMemfd>,
    gfn: u64,
    source: &Source,
    done: usize,
    post_populate: &mut impl FnMut(u64, usize, Option<&UserPage>) -> Result,
) -> Result {
    if current!().signal_pending() {
        return Err(EINTR);
    }

    let page = match source.address {
        0 => None,
        address => {
            let address = address.wrapping_add(done.wrapping_mul(PAGE_SIZE));
            Some(UserPage::get(address, source.writable)?)
        }
    };

    let _locked = file.inode().invalidate_lock();
    let (index, folio) = lock_folio(file, slot, gfn)?;
    let pfn = folio.pfn_at(index);
    // Nothing removes it: that takes the lock that we hold.
    let _folio = folio.unlock();

    if !is_private(vm, gfn) {
        return Err(EINVAL);
    }
    post_populate(gfn, pfn, page.as_ref())
}
