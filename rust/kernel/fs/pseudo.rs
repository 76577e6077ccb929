// SPDX-License-Identifier: GPL-2.0

//! Pseudo file systems: file systems that have inodes and open files, but no names.
//!
//! The kernel mounts such a file system for itself. Each file is made together with its inode, and
//! userspace gets it as a file descriptor:
//!
//! * [`PseudoFs`] is the file system, a `static`;
//! * [`Mount`] is a mount of it;
//! * [`NewInode`] is an inode that nobody else can reach yet. [`FileTable::create_file`] makes a
//!   file of it.
//!
//! The files are memory: their folios stay where they are, and the kernel does not look at the
//! contents.
//!
//! C header: [`include/linux/pseudo_fs.h`](srctree/include/linux/pseudo_fs.h)
//!
//! [`FileTable::create_file`]: crate::fs::operations::FileTable::create_file
//!
//! # Examples
//!
//! Files whose pages the kernel cannot read, and which count how often they were allocated:
//!
//! ```
//! use kernel::{
//!     bindings,
//!     fs::{
//!         file::Offset,
//!         inode::{Inode, InodeData},
//!         operations::{FileOperations, FileTable, OpenFile},
//!         pseudo::{InodeOptions, NewInode, PseudoFs, PseudoFsType}, //
//!     },
//!     mm::{
//!         folio::LockedFolio,
//!         pgoff::{Order, PageIndex, PageRange},
//!         mempolicy::SharedPolicy,
//!         virt::VmaDesc, //
//!     },
//!     page::PAGE_SIZE, //
//! };
//!
//! /// The data of an inode.
//! #[pin_data]
//! struct Pages {
//!     #[pin]
//!     policy: SharedPolicy,
//! }
//!
//! #[vtable]
//! impl InodeData for Pages {
//!     /// How often it was allocated.
//!     type Locked = u32;
//!     type Unmapped<'a> = ();
//!
//!     /// Nobody but userspace maps these pages.
//!     fn unmap<'a>(_inode: &'a Inode<Self>, _locked: &'a u32, _pages: PageRange) {}
//! }
//!
//! impl PseudoFsType for Pages {
//!     const NAME: &'static CStr = c"pages";
//!     const MAGIC: u32 = 0x70616765;
//! }
//!
//! static FS: PseudoFs<Pages> = PseudoFs::new();
//!
//! /// The operations on a file.
//! struct PagesFile;
//!
//! static FILES: FileTable<PagesFile> = FileTable::new();
//!
//! #[vtable]
//! impl FileOperations for PagesFile {
//!     type Inode = Pages;
//!     type Data = ();
//!
//!     fn mmap_prepare(_file: &OpenFile<Self>, _vma: &VmaDesc) -> Result {
//!         Ok(())
//!     }
//!
//!     fn fault(file: &OpenFile<Self>, index: PageIndex) -> Result<LockedFolio<'_>> {
//!         file.inode().mapping().lock_folio(index)
//!     }
//!
//!     fn get_policy(file: &OpenFile<Self>) -> &SharedPolicy {
//!         &file.inode().data().policy
//!     }
//!
//!     fn fallocate(file: &OpenFile<Self>, _mode: u32, offset: Offset, _len: Offset) -> Result {
//!         let inode = file.inode();
//!         let index = PageIndex::from_offset(offset).ok_or(EINVAL)?;
//!         let folio = inode.data().policy.alloc_zeroed(index, Order::PAGE, GFP_KERNEL)?;
//!
//!         let mut allocated = inode.invalidate_lock();
//!         drop(inode.mapping().add_folio(folio, index, GFP_KERNEL)?);
//!         *allocated += 1;
//!         Ok(())
//!     }
//! }
//!
//! // SAFETY: This is not in a module, so NULL is its `THIS_MODULE`.
//! let module = unsafe { ThisModule::from_ptr(core::ptr::null_mut()) };
//! // SAFETY: As above. `mount` is dropped below.
//! let mount = unsafe { FS.mount(&module) }?;
//! // SAFETY: The super block is that of the mount.
//! let make = |super_block| unsafe { bindings::alloc_anon_inode(super_block) };
//! let options = InodeOptions {
//!     size: 4 * PAGE_SIZE as Offset,
//!     gfp: GFP_KERNEL,
//!     order: Order::PAGE,
//!     no_direct_map: true,
//! };
//! let data = pin_init!(Pages { policy <- SharedPolicy::new() });
//! // SAFETY: Nobody else has the inode that `make` returns, and it has no private data.
//! let inode = match unsafe { NewInode::new(&mount, make, options, 0, data) } {
//!     // The direct map of this machine cannot be changed.
//!     Err(err) if err == EOPNOTSUPP => return Ok(()),
//!     inode => inode?,
//! };
//!
//! let file = FILES.create_file(inode, c"[pages]", ())?;
//! PagesFile::fallocate(&file, 0, PAGE_SIZE as Offset, PAGE_SIZE as Offset)?;
//! let again = PagesFile::fallocate(&file, 0, PAGE_SIZE as Offset, PAGE_SIZE as Offset);
//! assert_eq!(again, Err(EEXIST));
//!
//! let mapping = file.inode().mapping();
//! assert!(FILES.downcast(&file).is_some());
//! assert_eq!(*file.inode().invalidate_lock_shared(), 1);
//! assert!(mapping.has_folio(PageIndex::new(1)));
//! assert!(!mapping.has_folio(PageIndex::new(0)));
//!
//! let locked = file.inode().invalidate_lock();
//! locked.unmap(PageRange::ALL).remove_folios();
//! drop(locked);
//! assert!(!mapping.has_folio(PageIndex::new(1)));
//! # Ok::<(), Error>(())
//! ```

use crate::{
    alloc::Flags,
    bindings,
    error::{
        from_err_ptr,
        Result, //
    },
    fs::{
        file::Offset,
        inode::{
            Inode,
            InodeData, //
        }, //
    },
    mm::{
        address_space::AddressSpace,
        pgoff::Order, //
    },
    prelude::*,
    types::Opaque, //
};
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};

/// A pseudo file system, whose inodes carry a `T`.
///
/// Wraps `struct file_system_type`. Meant for a `static`, and to be mounted once.
///
/// # Invariants
///
/// The C structure is that of a pseudo file system with the operations below.
#[repr(transparent)]
pub struct PseudoFs<T: InodeData>(Opaque<bindings::file_system_type>, PhantomData<fn(T) -> T>);

// SAFETY: Only C uses it, under locks of its own.
unsafe impl<T: InodeData> Sync for PseudoFs<T> {}

/// Describes a pseudo file system. The implementing type is the data of each inode.
pub trait PseudoFsType: InodeData {
    /// The name, for the kernel log.
    const NAME: &'static CStr;
    /// The magic number, for `statfs(2)`.
    const MAGIC: u32;
}

impl<T: PseudoFsType> PseudoFs<T> {
    /// Creates a file system that is not mounted.
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Self {
        // INVARIANT: `init_fs_context` makes it a pseudo file system.
        Self(
            Opaque::new(bindings::file_system_type {
                name: crate::str::as_char_ptr_in_const_context(T::NAME),
                init_fs_context: Some(Self::init_fs_context),
                kill_sb: Some(bindings::kill_anon_super),
                ..pin_init::zeroed()
            }),
            PhantomData,
        )
    }

    const SUPER: &'static bindings::super_operations = &bindings::super_operations {
        statfs: Some(bindings::simple_statfs),
        evict_inode: Some(Self::evict_inode),
        ..pin_init::zeroed()
    };

    /// Mounts the file system, for the kernel alone. Nothing in it can be executed.
    ///
    /// Open files keep `module` loaded. But the last `fput()` of a file drops that reference before
    /// it evicts the inode and puts its reference to the mount, which both call into this file
    /// system. So the module must not be unloaded while that `fput()` is still running on another
    /// CPU. File systems in C modules that the kernel mounts have the same problem.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    ///
    /// # Safety
    ///
    /// Callers must ensure that
    ///
    /// * `module` is the module that contains this file system and the operations on its files, or
    ///   one that depends on it;
    /// * the result is dropped before the module is unloaded, and the last `fput()` of each file
    ///   has returned by then.
    pub unsafe fn mount(&'static self, module: &ThisModule) -> Result<Mount<T>> {
        // SAFETY: By the type invariants, this is a valid file system type, and it is static.
        let mount = from_err_ptr(unsafe { bindings::kern_mount(self.0.get()) })?;

        // SAFETY: The mount is valid, and nobody else knows of it.
        unsafe { (*mount).mnt_flags |= bindings::mount_flags_MNT_NOEXEC as c_int };
        Ok(Mount {
            // INVARIANT: It was just mounted.
            // SAFETY: `kern_mount` does not return NULL.
            mount: unsafe { NonNull::new_unchecked(mount) },
            module: module.as_ptr(),
            _data: PhantomData,
        })
    }

    /// # Safety
    ///
    /// Callers must ensure that `context` is valid, and of this file system.
    unsafe extern "C" fn init_fs_context(context: *mut bindings::fs_context) -> c_int {
        // SAFETY: By the safety requirements.
        let pseudo = unsafe { bindings::init_pseudo(context, T::MAGIC as usize) };
        if pseudo.is_null() {
            return ENOMEM.to_errno();
        }
        // SAFETY: `init_pseudo` returned a valid pointer.
        unsafe { (*pseudo).ops = &raw const *Self::SUPER };
        0
    }

    /// # Safety
    ///
    /// Callers must ensure that `inode` is of this file system, and being evicted.
    unsafe extern "C" fn evict_inode(inode: *mut bindings::inode) {
        // SAFETY: The inode is valid. It has no files, so nobody but the page cache has its folios.
        unsafe { bindings::truncate_inode_pages_final(&raw mut (*inode).i_data) };
        // SAFETY: The inode is being evicted, and its page cache is empty.
        unsafe { bindings::clear_inode(inode) };
        // SAFETY: By the safety requirements, nobody uses the inode. Inodes of this file system
        // have private data of `T` or none.
        unsafe { Inode::<T>::drop_private(inode) };
    }
}

/// A mounted [`PseudoFs`]. Dropping this unmounts it.
///
/// # Invariants
///
/// `mount` is valid, and this value owns a reference to it.
#[must_use = "the file system is unmounted immediately when this is unused"]
pub struct Mount<T: InodeData> {
    mount: NonNull<bindings::vfsmount>,
    module: *mut bindings::module,
    _data: PhantomData<fn(T) -> T>,
}

// SAFETY: Mounts may be used, and unmounted, by any task.
unsafe impl<T: InodeData> Send for Mount<T> {}

// SAFETY: Methods that take `&Mount` do not modify it.
unsafe impl<T: InodeData> Sync for Mount<T> {}

impl<T: InodeData> Mount<T> {
    /// Returns the C mount.
    #[inline]
    pub fn as_ptr(&self) -> *mut bindings::vfsmount {
        self.mount.as_ptr()
    }

    /// Returns the module that contains the file system; NULL if it is built in.
    #[inline]
    pub(super) fn module(&self) -> *mut bindings::module {
        self.module
    }
}

impl<T: InodeData> Drop for Mount<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants, this owns a reference. Each file has one of its own.
        unsafe { bindings::kern_unmount(self.as_ptr()) };
    }
}

/// The properties of a new inode.
#[derive(Clone, Copy)]
pub struct InodeOptions {
    /// The size of the file, in bytes.
    pub size: Offset,
    /// The flags with which the page cache allocates memory for itself and for folios.
    pub gfp: Flags,
    /// The order of all folios.
    pub order: Order,
    /// Whether the folios are kept out of the direct map.
    pub no_direct_map: bool,
}

/// An inode that nobody else can reach yet.
///
/// Dropping this frees the inode.
///
/// # Invariants
///
/// `inode` is an [`Inode<T>`] of the file system that is mounted at `mount`, and this value owns
/// the only reference to it.
#[must_use = "the inode is freed immediately when this is unused"]
pub struct NewInode<'a, T: InodeData> {
    inode: NonNull<bindings::inode>,
    mount: &'a Mount<T>,
}

impl<'a, T: InodeData> NewInode<'a, T> {
    /// Makes the inode of an empty page cache.
    ///
    /// `make` allocates the inode and returns a pointer, an error pointer, or NULL if there is no
    /// memory. It becomes the inode of a regular file, whose attributes userspace cannot change
    /// (`EINVAL`). The folios are not evicted and not moved.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if the size is negative, [`EOPNOTSUPP`] if the direct map cannot be changed,
    /// [`ENOMEM`], and the errors of `make`.
    ///
    /// # Safety
    ///
    /// Callers must ensure that `make` returns the only reference to an inode of the super block
    /// that it is given, without private data.
    pub unsafe fn new(
        mount: &'a Mount<T>,
        make: impl FnOnce(*mut bindings::super_block) -> *mut bindings::inode,
        options: InodeOptions,
        locked: impl PinInit<T::Locked>,
        data: impl PinInit<T>,
    ) -> Result<Self> {
        if options.size < 0 {
            return Err(EINVAL);
        }

        // SAFETY: By the invariants of `Mount`, the mount is valid.
        let super_block = unsafe { (*mount.as_ptr()).mnt_sb };
        let inode = NonNull::new(from_err_ptr(make(super_block))?).ok_or(ENOMEM)?;
        let ptr = inode.as_ptr();
        // If there is an error, this drops the inode, without its private data.
        let this = Self { inode, mount };

        // SAFETY: By the safety requirements, nobody else can reach the inode, and it has no
        // private data. `evict_inode` drops that again.
        unsafe { Inode::<T>::init_private(ptr, locked, data) }?;
        // SAFETY: The inode is valid, and nobody else can reach it.
        unsafe {
            (*ptr).i_op = &raw const *INODE_OPERATIONS;
            (*ptr).i_mode |= bindings::S_IFREG as bindings::umode_t;
            (*ptr).i_size = options.size;
        }

        // SAFETY: The inode is valid.
        let mapping = unsafe { (*ptr).i_mapping };
        // SAFETY: The mapping is the inode's, which nobody else can reach.
        unsafe { (*mapping).gfp_mask = options.gfp.as_raw() };
        let order = options.order.as_u32();
        // SAFETY: As above.
        unsafe { bindings::mapping_set_folio_order_range(mapping, order, order) };
        // SAFETY: As above.
        unsafe { bindings::mapping_set_inaccessible(mapping) };
        if options.no_direct_map {
            // SAFETY: The mapping is valid, and has the operations of `T`.
            let mapping = unsafe { AddressSpace::from_raw(mapping) };
            // SAFETY: Nobody else can reach the mapping, and it is empty.
            unsafe { mapping.set_no_direct_map() }?;
        }
        // INVARIANT: The inode has its private data and the operations, and folios that stay.
        Ok(this)
    }

    /// Returns the C inode.
    #[inline]
    pub(super) fn as_ptr(&self) -> *mut bindings::inode {
        self.inode.as_ptr()
    }

    /// Returns where the file system is mounted.
    #[inline]
    pub(super) fn mount(&self) -> &'a Mount<T> {
        self.mount
    }
}

impl<T: InodeData> Drop for NewInode<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariants, this owns the reference. `evict_inode` drops the data.
        unsafe { bindings::iput(self.as_ptr()) };
    }
}

const INODE_OPERATIONS: &bindings::inode_operations = &bindings::inode_operations {
    setattr: Some(setattr),
    ..pin_init::zeroed()
};

/// Refuses to change attributes.
extern "C" fn setattr(
    _idmap: *mut bindings::mnt_idmap,
    _dentry: *mut bindings::dentry,
    _attr: *mut bindings::iattr,
) -> c_int {
    EINVAL.to_errno()
}
