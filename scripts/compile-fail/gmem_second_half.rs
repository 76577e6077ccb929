// SPDX-License-Identifier: GPL-2.0
// wrong: error[E0603]: tuple struct constructor `BoundView` is private

//! A view has one other half.

#![allow(dead_code, missing_docs, unexpected_cfgs, unreachable_pub)]

include!("gmem.inc");

use kernel::{prelude::*, sync::Arc};

pub(crate) fn two(vm: &kvm::Vm) -> Result<(memslots::BoundView, Arc<memslots::View>)> {
    let (view, bound) = memslots::View::new(vm)?;
    #[cfg(wrong)]
    drop(memslots::BoundView(view.clone()));
    Ok((bound, view))
}
