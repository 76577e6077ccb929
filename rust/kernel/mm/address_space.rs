// SPDX-License-Identifier: GPL-2.0

//! Address spaces: the page cache of one inode.
//!
//! `struct address_space` maps page indices to folios. A folio enters it by [`add_folio`] or
//! [`add_batch`] and leaves it by [`truncate_range`]. An address space may be set to have
//! [no direct map]: the page cache then removes each folio from the kernel's direct map before
//! others can find it, and puts it back, cleared, after it was removed.
//!
//! Adding folios needs no lock of the caller. Removing them needs the `invalidate_lock`, held for
//! writing, which also keeps those away that hold it for reading while they add folios. Owners put
//! their own data under the same lock; [`InvalidateGuard`] and [`SharedInvalidateGuard`] are the
//! way to it. (These are not [`lock::Guard`]: the lock and the data it protects are in different
//! structures, and there is no [`lock::Backend`] for a lock that can be shared.)
//!
//! C header: [`include/linux/pagemap.h`](srctree/include/linux/pagemap.h)
//!
//! [`add_folio`]: AddressSpace::add_folio
//! [`add_batch`]: AddressSpace::add_batch
//! [`truncate_range`]: InvalidateGuard::truncate_range
//! [no direct map]: AddressSpace::set_no_direct_map
//! [`lock::Guard`]: crate::sync::lock::Guard
//! [`lock::Backend`]: crate::sync::lock::Backend

use crate::{
    alloc::Flags,
    bindings,
    error::{
        code::EINVAL,
        from_err_ptr,
        to_result,
        Error,
        Result, //
    },
    mm::{
        folio::{
            Init,
            LockedFolio,
            NewFolio, //
        },
        pgoff::{
            Order,
            PageIndex,
            PageRange, //
        }, //
    },
    sync::aref::ARef,
    types::{
        NotThreadSafe,
        Opaque, //
    },
};
use core::{
    cell::UnsafeCell,
    ops::{
        Deref,
        DerefMut, //
    },
    pin::Pin,
    ptr::NonNull, //
};

/// The page cache of an inode.
///
/// Wraps `struct address_space`. There is an example at [`fs::pseudo`](crate::fs::pseudo).
///
/// # Invariants
///
/// * The address space is valid for as long as a reference to it exists.
/// * Its folios have no private data and no writeback. They are removed under the
///   `invalidate_lock`, or with the inode.
#[repr(transparent)]
pub struct AddressSpace(Opaque<bindings::address_space>);

// SAFETY: The page cache is made for concurrent use: each method takes the locks that it needs.
unsafe impl Sync for AddressSpace {}

/// A folio that could not be added, and the reason.
pub struct InsertError {
    /// The reason.
    pub error: Error,
    /// The folio, with its contents.
    ///
    /// [`None`] if it was removed from the direct map, and could not be put back. The memory
    /// management never frees such a folio, and its contents are lost.
    pub folio: Option<NewFolio<Init>>,
}

impl From<InsertError> for Error {
    #[inline]
    fn from(value: InsertError) -> Self {
        value.error
    }
}

impl AddressSpace {
    /// Creates a reference from a C address space.
    ///
    /// # Safety
    ///
    /// Callers must ensure that
    ///
    /// * `mapping` is valid for `'a`;
    /// * its owner uses no private data of folios and no writeback, and copes with folios that are
    ///   added here;
    /// * its folios are not evicted, as those of an inaccessible mapping, and are otherwise removed
    ///   under the `invalidate_lock`, or with the inode.
    #[inline]
    pub unsafe fn from_raw<'a>(mapping: *mut bindings::address_space) -> &'a Self {
        // INVARIANT: By the safety requirements.
        // SAFETY: `mapping` is valid for `'a`, and `AddressSpace` is transparent.
        unsafe { &*mapping.cast() }
    }

    /// Returns the C address space.
    #[inline]
    pub fn as_ptr(&self) -> *mut bindings::address_space {
        self.0.get()
    }

    /// Keeps the folios of this address space out of the direct map. This cannot be undone.
    ///
    /// # Errors
    ///
    /// [`EOPNOTSUPP`] if the direct map cannot be changed.
    ///
    /// # Safety
    ///
    /// Callers must ensure that the address space is empty, and that nobody else can reach it yet.
    ///
    /// [`EOPNOTSUPP`]: crate::error::code::EOPNOTSUPP
    // Inline, since the C function is exported to kvm only: the kernel crate must not export it on.
    #[inline]
    pub unsafe fn set_no_direct_map(&self) -> Result {
        #[cfg(CONFIG_ARCH_HAS_SET_DIRECT_MAP)]
        {
            // SAFETY: By the safety requirements, no folio was added under the other setting.
            to_result(unsafe { bindings::mapping_set_no_direct_map(self.as_ptr()) })
        }
        #[cfg(not(CONFIG_ARCH_HAS_SET_DIRECT_MAP))]
        Err(crate::error::code::EOPNOTSUPP)
    }

    /// Returns whether the folios of this address space are out of the direct map.
    #[inline]
    pub fn no_direct_map(&self) -> bool {
        // SAFETY: The address space is valid, and the flag does not change.
        unsafe { bindings::mapping_no_direct_map(self.as_ptr()) }
    }

    /// Returns the number of pages in the page cache at the moment.
    #[inline]
    pub fn nr_pages(&self) -> usize {
        // SAFETY: The address space is valid. C writes the field as one word.
        unsafe { core::ptr::read_volatile(&raw const (*self.as_ptr()).nrpages) }
    }

    /// Returns whether a folio of this order can be added at `index`.
    fn accepts(&self, order: Order, index: PageIndex) -> bool {
        // SAFETY: The address space is valid.
        let min = unsafe { bindings::mapping_min_folio_order(self.as_ptr()) };
        // SAFETY: The address space is valid.
        let max = unsafe { bindings::mapping_max_folio_order(self.as_ptr()) };
        // SAFETY: The address space is valid.
        let by_owner =
            self.no_direct_map() && !unsafe { bindings::mapping_zaps_direct_map(self.as_ptr()) };

        (min..=max).contains(&order.as_u32())
            && index.is_aligned(order)
            && PageRange::new(index, order.nr_pages()).end().offset().is_some()
            // The owner takes its folios out of the direct map, where a `NewFolio` is.
            && !by_owner
    }

    /// Adds a folio at `index` and marks it up to date.
    ///
    /// May sleep. The result is locked. If this address space has [no direct map], the kernel has
    /// no mapping of the folio any more.
    ///
    /// # Errors
    ///
    /// The folio comes back, with its contents, and with
    ///
    /// * [`EEXIST`] if there is a folio at `index`;
    /// * [`EINVAL`] if `index` is not a multiple of the folio's pages, or beyond the end of the
    ///   largest file; if the address space has no folios of this order; or if its owner manages
    ///   the direct map;
    /// * [`ENOMEM`] if there is no memory for the page cache, to split a large entry of the direct
    ///   map, or left in the memory cgroup.
    ///
    /// [no direct map]: Self::no_direct_map
    /// [`EEXIST`]: crate::error::code::EEXIST
    /// [`ENOMEM`]: crate::error::code::ENOMEM
    pub fn add_folio(
        &self,
        folio: NewFolio<Init>,
        index: PageIndex,
        gfp: Flags,
    ) -> Result<LockedFolio<'_>, InsertError> {
        if !self.accepts(folio.order(), index) {
            return Err(InsertError {
                error: EINVAL,
                folio: Some(folio),
            });
        }

        // SAFETY: The address space is valid and takes such a folio at `index`, as was checked. A
        // `NewFolio` is in no page cache, and nobody else uses it.
        let ret = unsafe {
            bindings::filemap_add_folio(
                self.as_ptr(),
                folio.as_ptr(),
                index.as_usize(),
                gfp.as_raw(),
            )
        };
        if let Err(error) = to_result(ret) {
            let folio = if self.no_direct_map() {
                folio.if_in_direct_map()
            } else {
                Some(folio)
            };
            return Err(InsertError { error, folio });
        }

        // SAFETY: The folio was added to `self`, and `filemap_add_folio` locked it.
        let folio = unsafe { LockedFolio::new(folio.into_folio()) };
        folio.mark_uptodate();
        Ok(folio)
    }

    /// Adds single pages, with one TLB flush for all, and marks them up to date. The batch is empty
    /// afterwards, also after an error.
    ///
    /// Only if this address space has [no direct map]: for others [`add_folio`] costs the same. May
    /// sleep. Where an index has a folio already, that one stays, and the new one is freed.
    ///
    /// # Errors
    ///
    /// * [`EINVAL`] if the direct map cannot be changed, or is not the page cache's to change, or
    ///   this address space has no single pages; no folio was added;
    /// * [`ENOMEM`] as for [`add_folio`]; some folios may have been added.
    ///
    /// [no direct map]: Self::no_direct_map
    /// [`add_folio`]: Self::add_folio
    /// [`ENOMEM`]: crate::error::code::ENOMEM
    // Inline, since the C function is exported to kvm only: the kernel crate must not export it on.
    #[inline]
    pub fn add_batch(&self, batch: &mut FolioBatch) -> Result {
        // SAFETY: The address space is valid.
        if unsafe { bindings::mapping_min_folio_order(self.as_ptr()) } > 0 {
            *batch = FolioBatch::new();
            return Err(EINVAL);
        }
        // INVARIANT: `filemap_add_batch` consumes the references and leaves the batch empty.
        // SAFETY: The address space is valid. By the invariants of `FolioBatch`, the folios are in
        // no page cache, have an index, and come with a reference each.
        to_result(unsafe { bindings::filemap_add_batch(self.as_ptr(), &mut batch.0) })
    }

    /// Returns whether there is a folio at `index`.
    ///
    /// Without a lock the answer may be outdated.
    #[inline]
    pub fn has_folio(&self, index: PageIndex) -> bool {
        // SAFETY: The address space is valid. The entry is not dereferenced.
        let entry =
            unsafe { bindings::xa_load(&raw mut (*self.as_ptr()).i_pages, index.as_usize()) };
        // SAFETY: Any entry may be asked for its kind. Value entries are shadows of folios that
        // were evicted.
        !entry.is_null() && !unsafe { bindings::xa_is_value(entry) }
    }

    /// Returns whether `folio` is the folio of this address space at `index`.
    #[inline]
    pub fn is_folio_at(&self, folio: &LockedFolio<'_>, index: PageIndex) -> bool {
        folio.mapping() == self.as_ptr() && folio.pages().contains(index)
    }

    /// Finds the folio that contains `index`, and locks it. May sleep.
    ///
    /// # Errors
    ///
    /// [`ENOENT`](crate::error::code::ENOENT) if there is none.
    pub fn lock_folio(&self, index: PageIndex) -> Result<LockedFolio<'_>> {
        // SAFETY: The address space is valid.
        let folio = unsafe { bindings::filemap_lock_folio(self.as_ptr(), index.as_usize()) };
        let folio = from_err_ptr(folio)?;

        // SAFETY: `filemap_lock_folio` does not return NULL.
        let folio = unsafe { NonNull::new_unchecked(folio) };
        // SAFETY: It returned a reference for the caller.
        let folio = unsafe { ARef::from_raw(folio.cast()) };
        // SAFETY: It locked the folio, which is in the page cache of `self`.
        Ok(unsafe { LockedFolio::new(folio) })
    }

    /// Takes the `invalidate_lock` for writing. May sleep.
    #[inline]
    pub fn invalidate_lock(&self) -> InvalidateGuard<'_> {
        // SAFETY: `()` has no bytes, for which any aligned address is valid.
        let nothing = unsafe { NonNull::<UnsafeCell<()>>::dangling().as_ref() };

        // SAFETY: There is no data that others could access.
        unsafe { InvalidateGuard::new(self, nothing) }
    }
}

/// Single pages that will be added together, each at its own index.
///
/// Wraps `struct folio_batch`.
///
/// # Examples
///
/// ```
/// use kernel::mm::{
///     address_space::FolioBatch,
///     folio::NewFolio,
///     pgoff::{
///         Order,
///         PageIndex, //
///     }, //
/// };
///
/// let mut batch = FolioBatch::new();
/// batch.push(NewFolio::alloc_zeroed(Order::PAGE, GFP_KERNEL)?, PageIndex::new(7))?;
/// assert!(!batch.is_full());
///
/// // Two pages are not a single page, and come back.
/// let two = NewFolio::alloc_zeroed(Order::new(1).ok_or(EINVAL)?, GFP_KERNEL)?;
/// let refused = batch.push(two, PageIndex::new(8));
/// assert!(refused.is_err_and(|e| e.error == EINVAL && e.folio.is_some()));
/// # Ok::<(), Error>(())
/// ```
///
/// # Invariants
///
/// The batch owns a reference to each of its folios. These are single pages with defined contents,
/// in no page cache, used by nobody else, and have their index set to one that a file can have.
#[must_use = "the folios are freed when the batch is dropped"]
pub struct FolioBatch(bindings::folio_batch);

impl FolioBatch {
    /// Creates an empty batch.
    #[inline]
    pub fn new() -> Self {
        // INVARIANT: There are no folios in it.
        Self(pin_init::zeroed())
    }

    /// Returns whether the batch takes no more folios.
    #[inline]
    pub fn is_full(&self) -> bool {
        usize::from(self.0.nr) == self.0.folios.len()
    }

    /// Puts a folio into the batch, to be added at `index`.
    ///
    /// # Errors
    ///
    /// The folio comes back, with [`EINVAL`], if the batch is full, the folio is not a single page,
    /// or `index` is beyond the end of the largest file.
    #[inline]
    pub fn push(&mut self, folio: NewFolio<Init>, index: PageIndex) -> Result<(), InsertError> {
        let fits = folio.order() == Order::PAGE && index.saturating_add(1).offset().is_some();
        let Some(slot) = self
            .0
            .folios
            .get_mut(usize::from(self.0.nr))
            .filter(|_| fits)
        else {
            return Err(InsertError {
                error: EINVAL,
                folio: Some(folio),
            });
        };

        let folio = ARef::into_raw(folio.into_folio()).cast::<bindings::folio>();
        // SAFETY: The folio is valid, and a field of it is computed.
        let page = unsafe { &raw mut (*folio.as_ptr()).__bindgen_anon_1.__bindgen_anon_1 };
        // SAFETY: The folio was a `NewFolio`: it is in no page cache, so nobody uses its index.
        unsafe { (*page).__bindgen_anon_2.index = index.as_usize() };
        // INVARIANT: The batch owns the reference from here on, and the index was set and checked.
        *slot = folio.as_ptr();
        self.0.nr += 1;
        Ok(())
    }
}

impl Default for FolioBatch {
    #[inline]
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for FolioBatch {
    fn drop(&mut self) {
        for folio in self.0.folios.iter().take(usize::from(self.0.nr)) {
            // SAFETY: By the type invariants, the batch owns a reference.
            unsafe { bindings::folio_put(*folio) };
        }
    }
}

/// The `invalidate_lock` of an address space, held for writing.
///
/// While it is held, folios may be removed from the page cache, and the data of type `T` that the
/// lock protects may be modified. Dropping this unlocks.
///
/// # Invariants
///
/// This task holds the lock for writing. `data` is accessed through guards of this lock only.
#[must_use = "the lock unlocks immediately when the guard is unused"]
pub struct InvalidateGuard<'a, T = ()> {
    mapping: &'a AddressSpace,
    // An `UnsafeCell` also makes the guard invariant in `T`, which can be written to.
    data: &'a UnsafeCell<T>,
    _not_send: NotThreadSafe,
}

impl<'a, T: Send> InvalidateGuard<'a, T> {
    /// Takes the lock. May sleep.
    ///
    /// # Safety
    ///
    /// Callers must ensure that `data` is accessed through guards of the `invalidate_lock` of
    /// `mapping` only, and that it does not move if `T` is not [`Unpin`].
    #[inline]
    pub unsafe fn new(mapping: &'a AddressSpace, data: &'a UnsafeCell<T>) -> Self {
        // SAFETY: The address space is valid.
        unsafe { bindings::filemap_invalidate_lock(mapping.as_ptr()) };

        // INVARIANT: The lock was just taken. The rest is by the safety requirements.
        Self {
            mapping,
            data,
            _not_send: NotThreadSafe,
        }
    }
}

impl<T> InvalidateGuard<'_, T> {
    /// Returns a pinned reference to the data.
    #[inline]
    pub fn as_mut(&mut self) -> Pin<&mut T> {
        // SAFETY: The lock is held for writing, so there is no other reference.
        let data = unsafe { &mut *self.data.get() };
        // SAFETY: `new` has callers ensure that the data does not move.
        unsafe { Pin::new_unchecked(data) }
    }

    /// Removes all folios from the pages `range`, and unmaps them from userspace.
    ///
    /// If the address space has [no direct map], the contents are gone when this returns, even if
    /// somebody has a reference to a folio. There, a large folio that is only partly in the range
    /// stays, with all of its contents. Waits for folio locks: the caller must hold none.
    ///
    /// # Safety
    ///
    /// Callers must ensure that nothing but the page cache and page tables of userspace reaches the
    /// folios in the range. Others, such as the stage 2 page tables of a guest, must have been
    /// unmapped before, and must not map the folios again before this returns.
    ///
    /// [no direct map]: AddressSpace::no_direct_map
    pub unsafe fn truncate_range(&self, range: PageRange) {
        if range.is_empty() {
            return;
        }
        let Some(first) = range.start().offset() else {
            return;
        };
        // All ones is how C says "to the end", however long the file is.
        let last = range
            .end()
            .offset()
            .and_then(|end| bindings::uoff_t::try_from(end - 1).ok())
            .unwrap_or(bindings::uoff_t::MAX);

        // SAFETY: The address space is valid, and the lock is held for writing. By the safety
        // requirements, nobody uses the folios after their last reference was put.
        unsafe { bindings::truncate_inode_pages_range(self.mapping.as_ptr(), first, last) };
    }
}

impl<T> Deref for InvalidateGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: The lock is held for writing, so nobody else accesses the data.
        unsafe { &*self.data.get() }
    }
}

impl<T: Unpin> DerefMut for InvalidateGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        self.as_mut().get_mut()
    }
}

impl<T> Drop for InvalidateGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariants, this task holds the lock for writing.
        unsafe { bindings::filemap_invalidate_unlock(self.mapping.as_ptr()) };
    }
}

/// The `invalidate_lock` of an address space, held for reading.
///
/// While it is held, no folio is removed, and the data of type `T` that the lock protects can be
/// read. Others may hold it for reading at the same time. Dropping this unlocks.
///
/// # Invariants
///
/// This task holds the lock for reading. `data` is accessed through guards of this lock only.
#[must_use = "the lock unlocks immediately when the guard is unused"]
pub struct SharedInvalidateGuard<'a, T = ()> {
    mapping: &'a AddressSpace,
    data: &'a UnsafeCell<T>,
    _not_send: NotThreadSafe,
}

impl<'a, T: Sync> SharedInvalidateGuard<'a, T> {
    /// Takes the lock. May sleep.
    ///
    /// # Safety
    ///
    /// Callers must ensure that `data` is accessed through guards of the `invalidate_lock` of
    /// `mapping` only.
    #[inline]
    pub unsafe fn new(mapping: &'a AddressSpace, data: &'a UnsafeCell<T>) -> Self {
        // SAFETY: The address space is valid.
        unsafe { bindings::filemap_invalidate_lock_shared(mapping.as_ptr()) };

        // INVARIANT: The lock was just taken. The rest is by the safety requirements.
        Self {
            mapping,
            data,
            _not_send: NotThreadSafe,
        }
    }

    /// Takes the lock, unless somebody holds it, or waits for it, for writing.
    ///
    /// # Safety
    ///
    /// As for [`new`](Self::new).
    #[inline]
    pub unsafe fn try_new(mapping: &'a AddressSpace, data: &'a UnsafeCell<T>) -> Option<Self> {
        // SAFETY: The address space is valid.
        if unsafe { bindings::filemap_invalidate_trylock_shared(mapping.as_ptr()) } == 0 {
            return None;
        }

        // INVARIANT: The lock was just taken. The rest is by the safety requirements.
        Some(Self {
            mapping,
            data,
            _not_send: NotThreadSafe,
        })
    }
}

impl<T> Deref for SharedInvalidateGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: The lock is held for reading, so nobody modifies the data.
        unsafe { &*self.data.get() }
    }
}

impl<T> Drop for SharedInvalidateGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariants, this task holds the lock for reading.
        unsafe { bindings::filemap_invalidate_unlock_shared(self.mapping.as_ptr()) };
    }
}
