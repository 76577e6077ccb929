// SPDX-License-Identifier: GPL-2.0

//! Pseudo file systems: those that have inodes and files, but no names.
//!
//! C header: [`include/linux/pseudo_fs.h`](srctree/include/linux/pseudo_fs.h)
//!
//! # Examples
//!
//! Files whose pages the kernel cannot read, and which count how often they were allocated:
//!
//! ```
//! use core::ops::Range;
//! use kernel::{
//!     alloc::flags::__GFP_ZERO,
//!     bindings,
//!     fs::{
//!         inode::{Inode, InodeData, NewInode},
//!         operations::{FileOperations, FileTable, OpenFile},
//!         pseudo::{PseudoFs, PseudoFsInfo}, //
//!     },
//!     mm::{
//!         aops::{AddressSpaceOperations, FreedFolio},
//!         fault::{NewVma, VmOperations},
//!         folio::LockedFolio,
//!         mempolicy::SharedPolicy, //
//!     },
//!     page::PAGE_SIZE, //
//! };
//!
//! /// What an inode carries.
//! #[pin_data]
//! struct Pages {
//!     #[pin]
//!     policy: SharedPolicy,
//! }
//!
//! impl InodeData for Pages {
//!     /// How often it was allocated; for those who have the `invalidate_lock`.
//!     type Locked = u32;
//! }
//!
//! impl PseudoFsInfo for Pages {
//!     const NAME: &'static CStr = c"pages";
//!     const MAGIC: u32 = 0x70616765;
//! }
//!
//! static FS: PseudoFs<Pages> = PseudoFs::new();
//!
//! /// What can be done with a file.
//! struct PagesFile;
//!
//! // SAFETY: This is not in a module.
//! static FILES: FileTable<PagesFile> = unsafe { FileTable::new() };
//!
//! impl FileOperations for PagesFile {
//!     type Inode = Pages;
//!     type Data = ();
//!
//!     fn mmap_prepare(_file: &OpenFile<Self>, vma: &mut NewVma<'_, Self>) -> Result {
//!         vma.set_operations()
//!     }
//!
//!     fn fallocate(file: &OpenFile<Self>, _mode: u32, offset: i64, _len: i64) -> Result {
//!         let inode = file.inode();
//!         let index = offset as usize / PAGE_SIZE;
//!         let folio = inode.data().policy.alloc_folio(index, GFP_KERNEL | __GFP_ZERO)?;
//!
//!         let mut allocated = inode.invalidate_lock();
//!         inode.mapping().insert(folio, index, GFP_KERNEL)?.mark_uptodate();
//!         *allocated += 1;
//!         Ok(())
//!     }
//!
//!     fn release(_inode: &Inode<Pages>, _data: ()) {}
//! }
//!
//! impl VmOperations for PagesFile {
//!     fn fault(file: &OpenFile<Self>, index: usize) -> Result<LockedFolio<'_>> {
//!         file.inode().mapping().lock_folio(index)
//!     }
//!
//!     fn policy(file: &OpenFile<Self>) -> &SharedPolicy {
//!         &file.inode().data().policy
//!     }
//! }
//!
//! impl AddressSpaceOperations for PagesFile {
//!     type Inode = Pages;
//!     const FREES_FOLIOS: bool = false;
//!
//!     fn memory_failure(_inode: &Inode<Pages>, _range: Range<usize>) {}
//!     fn free_folio(_folio: FreedFolio) {}
//! }
//!
//! let mount = FS.mount()?;
//! // SAFETY: The super block is that of the mount, and valid.
//! let make = |super_block| unsafe { bindings::alloc_anon_inode(super_block) };
//! // SAFETY: Nobody else has the inode that `make` returns, and it has no private data.
//! let mut inode = unsafe {
//!     NewInode::new(&mount, make, 0, pin_init!(Pages { policy <- SharedPolicy::new() }))
//! }?;
//! inode.set_size(4 * PAGE_SIZE as i64);
//! inode.set_mapping::<PagesFile>(GFP_KERNEL);
//! inode.set_no_direct_map()?;
//!
//! let file = inode.into_file(c"[pages]", &FILES, 0, ())?;
//! PagesFile::fallocate(&file, 0, PAGE_SIZE as i64, PAGE_SIZE as i64)?;
//! let again = PagesFile::fallocate(&file, 0, PAGE_SIZE as i64, PAGE_SIZE as i64);
//! assert_eq!(again, Err(EEXIST));
//!
//! assert!(FILES.downcast(&file).is_some());
//! assert_eq!(*file.inode().invalidate_lock_shared(), 1);
//! assert!(file.inode().mapping().contains(1));
//! assert!(!file.inode().mapping().contains(0));
//!
//! file.inode().invalidate_lock().truncate(0..4);
//! assert!(!file.inode().mapping().contains(1));
//! # Ok::<(), Error>(())
//! ```

use crate::{
    bindings,
    error::{
        from_err_ptr,
        Result, //
    },
    fs::inode::{
        Inode,
        InodeData, //
    },
    prelude::*,
    types::Opaque,
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
/// The C structure is one for pseudo file systems of that type.
#[repr(transparent)]
pub struct PseudoFs<T: InodeData>(Opaque<bindings::file_system_type>, PhantomData<T>);

// SAFETY: It is only used by C, which has locks for it.
unsafe impl<T: InodeData> Sync for PseudoFs<T> {}

/// A [`PseudoFs`], to which there is one type of data an inode.
pub trait PseudoFsInfo: InodeData {
    /// The name, for the kernel log.
    const NAME: &'static CStr;
    /// The magic number, for `statfs(2)`.
    const MAGIC: u32;
}

impl<T: PseudoFsInfo> PseudoFs<T> {
    /// Creates a file system that is not mounted.
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Self {
        // INVARIANT: The functions below are for that.
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

    /// Mounts the file system, for the kernel alone, and so that nothing in it can be executed.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub fn mount(&'static self) -> Result<Mount<T>> {
        // SAFETY: By the type invariants, this is a valid file system type, and static.
        let mount = from_err_ptr(unsafe { bindings::kern_mount(self.0.get()) })?;

        // SAFETY: The mount is valid, and nobody else knows of it.
        unsafe { (*mount).mnt_flags |= bindings::mount_flags_MNT_NOEXEC as c_int };

        // SAFETY: `from_err_ptr` returned a pointer that is valid.
        // INVARIANT: It was just mounted.
        Ok(Mount(unsafe { NonNull::new_unchecked(mount) }, PhantomData))
    }

    /// # Safety
    ///
    /// The context is valid, and of this file system.
    unsafe extern "C" fn init_fs_context(context: *mut bindings::fs_context) -> c_int {
        // SAFETY: By the safety requirements.
        let pseudo = unsafe { bindings::init_pseudo(context, T::MAGIC as usize) };
        if pseudo.is_null() {
            return ENOMEM.to_errno();
        }
        // SAFETY: It was just made.
        unsafe { (*pseudo).ops = &raw const *Self::SUPER };
        0
    }

    /// # Safety
    ///
    /// The inode is valid, of this file system, and nobody else has a reference to it. This is
    /// called once for it.
    unsafe extern "C" fn evict_inode(inode: *mut bindings::inode) {
        // SAFETY: By the safety requirements. It was a `NewInode<T>`, or has no private data.
        unsafe {
            bindings::truncate_inode_pages_final(&raw mut (*inode).i_data);
            bindings::clear_inode(inode);
            Inode::<T>::free_private(inode);
        }
    }
}

/// A mounted [`PseudoFs`]. Unmounted when this is dropped.
///
/// # Invariants
///
/// The mount is valid, and the reference to it is ours.
pub struct Mount<T: InodeData>(NonNull<bindings::vfsmount>, PhantomData<T>);

// SAFETY: Mounts may be used, and unmounted, by any task.
unsafe impl<T: InodeData> Send for Mount<T> {}

// SAFETY: What is done with a `&Mount` does not change it.
unsafe impl<T: InodeData> Sync for Mount<T> {}

impl<T: InodeData> Mount<T> {
    /// Returns the C mount.
    #[inline]
    pub fn as_ptr(&self) -> *mut bindings::vfsmount {
        self.0.as_ptr()
    }

    /// Returns the C super block, in which inodes are made.
    #[inline]
    pub fn super_block(&self) -> *mut bindings::super_block {
        // SAFETY: By the type invariants, this is valid.
        unsafe { (*self.as_ptr()).mnt_sb }
    }
}

impl<T: InodeData> Drop for Mount<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants, the reference is ours. A file holds one of its own.
        unsafe { bindings::kern_unmount(self.as_ptr()) };
    }
}
