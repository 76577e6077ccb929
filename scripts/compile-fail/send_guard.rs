// SPDX-License-Identifier: GPL-2.0
// wrong: error[E0277]: `*mut ()` cannot be sent between threads safely

//! The guard of a maple tree unlocks a spinlock, so it stays with the task that locked it.

#![allow(missing_docs, unexpected_cfgs)]
#![forbid(unsafe_code)]

use kernel::{
    maple_tree::{MapleGuard, MapleTree},
    prelude::*,
};

fn send<T: Send>(_: &T) {}

pub fn tree(tree: &MapleTree<KBox<u32>>, guard: &MapleGuard<'_, KBox<u32>>) {
    #[cfg(not(wrong))]
    let _ = guard;
    send(tree);
    #[cfg(wrong)]
    send(guard);
}
