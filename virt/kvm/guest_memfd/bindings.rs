// SPDX-License-Identifier: GPL-2.0

//! Which memslot has which pages of a file.
//!
//! A guest fault asks whether a page is still bound to its memslot, at any time. Whoever changes
//! bindings, or goes over them, is to hold the `invalidate_lock`: so that is what [`BoundView`]
//! can do, which lives behind that lock, and [`View`] cannot.

use crate::{
    boundary::{
        Slot,
        SlotRef,
        Vm, //
    },
    range::Placement, //
};
use core::ops::Range;
use kernel::{
    maple_tree::MapleTree,
    prelude::*,
    sync::{
        aref::ARef,
        Arc, //
    }, //
};

/// Ranges of pages, and the memslot of each.
#[pin_data]
struct Bindings {
    #[pin]
    tree: MapleTree<SlotRef>,
}

impl Bindings {
    fn new() -> impl PinInit<Self> {
        pin_init!(Self { tree <- MapleTree::new() })
    }

    fn insert(&self, pages: Range<usize>, slot: SlotRef) -> Result {
        Ok(self.tree.insert_range(pages, slot, GFP_KERNEL)?)
    }

    fn remove(&self, index: usize) {
        self.tree.erase(index);
    }

    fn at(&self, index: usize) -> Option<SlotRef> {
        self.tree.lock().load(index)
    }

    /// The first that has one of the `pages`.
    fn first_in(&self, pages: &Range<usize>) -> Option<SlotRef> {
        let last = pages.end.checked_sub(1)?;
        if pages.start > last {
            return None;
        }

        let mut tree = self.tree.lock();
        let found = tree.ma_state(pages.start, last).find(last);
        found
    }
}

/// How one virtual machine sees a guest_memfd. What an open file carries.
#[pin_data]
pub(crate) struct View {
    vm: ARef<Vm>,
    #[pin]
    bindings: Bindings,
}

impl View {
    /// Creates one without bindings.
    pub(crate) fn new(vm: &Vm) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                vm: vm.into(),
                bindings <- Bindings::new(),
            }),
            GFP_KERNEL,
        )
    }

    /// Returns the virtual machine.
    pub(crate) fn vm(&self) -> &Vm {
        &self.vm
    }

    /// Is the page at `index` bound to `slot`?
    pub(crate) fn is_bound(&self, index: usize, slot: &Slot) -> bool {
        self.bindings.at(index).is_some_and(|bound| bound.is(slot))
    }
}

/// A [`View`], for those who hold the `invalidate_lock`.
pub(crate) struct BoundView(Arc<View>);

impl BoundView {
    /// Takes the part of `view` that the lock protects. Only once for a view.
    pub(crate) fn new(view: &Arc<View>) -> Self {
        Self(view.clone())
    }

    /// Returns the virtual machine.
    pub(crate) fn vm(&self) -> &Vm {
        self.0.vm()
    }

    /// Binds `slot` to its pages.
    ///
    /// # Errors
    ///
    /// `EEXIST` if some of them are bound already, or `ENOMEM`.
    pub(crate) fn bind(&mut self, placement: Placement, slot: SlotRef) -> Result {
        self.0.bindings.insert(placement.pages(), slot)
    }

    /// Undoes [`bind`](Self::bind).
    pub(crate) fn unbind(&mut self, placement: Placement) {
        self.0.bindings.remove(placement.first);
    }

    /// Goes over the memslots that have some of the `pages`.
    pub(crate) fn slots(&self, mut pages: Range<usize>) -> impl Iterator<Item = &Slot> {
        core::iter::from_fn(move || {
            let slot = self.0.bindings.first_in(&pages)?.get(self);
            pages.start = slot.placement().pages().end;
            Some(slot)
        })
    }
}

#[cfg(CONFIG_KVM_GUEST_MEMFD_RUST_KUNIT_TEST)]
#[kunit_tests(guest_memfd_bindings)]
mod tests {
    use super::*;

    /// Two memslots with a gap between them, a third that does not fit, and all removed again.
    #[test]
    fn ranges_do_not_overlap() -> Result {
        let [a, b, c] = SlotRef::for_tests();
        let bindings = KBox::pin_init(Bindings::new(), GFP_KERNEL)?;

        let inserted = bindings.insert(10..20, a).is_ok() && bindings.insert(30..31, b).is_ok();
        let overlapping = [5..11, 19..30, 12..13, 0..100, 30..40]
            .map(|pages| bindings.insert(pages, c) == Err(EEXIST));
        let found = [9, 10, 19, 20, 29, 30, 31].map(|index| bindings.at(index));
        let first = [
            bindings.first_in(&(0..10)),
            bindings.first_in(&(0..11)),
            bindings.first_in(&(19..31)),
            bindings.first_in(&(20..31)),
            bindings.first_in(&(20..30)),
            bindings.first_in(&(15..15)),
            bindings.first_in(&(0..usize::MAX)),
        ];

        bindings.remove(10);
        let fits = bindings.insert(12..30, c).is_ok();
        let instead = [11, 12, 29, 30].map(|index| bindings.at(index));

        assert!(inserted);
        assert_eq!(overlapping, [true; 5]);
        assert_eq!(found, [None, Some(a), Some(a), None, None, Some(b), None]);
        assert_eq!(
            first,
            [None, Some(a), Some(a), Some(b), None, None, Some(a)]
        );
        assert!(fits);
        assert_eq!(instead, [None, Some(c), Some(c), Some(b)]);
        Ok(())
    }

    /// An empty range binds nothing, and the last page that there can be is one.
    #[test]
    fn ends() -> Result {
        let [a, b, _] = SlotRef::for_tests();
        let bindings = KBox::pin_init(Bindings::new(), GFP_KERNEL)?;

        let empty = bindings.insert(7..7, a);
        let last = bindings.insert(usize::MAX - 1..usize::MAX, b);
        let found = [7, usize::MAX - 1].map(|index| bindings.at(index));

        assert!(empty == Err(EINVAL));
        assert!(last.is_ok());
        assert_eq!(found, [None, Some(b)]);
        Ok(())
    }
}
