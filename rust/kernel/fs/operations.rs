// SPDX-License-Identifier: GPL-2.0

//! Operations on open files.
//!
//! An open file has a table of operations, `struct file_operations`, by which the VFS calls the
//! file's owner, and a pointer for the owner's use. [`FileOperations`] is the Rust side of such a
//! table: a trait, of which a kind of files implements what it supports. [`OpenFile<F>`] is a
//! [`File`] that is known to have the operations `F`, so that its data has a type.
//!
//! There is one [`FileTable<F>`] for each `F`, a `static`. Its address tells these files from all
//! others, which makes [`FileTable::downcast`] safe: a driver that is given a file descriptor by
//! userspace finds out whether the file is its own.
//!
//! Userspace mappings belong to the file too. [`FileOperations::fault`] returns a locked folio of
//! the file, which is then mapped; it cannot return an address.
//!
//! There is an example at [`fs::pseudo`](super::pseudo).
//!
//! C headers: [`include/linux/fs.h`](srctree/include/linux/fs.h) and
//! [`include/linux/mm.h`](srctree/include/linux/mm.h)

use crate::{
    bindings,
    error::{
        from_err_ptr,
        from_result,
        to_result,
        Result,
        VTABLE_DEFAULT_ERROR, //
    },
    fs::{
        file::{
            flags::O_LARGEFILE,
            File,
            Offset, //
        },
        inode::{
            Inode,
            InodeData, //
        },
        pseudo::NewInode, //
    },
    mm::{
        folio::LockedFolio,
        mempolicy::SharedPolicy,
        pgoff::PageIndex,
        virt::VmaDesc, //
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
    }, //
};
use core::{
    marker::PhantomData,
    mem::ManuallyDrop,
    ops::Deref,
    ptr::NonNull, //
};

/// The operations on files of one kind, and on mappings of them.
#[vtable]
pub trait FileOperations: Sized + 'static {
    /// The data of their inodes.
    type Inode: InodeData;

    /// The data of each open file, in `private_data`.
    type Data: ForeignOwnable + Send + Sync;

    /// Decides whether userspace may map the file. Without this it may not.
    ///
    /// Private mappings are refused with `EINVAL` afterwards: what is written to one is written to
    /// a copy, which the kernel makes by reading the folio.
    ///
    /// Context: under the mmap lock. The mmap can still fail after this returns [`Ok`]; there is no
    /// callback for that.
    fn mmap_prepare(_file: &OpenFile<Self>, _vma: &VmaDesc) -> Result {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Returns the folio of the file that contains `index`, to be mapped into userspace.
    ///
    /// Userspace gets SIGBUS if this returns another folio.
    ///
    /// Context: under the mmap lock or the VMA lock. May sleep.
    ///
    /// # Errors
    ///
    /// Userspace gets SIGBUS, with the reason `BUS_MCEERR_AR` for [`EHWPOISON`]. [`ENOMEM`] is left
    /// to the memory management.
    ///
    /// [`EHWPOISON`]: crate::error::code::EHWPOISON
    fn fault(_file: &OpenFile<Self>, _index: PageIndex) -> Result<LockedFolio<'_>> {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Returns the memory policies of the file, which `mbind(2)` changes.
    fn get_policy(_file: &OpenFile<Self>) -> &SharedPolicy {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Allocates or frees a part of the file.
    ///
    /// `offset` and `len` are in bytes, `offset` is not negative, `len` is positive, and their sum
    /// does not overflow.
    fn fallocate(_file: &OpenFile<Self>, _mode: u32, _offset: Offset, _len: Offset) -> Result {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Adds lines about the file to `/proc/PID/fdinfo/FD`.
    fn show_fdinfo(_file: &OpenFile<Self>, _m: &SeqFile) {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// The last reference to the file was put. Its data is dropped after this.
    ///
    /// There is no [`OpenFile`] any more, of which this could take a reference.
    fn release(_inode: &Inode<Self::Inode>, _data: <Self::Data as ForeignOwnable>::Borrowed<'_>) {
        build_error!(VTABLE_DEFAULT_ERROR)
    }
}

/// An open file that has the operations `F`.
///
/// # Invariants
///
/// As for [`File`]. `private_data` owns an `F::Data`, and the inode is an [`Inode<F::Inode>`].
#[repr(transparent)]
pub struct OpenFile<F: FileOperations>(File, PhantomData<fn(F) -> F>);

// SAFETY: By the type invariants, files are refcounted.
unsafe impl<F: FileOperations> AlwaysRefCounted for OpenFile<F> {
    #[inline]
    fn inc_ref(&self) {
        self.0.inc_ref();
    }

    #[inline]
    unsafe fn dec_ref(obj: NonNull<Self>) {
        // SAFETY: The caller owns a reference; `OpenFile` is transparent.
        unsafe { File::dec_ref(obj.cast()) };
    }
}

impl<F: FileOperations> OpenFile<F> {
    /// Creates a reference from a C file.
    ///
    /// # Safety
    ///
    /// Callers must ensure that `file` has the operations `F`, and the requirements of
    /// [`File::from_raw_file`].
    #[inline]
    unsafe fn from_raw<'a>(file: *mut bindings::file) -> &'a Self {
        // INVARIANT: Only `FileTable::create_file` makes files with the operations `F`.
        // SAFETY: `file` is valid for `'a`, and `OpenFile` is transparent.
        unsafe { &*file.cast() }
    }

    /// Returns the data of the file.
    #[inline]
    pub fn data(&self) -> <F::Data as ForeignOwnable>::Borrowed<'_> {
        // SAFETY: The file is valid; the pointer does not change.
        let data = unsafe { (*self.as_ptr()).private_data };
        // SAFETY: By the type invariants, this is an `F::Data`. It is dropped when no reference to
        // the file is left.
        unsafe { F::Data::borrow(data) }
    }

    /// Returns the inode.
    #[inline]
    pub fn inode(&self) -> &Inode<F::Inode> {
        // SAFETY: The file is valid; the pointer does not change.
        let inode = unsafe { (*self.as_ptr()).f_inode };
        // SAFETY: By the type invariants, this is such an inode. The file has a reference to it.
        unsafe { Inode::from_raw(inode) }
    }

    /// Updates the times of the file after its contents were changed.
    ///
    /// The inode lock is needed to remove privileges (set-user-ID, capabilities), which a file that
    /// was made here does not have.
    ///
    /// # Errors
    ///
    /// Those of `file_modified()`, for a file that loses privileges when it is changed.
    #[inline]
    pub fn modified(&self) -> Result {
        // SAFETY: The file is valid, and has no privileges, for which the inode lock is needed.
        to_result(unsafe { bindings::file_modified(self.as_ptr()) })
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
        // SAFETY: `OpenFile` is transparent, and the reference is passed on.
        unsafe { ARef::from_raw(ARef::into_raw(file).cast()) }
    }
}

/// The table of the operations `F`.
///
/// Wraps `struct file_operations`. Meant for a `static`, one for each `F`.
///
/// # Invariants
///
/// Files with this table are [`OpenFile<F>`].
#[repr(transparent)]
pub struct FileTable<F: FileOperations>(Opaque<bindings::file_operations>, PhantomData<fn(F) -> F>);

// SAFETY: It is not written to while there are files.
unsafe impl<F: FileOperations> Sync for FileTable<F> {}

/// `Some($function)` if `F` has the operation.
macro_rules! if_has {
    ($has:ident, $function:expr) => {
        if F::$has {
            Some($function)
        } else {
            None
        }
    };
}

impl<F: FileOperations> FileTable<F> {
    /// Creates the table.
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Self {
        // INVARIANT: Only `create_file` gives the table to a file.
        Self(
            Opaque::new(bindings::file_operations {
                open: Some(bindings::generic_file_open),
                release: Some(Self::release),
                mmap_prepare: if_has!(HAS_MMAP_PREPARE, Self::mmap_prepare),
                // Aligns large mappings, for files that have folios of that size.
                #[cfg(CONFIG_TRANSPARENT_HUGEPAGE)]
                get_unmapped_area: if_has!(HAS_MMAP_PREPARE, bindings::thp_get_unmapped_area),
                fallocate: if_has!(HAS_FALLOCATE, Self::fallocate),
                show_fdinfo: if_has!(HAS_SHOW_FDINFO, Self::show_fdinfo),
                ..pin_init::zeroed()
            }),
            PhantomData,
        )
    }

    /// Sets the module that files with this table keep loaded. None by default.
    ///
    /// # Safety
    ///
    /// Callers must ensure that there are no such files, and that nobody makes one meanwhile.
    #[inline]
    pub unsafe fn set_owner(&'static self, module: &ThisModule) {
        // SAFETY: By the safety requirements, nobody else uses the table.
        unsafe { (*self.0.get()).owner = module.as_ptr() };
    }

    /// Makes a file of `inode`, open for reading and writing.
    ///
    /// The file keeps the module loaded that contains the file system.
    ///
    /// # Errors
    ///
    /// [`ENODEV`] if the table has another [owner](Self::set_owner) than the file system,
    /// [`ENOENT`] if that module is being unloaded, [`ENFILE`] or [`ENOMEM`]. The inode is gone
    /// then.
    pub fn create_file(
        &'static self,
        inode: NewInode<'_, F::Inode>,
        name: &'static CStr,
        data: F::Data,
    ) -> Result<ARef<OpenFile<F>>> {
        let fops = self.0.get();

        // SAFETY: The table is valid, and not written to while somebody makes files.
        if unsafe { (*fops).owner } != inode.mount().module() {
            return Err(ENODEV);
        }
        // SAFETY: The table is valid.
        if unsafe { bindings::fops_get(fops) }.is_null() {
            return Err(ENOENT);
        }

        // SAFETY: The inode is of the file system that is mounted there, and has no other file.
        // Name and table are static.
        let file = from_err_ptr(unsafe {
            bindings::alloc_file_pseudo(
                inode.as_ptr(),
                inode.mount().as_ptr(),
                name.as_char_ptr(),
                bindings::O_RDWR as c_int,
                fops,
            )
        });
        let file = match file {
            Ok(file) => file,
            Err(err) => {
                // SAFETY: The reference to the module was taken above.
                unsafe { bindings::fops_put(fops) };
                return Err(err);
            }
        };

        // The file owns the reference to the inode now.
        let _ = ManuallyDrop::new(inode);

        // SAFETY: Nobody else knows of the file yet.
        unsafe {
            (*file).f_flags |= O_LARGEFILE;
            (*file).private_data = data.into_foreign();
        }
        // SAFETY: `alloc_file_pseudo` does not return NULL.
        let file = unsafe { NonNull::new_unchecked(file) };
        // INVARIANT: The file has the operations of `F`, data of `F`, and an inode of `F`.
        // SAFETY: `alloc_file_pseudo` returned a reference.
        Ok(unsafe { ARef::from_raw(file.cast()) })
    }

    /// Returns `file` as a file with the operations `F`; [`None`] if it has others.
    #[inline]
    pub fn downcast<'a>(&'static self, file: &'a File) -> Option<&'a OpenFile<F>> {
        // SAFETY: The file is valid; its operations do not change.
        let fops = unsafe { (*file.as_ptr()).f_op };

        if !core::ptr::eq(fops, self.0.get()) {
            return None;
        }
        // SAFETY: By the invariants of this type, such a file has the operations `F`. It is valid
        // for `'a`.
        Some(unsafe { OpenFile::from_raw(file.as_ptr()) })
    }

    /// # Safety
    ///
    /// Callers must ensure that `file` has these operations and `inode`, that both are valid, and
    /// that nobody has a reference to the file.
    unsafe extern "C" fn release(inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        // SAFETY: The file is valid.
        let data = unsafe { (*file).private_data };

        if F::HAS_RELEASE {
            // SAFETY: The file has these operations, so it has such an inode.
            let inode = unsafe { Inode::from_raw(inode) };
            // SAFETY: The data is that of `F`, and is dropped below.
            F::release(inode, unsafe { F::Data::borrow(data) });
        }

        // SAFETY: The data is that of `F`, and nobody uses the file any more.
        drop(unsafe { F::Data::from_foreign(data) });
        0
    }

    /// # Safety
    ///
    /// Callers must ensure that `desc` is valid, of a file with these operations, and not used by
    /// anybody else.
    unsafe extern "C" fn mmap_prepare(desc: *mut bindings::vm_area_desc) -> c_int {
        from_result(|| {
            // SAFETY: The description is valid.
            let (file, vm_file) = unsafe { ((*desc).file, (*desc).vm_file) };
            // Faults go to `vm_file`, which is another file if this one is stacked.
            if file != vm_file {
                return Err(EINVAL);
            }
            // SAFETY: The file has these operations.
            let file = unsafe { OpenFile::<F>::from_raw(file) };
            // SAFETY: The description is valid, only this task uses it, and this is the hook.
            let vma = unsafe { VmaDesc::from_raw(desc) };

            F::mmap_prepare(file, vma)?;
            if !vma.is_shared() {
                return Err(EINVAL);
            }
            // SAFETY: The file of the VMA has the operations `F`, as was checked.
            unsafe { vma.set_vm_ops(Self::VM_OPS) };
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Callers must ensure that `file` is valid, and has these operations.
    unsafe extern "C" fn fallocate(
        file: *mut bindings::file,
        mode: c_int,
        offset: Offset,
        len: Offset,
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
    /// Callers must ensure that `file` is valid and has these operations, and that `m` is valid and
    /// not used by anybody else.
    unsafe extern "C" fn show_fdinfo(m: *mut bindings::seq_file, file: *mut bindings::file) {
        // SAFETY: By the safety requirements.
        let file = unsafe { OpenFile::from_raw(file) };
        // SAFETY: By the safety requirements.
        let m = unsafe { SeqFile::from_raw(m) };

        F::show_fdinfo(file, m);
    }

    const VM_OPS: &'static bindings::vm_operations_struct = &bindings::vm_operations_struct {
        fault: if_has!(HAS_FAULT, Self::fault),
        #[cfg(CONFIG_NUMA)]
        set_policy: if_has!(HAS_GET_POLICY, Self::set_policy),
        #[cfg(CONFIG_NUMA)]
        get_policy: if_has!(HAS_GET_POLICY, Self::get_policy),
        ..pin_init::zeroed()
    };

    /// # Safety
    ///
    /// Callers must ensure that `vma` is valid for `'a`, and has these operations.
    #[inline]
    unsafe fn file_of<'a>(vma: *mut bindings::vm_area_struct) -> &'a OpenFile<F> {
        // SAFETY: The VMA is valid, and has a reference to its file.
        let file = unsafe { (*vma).vm_file };
        // SAFETY: Only `mmap_prepare` gives a VMA these operations, if its `vm_file` has the
        // operations `F`.
        unsafe { OpenFile::from_raw(file) }
    }

    /// # Safety
    ///
    /// Callers must ensure that `vmf` is valid, of a VMA with these operations, and not used by
    /// anybody else.
    unsafe extern "C" fn fault(vmf: *mut bindings::vm_fault) -> bindings::vm_fault_t {
        // SAFETY: The fault is valid.
        let (vma, pgoff) = unsafe {
            let fault = &(*vmf).__bindgen_anon_1;
            (fault.vma, fault.pgoff)
        };
        // SAFETY: The VMA has these operations, and a fault in it keeps it from going away.
        let file = unsafe { Self::file_of(vma) };
        let index = PageIndex::new(pgoff);

        match F::fault(file, index) {
            // The folio must be the one that rmap looks for at this index.
            Ok(folio) if file.inode().mapping().is_folio_at(&folio, index) => {
                // The lock and the reference are passed to the caller.
                let folio = folio.into_raw();
                // SAFETY: The folio is valid, and has a page at `index`.
                let page = unsafe { bindings::folio_file_page(folio, pgoff) };
                // SAFETY: The fault is valid, and nobody else uses it.
                unsafe { (*vmf).page = page };
                bindings::vm_fault_reason_VM_FAULT_LOCKED
            }
            Ok(_) => bindings::vm_fault_reason_VM_FAULT_SIGBUS,
            Err(err) if err == ENOMEM => bindings::vm_fault_reason_VM_FAULT_OOM,
            Err(err) if err == EHWPOISON => bindings::vm_fault_reason_VM_FAULT_HWPOISON,
            Err(_) => bindings::vm_fault_reason_VM_FAULT_SIGBUS,
        }
    }

    /// # Safety
    ///
    /// Callers must ensure that `vma` is valid, under the mmap lock, and has these operations, and
    /// that `policy` is valid or NULL.
    #[cfg(CONFIG_NUMA)]
    unsafe extern "C" fn set_policy(
        vma: *mut bindings::vm_area_struct,
        policy: *mut bindings::mempolicy,
    ) -> c_int {
        // SAFETY: The VMA is valid, and has these operations.
        let file = unsafe { Self::file_of(vma) };
        // SAFETY: The shared policy is valid. The rest is by the safety requirements.
        unsafe { bindings::mpol_set_shared_policy(F::get_policy(file).as_ptr(), vma, policy) }
    }

    /// # Safety
    ///
    /// Callers must ensure that `vma` is valid and has these operations, that `addr` is an address
    /// in it, and that `ilx` is valid for writes.
    #[cfg(CONFIG_NUMA)]
    unsafe extern "C" fn get_policy(
        vma: *mut bindings::vm_area_struct,
        addr: usize,
        ilx: *mut usize,
    ) -> *mut bindings::mempolicy {
        // SAFETY: The VMA is valid, and has these operations.
        let file = unsafe { Self::file_of(vma) };
        // SAFETY: By the safety requirements.
        unsafe { *ilx = file.inode().ino() as usize };
        // SAFETY: The VMA is valid.
        let index = unsafe { bindings::linear_page_index(vma, addr) };
        // NULL means that no policy is set for this index. The task's policy must not be returned
        // instead: the caller falls back to the default policy.
        F::get_policy(file).lookup(PageIndex::new(index))
    }
}
