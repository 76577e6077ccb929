// SPDX-License-Identifier: GPL-2.0

//! Inodes that carry data of one Rust type.
//!
//! A file system that keeps its files in memory needs few things of an inode: its page cache, a
//! place for its own data, and a say in what happens to folios. [`InodeData`] is what such a file
//! system implements for its data, and [`Inode<T>`] is an inode that carries a `T`.
//!
//! The data has two parts. The value itself is for what does not change, or has a lock of its own.
//! [`InodeData::Locked`] is protected by the `invalidate_lock`, and the guards of that lock are the
//! only way to it.
//!
//! # Removing folios
//!
//! The page cache unmaps a folio from userspace before it removes it. It knows nothing of others
//! that map the folio by its page frame number, such as KVM, which maps it into a guest without a
//! reference. If one of them went on using a folio that was freed, it would write to memory of the
//! next owner. So the file system implements [`InodeData::unmap`], which unmaps pages from such
//! users and keeps them unmapped. Removing folios takes three steps, and the types ensure that none
//! is skipped:
//!
//! 1. [`Inode::invalidate_lock`] returns an [`InodeGuard`];
//! 2. [`InodeGuard::unmap`] unmaps a range and returns an [`Unmapped`], which knows the range;
//! 3. [`Unmapped::remove_folios`] removes the folios, and lets others map the range again.
//!
//! C header: [`include/linux/fs.h`](srctree/include/linux/fs.h)

use crate::{
    alloc::{
        flags::GFP_KERNEL_ACCOUNT,
        KBox, //
    },
    bindings,
    error::VTABLE_DEFAULT_ERROR,
    fs::file::Offset,
    mm::{
        address_space::{
            AddressSpace,
            InvalidateGuard,
            SharedInvalidateGuard, //
        },
        pgoff::{
            PageIndex,
            PageRange,
            Pfn, //
        }, //
    },
    prelude::*,
    types::{
        ForeignOwnable,
        Opaque, //
    },
    warn_on_once, //
};
use core::{
    cell::UnsafeCell,
    marker::PhantomData,
    ops::{
        Deref,
        DerefMut, //
    }, //
};
use pin_init::Wrapper;

/// The data of the inodes of one file system, and its operations on their page cache.
///
/// The folios are not evicted, not migrated and not written back. They are removed by
/// [`Unmapped::remove_folios`], and with the inode. When the inode goes, it has no open file and no
/// mapping any more, and [`unmap`](Self::unmap) is not called.
#[vtable]
pub trait InodeData: Send + Sync + Sized + 'static {
    /// The part of the data that the `invalidate_lock` protects.
    type Locked: Send + Sync;

    /// The result of [`unmap`](Self::unmap), which keeps the pages unmapped until it is dropped.
    type Unmapped<'a>;

    /// Unmaps `pages` from everything that maps folios by their page frame number, and keeps them
    /// unmapped until the result is dropped.
    ///
    /// The page cache unmaps them from userspace. Whoever lets others map a folio by its page frame
    /// number, which takes unsafe code, relies on this function to unmap it again: then a guest,
    /// for example, does not write to a folio that was freed.
    ///
    /// Context: under the `invalidate_lock`, held for reading or writing. May sleep.
    fn unmap<'a>(
        inode: &'a Inode<Self>,
        locked: &'a Self::Locked,
        pages: PageRange,
    ) -> Self::Unmapped<'a>;

    /// Handles an error that the hardware reported in memory at `pages`.
    ///
    /// The folio stays in the page cache; later faults find [`Folio::is_hwpoisoned`].
    ///
    /// Context: with the folio locked. Removing folios waits for folio locks under the
    /// `invalidate_lock`, so this must not wait for that lock. May sleep.
    ///
    /// [`Folio::is_hwpoisoned`]: crate::mm::folio::Folio::is_hwpoisoned
    fn error_remove_folio(_inode: &Inode<Self>, _pages: PageRange) {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Called after a folio was removed from the page cache, before its last reference is put.
    ///
    /// Context: process context, with the folio locked.
    fn free_folio(_folio: &RemovedFolio) {
        build_error!(VTABLE_DEFAULT_ERROR)
    }
}

/// The physical range of a folio that was just removed from the page cache.
///
/// Others may hold references to the folio.
///
/// # Invariants
///
/// The folio was removed from the page cache, and is not freed while this value exists.
pub struct RemovedFolio {
    pfn: Pfn,
    nr_pages: usize,
}

impl RemovedFolio {
    /// Returns the page frame number of the first page.
    #[inline]
    pub fn pfn(&self) -> Pfn {
        self.pfn
    }

    /// Returns the number of pages.
    #[inline]
    pub fn nr_pages(&self) -> usize {
        self.nr_pages
    }
}

/// The data behind `i_private`.
#[pin_data]
struct Private<T: InodeData> {
    #[pin]
    locked: UnsafeCell<T::Locked>,
    #[pin]
    data: T,
}

/// An inode that carries a `T`.
///
/// Wraps `struct inode`.
///
/// # Invariants
///
/// * The inode is valid for as long as a reference to it exists.
/// * Its `i_private` owns a `Private<T>`, which is not replaced.
/// * Its address space has the operations of `T`, and its folios are not evicted or migrated.
#[repr(transparent)]
pub struct Inode<T: InodeData>(Opaque<bindings::inode>, PhantomData<fn(T) -> T>);

// SAFETY: Inodes are made for concurrent use. Of their data, `T` is `Sync`, and access to
// `T::Locked` goes through guards of a lock.
unsafe impl<T: InodeData> Sync for Inode<T> {}

impl<T: InodeData> Inode<T> {
    /// Creates a reference from a C inode.
    ///
    /// # Safety
    ///
    /// Callers must ensure that `inode` is valid for `'a` and was made as an inode with a `T`.
    #[inline]
    pub unsafe fn from_raw<'a>(inode: *mut bindings::inode) -> &'a Self {
        // INVARIANT: By the safety requirements.
        // SAFETY: `inode` is valid for `'a`, and `Inode` is transparent.
        unsafe { &*inode.cast() }
    }

    /// Returns the C inode.
    #[inline]
    pub fn as_ptr(&self) -> *mut bindings::inode {
        self.0.get()
    }

    /// Returns the size of the file, in bytes.
    #[inline]
    pub fn size(&self) -> Offset {
        // SAFETY: The inode is valid.
        unsafe { bindings::i_size_read(self.as_ptr()) }
    }

    /// Returns the number of the inode.
    #[inline]
    pub fn ino(&self) -> u64 {
        // SAFETY: The inode is valid; the number does not change.
        unsafe { (*self.as_ptr()).i_ino }
    }

    /// Returns the page cache.
    #[inline]
    pub fn mapping(&self) -> &AddressSpace {
        // SAFETY: The inode is valid.
        let mapping = unsafe { (*self.as_ptr()).i_mapping };
        // SAFETY: The mapping lives as long as the inode. By the type invariants, it has the
        // operations below, which use no private data of folios and no writeback, and its folios
        // are not evicted. `Unmapped` removes them under the lock.
        unsafe { AddressSpace::from_raw(mapping) }
    }

    #[inline]
    fn private(&self) -> &Private<T> {
        // SAFETY: By the type invariants, this points to a `Private<T>`.
        unsafe { &*(*self.as_ptr()).i_private.cast() }
    }

    /// Returns the data of the inode.
    #[inline]
    pub fn data(&self) -> &T {
        &self.private().data
    }

    /// Takes the `invalidate_lock` for writing. May sleep.
    #[inline]
    pub fn invalidate_lock(&self) -> InodeGuard<'_, T> {
        InodeGuard {
            inode: self,
            // SAFETY: `locked` is pinned, private to this module, and used for guards of the lock
            // of this mapping only.
            guard: unsafe { InvalidateGuard::new(self.mapping(), &self.private().locked) },
        }
    }

    /// Takes the `invalidate_lock` for reading. May sleep.
    #[inline]
    pub fn invalidate_lock_shared(&self) -> SharedInvalidateGuard<'_, T::Locked> {
        // SAFETY: `locked` is private to this module, and used for guards of the lock of this
        // mapping only.
        unsafe { SharedInvalidateGuard::new(self.mapping(), &self.private().locked) }
    }

    /// Takes the `invalidate_lock` for reading, unless somebody holds it, or waits for it, for
    /// writing.
    #[inline]
    pub fn try_invalidate_lock_shared(&self) -> Option<SharedInvalidateGuard<'_, T::Locked>> {
        // SAFETY: As for `invalidate_lock_shared`.
        unsafe { SharedInvalidateGuard::try_new(self.mapping(), &self.private().locked) }
    }

    /// Gives an inode its data and the operations of `T`.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    ///
    /// # Safety
    ///
    /// Callers must ensure that `inode` is valid, that nobody else can reach it, that it has no
    /// private data, and that [`drop_private`](Self::drop_private) is called when it is evicted.
    pub(super) unsafe fn init_private(
        inode: *mut bindings::inode,
        locked: impl PinInit<T::Locked>,
        data: impl PinInit<T>,
    ) -> Result {
        let private = KBox::try_pin_init(
            try_pin_init!(Private::<T> {
                locked <- UnsafeCell::pin_init(locked),
                data <- data,
            }),
            GFP_KERNEL_ACCOUNT,
        )?;

        // SAFETY: By the safety requirements, nobody else uses the inode.
        unsafe { (*inode).i_private = private.into_foreign() };
        // SAFETY: The mapping is the inode's, which nobody else uses.
        unsafe { (*(*inode).i_mapping).a_ops = &raw const *Self::AOPS };
        Ok(())
    }

    /// Frees the data of an inode.
    ///
    /// # Safety
    ///
    /// Callers must ensure that the inode is being evicted: nobody has a reference to it, or to its
    /// data.
    #[inline]
    pub(super) unsafe fn drop_private(inode: *mut bindings::inode) {
        // SAFETY: `inode` is valid.
        let private = unsafe { (*inode).i_private };
        // SAFETY: `inode` is valid, and nobody else uses it.
        unsafe { (*inode).i_private = core::ptr::null_mut() };
        // SAFETY: If there is private data, it is that of `init_private`, and nobody uses it.
        drop(unsafe { Pin::<KBox<Private<T>>>::try_from_foreign(private) });
    }

    const AOPS: &'static bindings::address_space_operations = &bindings::address_space_operations {
        dirty_folio: Some(bindings::noop_dirty_folio),
        migrate_folio: Some(migrate_folio),
        error_remove_folio: if T::HAS_ERROR_REMOVE_FOLIO {
            Some(Self::error_remove_folio)
        } else {
            None
        },
        free_folio: if T::HAS_FREE_FOLIO {
            Some(Self::free_folio)
        } else {
            None
        },
        ..pin_init::zeroed()
    };

    /// # Safety
    ///
    /// Callers must ensure that `folio` is locked and in `mapping`, which has these operations.
    unsafe extern "C" fn error_remove_folio(
        mapping: *mut bindings::address_space,
        folio: *mut bindings::folio,
    ) -> c_int {
        // SAFETY: Only `init_private` gives a mapping these operations. The folio in the page cache
        // keeps the inode from being evicted.
        let inode = unsafe { Inode::from_raw((*mapping).host) };
        // SAFETY: The folio is valid, and its lock keeps the index.
        let first = unsafe { bindings::folio_pgoff(folio) };
        // SAFETY: The folio is valid.
        let nr_pages = unsafe { bindings::folio_nr_pages(folio) };

        T::error_remove_folio(inode, PageRange::new(PageIndex::new(first), nr_pages));
        // For memory failure, all but zero says that the folio stays. C guest_memfd returns this.
        bindings::mf_result_MF_DELAYED as c_int
    }

    /// # Safety
    ///
    /// Callers must ensure that `folio` was removed from the page cache, and that they have a
    /// reference to it.
    unsafe extern "C" fn free_folio(folio: *mut bindings::folio) {
        // SAFETY: The folio is valid.
        let pfn = Pfn::new(unsafe { bindings::folio_pfn(folio) });
        // SAFETY: The folio is valid.
        let nr_pages = unsafe { bindings::folio_nr_pages(folio) };

        // INVARIANT: By the safety requirements; the reference is put after this.
        T::free_folio(&RemovedFolio { pfn, nr_pages });
    }
}

/// Refuses to move a folio. The mapping is inaccessible, so the memory management does not try to.
extern "C" fn migrate_folio(
    _mapping: *mut bindings::address_space,
    _dst: *mut bindings::folio,
    _src: *mut bindings::folio,
    _mode: bindings::migrate_mode,
) -> c_int {
    warn_on_once!(true);
    EINVAL.to_errno()
}

/// The `invalidate_lock` of an inode, held for writing.
///
/// Derefs to the data that the lock protects. Dropping this unlocks.
#[must_use = "the lock unlocks immediately when the guard is unused"]
pub struct InodeGuard<'a, T: InodeData> {
    inode: &'a Inode<T>,
    guard: InvalidateGuard<'a, T::Locked>,
}

impl<T: InodeData> InodeGuard<'_, T> {
    /// Unmaps `pages` from everything that maps folios by their page frame number.
    #[inline]
    pub fn unmap(&self, pages: PageRange) -> Unmapped<'_, T> {
        // INVARIANT: They are unmapped while the result of `unmap` exists.
        Unmapped {
            _unmapped: T::unmap(self.inode, &self.guard, pages),
            guard: &self.guard,
            pages,
        }
    }

    /// Returns a pinned reference to the data that the lock protects.
    #[inline]
    pub fn as_mut(&mut self) -> Pin<&mut T::Locked> {
        self.guard.as_mut()
    }
}

impl<T: InodeData> Deref for InodeGuard<'_, T> {
    type Target = T::Locked;

    #[inline]
    fn deref(&self) -> &T::Locked {
        &self.guard
    }
}

impl<T: InodeData<Locked: Unpin>> DerefMut for InodeGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T::Locked {
        &mut self.guard
    }
}

/// A range of pages that only the page cache and page tables of userspace have.
///
/// Dropping this allows others to map the pages again.
///
/// # Invariants
///
/// `pages` are unmapped, and cannot be mapped, other than by userspace.
#[must_use = "the pages can be mapped again immediately when this is unused"]
pub struct Unmapped<'a, T: InodeData> {
    _unmapped: T::Unmapped<'a>,
    guard: &'a InvalidateGuard<'a, T::Locked>,
    pages: PageRange,
}

impl<T: InodeData> Unmapped<'_, T> {
    /// Removes the folios, as [`InvalidateGuard::truncate_range`].
    #[inline]
    pub fn remove_folios(self) {
        // SAFETY: By the type invariants, nothing but the page cache and userspace reaches them.
        unsafe { self.guard.truncate_range(self.pages) };
    }
}
