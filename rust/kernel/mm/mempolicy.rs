// SPDX-License-Identifier: GPL-2.0

//! Memory policies of files: from which NUMA node each page of it is to come.
//!
//! Without `CONFIG_NUMA` there is nothing in these types.
//!
//! The functions behind them are exported to the one module that uses them. So all of this is
//! inline: whoever calls it needs the symbols himself.
//!
//! C header: [`include/linux/mempolicy.h`](srctree/include/linux/mempolicy.h)

use crate::{
    alloc::{
        AllocError,
        Flags, //
    },
    bindings,
    mm::folio::{
        without_account,
        NewFolio, //
    },
    prelude::*,
    types::Opaque,
};

/// The memory policies of the parts of a file.
///
/// Wraps `struct shared_policy`.
///
/// # Examples
///
/// ```
/// use kernel::mm::mempolicy::SharedPolicy;
///
/// let policy = KBox::pin_init(SharedPolicy::new(), GFP_KERNEL)?;
/// let folio = policy.alloc_folio(3, GFP_KERNEL)?;
/// assert_eq!(folio.order(), 0);
/// # Ok::<(), Error>(())
/// ```
///
/// # Invariants
///
/// Initialised, and freed when dropped.
#[repr(transparent)]
pub struct SharedPolicy(Opaque<bindings::shared_policy>);

// SAFETY: It has a lock of its own.
unsafe impl Send for SharedPolicy {}

// SAFETY: It has a lock of its own.
unsafe impl Sync for SharedPolicy {}

impl SharedPolicy {
    /// Creates one that has no policy for any part.
    #[inline]
    pub fn new() -> impl PinInit<Self> {
        let init = |slot: *mut Self| {
            // SAFETY: `slot` is valid; NULL is "no policy for the whole".
            unsafe { bindings::mpol_shared_policy_init(slot.cast(), core::ptr::null_mut()) };
            Ok(())
        };

        // SAFETY: That initialises it, and cannot fail.
        unsafe { pin_init::pin_init_from_closure(init) }
    }

    /// Allocates a page for `index`, in pages, where the policy wants it.
    ///
    /// # Errors
    ///
    /// [`AllocError`] if there is no such memory.
    #[inline]
    pub fn alloc_folio(&self, index: usize, gfp: Flags) -> Result<NewFolio, AllocError> {
        let policy = self.get(index);

        // SAFETY: The policy is NULL, or we have a reference to it. As the page cache allocates.
        let folio = unsafe {
            let gfp = without_account(gfp).as_raw();
            NewFolio::from_allocator(bindings::filemap_alloc_folio(gfp, 0, policy))
        };

        // SAFETY: The reference is ours; NULL is nothing to put.
        unsafe { cond_put(policy) };
        folio
    }

    /// Returns the policy for `index`, in pages, or NULL, with a reference that is the caller's.
    #[inline]
    pub(crate) fn get(&self, index: usize) -> *mut bindings::mempolicy {
        // SAFETY: By the type invariants, this is valid.
        unsafe { bindings::mpol_shared_policy_lookup(self.as_ptr(), index) }
    }

    /// Returns the C policies.
    #[inline]
    pub(crate) fn as_ptr(&self) -> *mut bindings::shared_policy {
        self.0.get()
    }
}

// Not by `#[pinned_drop]`, whose function is not inline.
impl Drop for SharedPolicy {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariants, this is valid.
        unsafe { bindings::mpol_free_shared_policy(self.0.get()) };
    }
}

/// Puts a reference that [`SharedPolicy::get`] gave.
///
/// As `mpol_cond_put()` in C. Not by a helper, which would export `__mpol_put()` to everyone.
///
/// # Safety
///
/// `policy` is NULL, or the reference is the caller's to put.
#[inline]
unsafe fn cond_put(policy: *mut bindings::mempolicy) {
    #[cfg(CONFIG_NUMA)]
    // SAFETY: By the safety requirements. A policy that is shared was given with a reference.
    unsafe {
        if !policy.is_null() && u32::from((*policy).flags) & bindings::MPOL_F_SHARED != 0 {
            bindings::__mpol_put(policy);
        }
    }
    #[cfg(not(CONFIG_NUMA))]
    let _ = policy;
}
