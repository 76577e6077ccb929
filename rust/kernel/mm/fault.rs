// SPDX-License-Identifier: GPL-2.0

//! Userspace mappings of files whose folios come from their page cache.
//!
//! * [`NewVma`] is a mapping that userspace asks for.
//! * [`VmOperations`] is what its owner does about a page fault in it.
//!
//! There is an example at [`fs::pseudo`](crate::fs::pseudo).
//!
//! C header: [`include/linux/mm.h`](srctree/include/linux/mm.h)

use crate::{
    bindings,
    error::Result,
    fs::operations::{
        FileOperations,
        OpenFile, //
    },
    mm::{
        folio::LockedFolio,
        mempolicy::SharedPolicy, //
    },
    prelude::*,
};
use core::{
    marker::PhantomData,
    mem::ManuallyDrop, //
};

/// What the owner of a file does for userspace mappings of it.
pub trait VmOperations {
    /// Returns the folio at `index`, in pages, to be mapped.
    ///
    /// Context: under the mmap lock or the VMA lock. May sleep.
    ///
    /// # Errors
    ///
    /// Userspace gets a signal: SIGBUS for any error but [`ENOMEM`], for which the memory
    /// management decides.
    fn fault(file: &OpenFile<Self>, index: usize) -> Result<LockedFolio<'_>>
    where
        Self: FileOperations;

    /// Returns the memory policy of the file, which `mbind(2)` changes.
    fn policy(file: &OpenFile<Self>) -> &SharedPolicy
    where
        Self: FileOperations;
}

/// The operations on mappings of files with the operations `F`.
pub(crate) struct VmTable<F>(PhantomData<F>);

impl<F: FileOperations> VmTable<F> {
    pub(crate) const TABLE: &'static bindings::vm_operations_struct =
        &bindings::vm_operations_struct {
            fault: Some(Self::fault),
            #[cfg(CONFIG_NUMA)]
            set_policy: Some(Self::set_policy),
            #[cfg(CONFIG_NUMA)]
            get_policy: Some(Self::get_policy),
            ..pin_init::zeroed()
        };

    /// # Safety
    ///
    /// `vma` is valid for `'a`, and has these operations.
    #[inline]
    unsafe fn file<'a>(vma: *mut bindings::vm_area_struct) -> &'a OpenFile<F> {
        // SAFETY: Only `NewVma::set_operations` gives a mapping these operations, and it is of a
        // file with the operations `F`, which the mapping holds a reference to.
        unsafe { OpenFile::from_raw((*vma).vm_file) }
    }

    /// # Safety
    ///
    /// The fault is valid, in a mapping with these operations, and the caller's alone.
    unsafe extern "C" fn fault(vmf: *mut bindings::vm_fault) -> bindings::vm_fault_t {
        // SAFETY: By the safety requirements.
        let (file, index) = unsafe {
            let fault = &(*vmf).__bindgen_anon_1;
            (Self::file(fault.vma), fault.pgoff)
        };

        match F::fault(file, index) {
            // What is known of the mapping is true of folios of this file only.
            Ok(folio) if !folio.is_in(file.inode().mapping()) => {
                bindings::vm_fault_reason_VM_FAULT_SIGBUS
            }
            Ok(folio) => {
                // The lock and the reference are for C to put.
                let folio = ManuallyDrop::new(folio);
                // SAFETY: As above; and this is a valid folio.
                unsafe { (*vmf).page = bindings::folio_file_page(folio.as_ptr(), index) };
                bindings::vm_fault_reason_VM_FAULT_LOCKED
            }
            Err(err) if err == ENOMEM => bindings::vm_fault_reason_VM_FAULT_OOM,
            Err(err) if err == EHWPOISON => bindings::vm_fault_reason_VM_FAULT_HWPOISON,
            Err(_) => bindings::vm_fault_reason_VM_FAULT_SIGBUS,
        }
    }

    /// # Safety
    ///
    /// `vma` is valid, under the mmap lock, and has these operations; `policy` is valid, or NULL.
    #[cfg(CONFIG_NUMA)]
    unsafe extern "C" fn set_policy(
        vma: *mut bindings::vm_area_struct,
        policy: *mut bindings::mempolicy,
    ) -> c_int {
        // SAFETY: By the safety requirements.
        unsafe {
            bindings::mpol_set_shared_policy(F::policy(Self::file(vma)).as_ptr(), vma, policy)
        }
    }

    /// # Safety
    ///
    /// `vma` is valid, and has these operations; `addr` is an address in it, and `ilx` is valid for
    /// writes.
    #[cfg(CONFIG_NUMA)]
    unsafe extern "C" fn get_policy(
        vma: *mut bindings::vm_area_struct,
        addr: usize,
        ilx: *mut usize,
    ) -> *mut bindings::mempolicy {
        // SAFETY: By the safety requirements.
        unsafe {
            let file = Self::file(vma);
            *ilx = file.inode().number() as usize;
            // Not the task's policy where there is none: for the caller, NULL is "not bound".
            F::policy(file).get(bindings::linear_page_index(vma, addr))
        }
    }
}

/// A mapping of a file with the operations `F` that userspace asks for.
///
/// Wraps `struct vm_area_desc`.
///
/// # Invariants
///
/// The description is valid for `'a`, of a file with the operations `F`, and ours alone.
pub struct NewVma<'a, F> {
    desc: *mut bindings::vm_area_desc,
    _desc: PhantomData<(&'a mut bindings::vm_area_desc, F)>,
}

impl<F: FileOperations> NewVma<'_, F> {
    /// # Safety
    ///
    /// As the type invariants.
    #[inline]
    pub(crate) unsafe fn from_raw(desc: *mut bindings::vm_area_desc) -> Self {
        // INVARIANT: By the safety requirements.
        Self {
            desc,
            _desc: PhantomData,
        }
    }

    /// Returns whether what is written to the mapping is written to the file, by everybody and
    /// from the first: a private mapping, and one that becomes private, is not.
    #[inline]
    pub fn is_shared(&self) -> bool {
        // SAFETY: By the type invariants, this is valid.
        unsafe { bindings::vma_desc_is_shared(self.desc) }
    }

    /// Has page faults in the mapping go to `F`.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if the mapping is not [shared](Self::is_shared): what is written to such a one
    /// is written to copies, and folios whose contents the kernel cannot reach cannot be copied.
    #[inline]
    pub fn set_operations(&mut self) -> Result {
        if !self.is_shared() {
            return Err(EINVAL);
        }
        // SAFETY: By the type invariants, this is valid and ours.
        unsafe { (*self.desc).vm_ops = &raw const *VmTable::<F>::TABLE };
        Ok(())
    }
}
