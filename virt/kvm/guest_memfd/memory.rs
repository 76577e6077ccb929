// SPDX-License-Identifier: GPL-2.0

//! The memory itself: an inode, its folios, and how both are made.

use crate::{
    bindings::{
        BoundView,
        View, //
    },
    boundary::{
        self,
        Vm,
        FILES, //
    },
    fallocate,
    flags,
    invalidate,
    user_fault, //
};
use kernel::{
    alloc::{
        flags::{
            __GFP_ZERO,
            GFP_HIGHUSER, //
        },
        Flags, //
    },
    bindings::{
        loff_t,
        GUEST_MEMFD_MAGIC, //
    },
    fs::{
        file::{
            flags::O_LARGEFILE,
            FileDescriptorReservation, //
        },
        inode::{
            Inode,
            InodeData, //
        },
        operations::{
            FileOperations,
            OpenFile, //
        },
        pseudo::{
            PseudoFs,
            PseudoFsInfo, //
        }, //
    },
    mm::{
        fault::{
            NewVma,
            VmOperations, //
        },
        folio::{
            LockedFolio,
            NewFolio, //
        },
        mempolicy::SharedPolicy, //
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

/// What an inode carries.
#[pin_data]
pub(crate) struct Memory {
    flags: flags::Flags,
    #[pin]
    policy: SharedPolicy,
}

impl Memory {
    /// Returns the flags that it was created with.
    pub(crate) fn flags(&self) -> flags::Flags {
        self.flags
    }
}

impl InodeData for Memory {
    /// An inode has one file; [`None`] when that is closed.
    type Locked = Option<BoundView>;
}

impl PseudoFsInfo for Memory {
    const NAME: &'static CStr = c"guest_memfd";
    const MAGIC: u32 = GUEST_MEMFD_MAGIC;
}

/// The file system.
pub(crate) static FS: PseudoFs<Memory> = PseudoFs::new();

/// The files.
pub(crate) struct GuestMemfd;

impl FileOperations for GuestMemfd {
    type Inode = Memory;
    type Data = Arc<View>;

    fn mmap_prepare(file: &OpenFile<Self>, vma: &mut NewVma<'_, Self>) -> Result {
        if !file.inode().data().flags().can_be_mapped() {
            return Err(ENODEV);
        }
        vma.set_operations()
    }

    fn fallocate(file: &OpenFile<Self>, mode: u32, offset: loff_t, len: loff_t) -> Result {
        fallocate::fallocate(file.inode(), mode, offset, len)?;
        file.modified();
        Ok(())
    }

    fn show_fdinfo(file: &OpenFile<Self>, m: &SeqFile) {
        let mapping = file.inode().mapping();

        if mapping.no_direct_map() {
            let kib = mapping.page_count() << (PAGE_SHIFT - 10);
            seq_print!(m, "no-direct-map:\t{} kB\n", kib);
        }
    }

    /// The memory stays: that goes with the inode.
    fn release(inode: &Inode<Memory>, view: ArcBorrow<'_, View>) {
        // Nobody unbinds a memslot, and frees it, while we have its address. There are no new
        // bindings, since this was the last reference to the file; and no guest fault is in here,
        // since it would have one.
        let slots = view.vm().lock_slots();
        let mut locked = inode.invalidate_lock();

        if let Some(bound) = &*locked {
            for slot in bound.slots(0..usize::MAX) {
                slot.clear_file(&slots);
            }
        }
        drop(invalidate::start(inode, &locked, 0..usize::MAX));
        locked.take();
    }
}

impl VmOperations for GuestMemfd {
    fn fault(file: &OpenFile<Self>, index: usize) -> Result<LockedFolio<'_>> {
        user_fault::fault(file.inode(), index)
    }

    fn policy(file: &OpenFile<Self>) -> &SharedPolicy {
        &file.inode().data().policy
    }
}

/// What folios are allocated with. They are cleared then, since they cannot be later.
fn gfp() -> Flags {
    GFP_HIGHUSER | __GFP_ZERO
}

/// Allocates the page at `index`, in pages, where the memory policy wants it.
pub(crate) fn alloc_folio(inode: &Inode<Memory>, index: usize) -> Result<NewFolio> {
    Ok(inode.data().policy.alloc_folio(index, gfp())?)
}

/// Returns the folio at `index`, in pages, and creates it if there is none.
///
/// # Errors
///
/// `ENOMEM`.
pub(crate) fn get_folio(inode: &Inode<Memory>, index: usize) -> Result<LockedFolio<'_>> {
    let mapping = inode.mapping();

    loop {
        match mapping.lock_folio(index) {
            Err(err) if err == ENOENT => {}
            found => return found,
        }

        match mapping.insert(alloc_folio(inode, index)?, index, gfp()) {
            Ok(folio) => {
                // There is no storage that it could come from.
                folio.mark_uptodate();
                return Ok(folio);
            }
            // Somebody else was faster.
            Err(err) if err.error == EEXIST => {}
            Err(err) => return Err(err.error),
        }
    }
}

/// Creates a guest_memfd of `size` bytes and returns its file descriptor.
///
/// # Errors
///
/// `EMFILE`, `ENFILE`, `ENOMEM`, `ENOENT` if the module is about to go, or what a security module
/// has to say.
pub(crate) fn create(vm: &Vm, size: loff_t, flags: flags::Flags) -> Result<u32> {
    const NAME: &CStr = c"[kvm-gmem]";

    let fd = FileDescriptorReservation::get_unused_fd_flags(0)?;
    let number = fd.reserved_fd();
    let view = View::new(vm)?;
    let mount = boundary::mount()?;

    let mut inode = boundary::new_inode(
        mount,
        NAME,
        Some(BoundView::new(&view)),
        pin_init!(Memory {
            flags,
            policy <- SharedPolicy::new(),
        }),
    )?;
    inode.set_size(size);
    inode.set_mapping::<GuestMemfd>(gfp());
    inode.set_inaccessible();
    if flags.no_direct_map() {
        inode.set_no_direct_map()?;
    }

    let file = inode.into_file(NAME, &FILES, O_LARGEFILE, view)?;
    fd.fd_install(file.into());
    Ok(number)
}
