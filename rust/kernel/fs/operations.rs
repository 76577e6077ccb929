// SPDX-License-Identifier: GPL-2.0

//! What can be done with an open file, by its owner's code.
//!
//! A file system's files have one [`FileTable`], a `static`. Its address tells them from all others
//! ([`FileTable::downcast`]), and that is what makes the private data of a file typed.
//!
//! There is an example at [`fs::pseudo`](super::pseudo).
//!
//! C header: [`include/linux/fs.h`](srctree/include/linux/fs.h)

use crate::{
    bindings,
    error::{
        from_result,
        Result, //
    },
    fs::{
        inode::{
            Inode,
            InodeData, //
        },
        File, //
    },
    mm::{
        fault::{
            NewVma,
            VmOperations, //
        }, //
    },
    prelude::*,
    seq_file::SeqFile,
    sync::aref::{
        ARef,
        AlwaysRefCounted, //
    },
    types::{
        ForeignOwnable,
        Opaque, //
    },
};
use core::{
    marker::PhantomData,
    ops::Deref,
    ptr::NonNull, //
};

/// The operations on files of one kind.
pub trait FileOperations: VmOperations + Sized + 'static {
    /// What their inodes carry.
    type Inode: InodeData;

    /// What each open file carries, in `private_data`.
    type Data: ForeignOwnable + Send + Sync;

    /// Decides about a mapping that userspace asks for.
    ///
    /// Context: under the mmap lock. It may still fail when this has succeeded, without notice.
    fn mmap_prepare(file: &OpenFile<Self>, vma: &mut NewVma<'_, Self>) -> Result;

    /// Allocates or frees part of the file. `offset` and `len` are in bytes, `offset` is not
    /// negative, `len` is positive, and their sum is a `loff_t`.
    fn fallocate(
        file: &OpenFile<Self>,
        mode: u32,
        offset: bindings::loff_t,
        len: bindings::loff_t,
    ) -> Result;

    /// Adds lines about a file to `/proc/PID/fdinfo/FD`. None by default.
    fn show_fdinfo(_file: &OpenFile<Self>, _m: &SeqFile) {}

    /// The last reference to a file was put. What the file carries is dropped after that.
    ///
    /// There is no file to be given any more, of which somebody could keep a reference.
    fn release(inode: &Inode<Self::Inode>, data: <Self::Data as ForeignOwnable>::Borrowed<'_>);
}

/// An open file that has the operations `F`.
///
/// # Invariants
///
/// As of [`File`]; `private_data` is owned by a `F::Data`, and the inode is an [`Inode<F::Inode>`].
#[repr(transparent)]
pub struct OpenFile<F: FileOperations>(File, PhantomData<F>);

// SAFETY: By the type invariants, files are refcounted.
unsafe impl<F: FileOperations> AlwaysRefCounted for OpenFile<F> {
    #[inline]
    fn inc_ref(&self) {
        self.0.inc_ref();
    }

    #[inline]
    unsafe fn dec_ref(obj: NonNull<Self>) {
        // SAFETY: The caller gives up one reference; `OpenFile` is transparent.
        unsafe { File::dec_ref(obj.cast()) };
    }
}

impl<F: FileOperations> OpenFile<F> {
    /// Creates a reference from a C file.
    ///
    /// # Safety
    ///
    /// The requirements of [`File::from_raw_file`], and the file has the operations `F`.
    #[inline]
    pub unsafe fn from_raw<'a>(file: *mut bindings::file) -> &'a Self {
        // SAFETY: By the safety requirements; `OpenFile` is transparent.
        // INVARIANT: Only `NewInode::into_file` makes such files.
        unsafe { &*file.cast() }
    }

    /// Returns what the file carries.
    #[inline]
    pub fn data(&self) -> <F::Data as ForeignOwnable>::Borrowed<'_> {
        // SAFETY: By the type invariants, and it is dropped only after the last reference is gone.
        unsafe { F::Data::borrow((*self.as_ptr()).private_data) }
    }

    /// Returns the inode.
    #[inline]
    pub fn inode(&self) -> &Inode<F::Inode> {
        // SAFETY: By the type invariants; the file has a reference to the inode.
        unsafe { Inode::from_raw((*self.as_ptr()).f_inode) }
    }

    /// Records the time of a change, as [`fallocate`](FileOperations::fallocate) does.
    #[inline]
    pub fn modified(&self) {
        // An inode of ours has no privileges that could be lost, so this does not fail.
        // SAFETY: By the type invariants, this is valid.
        unsafe { bindings::file_modified(self.as_ptr()) };
    }
}

impl<F: FileOperations> Deref for OpenFile<F> {
    type Target = File;

    #[inline]
    fn deref(&self) -> &File {
        &self.0
    }
}

impl<F: FileOperations> From<ARef<OpenFile<F>>> for ARef<File> {
    #[inline]
    fn from(file: ARef<OpenFile<F>>) -> Self {
        // SAFETY: `OpenFile` is transparent, and the reference is handed on.
        unsafe { ARef::from_raw(ARef::into_raw(file).cast()) }
    }
}

/// The table of the operations `F`. One `static` for each `F`.
///
/// Wraps `struct file_operations`.
///
/// # Invariants
///
/// Files with this table are [`OpenFile<F>`].
#[repr(transparent)]
pub struct FileTable<F: FileOperations>(Opaque<bindings::file_operations>, PhantomData<F>);

// SAFETY: It is not written to once there are files.
unsafe impl<F: FileOperations> Sync for FileTable<F> {}

impl<F: FileOperations> FileTable<F> {
    /// Creates the table.
    ///
    /// # Safety
    ///
    /// If this is in a module, [`set_owner`](Self::set_owner) is called before there are files.
    pub const unsafe fn new() -> Self {
        // INVARIANT: The table is private to the kernel's Rust code, where only
        // `NewInode::into_file` gives it to a file.
        Self(
            Opaque::new(bindings::file_operations {
                open: Some(bindings::generic_file_open),
                release: Some(Self::release),
                mmap_prepare: Some(Self::mmap_prepare),
                fallocate: Some(Self::fallocate),
                show_fdinfo: Some(Self::show_fdinfo),
                ..pin_init::zeroed()
            }),
            PhantomData,
        )
    }

    /// Sets the module that files with this table keep loaded; NULL for none.
    ///
    /// # Safety
    ///
    /// There are no such files, and nobody makes one meanwhile. The module has, or needs, the one
    /// that this table is in.
    #[inline]
    pub unsafe fn set_owner(&'static self, module: *mut bindings::module) {
        // SAFETY: By the safety requirements, nobody else uses the table.
        unsafe { (*self.0.get()).owner = module };
    }

    /// Returns the C table.
    #[inline]
    pub fn as_ptr(&'static self) -> *const bindings::file_operations {
        self.0.get()
    }

    /// Returns `file` as one of this kind, if it is.
    #[inline]
    pub fn downcast<'a>(&'static self, file: &'a File) -> Option<&'a OpenFile<F>> {
        // SAFETY: The file is valid; its operations do not change.
        let fops = unsafe { (*file.as_ptr()).f_op };

        // SAFETY: By the invariants of this type.
        (fops == self.as_ptr()).then(|| unsafe { OpenFile::from_raw(file.as_ptr()) })
    }

    /// # Safety
    ///
    /// The file has these operations and that inode, and both are valid. This is called once for
    /// it, when the last reference was put.
    unsafe extern "C" fn release(inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        // SAFETY: By the safety requirements.
        let (inode, data) = unsafe { (Inode::from_raw(inode), (*file).private_data) };

        // SAFETY: The private data is that of `F`, and there until it is dropped below.
        F::release(inode, unsafe { F::Data::borrow(data) });

        // SAFETY: Nobody uses the file any more.
        drop(unsafe { F::Data::from_foreign(data) });
        0
    }

    /// # Safety
    ///
    /// The description is valid, of a file with these operations, and the caller's alone.
    unsafe extern "C" fn mmap_prepare(desc: *mut bindings::vm_area_desc) -> c_int {
        from_result(|| {
            // SAFETY: By the safety requirements.
            let file = unsafe { OpenFile::<F>::from_raw((*desc).file) };
            // SAFETY: Likewise.
            let mut vma = unsafe { NewVma::from_raw(desc) };
            F::mmap_prepare(file, &mut vma)?;
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// The file is valid, and has these operations.
    unsafe extern "C" fn fallocate(
        file: *mut bindings::file,
        mode: c_int,
        offset: bindings::loff_t,
        len: bindings::loff_t,
    ) -> isize {
        // SAFETY: By the safety requirements.
        let file = unsafe { OpenFile::from_raw(file) };

        match F::fallocate(file, mode as u32, offset, len) {
            Ok(()) => 0,
            Err(err) => err.to_errno() as isize,
        }
    }

    /// # Safety
    ///
    /// The file is valid, and has these operations. The `seq_file` is valid, and the caller's
    /// alone.
    unsafe extern "C" fn show_fdinfo(m: *mut bindings::seq_file, file: *mut bindings::file) {
        // SAFETY: By the safety requirements.
        let (file, m) = unsafe { (OpenFile::from_raw(file), SeqFile::from_raw(m)) };

        F::show_fdinfo(file, m);
    }
}
