// SPDX-License-Identifier: GPL-2.0

//! Page offsets, page frame numbers and orders.
//!
//! C counts pages of a file, pages of memory and pages of a folio in `unsigned long`, so the
//! compiler does not notice when one is passed for another, or for a number of bytes. Here each has
//! its own type:
//!
//! * [`PageIndex`] is the index of a page in a file, `pgoff_t`.
//! * [`PageRange`] is a range of these.
//! * [`Pfn`] is a page frame number.
//! * [`Order`] is the order of a folio.
//!
//! The values may come from userspace: no operation overflows or panics.
//!
//! C header: [`include/linux/pagemap.h`](srctree/include/linux/pagemap.h)

use crate::{
    bindings,
    fs::file::Offset,
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    }, //
};
use core::ops::Range;

/// The index of a page in a file.
///
/// # Examples
///
/// ```
/// use kernel::{
///     mm::pgoff::{
///         Order,
///         PageIndex, //
///     },
///     page::PAGE_SIZE, //
/// };
///
/// let four_pages = Order::new(2).ok_or(EINVAL)?;
/// assert_eq!(PageIndex::new(7).align_down(four_pages), PageIndex::new(4));
/// assert_eq!(PageIndex::new(7).align_down(Order::PAGE), PageIndex::new(7));
/// assert!(PageIndex::new(8).is_aligned(four_pages));
///
/// assert_eq!(PageIndex::new(3).offset(), Some(3 * PAGE_SIZE as i64));
/// assert_eq!(PageIndex::new(usize::MAX).offset(), None);
/// assert_eq!(PageIndex::from_offset(PAGE_SIZE as i64), Some(PageIndex::new(1)));
/// assert_eq!(PageIndex::from_offset(1), None);
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(transparent)]
pub struct PageIndex(usize);

impl PageIndex {
    /// Creates an index from a number of pages.
    #[inline]
    pub const fn new(index: usize) -> Self {
        Self(index)
    }

    /// Returns the number of pages before this one.
    #[inline]
    pub const fn as_usize(self) -> usize {
        self.0
    }

    /// Returns the index of the page at `offset`, in bytes; [`None`] if `offset` is negative or not
    /// a multiple of [`PAGE_SIZE`].
    #[inline]
    pub fn from_offset(offset: Offset) -> Option<Self> {
        if offset < 0 || offset & (PAGE_SIZE as Offset - 1) != 0 {
            return None;
        }
        usize::try_from(offset >> PAGE_SHIFT).ok().map(Self)
    }

    /// Returns the offset in bytes; [`None`] if no file can be that long.
    #[inline]
    pub fn offset(self) -> Option<Offset> {
        Offset::try_from(self.0)
            .ok()?
            .checked_mul(PAGE_SIZE as Offset)
    }

    /// Returns the index `count` pages further on, or the last one that a `pgoff_t` can hold.
    #[inline]
    pub fn saturating_add(self, count: usize) -> Self {
        Self(self.0.saturating_add(count))
    }

    /// Returns whether a folio of this order can begin here.
    #[inline]
    pub fn is_aligned(self, order: Order) -> bool {
        self.0 & order.nr_pages().wrapping_sub(1) == 0
    }

    /// Returns where the folio of this order begins that has this page.
    #[inline]
    pub fn align_down(self, order: Order) -> Self {
        Self(self.0 & !order.nr_pages().wrapping_sub(1))
    }
}

/// A range of pages in a file, which may be empty.
///
/// # Examples
///
/// ```
/// use kernel::{
///     mm::pgoff::{
///         Order,
///         PageIndex,
///         PageRange, //
///     },
///     page::PAGE_SIZE, //
/// };
///
/// let pages = PageRange::from(10..15);
/// assert_eq!(pages.len(), 5);
/// assert!(pages.contains(PageIndex::new(14)) && !pages.contains(PageIndex::new(15)));
/// assert_eq!(pages.intersection(PageRange::from(12..40)), PageRange::from(12..15));
/// assert!(pages.intersection(PageRange::from(15..40)).is_empty());
/// assert!(PageRange::from(15..10).is_empty());
///
/// let four_pages = Order::new(2).ok_or(EINVAL)?;
/// assert!(PageRange::from(4..12).is_aligned(four_pages));
/// assert!(!PageRange::from(4..13).is_aligned(four_pages));
/// assert!(!PageRange::from(5..12).is_aligned(four_pages));
///
/// let page = PAGE_SIZE as i64;
/// assert_eq!(PageRange::from_bytes(3 * page, 2 * page), Some(PageRange::from(3..5)));
/// assert_eq!(PageRange::from_bytes(1, page), None);
/// assert_eq!(PageRange::from_bytes(i64::MAX & !(page - 1), page), None);
/// # Ok::<(), Error>(())
/// ```
///
/// # Invariants
///
/// `start` is not greater than `end`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageRange {
    start: PageIndex,
    end: PageIndex,
}

impl PageRange {
    /// All pages that a file can have.
    pub const ALL: Self = Self {
        start: PageIndex(0),
        end: PageIndex(usize::MAX),
    };

    /// Creates the range of `count` pages from `start`, less what a `pgoff_t` cannot hold.
    #[inline]
    pub fn new(start: PageIndex, count: usize) -> Self {
        // INVARIANT: The addition saturates, so it does not go below `start`.
        Self {
            start,
            end: start.saturating_add(count),
        }
    }

    /// Returns the pages of `offset..offset + len`, in bytes; [`None`] if that is not a range of
    /// whole pages of a file.
    #[inline]
    pub fn from_bytes(offset: Offset, len: Offset) -> Option<Self> {
        let start = PageIndex::from_offset(offset)?;
        let end = PageIndex::from_offset(offset.checked_add(len)?)?;

        // INVARIANT: Checked here.
        (start <= end).then_some(Self { start, end })
    }

    /// Returns the first index.
    #[inline]
    pub fn start(self) -> PageIndex {
        self.start
    }

    /// Returns the index after the last page.
    #[inline]
    pub fn end(self) -> PageIndex {
        self.end
    }

    /// Returns the number of pages.
    #[inline]
    pub fn len(self) -> usize {
        self.end.0.wrapping_sub(self.start.0)
    }

    /// Returns whether there are no pages in the range.
    #[inline]
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// Returns whether `index` is in the range.
    #[inline]
    pub fn contains(self, index: PageIndex) -> bool {
        self.start <= index && index < self.end
    }

    /// Returns whether the range consists of folios of this order, all of them whole.
    #[inline]
    pub fn is_aligned(self, order: Order) -> bool {
        self.start.is_aligned(order) && self.end.is_aligned(order)
    }

    /// Returns the pages that are in both ranges.
    #[inline]
    pub fn intersection(self, other: Self) -> Self {
        let start = self.start.max(other.start).min(self.end);

        // INVARIANT: The end is at least `start`.
        Self {
            start,
            end: self.end.min(other.end).max(start),
        }
    }

    /// Returns the pages of the range from `index` on.
    #[inline]
    pub fn tail(self, index: PageIndex) -> Self {
        // INVARIANT: The start is at most the end. (`clamp` would check that, and panic.)
        Self {
            start: index.max(self.start).min(self.end),
            ..self
        }
    }
}

impl From<Range<usize>> for PageRange {
    #[inline]
    fn from(range: Range<usize>) -> Self {
        Self::new(
            PageIndex(range.start),
            range.end.saturating_sub(range.start),
        )
    }
}

impl From<PageRange> for Range<usize> {
    #[inline]
    fn from(range: PageRange) -> Self {
        range.start.0..range.end.0
    }
}

/// A page frame number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(transparent)]
pub struct Pfn(usize);

impl Pfn {
    /// Creates a page frame number.
    #[inline]
    pub const fn new(pfn: usize) -> Self {
        Self(pfn)
    }

    /// Returns the number.
    #[inline]
    pub const fn as_usize(self) -> usize {
        self.0
    }

    /// Returns the page frame number `count` pages further on.
    #[inline]
    pub fn wrapping_add(self, count: usize) -> Self {
        Self(self.0.wrapping_add(count))
    }
}

/// The order of a folio, which has `1 << order` pages.
///
/// # Examples
///
/// ```
/// use kernel::mm::pgoff::Order;
///
/// assert_eq!(Order::PAGE.nr_pages(), 1);
/// assert_eq!(Order::new(3).map(Order::nr_pages), Some(8));
/// assert!(Order::new(u32::MAX).is_none());
/// ```
///
/// # Invariants
///
/// At most `MAX_PAGE_ORDER`: the page allocator has such blocks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(transparent)]
pub struct Order(u32);

impl Order {
    /// The order of a single page.
    pub const PAGE: Self = Self(0);

    /// Creates an order; [`None`] if the page allocator has no such blocks.
    #[inline]
    pub fn new(order: u32) -> Option<Self> {
        // INVARIANT: Checked here.
        (order <= bindings::MAX_PAGE_ORDER).then_some(Self(order))
    }

    /// Creates an order without a check.
    ///
    /// # Safety
    ///
    /// Callers must ensure that the page allocator has such blocks.
    #[inline]
    pub(super) const unsafe fn new_unchecked(order: u32) -> Self {
        // INVARIANT: By the safety requirements.
        Self(order)
    }

    /// Returns the number.
    #[inline]
    pub const fn as_u32(self) -> u32 {
        self.0
    }

    /// Returns the number of pages of a folio of this order.
    #[inline]
    pub const fn nr_pages(self) -> usize {
        // An order is less than the number of bits.
        1usize.wrapping_shl(self.0)
    }
}
