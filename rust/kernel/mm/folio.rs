// SPDX-License-Identifier: GPL-2.0

//! Folios.
//!
//! A folio is a physically contiguous, naturally aligned power-of-two number of pages that is
//! managed as one. This module has one Rust type for each thing that the holder of a folio may do
//! with it, so that the kernel cannot touch the contents of a folio that has no direct map:
//!
//! * [`NewFolio`] is owned exclusively and in no page cache. It is the only type through which the
//!   contents can be read or written.
//! * [`LockedFolio`] is in the page cache of an [`AddressSpace`], and locked. Inserting a
//!   [`NewFolio`] consumes it and yields one of these. It has no way to the contents.
//! * [`Folio`] is behind a counted reference, and may be anywhere. No way to the contents either.
//!
//! C header: [`include/linux/mm.h`](srctree/include/linux/mm.h)

use crate::{
    alloc::{
        flags::{
            GFP_KERNEL,
            GFP_KERNEL_ACCOUNT, //
        },
        AllocError,
        Flags, //
    },
    bindings,
    error::{
        code::EINVAL,
        Result, //
    },
    mm::address_space::AddressSpace,
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    sync::aref::{
        ARef,
        AlwaysRefCounted, //
    },
    types::Opaque,
};
use core::{
    marker::PhantomData,
    mem::ManuallyDrop,
    ops::Deref,
    ptr::{
        self,
        NonNull, //
    }, //
};

/// A folio that somebody holds a reference to.
///
/// Wraps `struct folio`. Its contents cannot be reached through this type: nothing is known about
/// who else uses them, or whether they are in the direct map.
///
/// # Invariants
///
/// Instances of this type are always refcounted, and not tail pages.
#[repr(transparent)]
pub struct Folio(Opaque<bindings::folio>);

// SAFETY: A folio may be used, and its last reference dropped, from any task.
unsafe impl Send for Folio {}

// SAFETY: All methods of `Folio` read what stays the same while a reference is held, or is atomic.
unsafe impl Sync for Folio {}

// SAFETY: By the type invariants, folios are refcounted; `folio_get` and `folio_put` are the
// functions for it.
unsafe impl AlwaysRefCounted for Folio {
    #[inline]
    fn inc_ref(&self) {
        // SAFETY: The existence of a shared reference means that the refcount is not zero.
        unsafe { bindings::folio_get(self.as_ptr()) };
    }

    #[inline]
    unsafe fn dec_ref(obj: NonNull<Self>) {
        // SAFETY: The caller gives up one reference.
        unsafe { bindings::folio_put(obj.cast().as_ptr()) };
    }
}

impl Folio {
    /// Returns the C folio.
    #[inline]
    pub fn as_ptr(&self) -> *mut bindings::folio {
        self.0.get()
    }

    /// Returns the order: the folio has `1 << order` [pages](Self::pages).
    #[inline]
    pub fn order(&self) -> u32 {
        // SAFETY: By the type invariants, this is a valid folio.
        unsafe { bindings::folio_order(self.as_ptr()) }
    }

    /// Returns the number of pages.
    #[inline]
    pub fn pages(&self) -> usize {
        pages_of_order(self.order())
    }

    /// Returns the size in bytes.
    #[inline]
    pub fn size(&self) -> usize {
        PAGE_SIZE.wrapping_mul(self.pages())
    }

    /// Did the hardware report an error in this memory?
    #[inline]
    pub fn is_hwpoisoned(&self) -> bool {
        // SAFETY: By the type invariants, this is a valid folio.
        unsafe { bindings::folio_test_hwpoison(self.as_ptr()) }
    }

    /// Returns the page frame number of the first page.
    #[inline]
    pub fn pfn(&self) -> usize {
        // SAFETY: By the type invariants, this is a valid folio.
        unsafe { bindings::folio_pfn(self.as_ptr()) }
    }
}

/// Returns how many pages a folio of `order` has.
///
/// An order is much less than the number of bits; there is no panic for others.
#[inline]
pub(super) fn pages_of_order(order: u32) -> usize {
    1usize.wrapping_shl(order)
}

/// Folios are charged when they are inserted. A second charge on top of that of the allocator would
/// lose the first.
#[inline]
pub(super) fn without_account(gfp: Flags) -> Flags {
    gfp & !(GFP_KERNEL_ACCOUNT & !GFP_KERNEL)
}

/// A folio that was just allocated: in no page cache, and nobody else has a reference to it.
///
/// # Examples
///
/// What is in a folio is decided before it is inserted anywhere:
///
/// ```
/// use kernel::{
///     alloc::flags::__GFP_ZERO,
///     mm::folio::NewFolio, //
/// };
///
/// let mut folio = NewFolio::alloc(1, GFP_KERNEL | __GFP_ZERO)?;
/// folio.write(0, b"first")?;
/// folio.write(folio.size() - 4, b"last")?;
///
/// let mut buf = [0u8; 5];
/// folio.read(folio.size() - 5, &mut buf)?;
/// assert_eq!(&buf, b"\0last");
///
/// // Past the end.
/// assert!(folio.write(folio.size() - 3, b"last").is_err());
/// # Ok::<(), Error>(())
/// ```
///
/// # Invariants
///
/// The one reference to the folio is owned by this value. The folio is in no page cache, mapped
/// nowhere, and in the direct map (or in highmem).
#[repr(transparent)]
pub struct NewFolio(ARef<Folio>);

impl NewFolio {
    /// Allocates a folio of `1 << order` pages.
    ///
    /// The contents are zero with [`__GFP_ZERO`], and whatever they were without it. The memory is
    /// charged when it is inserted, so that `__GFP_ACCOUNT` has no effect here.
    ///
    /// # Errors
    ///
    /// [`AllocError`] if there is no such memory, or no such order.
    ///
    /// [`__GFP_ZERO`]: crate::alloc::flags::__GFP_ZERO
    #[inline]
    pub fn alloc(order: u32, gfp: Flags) -> Result<Self, AllocError> {
        if order > bindings::MAX_PAGE_ORDER {
            return Err(AllocError);
        }

        let gfp = without_account(gfp);

        // SAFETY: The order is one that the allocator knows.
        unsafe { Self::from_allocator(bindings::folio_alloc(gfp.as_raw(), order)) }
    }

    /// # Safety
    ///
    /// `folio` is NULL, or was just allocated for the caller.
    #[inline]
    pub(super) unsafe fn from_allocator(folio: *mut bindings::folio) -> Result<Self, AllocError> {
        let folio = NonNull::new(folio).ok_or(AllocError)?;

        // SAFETY: The allocator returned a reference, which is ours.
        // INVARIANT: Nobody else knows of a folio that was just allocated, and the allocator has
        // only memory that is in the direct map.
        Ok(Self(unsafe { ARef::from_raw(folio.cast()) }))
    }

    // No `Deref` to `Folio`: from a `&Folio` anybody can make another reference.

    /// Returns the C folio.
    #[inline]
    pub fn as_ptr(&self) -> *mut bindings::folio {
        self.0.as_ptr()
    }

    /// Returns the order, as [`Folio::order`].
    #[inline]
    pub fn order(&self) -> u32 {
        self.0.order()
    }

    /// Returns the size in bytes.
    #[inline]
    pub fn size(&self) -> usize {
        self.0.size()
    }

    /// Gives up the exclusive ownership, but not the reference.
    #[inline]
    pub(super) fn into_folio(self) -> ARef<Folio> {
        self.0
    }

    /// Calls `f` with each part of `offset..offset + len` that lies in one page: the address of
    /// the part, its offset from `offset`, and its length, in bytes.
    ///
    /// The address is valid for reads and writes of that length during the call only.
    fn for_each_part(
        &self,
        offset: usize,
        len: usize,
        mut f: impl FnMut(*mut u8, usize, usize),
    ) -> Result {
        let end = offset.checked_add(len).ok_or(EINVAL)?;
        if end > self.size() {
            return Err(EINVAL);
        }

        let mut pos = offset;
        while pos < end {
            let in_page = pos % PAGE_SIZE;
            let part = usize::min(PAGE_SIZE - in_page, end - pos);

            // SAFETY: `pos` is less than the folio's size, so this page is one of the folio's.
            let page = unsafe { bindings::folio_page(self.0.as_ptr(), pos >> PAGE_SHIFT) };
            // SAFETY: `page` is valid, and by the type invariants not out of the direct map.
            let addr = unsafe { bindings::kmap_local_page(page) };

            f(addr.cast::<u8>().wrapping_add(in_page), pos - offset, part);

            // SAFETY: `addr` came from `kmap_local_page`, and mappings are undone in reverse order.
            unsafe { bindings::kunmap_local(addr) };
            pos += part;
        }
        Ok(())
    }

    /// Copies from the folio, beginning at byte `offset`.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if the range is not within the folio; nothing is copied then.
    pub fn read(&self, offset: usize, dst: &mut [u8]) -> Result {
        self.for_each_part(offset, dst.len(), |src, at, len| {
            // SAFETY: `for_each_part` gives an address that is valid for `len` bytes, of memory
            // that only this value gives access to; `at + len` does not exceed `dst.len()`.
            unsafe { ptr::copy_nonoverlapping(src, dst[at..].as_mut_ptr(), len) };
        })
    }

    /// Copies to the folio, beginning at byte `offset`.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if the range is not within the folio; nothing is copied then.
    pub fn write(&mut self, offset: usize, src: &[u8]) -> Result {
        self.for_each_part(offset, src.len(), |dst, at, len| {
            // SAFETY: `for_each_part` gives an address that is valid for `len` bytes, of memory
            // that only this value gives access to; `at + len` does not exceed `src.len()`.
            unsafe { ptr::copy_nonoverlapping(src[at..].as_ptr(), dst, len) };
        })
    }
}

/// A locked folio in the page cache of an address space.
///
/// The address space may have no direct map, so there is no way from here to the contents: they
/// were written before the insertion, or are reached through userspace mappings.
///
/// The folio is unlocked, and the reference put, when this is dropped.
///
/// # Invariants
///
/// * This value owns a reference to the folio, and the folio lock.
/// * The folio is in the page cache of an address space that outlives `'a`.
pub struct LockedFolio<'a> {
    folio: ARef<Folio>,
    _mapping: PhantomData<&'a AddressSpace>,
}

impl LockedFolio<'_> {
    /// Takes over a locked folio in the page cache.
    ///
    /// # Safety
    ///
    /// The caller owns the folio lock, and `folio` is in the page cache of an address space that
    /// outlives the lifetime of the result.
    #[inline]
    pub(super) unsafe fn new(folio: ARef<Folio>) -> Self {
        // INVARIANT: By the safety requirements of this function.
        Self {
            folio,
            _mapping: PhantomData,
        }
    }

    /// Returns the index in the address space, in pages.
    #[inline]
    pub fn index(&self) -> usize {
        // SAFETY: The folio is in the page cache, so it has an index, and the lock keeps it there.
        unsafe { bindings::folio_pgoff(self.folio.as_ptr()) }
    }

    /// Is it in this address space?
    #[inline]
    pub fn is_in(&self, mapping: &AddressSpace) -> bool {
        // SAFETY: By the type invariants, this is a valid folio, and the lock keeps it where it is.
        unsafe { bindings::folio_address_space(self.folio.as_ptr()) == mapping.as_ptr() }
    }

    /// Returns the page frame number of the page at `index`, which is one of this folio's.
    #[inline]
    pub fn pfn_at(&self, index: usize) -> usize {
        self.pfn()
            .wrapping_add(index & self.pages().wrapping_sub(1))
    }

    /// Returns the index after the last page of this folio, in pages.
    #[inline]
    pub fn next_index(&self) -> usize {
        self.index().saturating_add(self.pages())
    }

    /// Marks the contents as what they will be: they are there, and need not be brought from
    /// anywhere.
    #[inline]
    pub fn mark_uptodate(&self) {
        // SAFETY: By the type invariants, this is a valid folio.
        unsafe { bindings::folio_mark_uptodate(self.folio.as_ptr()) };
    }

    /// Unlocks the folio and keeps the reference.
    #[inline]
    pub fn unlock(self) -> ARef<Folio> {
        let this = ManuallyDrop::new(self);

        // SAFETY: By the type invariants, we own the lock.
        unsafe { bindings::folio_unlock(this.folio.as_ptr()) };

        // SAFETY: `this` is not dropped, so that the reference is moved out just once.
        unsafe { ptr::read(&this.folio) }
    }
}

impl Deref for LockedFolio<'_> {
    type Target = Folio;

    #[inline]
    fn deref(&self) -> &Folio {
        &self.folio
    }
}

impl Drop for LockedFolio<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariants, we own the lock.
        unsafe { bindings::folio_unlock(self.folio.as_ptr()) };
    }
}
