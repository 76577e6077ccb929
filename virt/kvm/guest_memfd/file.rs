// SPDX-License-Identifier: GPL-2.0

//! Files: their operations, their creation, and binding memslots to them.

use crate::{
    fallocate,
    flags::{
        Flag,
        Flags, //
    },
    inode::{
        Memory,
        Opened,
        GFP,
        MOUNT, //
    },
    invalidate,
    kvm::{
        self,
        BoundSlot,
        Slot,
        SlotsLocked,
        Vm, //
    },
    memory_failure,
    memslots::{
        Files,
        Invalidated,
        View, //
    },
    range,
    user_fault, //
};
use kernel::{
    fs::{
        file::{
            FileDescriptorReservation,
            Offset, //
        },
        inode::{
            Inode,
            InodeData, //
        },
        operations::{
            FileOperations,
            FileTable,
            OpenFile, //
        },
        pseudo::InodeOptions,
        File, //
    },
    mm::{
        folio::LockedFolio,
        mempolicy::SharedPolicy,
        pgoff::{
            Order,
            PageIndex,
            PageRange, //
        },
        virt::VmaDesc, //
    },
    page::PAGE_SHIFT,
    prelude::*,
    seq_file::SeqFile,
    seq_print,
    sync::{
        Arc,
        ArcBorrow, //
    }, //
};

#[vtable]
impl InodeData for Memory {
    type Locked = Files;
    type Unmapped<'a> = Invalidated<'a>;

    fn unmap<'a>(inode: &'a Inode<Self>, files: &'a Files, pages: PageRange) -> Invalidated<'a> {
        invalidate::unmap(inode, files, pages)
    }

    fn error_remove_folio(inode: &Inode<Self>, pages: PageRange) {
        memory_failure::error_remove_folio(inode, pages);
    }

    #[cfg(CONFIG_HAVE_KVM_ARCH_GMEM_RECLAIM)]
    fn free_folio(folio: &kernel::fs::inode::RemovedFolio) {
        kvm::reclaim(folio);
    }
}

/// The operations on files.
pub(crate) struct GuestMemfd;

/// The table of the operations on files. Its address tells a guest_memfd from other files.
pub(crate) static FILES: FileTable<GuestMemfd> = FileTable::new();

#[vtable]
impl FileOperations for GuestMemfd {
    type Inode = Memory;
    type Data = Arc<View>;

    fn mmap_prepare(file: &OpenFile<Self>, _vma: &VmaDesc) -> Result {
        user_fault::mmap(file.inode())
    }

    fn fault(file: &OpenFile<Self>, index: PageIndex) -> Result<LockedFolio<'_>> {
        user_fault::fault(file.inode(), index)
    }

    fn get_policy(file: &OpenFile<Self>) -> &SharedPolicy {
        file.inode().data().policy()
    }

    fn fallocate(file: &OpenFile<Self>, mode: u32, offset: Offset, len: Offset) -> Result {
        fallocate::fallocate(file.inode(), mode, offset, len)?;
        // As in C, the memory was changed even if this fails.
        let _ = file.modified();
        Ok(())
    }

    fn show_fdinfo(file: &OpenFile<Self>, m: &SeqFile) {
        let mapping = file.inode().mapping();

        if mapping.no_direct_map() {
            let kib = mapping.nr_pages() << (PAGE_SHIFT - 10);
            seq_print!(m, "no-direct-map:\t{} kB\n", kib);
        }
    }

    /// Unmaps the memory from the guest and unbinds the memslots. The memory goes with the inode.
    fn release(inode: &Inode<Memory>, view: ArcBorrow<'_, View>) {
        // While this is held, no memslot is unbound and freed by KVM. None is bound: that takes a
        // reference to the file.
        let slots = view.vm().lock_slots();
        let mut files = inode.invalidate_lock();

        if let Some(view) = files.of(&view) {
            invalidate::unmap_closing(inode, view);
        }
        files.as_mut().close(&view, &slots);
    }
}

/// Returns `file` as a guest_memfd; [`None`] if it is another file.
pub(crate) fn opened(file: &File) -> Option<Opened<'_>> {
    let gmem = FILES.downcast(file)?;

    Some(Opened {
        file,
        inode: gmem.inode(),
        view: gmem.data(),
    })
}

/// Creates a guest_memfd of `size` bytes, with folios of `order`, for `vm`, and returns its file
/// descriptor.
///
/// # Errors
///
/// `EMFILE`, `ENFILE`, `ENOMEM`, `ENOENT` or `ENODEV` if the module is being unloaded,
/// `EOPNOTSUPP` if the direct map cannot be changed, or the error of a security module.
pub(crate) fn create(vm: &Vm, size: Offset, order: Order, flags: Flags) -> Result<u32> {
    const NAME: &CStr = c"[kvm-gmem]";

    let fd = FileDescriptorReservation::get_unused_fd_flags(0)?;
    let number = fd.reserved_fd();
    let (view, bound) = View::new(vm)?;
    let options = InodeOptions {
        size,
        gfp: GFP,
        order,
        no_direct_map: flags.contains(Flag::NoDirectMap),
    };

    let inode = kvm::new_inode(
        MOUNT.get(vm).ok_or(ENODEV)?,
        NAME,
        options,
        Files::new(bound)?,
        Memory::new(flags, order),
    )?;
    let file = FILES.create_file(inode, NAME, view)?;
    fd.fd_install(file.into());
    Ok(number)
}

/// The properties of a memslot that come from its file.
pub(crate) struct SlotProperties {
    /// The pages of the file behind the memslot.
    pub(crate) pages: PageRange,
    /// Whether all accesses go through the file, none through `userspace_addr`.
    pub(crate) gmem_only: bool,
    /// Whether the memory is not in the direct map.
    pub(crate) no_direct_map: bool,
    /// The order of the folios.
    pub(crate) order: Order,
}

/// Checks that a memslot of `vm`, of `count` pages, can be bound to the pages of `file` from byte
/// `offset` on.
///
/// # Errors
///
/// `EINVAL` if the file is not a guest_memfd of this VM, or does not have these pages, or if
/// `offset` is within a folio.
pub(crate) fn check(vm: &Vm, file: &File, offset: u64, count: usize) -> Result<SlotProperties> {
    let gmem = opened(file).ok_or(EINVAL)?;
    if *gmem.view.vm() != *vm {
        return Err(EINVAL);
    }

    let offset = Offset::try_from(offset).map_err(|_| EINVAL)?;
    let first = PageIndex::from_offset(offset).ok_or(EINVAL)?;
    let pages = PageRange::new(first, count);
    let memory = gmem.inode.data();
    if !first.is_aligned(memory.order())
        || pages.len() != count
        || pages.end() > range::file_pages(gmem.inode.size()).end()
    {
        return Err(EINVAL);
    }

    let gmem_only = memory.has(Flag::Mmap);
    Ok(SlotProperties {
        pages,
        gmem_only,
        no_direct_map: gmem_only && memory.has(Flag::InitShared) && memory.has(Flag::NoDirectMap),
        order: memory.order(),
    })
}

/// Binds a memslot to its pages.
///
/// # Errors
///
/// `EEXIST` if some of the pages are bound already, or `ENOMEM`.
pub(crate) fn bind(gmem: Opened<'_>, slot: BoundSlot) -> Result {
    gmem.inode.invalidate_lock().as_mut().bind(&gmem.view, slot)
}

/// Unbinds a memslot from the file that has `view`.
///
/// Guest faults do not use the memslot any more.
pub(crate) fn unbind(inode: &Inode<Memory>, view: &View, slot: &Slot, slots: &SlotsLocked) {
    let pages = slot.placement().pages;
    let mut files = inode.invalidate_lock();

    files.as_mut().unbind(view, slot, slots);
    view.vm().unmap_pfncaches(inode.mapping(), pages);
}
