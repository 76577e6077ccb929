// SPDX-License-Identifier: GPL-2.0

//! Inodes with private data of one Rust type.
//!
//! An inode of a [`PseudoFs`] carries data of its file system in `i_private`: what never changes,
//! and what its `invalidate_lock` protects. The guard of that lock is the only way to the latter.
//!
//! * [`Inode`] is one that may be in use anywhere.
//! * [`NewInode`] was just made. Nobody else can reach it, so this is where an inode gets its
//!   properties; it ends as the inode of a new file.
//!
//! There is an example at [`fs::pseudo`](super::pseudo).
//!
//! C header: [`include/linux/fs.h`](srctree/include/linux/fs.h)
//!
//! [`PseudoFs`]: super::pseudo::PseudoFs

use crate::{
    alloc::{
        flags::GFP_KERNEL_ACCOUNT,
        Flags,
        KBox, //
    },
    bindings,
    error::{
        from_err_ptr,
        Result, //
    },
    fs::{
        operations::{
            FileOperations,
            FileTable,
            OpenFile, //
        },
        pseudo::Mount, //
    },
    mm::{
        address_space::{
            AddressSpace,
            InvalidateGuard,
            SharedInvalidateGuard, //
        },
        aops::{
            AddressSpaceOperations,
            AopsTable, //
        }, //
    },
    prelude::*,
    sync::aref::ARef,
    types::{
        ForeignOwnable,
        Opaque, //
    },
};
use core::{
    cell::UnsafeCell,
    marker::PhantomData,
    mem::ManuallyDrop,
    ptr::NonNull, //
};

/// What the inodes of one file system carry.
///
/// The value itself is for what never changes, or has a lock of its own.
pub trait InodeData: Send + Sync + Sized + 'static {
    /// What the `invalidate_lock` of the inode protects.
    type Locked: Send + Sync;
}

/// What `i_private` points to.
#[pin_data]
struct Private<T: InodeData> {
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
/// The inode is valid for as long as a reference to it exists, and its `i_private` owns a
/// `Private<T>`, which is not replaced.
#[repr(transparent)]
pub struct Inode<T: InodeData>(Opaque<bindings::inode>, PhantomData<T>);

// SAFETY: Inodes are made for concurrent use. Of their data, `T` can be shared, and access to
// `T::Locked` is what the lock is for.
unsafe impl<T: InodeData> Sync for Inode<T> {}

impl<T: InodeData> Inode<T> {
    /// Creates a reference from a C inode.
    ///
    /// # Safety
    ///
    /// `inode` is valid for `'a`, and was a [`NewInode<T>`] before.
    #[inline]
    pub unsafe fn from_raw<'a>(inode: *mut bindings::inode) -> &'a Self {
        // SAFETY: By the safety requirements; `Inode` is transparent.
        // INVARIANT: A `NewInode` owns the private data, and leaves it to the inode.
        unsafe { &*inode.cast() }
    }

    /// Returns the C inode.
    #[inline]
    pub fn as_ptr(&self) -> *mut bindings::inode {
        self.0.get()
    }

    /// Returns the size of the file, in bytes.
    #[inline]
    pub fn size(&self) -> bindings::loff_t {
        // SAFETY: By the type invariants, this is valid.
        unsafe { bindings::i_size_read(self.as_ptr()) }
    }

    /// Returns the number of the inode.
    #[inline]
    pub fn number(&self) -> u64 {
        // SAFETY: By the type invariants, this is valid; the number does not change.
        unsafe { (*self.as_ptr()).i_ino }
    }

    /// Returns the page cache.
    #[inline]
    pub fn mapping(&self) -> &AddressSpace {
        // SAFETY: By the type invariants, this is valid, and its mapping is with it. `NewInode`
        // gave it operations that leave folios to the page cache.
        unsafe { AddressSpace::from_raw((*self.as_ptr()).i_mapping) }
    }

    #[inline]
    fn private(&self) -> &Private<T> {
        // SAFETY: By the type invariants, this is a valid pointer to that type.
        unsafe { &*(*self.as_ptr()).i_private.cast() }
    }

    /// Returns what the inode carries.
    #[inline]
    pub fn data(&self) -> &T {
        &self.private().data
    }

    /// Takes the `invalidate_lock` for writing. May sleep.
    #[inline]
    pub fn invalidate_lock(&self) -> InvalidateGuard<'_, T::Locked> {
        let data = NonNull::from(&self.private().locked).cast();

        // SAFETY: The data lives as long as the inode, and is only reached through guards of the
        // lock of this mapping.
        unsafe { InvalidateGuard::new(self.mapping(), data) }
    }

    /// Takes the `invalidate_lock` for reading. May sleep.
    #[inline]
    pub fn invalidate_lock_shared(&self) -> SharedInvalidateGuard<'_, T::Locked> {
        let data = NonNull::from(&self.private().locked).cast();

        // SAFETY: As for `invalidate_lock`.
        unsafe { SharedInvalidateGuard::new(self.mapping(), data) }
    }

    /// Takes the `invalidate_lock` for reading, unless somebody has it, or waits for it, for
    /// writing.
    #[inline]
    pub fn try_invalidate_lock_shared(&self) -> Option<SharedInvalidateGuard<'_, T::Locked>> {
        let data = NonNull::from(&self.private().locked).cast();

        // SAFETY: As for `invalidate_lock`.
        unsafe { SharedInvalidateGuard::try_new(self.mapping(), data) }
    }

    /// Frees what the inode carries.
    ///
    /// # Safety
    ///
    /// The inode is about to go: nobody has a reference to it, or to what it carries.
    #[inline]
    pub(super) unsafe fn free_private(inode: *mut bindings::inode) {
        // SAFETY: `inode` is valid. If there is private data, `NewInode::new` made it.
        let private = unsafe { Pin::<KBox<Private<T>>>::try_from_foreign((*inode).i_private) };
        // SAFETY: As above.
        unsafe { (*inode).i_private = core::ptr::null_mut() };
        drop(private);
    }
}

/// An inode that nobody else can reach yet.
///
/// # Invariants
///
/// The inode is valid, of the file system that is mounted there, and the one reference to it is
/// ours. Its private data is that of an [`Inode<T>`].
pub struct NewInode<'a, T: InodeData> {
    inode: NonNull<Inode<T>>,
    mount: &'a Mount<T>,
}

impl<'a, T: InodeData> NewInode<'a, T> {
    /// Takes over an inode, to which `make` returns a pointer, or an error pointer.
    ///
    /// It is that of a regular file, empty, which refuses changes of its attributes (`EINVAL`).
    ///
    /// # Errors
    ///
    /// That of `make`, or [`ENOMEM`].
    ///
    /// # Safety
    ///
    /// `make` returns a reference, and the only one, to an inode in the super block that it is
    /// given, without private data.
    pub unsafe fn new(
        mount: &'a Mount<T>,
        make: impl FnOnce(*mut bindings::super_block) -> *mut bindings::inode,
        locked: T::Locked,
        data: impl PinInit<T>,
    ) -> Result<Self> {
        let private = KBox::pin_init(
            pin_init!(Private::<T> {
                locked: UnsafeCell::new(locked),
                data <- data,
            }),
            GFP_KERNEL_ACCOUNT,
        )?;

        let inode = from_err_ptr(make(mount.super_block()))?;
        // SAFETY: The inode is valid, and only ours.
        unsafe {
            (*inode).i_private = private.into_foreign();
            (*inode).i_op = &raw const *Self::OPERATIONS;
            (*inode).i_mode |= bindings::S_IFREG as bindings::umode_t;
        }

        // SAFETY: `from_err_ptr` returned a pointer that is valid.
        let inode = unsafe { NonNull::new_unchecked(inode.cast()) };
        // INVARIANT: By the safety requirements; the private data was just set.
        Ok(Self { inode, mount })
    }

    const OPERATIONS: &'static bindings::inode_operations = &bindings::inode_operations {
        setattr: Some(refuse_setattr),
        ..pin_init::zeroed()
    };

    #[inline]
    fn raw(&self) -> *mut bindings::inode {
        self.inode.as_ptr().cast()
    }

    #[inline]
    fn raw_mapping(&self) -> *mut bindings::address_space {
        // SAFETY: By the type invariants, the inode is valid.
        unsafe { (*self.raw()).i_mapping }
    }

    /// Sets the size of the file, in bytes.
    #[inline]
    pub fn set_size(&mut self, size: bindings::loff_t) {
        // SAFETY: By the type invariants, nobody else reads it.
        unsafe { (*self.raw()).i_size = size };
    }

    /// Sets what the page cache calls, and how it allocates.
    #[inline]
    pub fn set_mapping<A: AddressSpaceOperations<Inode = T>>(&mut self, gfp: Flags) {
        let mapping = self.raw_mapping();

        // SAFETY: By the type invariants, nobody else uses the mapping; the operations are for
        // inodes of this type, and static.
        unsafe {
            (*mapping).a_ops = &raw const *AopsTable::<A>::TABLE;
            (*mapping).gfp_mask = gfp.as_raw();
        }
    }

    /// Keeps the kernel from the contents, and the folios where they are: not evicted, not moved.
    #[inline]
    pub fn set_inaccessible(&mut self) {
        // SAFETY: By the type invariants, nobody else uses the mapping.
        unsafe { bindings::mapping_set_inaccessible(self.raw_mapping()) };
    }

    /// Keeps the folios out of the direct map, too.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` if the direct map cannot be changed.
    #[inline]
    pub fn set_no_direct_map(&mut self) -> Result {
        // SAFETY: By the type invariants, the mapping is valid; nobody uses it, and it is empty.
        unsafe { AddressSpace::from_raw(self.raw_mapping()).set_no_direct_map() }
    }

    /// Makes a file of the inode, open for reading and writing, with `flags` (`O_*`) added.
    ///
    /// The file keeps the module that owns the operations loaded.
    ///
    /// # Errors
    ///
    /// [`ENOENT`] if that module is about to go, or [`ENOMEM`] or [`ENFILE`]. The inode is gone
    /// then.
    pub fn into_file<F: FileOperations<Inode = T>>(
        self,
        name: &'static CStr,
        table: &'static FileTable<F>,
        flags: u32,
        data: F::Data,
    ) -> Result<ARef<OpenFile<F>>> {
        let fops = table.as_ptr();

        // SAFETY: The table is static.
        if unsafe { bindings::fops_get(fops) }.is_null() {
            return Err(ENOENT);
        }

        // SAFETY: The inode is valid and of that mount's file system; name and table are static.
        let file = from_err_ptr(unsafe {
            bindings::alloc_file_pseudo(
                self.raw(),
                self.mount.as_ptr(),
                name.as_char_ptr(),
                bindings::O_RDWR as c_int,
                fops,
            )
        });
        let file = match file {
            Ok(file) => file,
            Err(err) => {
                // SAFETY: Taken above.
                unsafe { bindings::fops_put(fops) };
                return Err(err);
            }
        };

        // The reference to the inode is the file's now.
        let _ = ManuallyDrop::new(self);

        // SAFETY: Nobody else knows of the file yet. It has operations of `F`, private data of
        // `F`, and an inode of `F`.
        unsafe {
            (*file).f_flags |= flags;
            (*file).private_data = data.into_foreign();
            Ok(ARef::from_raw(NonNull::new_unchecked(file.cast())))
        }
    }
}

impl<T: InodeData> Drop for NewInode<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariants, the reference is ours. Whatever the inode carries goes
        // with it.
        unsafe { bindings::iput(self.raw()) };
    }
}

/// # Safety
///
/// None is needed. The VFS's type of this is that of an unsafe function.
unsafe extern "C" fn refuse_setattr(
    _idmap: *mut bindings::mnt_idmap,
    _dentry: *mut bindings::dentry,
    _attr: *mut bindings::iattr,
) -> c_int {
    EINVAL.to_errno()
}
