// SPDX-License-Identifier: GPL-2.0

//! Memory policies of files.
//!
//! A memory policy says from which NUMA node memory is allocated. `mbind(2)` on a shared mapping of
//! a file sets the policy for a part of the file, so the policies belong to the inode, as a
//! [`SharedPolicy`]. The owner of the file allocates each folio through it.
//!
//! Without `CONFIG_NUMA` the type is empty.
//!
//! The C functions are exported to kvm only. Everything here is `#[inline]`, so that the calling
//! module links against them, and not the kernel crate.
//!
//! C header: [`include/linux/mempolicy.h`](srctree/include/linux/mempolicy.h)

use crate::{
    alloc::{
        flags::__GFP_ZERO,
        AllocError,
        Flags, //
    },
    bindings,
    mm::{
        folio::{
            without_account,
            Init,
            NewFolio, //
        },
        pgoff::{
            Order,
            PageIndex, //
        }, //
    },
    prelude::*,
    types::Opaque, //
};

/// The memory policies of the parts of a file.
///
/// Wraps `struct shared_policy`.
///
/// # Examples
///
/// ```
/// use kernel::mm::{
///     mempolicy::SharedPolicy,
///     pgoff::{
///         Order,
///         PageIndex, //
///     }, //
/// };
///
/// let policy = KBox::pin_init(SharedPolicy::new(), GFP_KERNEL)?;
/// let folio = policy.alloc_zeroed(PageIndex::new(3), Order::PAGE, GFP_KERNEL)?;
/// assert_eq!(folio.order(), Order::PAGE);
/// # Ok::<(), Error>(())
/// ```
///
/// # Invariants
///
/// The policies are initialized.
#[repr(transparent)]
pub struct SharedPolicy(Opaque<bindings::shared_policy>);

// SAFETY: The policies may be used, and freed, by any task.
unsafe impl Send for SharedPolicy {}

// SAFETY: The C functions take the lock that is part of the structure.
unsafe impl Sync for SharedPolicy {}

impl SharedPolicy {
    /// Creates a `SharedPolicy` that sets no policy for any part.
    #[inline]
    pub fn new() -> impl PinInit<Self> {
        let init = |slot: *mut Self| {
            // SAFETY: `slot` is valid for writes. NULL sets no policy for the whole.
            unsafe { bindings::mpol_shared_policy_init(slot.cast(), core::ptr::null_mut()) };
            Ok(())
        };

        // INVARIANT: `init` initializes the policies.
        // SAFETY: `init` initializes `slot`, and does not fail. `SharedPolicy` is transparent.
        unsafe { pin_init::pin_init_from_closure(init) }
    }

    /// Allocates a folio that is zero, on the node that the policy for `index` asks for.
    ///
    /// # Errors
    ///
    /// [`AllocError`] if there is no such memory.
    #[inline]
    pub fn alloc_zeroed(
        &self,
        index: PageIndex,
        order: Order,
        gfp: Flags,
    ) -> Result<NewFolio<Init>, AllocError> {
        let gfp = without_account(gfp | __GFP_ZERO).as_raw();
        let policy = self.lookup(index);

        // SAFETY: The policy is NULL, or `lookup` took a reference to it. By the invariants of
        // `Order`, the allocator has such folios.
        let folio = unsafe { bindings::filemap_alloc_folio(gfp, order.as_u32(), policy) };
        // SAFETY: `lookup` returned the reference to this function, which does not use it again.
        unsafe { cond_put(policy) };

        // SAFETY: The folio is NULL or was just allocated, and nobody else has it.
        let folio = unsafe { NewFolio::from_raw(folio) }?;
        // SAFETY: `__GFP_ZERO` has the allocator clear the memory.
        Ok(unsafe { folio.assume_init() })
    }

    /// Returns the policy for `index`, with a reference for the caller, or NULL if none is set.
    #[inline]
    pub(crate) fn lookup(&self, index: PageIndex) -> *mut bindings::mempolicy {
        // SAFETY: By the type invariants, the policies are initialized.
        unsafe { bindings::mpol_shared_policy_lookup(self.as_ptr(), index.as_usize()) }
    }

    /// Returns the C policies.
    #[inline]
    pub(crate) fn as_ptr(&self) -> *mut bindings::shared_policy {
        self.0.get()
    }
}

// Not `#[pinned_drop]`, whose function would not be inlined into the calling module.
impl Drop for SharedPolicy {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariants, the policies are initialized. They are not used again.
        unsafe { bindings::mpol_free_shared_policy(self.0.get()) };
    }
}

/// Puts a reference that [`SharedPolicy::lookup`] returned, as `mpol_cond_put()`.
///
/// A helper for that function would export `__mpol_put()` to all modules.
///
/// # Safety
///
/// Callers must ensure that `policy` is NULL, or that they own the reference and do not use it
/// again.
#[inline]
unsafe fn cond_put(policy: *mut bindings::mempolicy) {
    #[cfg(CONFIG_NUMA)]
    // SAFETY: The policy is valid, if there is one. A shared policy has a reference to be put.
    unsafe {
        if !policy.is_null() && u32::from((*policy).flags) & bindings::MPOL_F_SHARED != 0 {
            bindings::__mpol_put(policy);
        }
    }
    #[cfg(not(CONFIG_NUMA))]
    let _ = policy;
}
