// SPDX-License-Identifier: GPL-2.0

//! Folios.
//!
//! A folio is a physically contiguous, naturally aligned, power-of-two number of pages that is
//! managed as one unit. While a folio is being prepared, its owner writes its contents. Once it is
//! in a page cache, others use it as well: userspace maps it, the memory management removes it,
//! and for some files the kernel must not look at the contents any more. The page cache of such a
//! file takes the folio out of the direct map, so that a read of it is a page fault in the kernel.
//!
//! So the types here follow a folio from its allocation, and only the first two have a way to the
//! contents:
//!
//! * [`NewFolio<Uninit>`] was just allocated and holds whatever the memory held before. It can be
//!   cleared, and nothing else.
//! * [`NewFolio<Init>`] has contents, which its owner can read and write.
//! * [`LockedFolio`] is in the page cache of an [`AddressSpace`] and locked. Adding a
//!   [`NewFolio<Init>`] to an address space consumes it and returns one of these.
//! * [`Folio`] is behind a counted reference, and may be anywhere.
//!
//! C header: [`include/linux/mm.h`](srctree/include/linux/mm.h)
//!
//! [`AddressSpace`]: crate::mm::address_space::AddressSpace

use crate::{
    alloc::{
        flags::{
            __GFP_ZERO, //
            GFP_KERNEL,
            GFP_KERNEL_ACCOUNT,
        },
        AllocError,
        Flags, //
    },
    bindings,
    error::{
        code::EINVAL,
        Result, //
    },
    mm::pgoff::{
        Order,
        PageIndex,
        PageRange,
        Pfn, //
    },
    page::{
        BorrowedPage,
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

/// A folio that is behind a counted reference.
///
/// Wraps `struct folio`. There is no way from here to the contents: others may be using them, and
/// they may be out of the direct map.
///
/// # Invariants
///
/// Instances of this type are always refcounted, and not tail pages.
#[repr(transparent)]
pub struct Folio(Opaque<bindings::folio>);

// SAFETY: A folio may be used, and its last reference dropped, from any task.
unsafe impl Send for Folio {}

// SAFETY: Methods of `Folio` read fields that are constant while a reference is held, or atomic.
unsafe impl Sync for Folio {}

// SAFETY: By the type invariants, folios are refcounted.
unsafe impl AlwaysRefCounted for Folio {
    #[inline]
    fn inc_ref(&self) {
        // SAFETY: The existence of a shared reference means that the refcount is not zero.
        unsafe { bindings::folio_get(self.as_ptr()) };
    }

    #[inline]
    unsafe fn dec_ref(obj: NonNull<Self>) {
        // SAFETY: The caller owns a reference, which `folio_put` consumes.
        unsafe { bindings::folio_put(obj.cast().as_ptr()) };
    }
}

impl Folio {
    /// Returns the C folio.
    #[inline]
    pub fn as_ptr(&self) -> *mut bindings::folio {
        self.0.get()
    }

    /// Returns the number of pages.
    #[inline]
    pub fn nr_pages(&self) -> usize {
        // SAFETY: `self` is not a tail page, and a reference keeps the order as it is.
        unsafe { bindings::folio_nr_pages(self.as_ptr()) }
    }

    /// Returns the size in bytes.
    #[inline]
    pub fn size(&self) -> usize {
        PAGE_SIZE.wrapping_mul(self.nr_pages())
    }

    /// Returns whether the hardware reported an error in one of the pages.
    #[inline]
    pub fn is_hwpoisoned(&self) -> bool {
        // SAFETY: `self` is a valid folio; the flags are read atomically.
        unsafe { bindings::folio_contain_hwpoisoned_page(self.as_ptr()) }
    }

    /// Returns whether the contents are valid.
    #[inline]
    pub fn is_uptodate(&self) -> bool {
        // SAFETY: `self` is a valid folio; the flag is read atomically.
        unsafe { bindings::folio_test_uptodate(self.as_ptr()) }
    }

    /// Marks the folio up to date: its contents are valid, there is no backing storage to read.
    #[inline]
    pub fn mark_uptodate(&self) {
        // SAFETY: `self` is a valid folio; the flag is set atomically.
        unsafe { bindings::folio_mark_uptodate(self.as_ptr()) };
    }

    /// Returns the page frame number of the first page.
    #[inline]
    pub fn pfn(&self) -> Pfn {
        // SAFETY: `self` is a valid folio.
        Pfn::new(unsafe { bindings::folio_pfn(self.as_ptr()) })
    }
}

/// Returns `gfp` without `__GFP_ACCOUNT`.
///
/// The page cache charges folios when they are added. A second charge, by the allocator, would be
/// overwritten by the first and never be returned.
#[inline]
pub(super) fn without_account(gfp: Flags) -> Flags {
    gfp & !(GFP_KERNEL_ACCOUNT & !GFP_KERNEL)
}

/// The contents of a [`NewFolio`] are undefined.
pub enum Uninit {}

/// The contents of a [`NewFolio`] are defined.
pub enum Init {}

/// A folio that was just allocated and is not in a page cache.
///
/// `S` is [`Uninit`] or [`Init`]. Memory that was not cleared holds data of its last owner, so only
/// a `NewFolio<Init>` can be read or [added to an address space].
///
/// # Examples
///
/// ```
/// use kernel::mm::{
///     folio::NewFolio,
///     pgoff::Order, //
/// };
///
/// let order = Order::new(1).ok_or(EINVAL)?;
/// let mut folio = NewFolio::alloc(order, GFP_KERNEL)?.zero();
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
/// * This value owns a reference to the folio, and nobody else accesses the contents. (Others may
///   hold references for a moment, from a lookup by page frame number.)
/// * The folio is in no page cache, mapped nowhere, and in the direct map or in highmem.
/// * If `S` is [`Init`], the contents are initialized.
///
/// [added to an address space]: crate::mm::address_space::AddressSpace::add_folio
#[repr(transparent)]
pub struct NewFolio<S>(ARef<Folio>, PhantomData<S>);

impl<S> NewFolio<S> {
    // There is no `Deref` to `Folio`, since `ARef::from(&Folio)` would make a second reference.

    /// Returns the C folio.
    #[inline]
    pub fn as_ptr(&self) -> *mut bindings::folio {
        self.0.as_ptr()
    }

    /// Returns the order.
    #[inline]
    pub fn order(&self) -> Order {
        // SAFETY: The folio is valid, and its order does not change.
        let order = unsafe { bindings::folio_order(self.as_ptr()) };
        // SAFETY: The folio comes from the page allocator.
        unsafe { Order::new_unchecked(order) }
    }

    /// Returns the size in bytes.
    #[inline]
    pub fn size(&self) -> usize {
        self.0.size()
    }

    /// Gives up the exclusive ownership, and keeps the reference.
    #[inline]
    pub(super) fn into_folio(self) -> ARef<Folio> {
        self.0
    }

    /// Calls `f` for each part of the bytes `offset..offset + len` that lies in one page, with the
    /// page, the offset of the part within the page and from `offset`, and its length.
    fn for_each_part(
        &self,
        offset: usize,
        len: usize,
        mut f: impl FnMut(BorrowedPage<'_>, usize, usize, usize) -> Result,
    ) -> Result {
        let end = offset.checked_add(len).ok_or(EINVAL)?;
        if end > self.size() {
            return Err(EINVAL);
        }

        let mut pos = offset;
        while pos < end {
            let in_page = pos % PAGE_SIZE;
            let part = usize::min(PAGE_SIZE - in_page, end - pos);

            // SAFETY: `pos` is less than the size, so the folio has this page.
            let page = unsafe { bindings::folio_page(self.as_ptr(), pos >> PAGE_SHIFT) };
            // SAFETY: A page of a folio has a `struct page`.
            let page = unsafe { NonNull::new_unchecked(page) };
            // SAFETY: The page is valid as long as the folio, which `self` has a reference to.
            let page = unsafe { BorrowedPage::from_raw(page) };
            f(page, in_page, pos - offset, part)?;
            pos += part;
        }
        Ok(())
    }
}

impl NewFolio<Uninit> {
    /// Allocates a folio.
    ///
    /// `__GFP_ACCOUNT` has no effect: the memory is charged when it is added to an address space.
    ///
    /// # Errors
    ///
    /// [`AllocError`] if there is no such memory.
    #[inline]
    pub fn alloc(order: Order, gfp: Flags) -> Result<Self, AllocError> {
        let gfp = without_account(gfp);

        // SAFETY: By the invariants of `Order`, the allocator has such folios.
        let folio = unsafe { bindings::folio_alloc(gfp.as_raw(), order.as_u32()) };
        // SAFETY: The folio was just allocated.
        unsafe { Self::from_raw(folio) }
    }

    /// Takes over a folio from the page allocator; NULL is an error.
    ///
    /// # Safety
    ///
    /// Callers must ensure that `folio` is NULL, or was just allocated and is not used by anybody
    /// else.
    #[inline]
    pub(super) unsafe fn from_raw(folio: *mut bindings::folio) -> Result<Self, AllocError> {
        let folio = NonNull::new(folio).ok_or(AllocError)?;

        // SAFETY: The allocator returned a reference, which the caller passes on.
        let folio = unsafe { ARef::from_raw(folio.cast()) };
        // INVARIANT: By the safety requirements nobody uses the folio, and the page allocator has
        // only memory that is in the direct map. Nothing is claimed about the contents.
        Ok(Self(folio, PhantomData))
    }

    /// Clears the folio.
    #[inline]
    pub fn zero(self) -> NewFolio<Init> {
        // This cannot fail: the range is the whole folio, and each part lies in one page.
        let _ = self.for_each_part(0, self.size(), |page, in_page, _, len| {
            // SAFETY: By the type invariants, nobody else accesses the contents.
            unsafe { page.fill_zero_raw(in_page, len) }
        });
        // INVARIANT: All bytes were written.
        NewFolio(self.0, PhantomData)
    }

    /// Declares the contents initialized, for memory that was allocated with [`__GFP_ZERO`].
    ///
    /// # Safety
    ///
    /// Callers must ensure that all bytes of the folio are initialized.
    #[inline]
    pub(super) unsafe fn assume_init(self) -> NewFolio<Init> {
        // INVARIANT: By the safety requirements.
        NewFolio(self.0, PhantomData)
    }
}

impl NewFolio<Init> {
    /// Allocates a folio that is zero.
    ///
    /// As [`NewFolio::alloc`] and [`NewFolio::zero`], but clears the memory only once where the
    /// page allocator clears it in any case.
    ///
    /// # Errors
    ///
    /// [`AllocError`] if there is no such memory.
    #[inline]
    pub fn alloc_zeroed(order: Order, gfp: Flags) -> Result<Self, AllocError> {
        let folio = NewFolio::alloc(order, gfp | __GFP_ZERO)?;

        // SAFETY: `__GFP_ZERO` has the allocator clear the memory.
        Ok(unsafe { folio.assume_init() })
    }

    /// Copies from the folio, beginning at byte `offset`.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if the range is not within the folio; nothing is copied then.
    pub fn read(&self, offset: usize, dst: &mut [u8]) -> Result {
        self.for_each_part(offset, dst.len(), |page, in_page, at, len| {
            let dst = dst.get_mut(at..at + len).ok_or(EINVAL)?;
            // SAFETY: `dst` has `len` bytes. By the type invariants, nobody writes to the folio.
            unsafe { page.read_raw(dst.as_mut_ptr(), in_page, len) }
        })
    }

    /// Copies to the folio, beginning at byte `offset`.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if the range is not within the folio; nothing is copied then.
    pub fn write(&mut self, offset: usize, src: &[u8]) -> Result {
        self.for_each_part(offset, src.len(), |page, in_page, at, len| {
            let src = src.get(at..at + len).ok_or(EINVAL)?;
            // SAFETY: `src` has `len` bytes. By the type invariants, nobody else accesses the
            // folio.
            unsafe { page.write_raw(src.as_ptr(), in_page, len) }
        })
    }

    /// Returns the folio if it is in the direct map, as the type invariants require.
    ///
    /// A folio that the page cache zapped for an insertion that then failed, and could not restore,
    /// is not. The memory management keeps a reference to it, so it is never freed.
    pub(super) fn if_in_direct_map(self) -> Option<Self> {
        #[cfg(CONFIG_ARCH_HAS_SET_DIRECT_MAP)]
        for n in 0..self.0.nr_pages() {
            // SAFETY: The folio has this page.
            let page = unsafe { bindings::folio_page(self.as_ptr(), n) };
            // SAFETY: The page is valid, since `self` has a reference to its folio.
            if !unsafe { bindings::kernel_page_present(page) } {
                return None;
            }
        }
        Some(self)
    }
}

/// A locked folio in the page cache of an address space.
///
/// It has an index, page frame numbers and flags, and no contents: these were written before, or
/// are reached through userspace mappings.
///
/// Dropping this unlocks the folio and puts the reference.
///
/// # Invariants
///
/// * This value owns a reference to the folio, and the folio lock.
/// * The folio is in the page cache of an address space that outlives `'a`.
#[must_use = "the folio is unlocked immediately when this is unused"]
pub struct LockedFolio<'a> {
    folio: ARef<Folio>,
    _mapping: PhantomData<&'a ()>,
}

impl LockedFolio<'_> {
    /// Takes over a locked folio in the page cache.
    ///
    /// # Safety
    ///
    /// Callers must ensure that
    ///
    /// * they own the folio lock, and pass it on;
    /// * `folio` is in the page cache of an address space that outlives the lifetime of the result.
    #[inline]
    pub(super) unsafe fn new(folio: ARef<Folio>) -> Self {
        // INVARIANT: By the safety requirements.
        Self {
            folio,
            _mapping: PhantomData,
        }
    }

    /// Returns the index of the first page.
    #[inline]
    pub fn index(&self) -> PageIndex {
        // SAFETY: A folio in the page cache has an index, and the lock keeps it there.
        PageIndex::new(unsafe { bindings::folio_pgoff(self.as_ptr()) })
    }

    /// Returns the indices of all pages.
    #[inline]
    pub fn pages(&self) -> PageRange {
        PageRange::new(self.index(), self.nr_pages())
    }

    /// Returns the C address space that the folio is in.
    #[inline]
    pub(super) fn mapping(&self) -> *mut bindings::address_space {
        // SAFETY: The folio is valid, and not a tail page.
        let page = unsafe { &raw const (*self.as_ptr()).__bindgen_anon_1.__bindgen_anon_1 };
        // SAFETY: The folio lock keeps the mapping from being changed.
        unsafe { (*page).mapping }
    }

    /// Returns the page frame number of the page at `index`; [`None`] if the folio does not have
    /// it.
    #[inline]
    pub fn pfn_of(&self, index: PageIndex) -> Option<Pfn> {
        let pages = self.pages();

        pages.contains(index).then(|| {
            self.pfn()
                .wrapping_add(pages.start().as_usize().abs_diff(index.as_usize()))
        })
    }

    /// Returns whether the hardware reported an error in the page at `index`.
    ///
    /// The answer is for the folio's page that `index` would be, if the folio does not have it.
    #[inline]
    pub fn is_page_hwpoisoned(&self, index: PageIndex) -> bool {
        // SAFETY: The folio is valid, and the function returns one of its pages for any index.
        let page = unsafe { bindings::folio_file_page(self.as_ptr(), index.as_usize()) };
        // SAFETY: The page is valid; the flag is read atomically.
        unsafe { bindings::PageHWPoison(page) }
    }

    /// Marks the folio not up to date: its contents are about to be replaced.
    #[inline]
    pub fn clear_uptodate(&self) {
        // SAFETY: The folio is valid; the flag is cleared atomically.
        unsafe { bindings::folio_clear_uptodate(self.as_ptr()) };
    }

    /// Unlocks the folio and keeps the reference.
    #[inline]
    pub fn unlock(self) -> ARef<Folio> {
        let this = ManuallyDrop::new(self);

        // SAFETY: By the type invariants, this value owns the lock.
        unsafe { bindings::folio_unlock(this.folio.as_ptr()) };
        // SAFETY: `this` is not dropped, so the reference is moved out once.
        unsafe { ptr::read(&this.folio) }
    }

    /// Returns the C folio, with the lock and the reference, which callers have to put.
    #[inline]
    pub fn into_raw(self) -> *mut bindings::folio {
        ManuallyDrop::new(self).folio.as_ptr()
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
        // SAFETY: By the type invariants, this value owns the lock.
        unsafe { bindings::folio_unlock(self.folio.as_ptr()) };
    }
}
