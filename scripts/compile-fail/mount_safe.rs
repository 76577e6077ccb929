// SPDX-License-Identifier: GPL-2.0
// wrong: error[E0133]: call to unsafe function `PseudoFs::<T>::mount` is unsafe and requires unsafe block

//! A mount must be dropped before its module is unloaded, which no type can promise.

#![allow(missing_docs, unexpected_cfgs, unused_imports)]
#![forbid(unsafe_code)]

use kernel::{
    fs::pseudo::{Mount, PseudoFs, PseudoFsType},
    prelude::*,
};

#[cfg(not(wrong))]
pub fn mount<T: PseudoFsType>(_fs: &'static PseudoFs<T>, mount: Mount<T>) {
    core::mem::forget(mount);
}

#[cfg(wrong)]
pub fn mount<T: PseudoFsType>(fs: &'static PseudoFs<T>, module: &ThisModule) -> Result {
    core::mem::forget(fs.mount(module)?);
    Ok(())
}
