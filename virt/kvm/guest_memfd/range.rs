// SPDX-License-Identifier: GPL-2.0

//! Ranges of a file in bytes and in pages, and of guest frame numbers.
//!
//! The numbers come from userspace: nothing here overflows, whatever they are.

use core::ops::Range;
use kernel::{
    bindings::loff_t,
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*, //
};

/// Returns the size of a file, in bytes, if a guest_memfd can have it.
///
/// # Errors
///
/// `EINVAL` if it is zero, more than a file can have, or not a multiple of the page size.
pub(crate) fn file_size(size: u64) -> Result<loff_t> {
    let size = loff_t::try_from(size).map_err(|_| EINVAL)?;

    if size == 0 || !is_aligned(size as u64) {
        return Err(EINVAL);
    }
    Ok(size)
}

/// Is this number of bytes a number of pages?
pub(crate) fn is_aligned(bytes: u64) -> bool {
    bytes & (PAGE_SIZE as u64 - 1) == 0
}

/// Returns the pages of `offset..offset + len`, in bytes.
///
/// # Errors
///
/// `EINVAL` if one of them is not a multiple of the page size, or they are no range of a file.
pub(crate) fn pages(offset: loff_t, len: loff_t) -> Result<Range<usize>> {
    let end = offset.checked_add(len).ok_or(EINVAL)?;

    if offset < 0 || len < 0 || !is_aligned(offset as u64) || !is_aligned(len as u64) {
        return Err(EINVAL);
    }
    Ok((offset as usize >> PAGE_SHIFT)..(end as usize >> PAGE_SHIFT))
}

/// Returns how many pages a file of `size` bytes has.
pub(crate) fn page_count(size: loff_t) -> usize {
    size.max(0) as usize >> PAGE_SHIFT
}

/// Where a memslot's memory is.
#[derive(Clone, Copy)]
pub(crate) struct Placement {
    /// The first guest frame number.
    pub(crate) base_gfn: u64,
    /// The first page of the file.
    pub(crate) first: usize,
    /// The number of pages.
    pub(crate) count: usize,
}

impl Placement {
    /// Returns the pages of the file.
    ///
    /// What is bound is within a file, so the end is a number.
    pub(crate) fn pages(self) -> Range<usize> {
        self.first..self.first.saturating_add(self.count)
    }

    /// Returns the page of the file behind `gfn`, which is in the memslot.
    pub(crate) fn index(self, gfn: u64) -> usize {
        self.first
            .wrapping_add(gfn.wrapping_sub(self.base_gfn) as usize)
    }

    /// Returns the guest frame numbers of those of the `pages` that are in the memslot.
    pub(crate) fn gfns(self, pages: &Range<usize>) -> Range<u64> {
        let own = self.pages();
        let start = pages.start.clamp(own.start, own.end);
        let end = pages.end.clamp(start, own.end);
        let gfn = |index: usize| {
            self.base_gfn
                .wrapping_add(index.wrapping_sub(self.first) as u64)
        };

        gfn(start)..gfn(end)
    }
}

#[cfg(CONFIG_KVM_GUEST_MEMFD_RUST_KUNIT_TEST)]
#[kunit_tests(guest_memfd_range)]
mod tests {
    use super::*;

    const PAGE: loff_t = PAGE_SIZE as loff_t;

    #[test]
    fn sizes() {
        assert_eq!(file_size(PAGE_SIZE as u64).unwrap_or(0), PAGE);
        for size in [
            0,
            1,
            PAGE_SIZE as u64 - 1,
            PAGE_SIZE as u64 + 1,
            1 << 63,
            u64::MAX,
        ] {
            assert!(file_size(size).is_err());
        }
    }

    #[test]
    fn bytes_to_pages() {
        assert!(pages(0, PAGE) == Ok(0..1));
        assert!(pages(3 * PAGE, 2 * PAGE) == Ok(3..5));
        for (offset, len) in [(1, PAGE), (0, PAGE - 1), (-PAGE, PAGE), (0, -PAGE)] {
            assert!(pages(offset, len) == Err(EINVAL));
        }
        assert!(pages(loff_t::MAX & !(PAGE - 1), PAGE) == Err(EINVAL));
    }

    #[test]
    fn gfns_are_cut_to_the_memslot() {
        let slot = Placement {
            base_gfn: 0x100,
            first: 10,
            count: 5,
        };

        assert_eq!(slot.pages(), 10..15);
        assert_eq!(slot.index(0x102), 12);
        assert_eq!(slot.gfns(&(0..usize::MAX)), 0x100..0x105);
        assert_eq!(slot.gfns(&(12..13)), 0x102..0x103);
        assert_eq!(slot.gfns(&(0..11)), 0x100..0x101);
        assert_eq!(slot.gfns(&(14..100)), 0x104..0x105);
        assert!(slot.gfns(&(0..10)).is_empty());
        assert!(slot.gfns(&(15..20)).is_empty());
    }

    #[test]
    fn nothing_overflows() {
        let slot = Placement {
            base_gfn: u64::MAX,
            first: usize::MAX - 1,
            count: usize::MAX,
        };

        assert_eq!(slot.pages(), usize::MAX - 1..usize::MAX);
        let gfns = slot.gfns(&(0..usize::MAX));
        assert_eq!((gfns.start, gfns.end), (u64::MAX, 0));
        assert_eq!(slot.index(0), usize::MAX);
    }
}
