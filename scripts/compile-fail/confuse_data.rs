// SPDX-License-Identifier: GPL-2.0
// wrong: error[E0308]: mismatched types
// wrong: error[E0308]: mismatched types

//! The data of an inode is not that of a subtype, nor of a supertype.

#![allow(missing_docs, unexpected_cfgs, coherence_leak_check)]

use kernel::{
    fs::inode::{Inode, InodeData},
    mm::pgoff::PageRange,
    prelude::*,
};

/// `Any` is a subtype of `Static`.
pub struct Data<T>(core::marker::PhantomData<T>);
pub type Any = Data<for<'a> fn(&'a u8)>;
pub type Static = Data<fn(&'static u8)>;

pub struct LocalModule;

impl kernel::ModuleMetadata for LocalModule {
    const NAME: &'static kernel::str::CStr = c"confuse_data";
    // SAFETY: NULL is accepted.
    const THIS_MODULE: ThisModule = unsafe { ThisModule::from_ptr(core::ptr::null_mut()) };
}

#[vtable]
impl InodeData for Any {
    type Locked = usize;
    type Unmapped<'a> = ();
    fn unmap<'a>(_: &'a Inode<Self>, _: &'a usize, _: PageRange) {}
}

#[vtable]
impl InodeData for Static {
    type Locked = Option<KBox<u64>>;
    type Unmapped<'a> = ();
    fn unmap<'a>(_: &'a Inode<Self>, _: &'a Option<KBox<u64>>, _: PageRange) {}
}

#[cfg(not(wrong))]
pub fn up(inode: &Inode<Any>) -> &Inode<Any> {
    inode
}

/// What a covariant `Inode<T>` would allow.
#[cfg(wrong)]
pub fn up(inode: &Inode<Any>) -> &Inode<Static> {
    inode
}

/// What a contravariant one would.
#[cfg(wrong)]
pub fn down(inode: &Inode<Static>) -> &Inode<Any> {
    inode
}
