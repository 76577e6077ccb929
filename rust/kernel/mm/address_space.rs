// SPDX-License-Identifier: GPL-2.0

//! Address spaces: the page cache of one inode.
//!
//! C header: [`include/linux/pagemap.h`](srctree/include/linux/pagemap.h)

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
    mm::folio::{
        pages_of_order,
        LockedFolio,
        NewFolio, //
    },
    page::PAGE_SIZE,
    sync::aref::ARef,
    types::{
        NotThreadSafe,
        Opaque, //
    },
};
use core::{
    ops::{
        Deref,
        DerefMut,
        Range, //
    },
    ptr::NonNull, //
};

/// Returns the offset in bytes of the page `index`, if a file can be that long.
fn byte_offset(index: usize) -> Option<bindings::loff_t> {
    bindings::loff_t::try_from(index)
        .ok()?
        .checked_mul(PAGE_SIZE as bindings::loff_t)
}

/// The page cache of an inode.
///
/// Wraps `struct address_space`. There is an example at [`fs::pseudo`](crate::fs::pseudo).
///
/// # Invariants
///
/// * The address space is valid for as long as a reference to it exists.
/// * Folios in it need nothing but what the page cache itself does: no private data, no writeback.
#[repr(transparent)]
pub struct AddressSpace(Opaque<bindings::address_space>);

// SAFETY: The page cache is made for concurrent use; whatever needs a lock takes it or asks for it.
unsafe impl Sync for AddressSpace {}

/// A folio that could not be inserted, and why.
pub struct InsertError {
    /// The reason.
    pub error: Error,
    /// The folio, as it was before.
    ///
    /// [`None`] if it was taken out of the direct map and could not be put back: such a folio is
    /// never freed, and nobody can have its contents any more. Also, now and then, if somebody else
    /// held a reference for a moment.
    pub folio: Option<NewFolio>,
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
    /// `mapping` is valid for `'a`. Whoever owns it leaves it to the page cache alone what happens
    /// to its folios, and expects folios that are inserted here.
    #[inline]
    pub unsafe fn from_raw<'a>(mapping: *mut bindings::address_space) -> &'a Self {
        // SAFETY: By the safety requirements; `AddressSpace` is transparent.
        // INVARIANT: Likewise.
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
    // Inline: the C function is exported to one module, and this must not pass it on.
    #[inline]
    pub unsafe fn set_no_direct_map(&self) -> Result {
        #[cfg(CONFIG_ARCH_HAS_SET_DIRECT_MAP)]
        {
            // SAFETY: By the safety requirements, no folio was inserted with the other setting,
            // and none is being inserted.
            to_result(unsafe { bindings::mapping_set_no_direct_map(self.as_ptr()) })
        }
        #[cfg(not(CONFIG_ARCH_HAS_SET_DIRECT_MAP))]
        Err(crate::error::code::EOPNOTSUPP)
    }

    /// Are the folios of this address space out of the direct map?
    #[inline]
    pub fn no_direct_map(&self) -> bool {
        // SAFETY: By the type invariants, this is valid.
        unsafe { bindings::mapping_no_direct_map(self.as_ptr()) }
    }

    /// Returns the number of pages that are in the page cache at the moment.
    #[inline]
    pub fn page_count(&self) -> usize {
        // SAFETY: By the type invariants, this is valid; the field is written to by C only, as a
        // whole.
        unsafe { core::ptr::read_volatile(&raw const (*self.as_ptr()).nrpages) }
    }

    /// Inserts a folio at `index`, counted in pages.
    ///
    /// May sleep. The result is locked; if [`no_direct_map`](Self::no_direct_map), the kernel has
    /// no mapping of the folio any more.
    ///
    /// # Errors
    ///
    /// The folio comes back, with its contents, and with
    ///
    /// * [`EEXIST`] if there is a folio at `index` already;
    /// * [`EINVAL`] if `index` is not a multiple of the folio's pages, or beyond what a file
    ///   can have; the folio is smaller than what this address space has, or larger than a page
    ///   where the page cache cannot have that; or the direct map cannot be changed;
    /// * [`ENOMEM`] if there is no memory for the page cache, to split a large entry of the direct
    ///   map, or left in the memory cgroup.
    ///
    /// [`EEXIST`]: crate::error::code::EEXIST
    /// [`ENOMEM`]: crate::error::code::ENOMEM
    pub fn insert(
        &self,
        folio: NewFolio,
        index: usize,
        gfp: Flags,
    ) -> Result<LockedFolio<'_>, InsertError> {
        let order = folio.order();
        let pages = pages_of_order(order);

        // SAFETY: By the type invariants, this is valid.
        let min_order = unsafe { bindings::mapping_min_folio_order(self.as_ptr()) };
        if order < min_order
            || (order > 0 && !cfg!(CONFIG_XARRAY_MULTI))
            || index & pages.wrapping_sub(1) != 0
            || index.checked_add(pages).and_then(byte_offset).is_none()
        {
            return Err(InsertError {
                error: EINVAL,
                folio: Some(folio),
            });
        }

        // SAFETY: By the type invariants, this is valid. A `NewFolio` is in no page cache, and the
        // order and the alignment were checked.
        let ret = unsafe {
            bindings::filemap_add_folio(self.as_ptr(), folio.as_ptr(), index, gfp.as_raw())
        };
        if let Err(error) = to_result(ret) {
            // INVARIANT: A folio that is not back in the direct map was given a second reference,
            // for good. (One that somebody happens to look at, for a moment, has two as well; its
            // loss is no harm.)
            // SAFETY: The folio is valid.
            let is_ours = unsafe { bindings::folio_ref_count(folio.as_ptr()) } == 1;
            let folio = is_ours.then_some(folio);
            return Err(InsertError { error, folio });
        }

        // SAFETY: The folio is in the page cache of `self` now, and was locked for us.
        Ok(unsafe { LockedFolio::new(folio.into_folio()) })
    }

    /// Inserts many folios, with one TLB flush for all.
    ///
    /// Only if [`no_direct_map`](Self::no_direct_map); there is nothing to gain otherwise. May
    /// sleep. The batch is empty after that. Where an index was taken already, what is there stays,
    /// and the folio for it is freed.
    ///
    /// # Errors
    ///
    /// * [`EINVAL`] if the direct map cannot be changed, or is not what the page cache takes folios
    ///   out of, or this address space has none that are single pages; none was inserted;
    /// * [`ENOMEM`] as for [`insert`](Self::insert); some may have been inserted.
    ///
    /// [`ENOMEM`]: crate::error::code::ENOMEM
    // Inline: the C function is exported to one module, and this must not pass it on.
    #[inline]
    pub fn insert_batch(&self, batch: &mut FolioBatch) -> Result {
        // SAFETY: By the type invariants, this is valid.
        if unsafe { bindings::mapping_min_folio_order(self.as_ptr()) } > 0 {
            return Err(EINVAL);
        }
        // SAFETY: By the type invariants, both are valid; the folios are in no page cache, have
        // their index set to one that suits them, and the references are ours to give.
        // INVARIANT: The batch is empty afterwards.
        to_result(unsafe { bindings::filemap_add_batch(self.as_ptr(), &mut batch.0) })
    }

    /// Is there a folio at `index`, counted in pages?
    ///
    /// The answer may be old when it arrives.
    #[inline]
    pub fn contains(&self, index: usize) -> bool {
        // SAFETY: By the type invariants, this is valid; the entry is not looked into.
        !unsafe { bindings::xa_load(&raw mut (*self.as_ptr()).i_pages, index) }.is_null()
    }

    /// Finds the folio that contains `index`, counted in pages, and locks it. May sleep.
    ///
    /// # Errors
    ///
    /// [`ENOENT`](crate::error::code::ENOENT) if there is none.
    pub fn lock_folio(&self, index: usize) -> Result<LockedFolio<'_>> {
        // SAFETY: By the type invariants, this is valid.
        let folio = from_err_ptr(unsafe { bindings::filemap_lock_folio(self.as_ptr(), index) })?;

        // SAFETY: `filemap_lock_folio` does not return NULL, and it returned a reference, for us.
        let folio = unsafe { ARef::from_raw(NonNull::new_unchecked(folio).cast()) };
        // SAFETY: The folio is in the page cache of `self`, and was locked for us.
        Ok(unsafe { LockedFolio::new(folio) })
    }

    /// Takes the `invalidate_lock` for writing: no folio is added meanwhile by those who take it
    /// for reading. May sleep.
    #[inline]
    pub fn invalidate_lock(&self) -> InvalidateGuard<'_> {
        // SAFETY: There is no data.
        unsafe { InvalidateGuard::new(self, NonNull::dangling()) }
    }
}

/// Single pages that will be inserted together, each at its own index.
///
/// Wraps `struct folio_batch`.
///
/// # Examples
///
/// ```
/// use kernel::mm::{
///     address_space::FolioBatch,
///     folio::NewFolio, //
/// };
///
/// let mut batch = FolioBatch::new();
/// batch.push(NewFolio::alloc(0, GFP_KERNEL)?, 7)?;
/// assert!(!batch.is_full());
///
/// // Two pages are no single page, and come back.
/// let refused = batch.push(NewFolio::alloc(1, GFP_KERNEL)?, 8);
/// assert!(refused.is_err_and(|e| e.error == EINVAL && e.folio.is_some()));
/// # Ok::<(), Error>(())
/// ```
///
/// # Invariants
///
/// The batch owns the only reference to each of its folios, which are order 0, in no page cache,
/// and have their index set to one that a file can have.
pub struct FolioBatch(bindings::folio_batch);

impl FolioBatch {
    /// Creates an empty batch.
    #[inline]
    pub fn new() -> Self {
        // INVARIANT: There are no folios in it.
        Self(pin_init::zeroed())
    }

    /// Returns whether no more folios fit in.
    #[inline]
    pub fn is_full(&self) -> bool {
        usize::from(self.0.nr) == self.0.folios.len()
    }

    /// Adds a folio, which is meant for `index`, in pages.
    ///
    /// # Errors
    ///
    /// The folio comes back, with [`EINVAL`], if the batch is full, the folio is not a single page,
    /// or `index` is beyond what a file can have.
    pub fn push(&mut self, folio: NewFolio, index: usize) -> Result<(), InsertError> {
        let fits = folio.order() == 0 && index.checked_add(1).and_then(byte_offset).is_some();
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

        // SAFETY: Nobody else knows of a `NewFolio`, so nobody else uses its index.
        unsafe { bindings::folio_set_pgoff(folio.as_ptr(), index) };
        // INVARIANT: The reference is owned by the batch from here on.
        *slot = ARef::into_raw(folio.into_folio()).cast().as_ptr();
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
/// It is the key to what removes folios, and to the data of type `T` that the lock protects.
/// Unlocks when it goes out of scope.
///
/// # Invariants
///
/// The lock is held for writing, by this task. `data` is valid for `'a`, and is reached through
/// guards of this lock only.
#[must_use = "the lock unlocks immediately when the guard is unused"]
pub struct InvalidateGuard<'a, T = ()> {
    mapping: &'a AddressSpace,
    data: NonNull<T>,
    _not_send: NotThreadSafe,
}

impl<'a, T> InvalidateGuard<'a, T> {
    /// Takes the lock. May sleep.
    ///
    /// # Safety
    ///
    /// `data` is valid for `'a`, and is reached through guards of this lock only.
    #[inline]
    pub(crate) unsafe fn new(mapping: &'a AddressSpace, data: NonNull<T>) -> Self {
        // SAFETY: By the type invariants, this is valid.
        unsafe { bindings::filemap_invalidate_lock(mapping.as_ptr()) };

        // INVARIANT: We just took it; and the safety requirements.
        Self {
            mapping,
            data,
            _not_send: NotThreadSafe,
        }
    }

    /// Removes all folios from the pages `range`, unmapping them from userspace.
    ///
    /// What a folio held is gone when this returns if [`AddressSpace::no_direct_map`], even if
    /// somebody has a reference to it; a large folio that is only partly in the range stays, whole.
    /// Waits for folio locks: the caller must have none.
    pub fn truncate(&self, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        let Some(first) = byte_offset(range.start) else {
            return;
        };
        // All ones is how C says "to the end", however long the file.
        let last = byte_offset(range.end)
            .and_then(|end| bindings::uoff_t::try_from(end - 1).ok())
            .unwrap_or(bindings::uoff_t::MAX);

        // SAFETY: By the type invariants, this is valid and the lock is held.
        unsafe { bindings::truncate_inode_pages_range(self.mapping.as_ptr(), first, last) };
    }
}

impl<T> Deref for InvalidateGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: By the type invariants; nobody else has it while we hold the lock.
        unsafe { self.data.as_ref() }
    }
}

impl<T> DerefMut for InvalidateGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: As above.
        unsafe { self.data.as_mut() }
    }
}

impl<T> Drop for InvalidateGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariants, this task holds the lock for writing.
        unsafe { bindings::filemap_invalidate_unlock(self.mapping.as_ptr()) };
    }
}

/// The `invalidate_lock` of an address space, held for reading, with others maybe.
///
/// While it is held nothing is removed. Data of type `T` that the lock protects can be read.
/// Unlocks when it goes out of scope.
///
/// # Invariants
///
/// The lock is held for reading, by this task. `data` is valid for `'a`, and is reached through
/// guards of this lock only.
#[must_use = "the lock unlocks immediately when the guard is unused"]
pub struct SharedInvalidateGuard<'a, T = ()> {
    mapping: &'a AddressSpace,
    data: NonNull<T>,
    _not_send: NotThreadSafe,
}

impl<'a, T> SharedInvalidateGuard<'a, T> {
    /// Takes the lock if nobody has it, or waits for it, for writing.
    ///
    /// # Safety
    ///
    /// `data` is valid for `'a`, and is reached through guards of this lock only.
    #[inline]
    pub unsafe fn try_new(mapping: &'a AddressSpace, data: NonNull<T>) -> Option<Self> {
        // SAFETY: By the type invariants, this is valid.
        if unsafe { bindings::filemap_invalidate_trylock_shared(mapping.as_ptr()) } == 0 {
            return None;
        }

        // INVARIANT: We just took it; and the safety requirements.
        Some(Self {
            mapping,
            data,
            _not_send: NotThreadSafe,
        })
    }

    /// Takes the lock. May sleep.
    ///
    /// # Safety
    ///
    /// `data` is valid for `'a`, and is reached through guards of this lock only.
    #[inline]
    pub unsafe fn new(mapping: &'a AddressSpace, data: NonNull<T>) -> Self {
        // SAFETY: By the type invariants, this is valid.
        unsafe { bindings::filemap_invalidate_lock_shared(mapping.as_ptr()) };

        // INVARIANT: We just took it; and the safety requirements.
        Self {
            mapping,
            data,
            _not_send: NotThreadSafe,
        }
    }
}

impl<T> Deref for SharedInvalidateGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: By the type invariants; nobody writes it while we hold the lock.
        unsafe { self.data.as_ref() }
    }
}

impl<T> Drop for SharedInvalidateGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariants, this task holds the lock for reading.
        unsafe { bindings::filemap_invalidate_unlock_shared(self.mapping.as_ptr()) };
    }
}
