// SPDX-License-Identifier: GPL-2.0

//! What the page cache calls about folios, by their owner's code.
//!
//! There is an example at [`fs::pseudo`](crate::fs::pseudo).
//!
//! C header: [`include/linux/fs.h`](srctree/include/linux/fs.h)

use crate::{
    bindings,
    fs::inode::{
        Inode,
        InodeData, //
    },
    mm::folio::pages_of_order,
    prelude::*,
    warn_on, //
};
use core::{
    marker::PhantomData,
    ops::Range, //
};

/// What the page cache calls about the folios of one kind of inode.
pub trait AddressSpaceOperations: Sized + 'static {
    /// What these inodes carry.
    type Inode: InodeData;

    /// Whether [`free_folio`](Self::free_folio) does anything.
    const FREES_FOLIOS: bool;

    /// The memory at the pages `range` has an error. The folio stays where it is, for whoever
    /// touches it next to find out.
    ///
    /// Context: with the folio locked. Truncation waits for folios with the `invalidate_lock` held,
    /// so do not wait for that lock.
    fn memory_failure(inode: &Inode<Self::Inode>, range: Range<usize>);

    /// A folio was removed, and nobody has it any more.
    ///
    /// Context: may not sleep.
    fn free_folio(folio: FreedFolio);
}

/// Where a folio was that is about to be free, and that nobody has any more.
pub struct FreedFolio {
    pfn: usize,
    pages: usize,
}

impl FreedFolio {
    /// Returns the page frame number of the first page.
    #[inline]
    pub fn pfn(&self) -> usize {
        self.pfn
    }

    /// Returns the number of pages.
    #[inline]
    pub fn pages(&self) -> usize {
        self.pages
    }
}

/// The operations `A`, for C.
pub(crate) struct AopsTable<A>(PhantomData<A>);

impl<A: AddressSpaceOperations> AopsTable<A> {
    pub(crate) const TABLE: &'static bindings::address_space_operations =
        &bindings::address_space_operations {
            dirty_folio: Some(bindings::noop_dirty_folio),
            migrate_folio: Some(refuse_migrate),
            error_remove_folio: Some(error_remove_folio::<A>),
            free_folio: if A::FREES_FOLIOS {
                Some(free_folio::<A>)
            } else {
                None
            },
            ..pin_init::zeroed()
        };
}

/// # Safety
///
/// None is needed. The page cache's type of this is that of an unsafe function.
unsafe extern "C" fn refuse_migrate(
    _mapping: *mut bindings::address_space,
    _dst: *mut bindings::folio,
    _src: *mut bindings::folio,
    _mode: bindings::migrate_mode,
) -> c_int {
    warn_on!(true);
    EINVAL.to_errno()
}

/// # Safety
///
/// The folio is valid, locked, and in that mapping, which is that of an [`Inode<A::Inode>`].
unsafe extern "C" fn error_remove_folio<A: AddressSpaceOperations>(
    mapping: *mut bindings::address_space,
    folio: *mut bindings::folio,
) -> c_int {
    // SAFETY: By the safety requirements.
    let (inode, first, order) = unsafe {
        (
            Inode::from_raw((*mapping).host),
            bindings::folio_pgoff(folio),
            bindings::folio_order(folio),
        )
    };

    A::memory_failure(inode, first..first.saturating_add(pages_of_order(order)));
    bindings::mf_result_MF_DELAYED as c_int
}

/// # Safety
///
/// The folio is valid.
unsafe extern "C" fn free_folio<A: AddressSpaceOperations>(folio: *mut bindings::folio) {
    // SAFETY: By the safety requirements.
    let (pfn, order) = unsafe { (bindings::folio_pfn(folio), bindings::folio_order(folio)) };

    A::free_folio(FreedFolio {
        pfn,
        pages: pages_of_order(order),
    });
}
