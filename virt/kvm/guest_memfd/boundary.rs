// SPDX-License-Identifier: GPL-2.0

//! The boundary to the rest of KVM: what C calls, and what is called in C.
//!
//! C header: [`virt/kvm/guest_memfd/kvm.h`](srctree/virt/kvm/guest_memfd/kvm.h)

use crate::{
    bindings::BoundView,
    flags::Flags,
    guest_fault,
    memory::{
        self,
        GuestMemfd,
        Memory,
        FS, //
    },
    memory_failure,
    range::{
        self,
        Placement, //
    }, //
};
use core::{
    cell::UnsafeCell,
    ops::Range,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    error::{
        from_result,
        to_result, //
    },
    ffi::c_void,
    fs::{
        file::LocalFile,
        inode::{
            Inode,
            NewInode, //
        },
        operations::{
            FileTable,
            OpenFile, //
        },
        pseudo::Mount,
        File, //
    },
    mm::{
        aops::FreedFolio,
        folio::LockedFolio, //
    },
    prelude::*,
    sync::aref::{
        ARef,
        AlwaysRefCounted, //
    },
    types::{
        ForeignOwnable,
        NotThreadSafe,
        Opaque, //
    },
    warn_on, //
};

// What Rust calls.

/// A virtual machine.
///
/// Wraps `struct kvm`.
///
/// # Invariants
///
/// Valid, and refcounted.
#[repr(transparent)]
pub(crate) struct Vm(Opaque<bindings::kvm>);

// SAFETY: A virtual machine may be used, and put, by any task.
unsafe impl Send for Vm {}

// SAFETY: All methods are functions of KVM that have locks for what they do.
unsafe impl Sync for Vm {}

// SAFETY: By the type invariants, virtual machines are refcounted.
unsafe impl AlwaysRefCounted for Vm {
    fn inc_ref(&self) {
        // SAFETY: The existence of a reference means that the refcount is not zero.
        unsafe { bindings::kvm_get_kvm(self.as_ptr()) };
    }

    unsafe fn dec_ref(obj: NonNull<Self>) {
        // SAFETY: The caller gives up one reference.
        unsafe { bindings::kvm_put_kvm(obj.cast().as_ptr()) };
    }
}

impl Vm {
    /// # Safety
    ///
    /// `kvm` is valid for `'a`.
    unsafe fn from_raw<'a>(kvm: *mut bindings::kvm) -> &'a Self {
        // SAFETY: By the safety requirements; `Vm` is transparent.
        unsafe { &*kvm.cast() }
    }

    fn as_ptr(&self) -> *mut bindings::kvm {
        self.0.get()
    }

    /// Keeps memslots from being changed.
    pub(crate) fn lock_slots(&self) -> SlotsGuard<'_> {
        // SAFETY: By the type invariants, this is valid.
        unsafe { bindings::gmem_slots_lock(self.as_ptr()) };
        // INVARIANT: Just taken.
        SlotsGuard(self, NotThreadSafe)
    }

    /// Begins to unmap from the guest.
    pub(crate) fn start_invalidation(&self) -> Unmapping<'_> {
        // SAFETY: By the type invariants, this is valid.
        unsafe { bindings::gmem_invalidate_start(self.as_ptr()) };
        // INVARIANT: Just taken.
        Unmapping {
            vm: self,
            flush: false,
            _not_send: NotThreadSafe,
        }
    }

    /// Removes what mappings this virtual machine's caches of guest memory have of the `pages`.
    ///
    /// They make no others as long as there is an [`Invalidation`], or no memslot for the pages.
    pub(crate) fn unmap_aliases(&self, inode: &Inode<Memory>, pages: Range<usize>) {
        // SAFETY: By the type invariants; the inode is valid.
        unsafe {
            bindings::gmem_unmap_aliases(self.as_ptr(), inode.as_ptr(), pages.start, pages.end)
        };
    }

    /// Returns the memslot that has `gfn`, if its memory comes from a guest_memfd.
    ///
    /// # Safety
    ///
    /// The caller holds `slots_lock` while it uses the result.
    #[cfg(CONFIG_HAVE_KVM_ARCH_GMEM_POPULATE)]
    unsafe fn slot_of(&self, gfn: u64) -> Option<&Slot> {
        // SAFETY: By the type invariants, this is valid.
        let slot = unsafe { bindings::gmem_slot_of(self.as_ptr(), gfn) };
        // SAFETY: `slots_lock` keeps it valid.
        (!slot.is_null()).then(|| unsafe { Slot::from_raw(slot) })
    }
}

/// The `slots_lock` of a virtual machine. Unlocks when it goes out of scope.
///
/// # Invariants
///
/// The lock is held, by this task.
pub(crate) struct SlotsGuard<'a>(&'a Vm, NotThreadSafe);

impl Drop for SlotsGuard<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants, this task holds the lock.
        unsafe { bindings::gmem_slots_unlock(self.0.as_ptr()) };
    }
}

/// The `mmu_lock` of a virtual machine, with an invalidation begun.
///
/// # Invariants
///
/// The lock is held, by this task, and the invalidation was begun.
pub(crate) struct Unmapping<'a> {
    vm: &'a Vm,
    flush: bool,
    _not_send: NotThreadSafe,
}

impl<'a> Unmapping<'a> {
    /// Unmaps the guest frame numbers `gfns` of `slot`, those that are private or those that are
    /// not.
    pub(crate) fn unmap(&mut self, slot: &Slot, gfns: Range<u64>, private: bool) {
        // SAFETY: By the type invariants; the slot is valid.
        self.flush |= unsafe {
            bindings::gmem_invalidate_range(
                self.vm.as_ptr(),
                slot.as_ptr(),
                gfns.start,
                gfns.end,
                private,
            )
        };
    }

    /// Flushes the guest's TLBs if something was unmapped, and unlocks.
    pub(crate) fn finish(self) -> Invalidation<'a> {
        // INVARIANT: By that of `Unmapping`.
        Invalidation(self.vm)
        // Here `self` is dropped.
    }
}

impl Drop for Unmapping<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants, this task holds the lock.
        unsafe { bindings::gmem_invalidate_unlock(self.vm.as_ptr(), self.flush) };
    }
}

/// What was unmapped is not mapped again before this is dropped.
///
/// # Invariants
///
/// An invalidation was begun, which it is on us to end.
pub(crate) struct Invalidation<'a>(&'a Vm);

impl Drop for Invalidation<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants.
        unsafe { bindings::gmem_invalidate_end(self.0.as_ptr()) };
    }
}

/// A memslot.
///
/// Wraps `struct kvm_memory_slot`.
///
/// # Invariants
///
/// Valid.
#[repr(transparent)]
pub(crate) struct Slot(Opaque<bindings::kvm_memory_slot>);

impl Slot {
    /// # Safety
    ///
    /// `slot` is valid for `'a`.
    unsafe fn from_raw<'a>(slot: *mut bindings::kvm_memory_slot) -> &'a Self {
        // SAFETY: By the safety requirements; `Slot` is transparent.
        unsafe { &*slot.cast() }
    }

    fn as_ptr(&self) -> *mut bindings::kvm_memory_slot {
        self.0.get()
    }

    /// Returns where its memory is.
    pub(crate) fn placement(&self) -> Placement {
        // SAFETY: By the type invariants, this is valid.
        let slot = unsafe { bindings::gmem_slot(self.as_ptr()) };
        Placement {
            base_gfn: slot.base_gfn,
            first: slot.pgoff,
            count: slot.npages,
        }
    }

    /// Returns its file; [`None`] if that was closed, or is about to be.
    pub(crate) fn file(&self) -> Option<ARef<OpenFile<GuestMemfd>>> {
        // SAFETY: By the type invariants, this is valid.
        let file = NonNull::new(unsafe { bindings::gmem_slot_get_file(self.as_ptr()) })?;
        // SAFETY: A memslot has no other files, and the reference is ours.
        Some(unsafe { ARef::from_raw(file.cast()) })
    }

    /// Does it have this file (still)?
    pub(crate) fn has_file(&self, file: &File) -> bool {
        // SAFETY: By the type invariants, this is valid. What it returns is only compared.
        let own = unsafe { bindings::gmem_slot_file(self.as_ptr()) };
        own == file.as_ptr()
    }

    /// Takes the file away, which is being closed.
    pub(crate) fn clear_file(&self, _slots: &SlotsGuard<'_>) {
        // SAFETY: By the type invariants, this is valid.
        unsafe { bindings::gmem_slot_clear_file(self.as_ptr()) };
    }
}

/// The address of a [`Slot`], for the bindings. It says nothing about whether the slot is valid.
///
/// # Invariants
///
/// As long as it is bound, the slot is valid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SlotRef(NonNull<bindings::kvm_memory_slot>);

// SAFETY: It is an address.
unsafe impl Send for SlotRef {}

// SAFETY: It is an address.
unsafe impl Sync for SlotRef {}

impl SlotRef {
    /// # Safety
    ///
    /// If it is bound, it is unbound before the slot goes.
    unsafe fn new(slot: &Slot) -> Self {
        // SAFETY: It is the address of a reference.
        Self(unsafe { NonNull::new_unchecked(slot.as_ptr()) })
    }

    /// Is it that one?
    pub(crate) fn is(self, slot: &Slot) -> bool {
        self.0.as_ptr() == slot.as_ptr()
    }

    /// Returns the slot, which was just found among the bindings of `view`.
    pub(crate) fn get(self, _view: &BoundView) -> &Slot {
        // SAFETY: The slot is bound, since bindings are not changed while somebody else has a
        // reference to a `BoundView`.
        unsafe { Slot::from_raw(self.0.as_ptr()) }
    }

    /// Three addresses that are those of no slot.
    #[cfg(CONFIG_KVM_GUEST_MEMFD_RUST_KUNIT_TEST)]
    pub(crate) fn for_tests() -> [Self; 3] {
        static PLACES: [u64; 3] = [0; 3];
        // Nobody calls `get` on them, and their addresses are aligned, as the tree wants it.
        [0, 1, 2].map(|n| Self(NonNull::from(&PLACES[n]).cast()))
    }
}

// SAFETY: The pointer is not NULL, and aligned as a slot is.
unsafe impl ForeignOwnable for SlotRef {
    const FOREIGN_ALIGN: usize = 8;

    type Borrowed<'a> = Self;
    type BorrowedMut<'a> = Self;

    fn into_foreign(self) -> *mut c_void {
        self.0.as_ptr().cast()
    }

    unsafe fn from_foreign(ptr: *mut c_void) -> Self {
        // SAFETY: It comes from `into_foreign`.
        Self(unsafe { NonNull::new_unchecked(ptr.cast()) })
    }

    unsafe fn borrow<'a>(ptr: *mut c_void) -> Self::Borrowed<'a> {
        // SAFETY: As above: this owns nothing.
        unsafe { Self::from_foreign(ptr) }
    }

    unsafe fn borrow_mut<'a>(ptr: *mut c_void) -> Self::BorrowedMut<'a> {
        // SAFETY: As above: this owns nothing.
        unsafe { Self::from_foreign(ptr) }
    }
}

/// Makes the page at `index`, which is one of the folio's, the guest's, at `gfn`.
pub(crate) fn make_private(vm: &Vm, gfn: u64, folio: &LockedFolio<'_>, index: usize) -> Result {
    #[cfg(CONFIG_HAVE_KVM_ARCH_GMEM_CONVERT)]
    {
        let pfn = folio.pfn_at(index) as bindings::kvm_pfn_t;
        // SAFETY: The virtual machine is valid.
        let ret = unsafe { bindings::gmem_make_private(vm.as_ptr(), gfn, pfn, 1) };
        to_result(ret)
    }
    #[cfg(not(CONFIG_HAVE_KVM_ARCH_GMEM_CONVERT))]
    {
        let _ = (vm, gfn, folio, index);
        Ok(())
    }
}

/// Makes memory the host's again.
pub(crate) fn reclaim(folio: &FreedFolio) {
    #[cfg(CONFIG_HAVE_KVM_ARCH_GMEM_RECLAIM)]
    // SAFETY: Nobody uses the pages.
    unsafe {
        bindings::gmem_reclaim(folio.pfn() as u64, folio.pages() as u64)
    };
    #[cfg(not(CONFIG_HAVE_KVM_ARCH_GMEM_RECLAIM))]
    let _ = folio;
}

/// Has [`memory_failure::unmap`] called from a work item.
pub(crate) fn defer_memory_failure(inode: &Inode<Memory>, pages: Range<usize>) {
    // SAFETY: The inode is valid.
    unsafe { bindings::gmem_defer_memory_failure(inode.as_ptr(), pages.start, pages.end) };
}

/// Creates an inode that carries `data`, and `view` behind its `invalidate_lock`.
pub(crate) fn new_inode<'a>(
    mount: &'a Mount<Memory>,
    name: &'static CStr,
    view: Option<BoundView>,
    data: impl PinInit<Memory>,
) -> Result<NewInode<'a, Memory>> {
    let make = |super_block| {
        // SAFETY: The super block and the name are valid.
        unsafe { bindings::gmem_make_inode(super_block, name.as_char_ptr()) }
    };
    // SAFETY: That creates an inode in the super block, without private data.
    unsafe { NewInode::new(mount, make, view, data) }
}

/// The operations on the files, and what tells them from others.
// SAFETY: `kvm_gmem_init` sets the owner.
pub(crate) static FILES: FileTable<GuestMemfd> = unsafe { FileTable::new() };

/// Where the file system is mounted.
struct Mounted(UnsafeCell<Option<Mount<Memory>>>);

// SAFETY: It is written only in `kvm_gmem_init` and `kvm_gmem_exit`, when nobody else uses it.
unsafe impl Sync for Mounted {}

static MOUNT: Mounted = Mounted(UnsafeCell::new(None));

/// Returns where the file system is mounted.
///
/// # Errors
///
/// `ENODEV` before KVM is initialised.
pub(crate) fn mount() -> Result<&'static Mount<Memory>> {
    // SAFETY: It is not written to while there are virtual machines, and this is for one.
    unsafe { &*MOUNT.0.get() }.as_ref().ok_or(ENODEV)
}

// What C calls.

/// Gets ready. Files will keep `module` loaded.
///
/// # Safety
///
/// Called before there are virtual machines, and once before [`kvm_gmem_exit`]. `module` is NULL or
/// valid.
#[export]
unsafe extern "C" fn kvm_gmem_init(module: *mut bindings::module) -> c_int {
    from_result(|| {
        // SAFETY: By the safety requirements, there are no files yet.
        unsafe { FILES.set_owner(module) };
        // SAFETY: By the safety requirements, there is none.
        to_result(unsafe { bindings::gmem_create_workqueue() })?;
        // SAFETY: Just created, and nobody uses it.
        let mount = FS
            .mount()
            .inspect_err(|_| unsafe { bindings::gmem_destroy_workqueue() })?;
        // SAFETY: By the safety requirements, nobody uses it yet.
        unsafe { *MOUNT.0.get() = Some(mount) };
        Ok(0)
    })
}

/// Undoes [`kvm_gmem_init`].
///
/// # Safety
///
/// Called after that, when there are no virtual machines and no files any more.
#[export]
unsafe extern "C" fn kvm_gmem_exit() {
    // Work items have references to inodes, until they are done.
    // SAFETY: By the safety requirements, it was created, and there are no files to add work.
    unsafe { bindings::gmem_destroy_workqueue() };
    // SAFETY: By the safety requirements, nobody uses it any more.
    unsafe { *MOUNT.0.get() = None };
}

/// Creates a guest_memfd. Returns its file descriptor, or an error number.
///
/// # Safety
///
/// Both are valid.
#[export]
unsafe extern "C" fn kvm_gmem_create(
    kvm: *mut bindings::kvm,
    args: *mut bindings::kvm_create_guest_memfd,
) -> c_int {
    from_result(|| {
        // SAFETY: By the safety requirements.
        let (vm, size, asked) = unsafe { (Vm::from_raw(kvm), (*args).size, (*args).flags) };
        // SAFETY: By the safety requirements.
        let supported = unsafe { bindings::gmem_supported_flags(kvm) };

        let flags = Flags::new(asked, supported)?;
        Ok(memory::create(vm, range::file_size(size)?, flags)? as c_int)
    })
}

/// Gives a memslot its file, and the caller a reference to that.
///
/// # Safety
///
/// The slot is new, and `kvm`'s. Called from a system call of the task that has `fd`.
#[export]
unsafe extern "C" fn kvm_gmem_prepare_memory_region(
    kvm: *mut bindings::kvm,
    slot: *mut bindings::kvm_memory_slot,
    fd: c_uint,
    offset: bindings::uoff_t,
) -> c_int {
    from_result(|| {
        // SAFETY: By the safety requirements, the slot is valid.
        let gmem_only = unsafe { bindings::gmem_slot_is_gmem_only(slot) };
        if warn_on!(gmem_only) {
            return Err(EINVAL);
        }

        let file = LocalFile::fget(fd)?;
        // SAFETY: An ioctl uses no file position.
        let file: ARef<File> = unsafe { LocalFile::assume_no_fdget_pos(file) };
        let gmem = FILES.downcast(&file).ok_or(EINVAL)?;
        if gmem.data().vm().as_ptr() != kvm {
            return Err(EINVAL);
        }

        // SAFETY: By the safety requirements, the slot is valid.
        let count = unsafe { bindings::gmem_slot(slot) }.npages;
        let inode = gmem.inode();
        if !range::is_aligned(offset) {
            return Err(EINVAL);
        }
        let first = (offset >> kernel::page::PAGE_SHIFT) as usize;
        if first
            .checked_add(count)
            .is_none_or(|end| end > range::page_count(inode.size()))
        {
            return Err(EINVAL);
        }

        let flags = inode.data().flags();
        let only = flags.can_be_mapped();
        let no_direct_map = only && flags.is_shared() && flags.no_direct_map();
        let file = ARef::into_raw(file).cast().as_ptr();
        // SAFETY: By the safety requirements, the slot is valid, and nobody else sees it yet. The
        // reference to the file is the caller's now.
        unsafe { bindings::gmem_slot_set_file(slot, file, first, only, no_direct_map) };
        Ok(0)
    })
}

/// Binds a memslot to its part of the file.
///
/// # Safety
///
/// The slot is `kvm`'s, was prepared with success, and the file is valid. It is unbound before it
/// is freed. The caller holds `slots_lock`.
#[export]
unsafe extern "C" fn kvm_gmem_commit_memory_region(
    _kvm: *mut bindings::kvm,
    slot: *mut bindings::kvm_memory_slot,
) -> c_int {
    from_result(|| {
        // SAFETY: By the safety requirements.
        let file = unsafe { File::from_raw_file(bindings::gmem_slot_file(slot)) };
        // SAFETY: Likewise.
        let slot = unsafe { Slot::from_raw(slot) };
        let Some(file) = FILES.downcast(file) else {
            warn_on!(true);
            return Err(EIO);
        };

        let mut view = file.inode().invalidate_lock();
        // SAFETY: By the safety requirements, it is unbound before it goes.
        let slot_ref = unsafe { SlotRef::new(slot) };
        // There is one as long as there is a file.
        view.as_mut().ok_or(EIO)?.bind(slot.placement(), slot_ref)?;
        Ok(0)
    })
}

/// Undoes [`kvm_gmem_prepare_memory_region`] and [`kvm_gmem_commit_memory_region`].
///
/// # Safety
///
/// The slot is valid, and no guest fault uses it any more. The caller holds `slots_lock`, unless
/// the virtual machine, and with it all its files, is gone.
#[export]
unsafe extern "C" fn kvm_gmem_unbind(slot: *mut bindings::kvm_memory_slot) {
    // SAFETY: By the safety requirements.
    let slot = unsafe { Slot::from_raw(slot) };
    // SAFETY: Likewise.
    let file = unsafe { bindings::gmem_slot_file(slot.as_ptr()) };
    if file.is_null() {
        // It was closed: nothing is bound any more.
        return;
    }

    // It may be about to be closed, with no reference left. But `release` takes the slot's file
    // away under `slots_lock`, which the caller holds: so that has not begun, and the file and what
    // it carries are there.
    // SAFETY: See above; a memslot has no other files, and a file has its inode.
    let inode = unsafe { Inode::<Memory>::from_raw((*file).f_inode) };
    let mut view = inode.invalidate_lock();
    if let Some(view) = view.as_mut() {
        view.unbind(slot.placement());
        view.vm().unmap_aliases(inode, slot.placement().pages());
    }
    // SAFETY: Likewise; the caller holds `slots_lock`.
    unsafe { bindings::gmem_slot_clear_file(slot.as_ptr()) };
}

/// Unmaps pages that have an error from guests, for [`defer_memory_failure`].
///
/// # Safety
///
/// The inode is that of a guest_memfd, and valid.
#[export]
unsafe extern "C" fn gmem_unmap_memory_failure(
    inode: *mut bindings::inode,
    start: c_ulong,
    end: c_ulong,
) {
    // SAFETY: By the safety requirements.
    memory_failure::unmap(unsafe { Inode::from_raw(inode) }, start..end);
}

/// Finds the page behind `gfn`, with a reference that is the caller's.
///
/// # Safety
///
/// The slot is `kvm`'s and has `gfn`; the caller holds `srcu` or `slots_lock`. The pointers are
/// valid; `max_order` may be NULL.
#[export]
unsafe extern "C" fn kvm_gmem_get_pfn(
    _kvm: *mut bindings::kvm,
    slot: *mut bindings::kvm_memory_slot,
    gfn: bindings::gfn_t,
    pfn: *mut bindings::kvm_pfn_t,
    page: *mut *mut bindings::page,
    max_order: *mut c_int,
) -> c_int {
    from_result(|| {
        // SAFETY: By the safety requirements.
        let (number, folio, index) = guest_fault::get_pfn(unsafe { Slot::from_raw(slot) }, gfn)?;

        // SAFETY: By the safety requirements; the reference is the caller's now.
        unsafe {
            *pfn = number as bindings::kvm_pfn_t;
            *page = bindings::folio_file_page(ARef::into_raw(folio).cast().as_ptr(), index);
            if !max_order.is_null() {
                *max_order = 0;
            }
        }
        Ok(0)
    })
}

#[cfg(CONFIG_HAVE_KVM_ARCH_GMEM_POPULATE)]
pub(crate) use private::{
    is_private,
    UserPage, //
};

#[cfg(CONFIG_HAVE_KVM_ARCH_GMEM_POPULATE)]
mod private {
    use super::*;
    use crate::populate::{
        populate,
        Source, //
    };

    /// Is the memory at `gfn` private to the guest?
    pub(crate) fn is_private(vm: &Vm, gfn: u64) -> bool {
        // SAFETY: The virtual machine is valid.
        unsafe { bindings::gmem_is_private(vm.as_ptr(), gfn) }
    }

    /// A page of userspace.
    ///
    /// # Invariants
    ///
    /// Valid, and the reference is ours.
    pub(crate) struct UserPage(NonNull<bindings::page>);

    impl UserPage {
        /// Finds the page at `address`.
        ///
        /// # Errors
        ///
        /// `EFAULT` if there is none, `ENOMEM`.
        pub(crate) fn get(address: usize, writable: bool) -> Result<Self> {
            let mut page = core::ptr::null_mut();
            let flags = if writable { bindings::FOLL_WRITE } else { 0 };

            // SAFETY: There is room for one page. Any address will do.
            let ret = unsafe { bindings::get_user_pages_fast(address, 1, flags, &mut page) };
            to_result(ret)?;
            if ret != 1 {
                return Err(ENOMEM);
            }
            // INVARIANT: One page was found, for us.
            Ok(Self(NonNull::new(page).ok_or(ENOMEM)?))
        }
    }

    impl Drop for UserPage {
        fn drop(&mut self) {
            // SAFETY: By the type invariants.
            unsafe { bindings::gmem_put_page(self.0.as_ptr()) };
        }
    }

    /// Fills private memory. Returns the number of pages, or an error number if it is none.
    ///
    /// # Safety
    ///
    /// `kvm` is valid, and the caller holds its `slots_lock`. `post_populate` is a function to
    /// which `opaque` may be given.
    #[export]
    unsafe extern "C" fn kvm_gmem_populate(
        kvm: *mut bindings::kvm,
        start_gfn: bindings::gfn_t,
        src: *mut c_void,
        npages: c_long,
        may_writeback_src: bool,
        post_populate: bindings::kvm_gmem_populate_cb,
        opaque: *mut c_void,
    ) -> c_long {
        let (Ok(count), Some(callback)) = (usize::try_from(npages), post_populate) else {
            warn_on!(true);
            return EINVAL.to_errno() as c_long;
        };
        if warn_on!(count == 0 || !range::is_aligned(src as u64)) {
            return EINVAL.to_errno() as c_long;
        }

        let source = Source {
            address: src as usize,
            writable: may_writeback_src,
        };
        // SAFETY: By the safety requirements.
        let vm = unsafe { Vm::from_raw(kvm) };
        // SAFETY: By the safety requirements, the caller holds `slots_lock`.
        let Some(slot) = (unsafe { vm.slot_of(start_gfn) }) else {
            return EINVAL.to_errno() as c_long;
        };
        let filled = populate(vm, slot, start_gfn, source, count, |gfn, pfn, page| {
            let page = page.map_or(core::ptr::null_mut(), |page| page.0.as_ptr());
            // SAFETY: By the safety requirements.
            to_result(unsafe { callback(kvm, gfn, pfn as u64, page, opaque) })
        });
        match filled {
            Ok(count) => count as c_long,
            Err(err) => err.to_errno() as c_long,
        }
    }
}
