// SPDX-License-Identifier: GPL-2.0

//! The functions that the rest of KVM calls.
//!
//! They turn pointers into references, call the rest of the crate, and turn results into error
//! numbers.
//!
//! C headers: [`virt/kvm/guest_memfd.h`](srctree/virt/kvm/guest_memfd.h) and
//! [`virt/kvm/guest_memfd/kvm.h`](srctree/virt/kvm/guest_memfd/kvm.h)

use crate::{
    file::{
        self,
        FILES, //
    },
    flags::{
        Flag,
        Flags, //
    },
    guest_fault,
    inode::{
        FS,
        MOUNT, //
    },
    kvm::{
        BoundSlot,
        Slot,
        Vm, //
    },
    memslots::View,
    range::{
        self,
        Gfn, //
    }, //
};
use kernel::{
    bindings,
    error::{
        from_result,
        to_result, //
    },
    fs::{
        file::LocalFile,
        inode::Inode,
        File, //
    },
    mm::pgoff::Order,
    prelude::*,
    sync::{
        aref::ARef,
        Arc, //
    },
    types::ForeignOwnable,
    warn_on_once, //
};

/// Mounts the file system. Open files keep `module` loaded.
///
/// Called by `kvm_init()`.
///
/// # Safety
///
/// Callers must ensure that
///
/// * there are no virtual machines, and nobody else calls this or [`kvm_gmem_exit`];
/// * `module` contains this code, or depends on it, and calls [`kvm_gmem_exit`] before it is
///   unloaded; or is NULL, and this code is built in.
#[export]
unsafe extern "C" fn kvm_gmem_init(module: *mut bindings::module) -> c_int {
    from_result(|| {
        // SAFETY: By the safety requirements.
        let module = unsafe { ThisModule::from_ptr(module) };

        // SAFETY: There are no virtual machines, and so nobody makes files. A file of an earlier
        // mount has a reference to the module, until it does not use the table any more.
        unsafe { FILES.set_owner(&module) };
        // SAFETY: Nobody else calls this, so the workqueue does not exist.
        to_result(unsafe { bindings::gmem_create_workqueue() })?;
        // SAFETY: `kvm_gmem_exit` unmounts it, before the module is unloaded. As in C, an `fput()`
        // that has put its reference to the module is not waited for.
        let mount = unsafe { FS.mount(&module) }.inspect_err(|_| {
            // SAFETY: The workqueue was just created, and nobody uses it.
            unsafe { bindings::gmem_destroy_workqueue() }
        })?;
        // SAFETY: There are no virtual machines, and nobody else does this.
        unsafe { MOUNT.set(Some(mount)) };
        Ok(0)
    })
}

/// Undoes [`kvm_gmem_init`].
///
/// Called by `kvm_exit()`, and by `kvm_init()` when it fails later on.
///
/// # Safety
///
/// Callers must ensure that [`kvm_gmem_init`] succeeded, that there are no virtual machines and no
/// files any more, and that nobody else calls this.
#[export]
unsafe extern "C" fn kvm_gmem_exit() {
    // Work items have references to inodes, until they have run.
    // SAFETY: `kvm_gmem_init` created the workqueue. No work is added any more: an inode without
    // files has nobody who holds its `invalidate_lock`, so memory failure does not defer.
    unsafe { bindings::gmem_destroy_workqueue() };
    // SAFETY: There are no virtual machines, and nobody else does this.
    unsafe { MOUNT.set(None) };
}

/// Creates a guest_memfd. Returns its file descriptor or an error number.
///
/// Called by `KVM_CREATE_GUEST_MEMFD`.
///
/// # Safety
///
/// Callers must ensure that both pointers are valid.
#[export]
unsafe extern "C" fn kvm_gmem_create(
    kvm: *mut bindings::kvm,
    args: *mut bindings::kvm_create_guest_memfd,
) -> c_int {
    from_result(|| {
        // SAFETY: The pointer is valid.
        let vm = unsafe { Vm::from_raw(kvm) };
        // SAFETY: The pointer is valid, and nobody modifies the structure.
        let args = unsafe { &*args };

        let flags = Flags::new(args.flags, vm.supported_flags())?;
        let order = if flags.contains(Flag::PageOrder) {
            let order = range::file_order(args.page_order)?;
            // Private memory is converted page by page.
            let shared = flags.contains(Flag::InitShared);

            if args.reserved.iter().any(|word| *word != 0) || order != Order::PAGE && !shared {
                return Err(EINVAL);
            }
            order
        } else {
            Order::PAGE
        };

        let size = range::file_size(args.size, order)?;
        Ok(file::create(vm, size, order, flags)? as c_int)
    })
}

/// Gives a new memslot its file, and the caller a reference to the file.
///
/// Called by `KVM_SET_USER_MEMORY_REGION2`, before the memslot is committed.
///
/// # Safety
///
/// Callers must ensure that the pointers are valid, that the slot is new and of this VM, and that
/// this is called by an ioctl of the task whose table has `fd`.
#[export]
unsafe extern "C" fn kvm_gmem_prepare_memory_region(
    kvm: *mut bindings::kvm,
    slot: *mut bindings::kvm_memory_slot,
    fd: c_uint,
    offset: bindings::uoff_t,
) -> c_int {
    from_result(|| {
        // SAFETY: The slot is valid.
        let gmem_only = unsafe { bindings::gmem_slot_is_gmem_only(slot) };
        if warn_on_once!(gmem_only) {
            return Err(EINVAL);
        }

        // SAFETY: The pointer is valid.
        let vm = unsafe { Vm::from_raw(kvm) };
        // SAFETY: An ioctl does not use the file position: there is no `fdget_pos` call.
        let file: ARef<File> = unsafe { LocalFile::assume_no_fdget_pos(LocalFile::fget(fd)?) };
        // SAFETY: The slot is valid.
        let count = unsafe { bindings::gmem_slot(slot) }.npages;
        let properties = file::check(vm, &file, offset, count)?;

        // SAFETY: The slot is valid, and nobody else uses it yet. It gets the reference to the
        // file, which the caller puts.
        unsafe {
            bindings::gmem_slot_set_file(
                slot,
                ARef::into_raw(file).cast().as_ptr(),
                properties.pages.start().as_usize(),
                properties.gmem_only,
                properties.no_direct_map,
                properties.order.as_u32(),
            )
        };
        Ok(0)
    })
}

/// Binds a memslot to its part of the file.
///
/// Called by `KVM_SET_USER_MEMORY_REGION2`, when the memslot is committed.
///
/// # Safety
///
/// Callers must ensure that
///
/// * [`kvm_gmem_prepare_memory_region`] succeeded for the slot, and the file is valid;
/// * they hold `slots_lock`, and call [`kvm_gmem_unbind`] before they free the slot.
#[export]
unsafe extern "C" fn kvm_gmem_commit_memory_region(
    _kvm: *mut bindings::kvm,
    slot: *mut bindings::kvm_memory_slot,
) -> c_int {
    from_result(|| {
        // SAFETY: The slot is valid.
        let file = unsafe { bindings::gmem_slot_file(slot) };
        // SAFETY: The file is valid, and an ioctl does not use the file position.
        let Some(gmem) = file::opened(unsafe { File::from_raw_file(file) }) else {
            warn_on_once!(true);
            return Err(EIO);
        };

        // SAFETY: The slot is valid.
        let slot = unsafe { Slot::from_raw(slot) };
        // SAFETY: The caller unbinds the slot before it frees it, which ends the binding. Closing
        // the file ends it as well, under `slots_lock`, so not while the slot is freed. The file is
        // of this VM, as `kvm_gmem_prepare_memory_region` checked.
        let slot = unsafe { BoundSlot::new(slot) };
        file::bind(gmem, slot)?;
        Ok(0)
    })
}

/// Undoes [`kvm_gmem_commit_memory_region`] and [`kvm_gmem_prepare_memory_region`].
///
/// Called by `kvm_free_memslot()`.
///
/// # Safety
///
/// Callers must ensure that
///
/// * the slot is valid and was committed, and no guest fault uses it any more;
/// * they hold `slots_lock`, or the virtual machine is being destroyed.
#[export]
unsafe extern "C" fn kvm_gmem_unbind(slot: *mut bindings::kvm_memory_slot) {
    // SAFETY: The slot is valid.
    let file = unsafe { bindings::gmem_slot_file(slot) };
    if file.is_null() {
        // The file was closed, which unbound the slot.
        return;
    }

    // The last reference to the file may be gone already, so there is no `&File`. But `release`
    // unbinds the slot, which was committed, and clears its file, under `slots_lock`. The slot has
    // its file, so `release` has not done that, and cannot before the lock is released: the inode
    // and the data of the file exist. (A binding that is in the tree ends by
    // `BoundSlot::clear_file` only. A VM that is being destroyed has no files, and no slot of it
    // has one: a file has a reference to its VM.)
    // SAFETY: See above. A memslot has no other files than a guest_memfd.
    let inode = unsafe { Inode::from_raw((*file).f_inode) };
    // SAFETY: See above. The data of a guest_memfd is an `Arc<View>`.
    let view = unsafe { Arc::<View>::borrow((*file).private_data) };
    // SAFETY: The slot is valid.
    let slot = unsafe { Slot::from_raw(slot) };
    // SAFETY: The file is of the slot's VM. The caller holds its lock, or nobody else uses the VM.
    let slots = unsafe { view.vm().assume_slots_locked() };
    file::unbind(inode, &view, slot, slots);
}

/// Finds the page behind `gfn`, with a reference for the caller.
///
/// Called when a guest faults, to map a page into a `gfn_to_pfn_cache`, and by the architecture for
/// single pages that it accesses (SEV's VMSA, arm64's VNCR page).
///
/// # Safety
///
/// Callers must ensure that
///
/// * the pointers are valid; `max_order` may be NULL;
/// * the slot is of this VM and has `gfn`, and they hold `kvm->srcu` or `slots_lock`;
/// * if the page is used without the reference that this returns, as stage 2 does, they check
///   before that, under `mmu_lock`, that `mmu_invalidate_seq` has not changed since before this was
///   called; and memory that is invalidated by [`Vm::start_invalidation`] is not used any more. The
///   reference does not keep the page from being removed from the file.
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
        // SAFETY: The slot is valid.
        let slot = unsafe { Slot::from_raw(slot) };
        let file = slot.file().ok_or(EFAULT)?;
        let gmem = file::opened(&file).ok_or(EFAULT)?;
        let found = guest_fault::get_pfn(gmem, slot, Gfn::new(gfn))?;

        let folio = ARef::into_raw(found.folio).cast().as_ptr();
        // SAFETY: The folio is valid and has a page at this index. The reference to it is the
        // caller's now.
        let found_page = unsafe { bindings::folio_file_page(folio, found.index.as_usize()) };
        // SAFETY: The pointer is valid.
        unsafe { *page = found_page };
        // SAFETY: The pointer is valid.
        unsafe { *pfn = found.pfn.as_usize() as bindings::kvm_pfn_t };
        if !max_order.is_null() {
            // SAFETY: The pointer is valid.
            unsafe { *max_order = found.max_order.as_u32() as c_int };
        }
        Ok(0)
    })
}

#[cfg(CONFIG_HAVE_KVM_ARCH_GMEM_POPULATE)]
mod populate {
    use super::*;
    use crate::populate::{
        populate,
        Source, //
    };
    use kernel::{
        page::PAGE_SIZE,
        uaccess::UserPtr, //
    };

    /// Fills private memory. Returns the number of pages filled, or an error number if there are
    /// none.
    ///
    /// Called by `KVM_TDX_INIT_MEM_REGION` and `KVM_SEV_SNP_LAUNCH_UPDATE`.
    ///
    /// # Safety
    ///
    /// Callers must ensure that `kvm` is valid, that they hold its `slots_lock`, and that
    /// `post_populate` may be called with `opaque`.
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
        let fill = || {
            let count = usize::try_from(npages).unwrap_or(0);
            if warn_on_once!(count == 0) || warn_on_once!(src as usize % PAGE_SIZE != 0) {
                return Err(EINVAL);
            }
            let post_populate = post_populate.ok_or(EINVAL)?;
            let source = Source {
                start: (!src.is_null()).then(|| UserPtr::from_ptr(src)),
                writable: may_writeback_src,
            };

            // SAFETY: The VM is valid.
            let vm = unsafe { Vm::from_raw(kvm) };
            // SAFETY: The caller holds the lock.
            let slots = unsafe { vm.assume_slots_locked() };
            let first = Gfn::new(start_gfn);
            let slot = slots.slot_of(first).ok_or(EINVAL)?;
            let file = slot.file().ok_or(EFAULT)?;
            let gmem = file::opened(&file).ok_or(EFAULT)?;

            populate(slots, gmem, slot, first, source, count, |gfn, pfn, page| {
                let page = page.map_or(core::ptr::null_mut(), |page| page.as_ptr());

                // SAFETY: The caller provides the callback and its argument. The page of the guest
                // is not removed meanwhile, and the source page is valid, or NULL.
                to_result(unsafe {
                    post_populate(kvm, gfn.as_u64(), pfn.as_usize() as u64, page, opaque)
                })
            })
        };

        match fill() {
            Ok(count) => count as c_long,
            Err(err) => err.to_errno() as c_long,
        }
    }
}
