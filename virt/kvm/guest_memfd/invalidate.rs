// SPDX-License-Identifier: GPL-2.0

//! Unmapping from guests, and keeping them from mapping again for the moment.

use crate::{
    bindings::BoundView,
    boundary::Invalidation,
    memory::Memory, //
};
use core::ops::Range;
use kernel::fs::inode::Inode;

/// Unmaps the `pages` of `inode` from guests, and from what KVM itself reaches guest memory by.
///
/// They cannot be mapped again until the result is dropped. [`None`] if no memslot has any of them.
/// `view` comes from a guard of the `invalidate_lock`, and the result must not outlive that: so
/// nothing is bound meanwhile.
pub(crate) fn start<'a>(
    inode: &Inode<Memory>,
    view: &'a Option<BoundView>,
    pages: Range<usize>,
) -> Option<Invalidation<'a>> {
    let view = view.as_ref()?;
    let private = !inode.data().flags().is_shared();
    let mut slots = view.slots(pages.clone());
    let first = slots.next()?;

    let mut unmapping = view.vm().start_invalidation();
    for slot in core::iter::once(first).chain(slots) {
        unmapping.unmap(slot, slot.placement().gfns(&pages), private);
    }
    let invalidation = unmapping.finish();
    view.vm().unmap_aliases(inode, pages);
    Some(invalidation)
}
