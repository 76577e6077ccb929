// SPDX-License-Identifier: GPL-2.0

//! The bindings of memslots to pages of an inode.
//!
//! An inode is memory. An open file of it is one VM's view of that memory: the memslots of the VM,
//! each bound to a range of pages. Ranges of one file do not overlap.
//!
//! A guest fault asks at any time, without a lock, whether a page is still bound to its memslot.
//! Binding, unbinding, and going over the memslots of a range require the `invalidate_lock` of the
//! inode. So a file has two types for its bindings:
//!
//! * [`View`] is the data of the file. It only answers whether one page is bound.
//! * [`BoundView`] has the methods that need the lock. [`Files`], the data that the
//!   `invalidate_lock` protects, is the list of the [`BoundView`]s of all files of an inode.

use crate::kvm::{
    BoundSlot,
    FileVm,
    Invalidation,
    Slot,
    SlotsLocked,
    Vm, //
};
use core::{
    marker::PhantomPinned,
    ops::Range,
    ptr::NonNull, //
};
use kernel::{
    maple_tree::MapleTreeRcu,
    mm::pgoff::{
        PageIndex,
        PageRange, //
    },
    prelude::*,
    sync::Arc,
    types::ForeignOwnable,
    warn_on_once, //
};

/// Ranges of pages that do not overlap, each with a binding.
#[pin_data]
struct Bindings<B: ForeignOwnable> {
    #[pin]
    tree: MapleTreeRcu<B>,
}

impl<B: ForeignOwnable> Bindings<B> {
    fn new() -> impl PinInit<Self> {
        pin_init!(Self { tree <- MapleTreeRcu::new() })
    }

    fn insert(&self, pages: PageRange, binding: B) -> Result {
        Ok(self
            .tree
            .insert_range(Range::from(pages), binding, GFP_KERNEL)?)
    }

    /// Removes the binding that has the page at `index`.
    fn remove(&self, index: PageIndex) -> Option<B> {
        self.tree.erase(index.as_usize())
    }

    /// Calls `f` with the first binding that has one of the `pages`. `f` must not sleep.
    fn first_in<R>(&self, pages: PageRange, f: impl FnOnce(B::BorrowedMut<'_>) -> R) -> Option<R> {
        if pages.is_empty() {
            return None;
        }
        let last = pages.end().as_usize().wrapping_sub(1);
        let mut tree = self.tree.lock();
        let found = tree
            .ma_state(pages.start().as_usize(), last)
            .find(last)
            .map(f);
        found
    }
}

/// One VM's view of a guest_memfd, without the parts that need a lock. The data of an open file.
#[pin_data]
pub(crate) struct View {
    // Dropped first: putting the VM may destroy it.
    #[pin]
    bindings: Bindings<BoundSlot>,
    vm: FileVm,
}

impl View {
    /// Creates the two halves of a view without bindings.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(vm: &Vm) -> Result<(Arc<Self>, BoundView)> {
        let view = Arc::pin_init(
            pin_init!(Self {
                bindings <- Bindings::new(),
                vm: FileVm::new(vm),
            }),
            GFP_KERNEL,
        )?;

        // INVARIANT: The view is new, so there is no other `BoundView` of it.
        Ok((view.clone(), BoundView(view)))
    }

    /// Returns the virtual machine.
    pub(crate) fn vm(&self) -> &Vm {
        &self.vm
    }

    /// Returns whether `slots` is of the VM of the file, as it should be.
    ///
    /// The lock of another VM would not keep the memslots from being freed.
    fn is_locked(&self, slots: &SlotsLocked) -> bool {
        !warn_on_once!(*slots.vm() != *self.vm())
    }

    /// Returns whether the page at `index`, which was bound to `slot`, still is. Takes no lock.
    pub(crate) fn is_bound(&self, index: PageIndex, slot: &Slot) -> bool {
        let bound = self.bindings.tree.load_address(index.as_usize());
        let same = core::ptr::eq(bound.cast(), slot.as_ptr());

        // Slots are freed before their pages can be bound again, and guest faults are over then.
        warn_on_once!(!same && !bound.is_null());
        same
    }
}

/// The bindings of a [`View`], for holders of the `invalidate_lock`.
///
/// # Invariants
///
/// There is one `BoundView` for a view, and bindings are removed through it only.
pub(crate) struct BoundView(Arc<View>);

impl BoundView {
    /// Returns the virtual machine.
    pub(crate) fn vm(&self) -> &Vm {
        self.0.vm()
    }

    /// Returns whether this is the other half of `view`.
    fn is_of(&self, view: &View) -> bool {
        core::ptr::eq(&*self.0, view)
    }

    /// Binds a memslot to its pages.
    ///
    /// # Errors
    ///
    /// `EEXIST` if some of the pages are bound already, or `ENOMEM`.
    fn bind(&mut self, slot: BoundSlot) -> Result {
        self.0.bindings.insert(slot.placement().pages, slot)
    }

    /// Unbinds the memslot that has the page at `index`. It has no file after that.
    fn unbind(&mut self, index: PageIndex, slots: &SlotsLocked) {
        if let Some(slot) = self.0.bindings.remove(index) {
            slot.clear_file(slots);
        }
    }

    /// Unbinds all memslots.
    fn unbind_all(&mut self, slots: &SlotsLocked) {
        let first = |slot: &Slot| slot.placement().pages.start();

        while let Some(index) = self.0.bindings.first_in(PageRange::ALL, first) {
            self.unbind(index, slots);
        }
    }

    /// Returns whether a memslot has some of the `pages`.
    pub(crate) fn has_slots(&self, pages: PageRange) -> bool {
        self.0.bindings.first_in(pages, |_| ()).is_some()
    }

    /// Unmaps `pages` from stage 2: memory that is private to the guest if `private`, otherwise
    /// shared memory. Returns [`None`] if no memslot has any of the pages.
    pub(crate) fn unmap(&self, pages: PageRange, private: bool) -> Option<Invalidation<'_>> {
        let next = |pages| {
            self.0
                .bindings
                .first_in(pages, |slot: &Slot| (NonNull::from(slot), slot.placement()))
        };
        let (mut rest, mut found) = (pages, next(pages));
        found?;

        let mut unmapping = self.vm().start_invalidation();
        while let Some((slot, placement)) = found {
            // SAFETY: A slot is valid as long as its `BoundSlot` exists. The `BoundSlot` is in the
            // tree, and only `unbind` removes it, which takes the only `BoundView` of this view by
            // `&mut`, and that is borrowed here. It was bound to a file of its own VM, as
            // `BoundSlot::new` requires.
            unsafe { unmapping.unmap(slot, placement.gfns(pages), private) };
            rest = rest.tail(placement.pages.end());
            found = next(rest);
        }
        Some(unmapping.finish())
    }
}

/// The bindings of all open files of an inode, a list.
///
/// Not [`Unpin`], and only created in place, so that the guard of the lock gives no `&mut Files` to
/// callers, by which they could move bindings out of the lock or replace them.
#[pin_data]
pub(crate) struct Files {
    first: Option<KBox<Node>>,
    #[pin]
    _pin: PhantomPinned,
}

struct Node {
    view: BoundView,
    next: Option<KBox<Node>>,
}

impl Files {
    /// Creates the list of an inode that has one file.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(view: BoundView) -> Result<impl PinInit<Self>> {
        let node = KBox::new(Node { view, next: None }, GFP_KERNEL_ACCOUNT)?;

        Ok(pin_init!(Self {
            first: Some(node),
            _pin: PhantomPinned,
        }))
    }

    /// Returns the bindings of each file.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &BoundView> {
        let nodes = core::iter::successors(self.first.as_deref(), |node| node.next.as_deref());

        nodes.map(|node| &node.view)
    }

    /// Unmaps `pages` from stage 2 of the VMs of all files, as [`BoundView::unmap`].
    pub(crate) fn unmap(&self, pages: PageRange, private: bool) -> Invalidated<'_> {
        for view in self.iter() {
            if let Some(invalidation) = view.unmap(pages, private) {
                view.0.vm.keep(invalidation);
            }
        }
        Invalidated { files: self, pages }
    }

    /// Returns the bindings of the file that has `view`; [`None`] if it was closed.
    pub(crate) fn of(&self, view: &View) -> Option<&BoundView> {
        self.iter().find(|bound| bound.is_of(view))
    }

    /// Returns the place in the list of the file that has `view`, or the end of the list.
    fn link_of(self: Pin<&mut Self>, view: &View) -> &mut Option<KBox<Node>> {
        let mut link = self.project().first;

        while link.as_ref().is_some_and(|node| !node.view.is_of(view)) {
            match link {
                Some(node) => link = &mut node.next,
                None => break,
            }
        }
        link
    }

    /// Binds a memslot to its pages, as `view` sees them.
    ///
    /// # Errors
    ///
    /// `EEXIST` if some of the pages are bound already, `ENOMEM`, or `EIO` if the file was closed.
    pub(crate) fn bind(self: Pin<&mut Self>, view: &View, slot: BoundSlot) -> Result {
        let node = self.link_of(view).as_mut().ok_or(EIO)?;

        node.view.bind(slot)
    }

    /// Unbinds `slot` from the file that has `view`.
    pub(crate) fn unbind(self: Pin<&mut Self>, view: &View, slot: &Slot, slots: &SlotsLocked) {
        let first = slot.placement().pages.start();

        if !view.is_locked(slots) || !view.is_bound(first, slot) {
            return;
        }
        if let Some(node) = self.link_of(view) {
            node.view.unbind(first, slots);
        }
    }

    /// Unbinds all memslots from the file that has `view`, and removes it from the list.
    pub(crate) fn close(self: Pin<&mut Self>, view: &View, slots: &SlotsLocked) {
        if !view.is_locked(slots) {
            return;
        }
        let link = self.link_of(view);

        if let Some(mut node) = link.take() {
            node.view.unbind_all(slots);
            *link = node.next.take();
        }
    }
}

/// Pages that are in no VM's stage 2. Guest faults on them retry until this is dropped.
///
/// The files, and with them their bindings, are borrowed. So the set of memslots in the range
/// cannot change, and exactly the invalidations that were started are ended. Nothing else ends
/// them: a file's [`FileVm`] is private to this module.
#[must_use = "guests can map the pages again immediately when this is unused"]
pub(crate) struct Invalidated<'a> {
    files: &'a Files,
    pages: PageRange,
}

impl Invalidated<'_> {
    /// Returns the VMs that had some of the pages.
    pub(crate) fn vms(&self) -> impl Iterator<Item = &Vm> {
        self.views().map(BoundView::vm)
    }

    fn views(&self) -> impl Iterator<Item = &BoundView> {
        let views = self.files.iter();

        views.filter(|view| view.has_slots(self.pages))
    }
}

impl Drop for Invalidated<'_> {
    fn drop(&mut self) {
        for view in self.views() {
            view.0.vm.end_invalidation();
        }
    }
}

#[cfg(CONFIG_KVM_GUEST_MEMFD_RUST_KUNIT_TEST)]
#[kunit_tests(guest_memfd_memslots)]
mod tests {
    use super::*;

    type Numbers = Bindings<KBox<u32>>;

    fn new() -> Result<Pin<KBox<Numbers>>> {
        KBox::pin_init(Numbers::new(), GFP_KERNEL)
    }

    fn insert(numbers: &Numbers, pages: Range<usize>, number: u32) -> Result {
        numbers.insert(pages.into(), KBox::new(number, GFP_KERNEL)?)
    }

    fn first_in(numbers: &Numbers, pages: Range<usize>) -> Option<u32> {
        numbers.first_in(pages.into(), |number| *number)
    }

    fn at(numbers: &Numbers, index: usize) -> Option<u32> {
        first_in(numbers, index..index.saturating_add(1))
    }

    /// Two memslots with a gap between them, a third that does not fit, and all removed again.
    #[test]
    fn ranges_do_not_overlap() -> Result {
        let bindings = new()?;

        let inserted = insert(&bindings, 10..20, 1).is_ok() && insert(&bindings, 30..31, 2).is_ok();
        let overlapping = [5..11, 19..30, 12..13, 0..100, 30..40]
            .map(|pages| insert(&bindings, pages, 3) == Err(EEXIST));
        let found = [9, 10, 19, 20, 29, 30, 31].map(|index| at(&bindings, index));
        let first = [0..10, 0..11, 19..31, 20..31, 20..30, 15..15, 0..usize::MAX]
            .map(|pages| first_in(&bindings, pages));

        let removed = bindings.remove(PageIndex::new(15)).map(|number| *number);
        let fits = insert(&bindings, 12..30, 3).is_ok();
        let instead = [11, 12, 29, 30].map(|index| at(&bindings, index));

        assert!(inserted);
        assert_eq!(overlapping, [true; 5]);
        assert_eq!(found, [None, Some(1), Some(1), None, None, Some(2), None]);
        assert_eq!(
            first,
            [None, Some(1), Some(1), Some(2), None, None, Some(1)]
        );
        assert_eq!(removed, Some(1));
        assert!(fits);
        assert_eq!(instead, [None, Some(3), Some(3), Some(2)]);
        Ok(())
    }

    /// An empty range is refused, and the last page that a file can have can be bound.
    #[test]
    fn ends() -> Result {
        let bindings = new()?;

        let empty = insert(&bindings, 7..7, 1);
        let last = insert(&bindings, usize::MAX - 1..usize::MAX, 2);
        let found = [7, usize::MAX - 1].map(|index| at(&bindings, index));

        assert!(empty == Err(EINVAL));
        assert!(last.is_ok());
        assert_eq!(found, [None, Some(2)]);
        Ok(())
    }

    /// A lookup without the lock sees what was inserted and removed before.
    #[test]
    fn lookups_take_no_lock() -> Result {
        let bindings = new()?;
        let number = KBox::new(1, GFP_KERNEL)?;
        let address: *const u32 = &*number;
        let seen = |index| core::ptr::eq(bindings.tree.load_address(index).cast(), address);

        bindings.insert(PageRange::from(10..20), number)?;
        let locked = bindings.tree.lock();
        let before = [9, 10, 19, 20].map(seen);
        drop(locked);
        drop(bindings.remove(PageIndex::new(10)));
        let after = [10, 19].map(|index| bindings.tree.load_address(index).is_null());

        assert_eq!(before, [false, true, true, false]);
        assert_eq!(after, [true, true]);
        Ok(())
    }
}
