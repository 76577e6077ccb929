// SPDX-License-Identifier: GPL-2.0

//! Sizes of files, guest frame numbers, and the ranges of memslots.
//!
//! The numbers come from userspace: no operation overflows or panics.

use core::ops::Range;
use kernel::{
    bindings::GMEM_PMD_ORDER,
    fs::file::Offset,
    mm::pgoff::{
        Order,
        PageIndex,
        PageRange, //
    },
    prelude::*, //
};

/// The order of a PMD.
const PMD_ORDER: u64 = GMEM_PMD_ORDER as u64;

/// A guest frame number, `gfn_t`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Gfn(u64);

impl Gfn {
    /// Creates a guest frame number.
    pub(crate) fn new(gfn: u64) -> Self {
        Self(gfn)
    }

    /// Returns the number.
    pub(crate) fn as_u64(self) -> u64 {
        self.0
    }

    /// Returns the guest frame number `count` pages further on.
    pub(crate) fn wrapping_add(self, count: usize) -> Self {
        Self(self.0.wrapping_add(count as u64))
    }
}

/// Returns the order of a new file's folios, by the number `order`.
///
/// # Errors
///
/// `EINVAL` if it is not that of a page, or of a PMD.
pub(crate) fn file_order(order: u64) -> Result<Order> {
    match order {
        0 => Ok(Order::PAGE),
        PMD_ORDER => Order::new(PMD_ORDER as u32).ok_or(EINVAL),
        _ => Err(EINVAL),
    }
}

/// Returns the size of a new file with folios of this order, in bytes.
///
/// # Errors
///
/// `EINVAL` if `size` is zero, larger than a file can be, or not a multiple of the folios' size.
pub(crate) fn file_size(size: u64, order: Order) -> Result<Offset> {
    let size = Offset::try_from(size).map_err(|_| EINVAL)?;
    let end = PageIndex::from_offset(size).ok_or(EINVAL)?;

    if size == 0 || !end.is_aligned(order) {
        return Err(EINVAL);
    }
    Ok(size)
}

/// Returns the pages of a file of `size` bytes.
pub(crate) fn file_pages(size: Offset) -> PageRange {
    PageRange::from_bytes(0, size).unwrap_or(PageRange::from(0..0))
}

/// The guest frame numbers of a memslot, and as many pages of its file, which are behind them.
#[derive(Clone, Copy)]
pub(crate) struct Placement {
    /// The first guest frame number.
    pub(crate) base_gfn: Gfn,
    /// The pages of the file.
    pub(crate) pages: PageRange,
}

impl Placement {
    /// Returns the page of the file behind `gfn`, which is in the memslot.
    pub(crate) fn index(self, gfn: Gfn) -> PageIndex {
        let distance = gfn.0.wrapping_sub(self.base_gfn.0) as usize;

        PageIndex::new(self.pages.start().as_usize().wrapping_add(distance))
    }

    /// Returns the guest frame numbers of those of the `pages` that are in the memslot.
    pub(crate) fn gfns(self, pages: PageRange) -> Range<Gfn> {
        let pages = self.pages.intersection(pages);
        let skipped = pages
            .start()
            .as_usize()
            .wrapping_sub(self.pages.start().as_usize());
        let start = self.base_gfn.wrapping_add(skipped);

        start..start.wrapping_add(pages.len())
    }
}

#[cfg(CONFIG_KVM_GUEST_MEMFD_RUST_KUNIT_TEST)]
#[kunit_tests(guest_memfd_range)]
mod tests {
    use super::*;
    use kernel::page::PAGE_SIZE;

    #[test]
    fn sizes() {
        assert_eq!(
            file_size(PAGE_SIZE as u64, Order::PAGE).unwrap_or(0),
            PAGE_SIZE as Offset
        );
        assert_eq!(file_pages(3 * PAGE_SIZE as Offset), PageRange::from(0..3));
        for size in [
            0,
            1,
            PAGE_SIZE as u64 - 1,
            PAGE_SIZE as u64 + 1,
            1 << 63,
            u64::MAX,
        ] {
            assert!(file_size(size, Order::PAGE).is_err());
        }
    }

    #[test]
    fn files_have_one_of_two_orders() {
        let order = |number| file_order(number).map_or(u32::MAX, Order::as_u32);
        let size = |pages: u64| {
            let order = file_order(PMD_ORDER).unwrap_or(Order::PAGE);
            file_size(pages.wrapping_mul(PAGE_SIZE as u64), order).is_ok()
        };

        assert_eq!(order(0), 0);
        assert_eq!(u64::from(order(PMD_ORDER)), PMD_ORDER);
        for other in [
            1,
            PMD_ORDER - 1,
            PMD_ORDER + 1,
            PMD_ORDER | 1 << 32,
            u64::MAX,
        ] {
            assert!(file_order(other).is_err());
        }
        assert!(size(1 << PMD_ORDER));
        assert!(size(3 << PMD_ORDER));
        for pages in [
            0,
            1,
            (1 << PMD_ORDER) - 1,
            (1 << PMD_ORDER) + 1,
            1 << (PMD_ORDER - 1),
        ] {
            assert!(!size(pages));
        }
    }

    #[test]
    fn gfns_are_cut_to_the_memslot() {
        let slot = Placement {
            base_gfn: Gfn(0x100),
            pages: PageRange::from(10..15),
        };
        let gfns = |pages: Range<usize>| slot.gfns(PageRange::from(pages));

        assert_eq!(slot.index(Gfn(0x102)), PageIndex::new(12));
        assert_eq!(gfns(0..usize::MAX), Gfn(0x100)..Gfn(0x105));
        assert_eq!(gfns(12..13), Gfn(0x102)..Gfn(0x103));
        assert_eq!(gfns(0..11), Gfn(0x100)..Gfn(0x101));
        assert_eq!(gfns(14..100), Gfn(0x104)..Gfn(0x105));
        assert!(gfns(0..10).is_empty());
        assert!(gfns(15..20).is_empty());
    }

    #[test]
    fn nothing_overflows() {
        let slot = Placement {
            base_gfn: Gfn(u64::MAX),
            pages: PageRange::new(PageIndex::new(usize::MAX - 1), usize::MAX),
        };

        assert_eq!(slot.pages, PageRange::from(usize::MAX - 1..usize::MAX));
        assert_eq!(slot.gfns(PageRange::ALL), Gfn(u64::MAX)..Gfn(0));
        assert_eq!(slot.index(Gfn(0)), PageIndex::new(usize::MAX));
    }
}
