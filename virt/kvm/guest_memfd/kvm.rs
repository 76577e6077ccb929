// SPDX-License-Identifier: GPL-2.0

//! The rest of KVM: virtual machines, memslots, their locks, and invalidation.
//!
//! `struct kvm` and `struct kvm_memory_slot` are opaque here. [`kvm.c`] has the functions that
//! access their fields, take locks that are macros, or are exported to kvm only.
//!
//! # Memslots
//!
//! KVM frees a memslot when userspace deletes it. Two types stand for one that is not freed yet:
//!
//! * [`Slot`] is borrowed: from a caller that holds `kvm->srcu` or creates or deletes the memslot,
//!   from [`SlotsLocked`], or from a [`BoundSlot`].
//! * [`BoundSlot`] is the slot's binding to a file. The slot has a pointer to the file, without a
//!   reference. KVM calls `kvm_gmem_unbind()`, which ends the binding, before it frees the slot.
//!
//! # Invalidation
//!
//! KVM maps guest memory without a reference to it. To take memory away from a guest:
//!
//! 1. [`Vm::start_invalidation`] takes `mmu_lock`, and makes guest faults retry from now on.
//! 2. [`Unmapping::unmap`] unmaps memslots from stage 2.
//! 3. [`Unmapping::finish`] flushes the guest's TLBs and unlocks. The guest no longer uses the
//!    memory.
//! 4. [`Vm::unmap_pfncaches`] unmaps the pages from `gfn_to_pfn_cache`s, through which KVM itself
//!    accesses some guest pages (`virt/kvm/pfncache_gmem.c`). They are not mapped again while there
//!    is an [`Invalidation`].
//! 5. When the [`Invalidation`] is dropped, guest faults can succeed again.
//!
//! A guest fault reads `mmu_invalidate_seq` before it asks for a page. Before it maps the page,
//! with `mmu_lock` held, it retries if an invalidation of this page is in progress, or if any
//! invalidation ended after that read.
//!
//! C header: [`virt/kvm/guest_memfd/kvm.h`](srctree/virt/kvm/guest_memfd/kvm.h)
//!
//! [`kvm.c`]: srctree/virt/kvm/guest_memfd/kvm.c

use crate::range::{
    Gfn,
    Placement, //
};
use core::{
    cell::UnsafeCell,
    ops::{
        Deref,
        Range, //
    },
    ptr::NonNull, //
};
use kernel::{
    bindings,
    ffi::c_void,
    fs::{
        inode::{
            Inode,
            InodeData, //
        },
        pseudo::{
            InodeOptions,
            Mount,
            NewInode, //
        },
        File, //
    },
    mm::{
        address_space::AddressSpace,
        folio::LockedFolio,
        pgoff::{
            Order,
            PageIndex,
            PageRange, //
        }, //
    },
    prelude::*,
    sync::{
        aref::{
            ARef,
            AlwaysRefCounted, //
        },
        atomic::{
            Atomic,
            Relaxed, //
        }, //
    },
    types::{
        ForeignOwnable,
        NotThreadSafe,
        Opaque, //
    },
    warn_on_once,
    ModuleMetadata, //
};

/// The module that contains this crate, as `module!` would define it: it is linked into `kvm`.
pub(crate) struct LocalModule;

impl ModuleMetadata for LocalModule {
    const NAME: &'static CStr = c"kvm";

    // Not used: `kvm_gmem_init()` is passed the module that keeps `kvm` loaded.
    const THIS_MODULE: ThisModule = {
        // SAFETY: `try_module_get` and `module_put` accept NULL.
        unsafe { ThisModule::from_ptr(core::ptr::null_mut()) }
    };
}

/// A virtual machine.
///
/// Wraps `struct kvm`.
///
/// # Invariants
///
/// Instances of this type are always refcounted.
#[repr(transparent)]
pub(crate) struct Vm(Opaque<bindings::kvm>);

// SAFETY: A virtual machine may be used, and its last reference put, by any task.
unsafe impl Send for Vm {}

// SAFETY: All methods call functions of KVM that take the locks they need.
unsafe impl Sync for Vm {}

// SAFETY: By the type invariants, virtual machines are refcounted.
unsafe impl AlwaysRefCounted for Vm {
    fn inc_ref(&self) {
        // SAFETY: The existence of a reference means that the refcount is not zero.
        unsafe { bindings::kvm_get_kvm(self.as_ptr()) };
    }

    unsafe fn dec_ref(obj: NonNull<Self>) {
        // SAFETY: The caller owns a reference, which this consumes.
        unsafe { bindings::kvm_put_kvm(obj.cast().as_ptr()) };
    }
}

impl Vm {
    /// Creates a reference from a C `struct kvm`.
    ///
    /// # Safety
    ///
    /// Callers must ensure that `kvm` is valid for `'a`.
    pub(crate) unsafe fn from_raw<'a>(kvm: *mut bindings::kvm) -> &'a Self {
        // INVARIANT: Every `struct kvm` is refcounted.
        // SAFETY: `kvm` is valid for `'a`, and `Vm` is transparent.
        unsafe { &*kvm.cast() }
    }

    fn as_ptr(&self) -> *mut bindings::kvm {
        self.0.get()
    }

    /// Returns the flags that a guest_memfd of this VM may have.
    pub(crate) fn supported_flags(&self) -> u64 {
        // SAFETY: The VM is valid.
        unsafe { bindings::gmem_supported_flags(self.as_ptr()) }
    }

    /// Takes `slots_lock`: memslots are not changed or freed meanwhile.
    pub(crate) fn lock_slots(&self) -> SlotsGuard<'_> {
        // SAFETY: The VM is valid.
        unsafe { bindings::gmem_slots_lock(self.as_ptr()) };
        SlotsGuard {
            // INVARIANT: The lock was just taken.
            // SAFETY: The lock is held until the guard is dropped.
            slots: unsafe { self.assume_slots_locked() },
            _not_send: NotThreadSafe,
        }
    }

    /// Returns the proof that `slots_lock` is held.
    ///
    /// # Safety
    ///
    /// Callers must ensure that `slots_lock` is held while the result is used, or that nobody else
    /// uses the VM.
    pub(crate) unsafe fn assume_slots_locked(&self) -> &SlotsLocked {
        // INVARIANT: By the safety requirements.
        // SAFETY: `SlotsLocked` is transparent.
        unsafe { &*core::ptr::from_ref(self).cast() }
    }

    /// Starts to invalidate mappings of the guest.
    pub(crate) fn start_invalidation(&self) -> Unmapping<'_> {
        // SAFETY: The VM is valid.
        unsafe { bindings::gmem_invalidate_start(self.as_ptr()) };
        Unmapping {
            // INVARIANT: The lock was just taken.
            mmu_lock: MmuLock {
                vm: self,
                flush: false,
                _not_send: NotThreadSafe,
            },
            // INVARIANT: The invalidation was just started.
            invalidation: Invalidation(self),
        }
    }

    /// Unmaps `pages` of `mapping` from this VM's `gfn_to_pfn_cache`s.
    ///
    /// They cannot be mapped again while an [`Invalidation`] of a memslot with these pages exists,
    /// or if there is no such memslot any more.
    pub(crate) fn unmap_pfncaches(&self, mapping: &AddressSpace, pages: PageRange) {
        let Range { start, end } = pages.into();

        // SAFETY: The VM and the address space are valid.
        unsafe { bindings::gmem_unmap_pfncaches(self.as_ptr(), mapping.as_ptr(), start, end) };
    }

    /// Converts the page of `folio` at `index` to memory that is private to the guest, at `gfn`, on
    /// architectures that have to do something for this.
    ///
    /// Userspace must not have the page mapped. It cannot access a file without
    /// [`InitShared`](crate::flags::Flag::InitShared), and a VM with private memory has no other.
    ///
    /// # Errors
    ///
    /// `EIO` if the folio does not have this page; those of the architecture.
    pub(crate) fn make_private(
        &self,
        gfn: Gfn,
        folio: &LockedFolio<'_>,
        index: PageIndex,
    ) -> Result {
        #[cfg(CONFIG_HAVE_KVM_ARCH_GMEM_CONVERT)]
        {
            let pfn = folio.pfn_of(index).ok_or(EIO)?.as_usize() as bindings::kvm_pfn_t;

            // SAFETY: The VM is valid. The page is in a page cache, and this crate has no other
            // than that of guest_memfd. The folio lock keeps it there, so it is not freed before it
            // was converted, and `kvm_arch_gmem_reclaim()` will convert it back.
            let ret = unsafe { bindings::gmem_make_private(self.as_ptr(), gfn.as_u64(), pfn, 1) };
            kernel::error::to_result(ret)
        }
        #[cfg(not(CONFIG_HAVE_KVM_ARCH_GMEM_CONVERT))]
        {
            let _ = (gfn, folio, index);
            Ok(())
        }
    }

    /// Returns whether the memory at `gfn` is private to the guest.
    #[cfg(CONFIG_HAVE_KVM_ARCH_GMEM_POPULATE)]
    pub(crate) fn is_private(&self, gfn: Gfn) -> bool {
        // SAFETY: The VM is valid.
        unsafe { bindings::gmem_is_private(self.as_ptr(), gfn.as_u64()) }
    }
}

impl PartialEq for Vm {
    fn eq(&self, other: &Self) -> bool {
        core::ptr::eq(self, other)
    }
}

/// A virtual machine whose `slots_lock` is held.
///
/// # Invariants
///
/// The lock is held, or nobody else uses the VM.
#[repr(transparent)]
pub(crate) struct SlotsLocked(Vm);

impl SlotsLocked {
    /// Returns the virtual machine.
    pub(crate) fn vm(&self) -> &Vm {
        &self.0
    }

    /// Returns the memslot that has `gfn`, if its memory comes from a guest_memfd.
    #[cfg(CONFIG_HAVE_KVM_ARCH_GMEM_POPULATE)]
    pub(crate) fn slot_of(&self, gfn: Gfn) -> Option<&Slot> {
        // SAFETY: The VM is valid. By the type invariants, its memslots are not being changed.
        let slot = unsafe { bindings::gmem_slot_of(self.0.as_ptr(), gfn.as_u64()) };

        if slot.is_null() {
            return None;
        }
        // SAFETY: The slot is not freed as long as the lock is held.
        Some(unsafe { Slot::from_raw(slot) })
    }
}

/// The `slots_lock` of a virtual machine. Dropping this unlocks.
///
/// # Invariants
///
/// This task holds the lock.
#[must_use = "the lock unlocks immediately when the guard is unused"]
pub(crate) struct SlotsGuard<'a> {
    slots: &'a SlotsLocked,
    _not_send: NotThreadSafe,
}

impl Deref for SlotsGuard<'_> {
    type Target = SlotsLocked;

    fn deref(&self) -> &SlotsLocked {
        self.slots
    }
}

impl Drop for SlotsGuard<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants, this task holds the lock.
        unsafe { bindings::gmem_slots_unlock(self.slots.vm().as_ptr()) };
    }
}

/// The `mmu_lock` of a virtual machine. Dropping this unlocks.
///
/// # Invariants
///
/// This task holds the lock.
#[must_use = "the lock unlocks immediately when the guard is unused"]
struct MmuLock<'a> {
    vm: &'a Vm,
    flush: bool,
    _not_send: NotThreadSafe,
}

impl Drop for MmuLock<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants, this task holds the lock.
        unsafe { bindings::gmem_invalidate_unlock(self.vm.as_ptr(), self.flush) };
    }
}

/// An invalidation during which memory is unmapped from the guest, under `mmu_lock`.
#[must_use = "nothing is unmapped when this is unused"]
pub(crate) struct Unmapping<'a> {
    // Dropped first: ending the invalidation takes the lock again.
    mmu_lock: MmuLock<'a>,
    invalidation: Invalidation<'a>,
}

impl<'a> Unmapping<'a> {
    /// Unmaps the guest frame numbers `gfns` of `slot`: the private ones if `private`, otherwise
    /// the shared ones.
    ///
    /// # Safety
    ///
    /// Callers must ensure that `slot` is valid, and of this VM.
    pub(crate) unsafe fn unmap(&mut self, slot: NonNull<Slot>, gfns: Range<Gfn>, private: bool) {
        // SAFETY: The VM is valid, and its `mmu_lock` is held. The slot is by the safety
        // requirements.
        self.mmu_lock.flush |= unsafe {
            bindings::gmem_invalidate_range(
                self.mmu_lock.vm.as_ptr(),
                slot.as_ptr().cast(),
                gfns.start.as_u64(),
                gfns.end.as_u64(),
                private,
            )
        };
    }

    /// Flushes the guest's TLBs if something was unmapped, and releases `mmu_lock`.
    pub(crate) fn finish(self) -> Invalidation<'a> {
        let Self {
            mmu_lock,
            invalidation,
        } = self;

        drop(mmu_lock);
        invalidation
    }
}

/// An invalidation in progress. Guest faults on the memory that was unmapped retry until this is
/// dropped.
///
/// # Invariants
///
/// An invalidation was started, and this value ends it.
#[must_use = "guest faults succeed again immediately when this is unused"]
pub(crate) struct Invalidation<'a>(&'a Vm);

impl Drop for Invalidation<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants, an invalidation is in progress.
        unsafe { bindings::gmem_invalidate_end(self.0.as_ptr()) };
    }
}

/// A virtual machine, with the number of its invalidations that one file has in progress.
///
/// An inode can have any number of files, and unmapping its pages starts an invalidation for each.
/// (There is one today; no ioctl creates another.) The [`Invalidation`]s would have to be kept in a
/// list, which cannot be allocated: unmapping must not fail. So each file counts its own.
///
/// # Invariants
///
/// `invalidations` of the VM were started by this file, and not ended yet.
pub(crate) struct FileVm {
    vm: ARef<Vm>,
    invalidations: Atomic<i32>,
}

impl FileVm {
    /// Takes a reference to `vm`.
    pub(crate) fn new(vm: &Vm) -> Self {
        // INVARIANT: None was started.
        Self {
            vm: vm.into(),
            invalidations: Atomic::new(0),
        }
    }

    /// Leaves `invalidation` in progress, until [`end_invalidation`](Self::end_invalidation).
    ///
    /// It ends at once if it is one of another VM.
    pub(crate) fn keep(&self, invalidation: Invalidation<'_>) {
        if !warn_on_once!(invalidation.0 != &*self.vm) {
            // INVARIANT: It is not ended, since it is not dropped.
            core::mem::forget(invalidation);
            self.invalidations.fetch_add(1, Relaxed);
        }
    }

    /// Ends one invalidation that was left in progress, if there is one.
    pub(crate) fn end_invalidation(&self) {
        let mut count = self.invalidations.load(Relaxed);
        loop {
            if warn_on_once!(count <= 0) {
                return;
            }
            match self.invalidations.cmpxchg(count, count - 1, Relaxed) {
                Ok(_) => break,
                Err(now) => count = now,
            }
        }
        // INVARIANT: The counter was positive, so an invalidation of this VM is in progress. It was
        // decremented, so nobody else ends it.
        drop(Invalidation(&self.vm));
    }
}

impl Deref for FileVm {
    type Target = Vm;

    fn deref(&self) -> &Vm {
        &self.vm
    }
}

/// A memslot.
///
/// Wraps `struct kvm_memory_slot`.
///
/// # Invariants
///
/// The slot is valid for as long as a reference to it exists.
#[repr(transparent)]
pub(crate) struct Slot(Opaque<bindings::kvm_memory_slot>);

// SAFETY: All methods take `&self` and access fields that are constant, or atomically.
unsafe impl Sync for Slot {}

impl Slot {
    /// Creates a reference from a C memslot.
    ///
    /// # Safety
    ///
    /// Callers must ensure that `slot` is valid for `'a`.
    pub(crate) unsafe fn from_raw<'a>(slot: *mut bindings::kvm_memory_slot) -> &'a Self {
        // INVARIANT: By the safety requirements.
        // SAFETY: `slot` is valid for `'a`, and `Slot` is transparent.
        unsafe { &*slot.cast() }
    }

    /// Returns the C memslot.
    pub(crate) fn as_ptr(&self) -> *mut bindings::kvm_memory_slot {
        self.0.get()
    }

    /// Returns the guest frame numbers, and the pages of the file behind them.
    pub(crate) fn placement(&self) -> Placement {
        // SAFETY: The slot is valid.
        let slot = unsafe { bindings::gmem_slot(self.as_ptr()) };

        Placement {
            base_gfn: Gfn::new(slot.base_gfn),
            pages: PageRange::new(PageIndex::new(slot.pgoff), slot.npages),
        }
    }

    /// Returns the largest order in which `gfn` can be mapped: that of its folio, if the folio is
    /// in the memslot, and has the same alignment in the guest as in the file.
    pub(crate) fn max_order(&self, gfn: Gfn) -> Order {
        // SAFETY: The slot is valid.
        let order = unsafe { bindings::gmem_slot_max_order(self.as_ptr(), gfn.as_u64()) };

        Order::new(order).unwrap_or(Order::PAGE)
    }

    /// Returns the file that the slot is bound to; [`None`] if it is being closed, or was closed.
    pub(crate) fn file(&self) -> Option<ARef<File>> {
        // SAFETY: The slot is valid.
        let file = NonNull::new(unsafe { bindings::gmem_slot_get_file(self.as_ptr()) })?;

        // SAFETY: The file is valid, and `gmem_slot_get_file` returned a reference. A guest_memfd
        // has no file position.
        Some(unsafe { ARef::from_raw(file.cast()) })
    }

    /// Returns whether the slot, which was bound to `file`, still is. It is never bound to another.
    pub(crate) fn has_file(&self, file: &File) -> bool {
        // SAFETY: The slot is valid.
        let own = unsafe { bindings::gmem_slot_file(self.as_ptr()) };
        let same = core::ptr::eq(own, file.as_ptr());

        warn_on_once!(!same && !own.is_null());
        same
    }
}

/// The binding of a memslot to a file.
///
/// A binding ends by [`clear_file`](Self::clear_file), except when binding failed.
///
/// # Invariants
///
/// The slot is valid as long as this value exists.
#[must_use = "a binding is ended by clear_file()"]
pub(crate) struct BoundSlot(NonNull<bindings::kvm_memory_slot>);

// SAFETY: This is a pointer to a slot that any task may use.
unsafe impl Send for BoundSlot {}

// SAFETY: A shared reference gives access to a `Slot`, which is `Sync`.
unsafe impl Sync for BoundSlot {}

impl BoundSlot {
    /// Creates a binding of `slot`.
    ///
    /// # Safety
    ///
    /// Callers must ensure that
    ///
    /// * the result does not exist any more when the slot is freed;
    /// * it is bound to files of the slot's VM only.
    pub(crate) unsafe fn new(slot: &Slot) -> Self {
        // INVARIANT: By the safety requirements.
        // SAFETY: The address of a reference is not NULL.
        Self(unsafe { NonNull::new_unchecked(slot.as_ptr()) })
    }

    /// Ends the binding: the slot has no file any more.
    ///
    /// `slots`, which must be of the slot's VM, keeps KVM from freeing the slot while a file that
    /// is being closed does this.
    pub(crate) fn clear_file(self, _slots: &SlotsLocked) {
        // SAFETY: By the type invariants, the slot is valid.
        unsafe { bindings::gmem_slot_clear_file(self.0.as_ptr()) };
    }
}

impl Deref for BoundSlot {
    type Target = Slot;

    fn deref(&self) -> &Slot {
        // SAFETY: By the type invariants, the slot is valid as long as `self` is borrowed.
        unsafe { Slot::from_raw(self.0.as_ptr()) }
    }
}

// SAFETY: The pointer is not NULL, and a memslot has the alignment of its `u64` fields. `borrow`
// and `borrow_mut` return references to the slot, which is valid as long as the binding exists.
unsafe impl ForeignOwnable for BoundSlot {
    const FOREIGN_ALIGN: usize = 8;

    type Borrowed<'a> = &'a Slot;
    type BorrowedMut<'a> = &'a Slot;

    fn into_foreign(self) -> *mut c_void {
        self.0.as_ptr().cast()
    }

    unsafe fn from_foreign(ptr: *mut c_void) -> Self {
        // INVARIANT: The pointer is that of a `BoundSlot`, which the caller passes on.
        // SAFETY: `into_foreign` does not return NULL.
        Self(unsafe { NonNull::new_unchecked(ptr.cast()) })
    }

    unsafe fn borrow<'a>(ptr: *mut c_void) -> Self::Borrowed<'a> {
        // SAFETY: The binding exists for `'a`, and so the slot is valid.
        unsafe { Slot::from_raw(ptr.cast()) }
    }

    unsafe fn borrow_mut<'a>(ptr: *mut c_void) -> Self::BorrowedMut<'a> {
        // SAFETY: The binding exists for `'a`, and so the slot is valid.
        unsafe { Slot::from_raw(ptr.cast()) }
    }
}

/// Gives memory back to the host after it left the page cache, on architectures that have to do
/// something for this.
#[cfg(CONFIG_HAVE_KVM_ARCH_GMEM_RECLAIM)]
pub(crate) fn reclaim(folio: &kernel::fs::inode::RemovedFolio) {
    let pfn = folio.pfn().as_usize() as bindings::kvm_pfn_t;
    let nr_pages = folio.nr_pages() as bindings::kvm_pfn_t;

    // SAFETY: By the invariants of `RemovedFolio`, the memory left the page cache, for which guests
    // were unmapped, and is not freed yet.
    unsafe { bindings::gmem_reclaim(pfn, nr_pages) };
}

/// Calls [`InodeData::unmap`] for `pages` from a work item, where it can wait for the
/// `invalidate_lock`.
pub(crate) fn defer_unmap<T: InodeData>(inode: &Inode<T>, pages: PageRange) {
    /// # Safety
    ///
    /// Callers must ensure that `inode` is valid, and an [`Inode<T>`].
    unsafe extern "C" fn unmap<T: InodeData>(
        inode: *mut bindings::inode,
        start: usize,
        end: usize,
    ) {
        // SAFETY: By the safety requirements.
        let inode = unsafe { Inode::<T>::from_raw(inode) };
        let locked = inode.invalidate_lock_shared();

        drop(T::unmap(inode, &locked, PageRange::from(start..end)));
    }

    let Range { start, end } = pages.into();
    // SAFETY: The inode is valid, and an `Inode<T>`. `gmem_defer_unmap` takes a reference to it for
    // the work item. Before the module is unloaded, `kvm_gmem_exit` waits for those that are left.
    unsafe { bindings::gmem_defer_unmap(inode.as_ptr(), start, end, Some(unmap::<T>)) };
}

/// Creates an inode that security modules check like others that userspace has, and not as internal
/// to the kernel.
///
/// # Errors
///
/// `EOPNOTSUPP` if the direct map cannot be changed, `ENOMEM`, or the error of a security module.
pub(crate) fn new_inode<'a, T: InodeData>(
    mount: &'a Mount<T>,
    name: &'static CStr,
    options: InodeOptions,
    locked: impl PinInit<T::Locked>,
    data: impl PinInit<T>,
) -> Result<NewInode<'a, T>> {
    let make = |super_block| {
        // SAFETY: `NewInode::new` passes a valid super block, and the name is valid.
        unsafe { bindings::gmem_make_inode(super_block, name.as_char_ptr()) }
    };

    // SAFETY: `make` returns the reference to a new inode in the super block, which has no private
    // data.
    unsafe { NewInode::new(mount, make, options, locked, data) }
}

/// A value that exists from `kvm_gmem_init()` to `kvm_gmem_exit()`, and so whenever there is a VM.
///
/// # Invariants
///
/// The value is not modified while there are virtual machines.
pub(crate) struct WhileVms<T>(UnsafeCell<Option<T>>);

// SAFETY: While there are virtual machines, the value is only shared. Otherwise it is modified by
// one task, to which it is sent.
unsafe impl<T: Send + Sync> Sync for WhileVms<T> {}

impl<T> WhileVms<T> {
    /// Creates one without a value.
    pub(crate) const fn new() -> Self {
        Self(UnsafeCell::new(None))
    }

    /// Replaces the value.
    ///
    /// # Safety
    ///
    /// Callers must ensure that there are no virtual machines, and that nobody else calls this.
    pub(crate) unsafe fn set(&self, value: Option<T>) {
        // SAFETY: By the safety requirements, nobody else accesses the value.
        unsafe { *self.0.get() = value };
    }

    /// Returns the value.
    pub(crate) fn get<'a>(&'a self, _vm: &'a Vm) -> Option<&'a T> {
        // SAFETY: There is a virtual machine for `'a`, so the value is not modified.
        unsafe { &*self.0.get() }.as_ref()
    }
}

#[cfg(CONFIG_HAVE_KVM_ARCH_GMEM_POPULATE)]
pub(crate) use user_page::UserPage;

#[cfg(CONFIG_HAVE_KVM_ARCH_GMEM_POPULATE)]
mod user_page {
    use super::*;
    use kernel::{
        error::to_result,
        uaccess::UserPtr, //
    };

    /// A page of userspace.
    ///
    /// # Invariants
    ///
    /// The page is valid, and this value owns a reference to it.
    pub(crate) struct UserPage(NonNull<bindings::page>);

    impl UserPage {
        /// Finds the page at `address`, and faults it in.
        ///
        /// # Errors
        ///
        /// `EFAULT` if there is none, or it cannot be written to and `writable` is set; `ENOMEM`.
        pub(crate) fn get(address: UserPtr, writable: bool) -> Result<Self> {
            let address = address.as_const_ptr() as usize;
            let flags = if writable { bindings::FOLL_WRITE } else { 0 };
            let mut page = core::ptr::null_mut();

            // SAFETY: There is room for one page. Any address may be passed.
            let ret = unsafe { bindings::get_user_pages_fast(address, 1, flags, &mut page) };
            to_result(ret)?;
            if ret != 1 {
                return Err(ENOMEM);
            }
            // INVARIANT: One page was found, with a reference.
            Ok(Self(NonNull::new(page).ok_or(ENOMEM)?))
        }

        /// Returns the C page.
        pub(crate) fn as_ptr(&self) -> *mut bindings::page {
            self.0.as_ptr()
        }
    }

    impl Drop for UserPage {
        fn drop(&mut self) {
            // SAFETY: By the type invariants, this owns a reference.
            unsafe { bindings::gmem_put_page(self.0.as_ptr()) };
        }
    }
}
