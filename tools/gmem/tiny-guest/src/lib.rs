// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Guests of a few instructions, without paging, that write to their memory and halt.
//!
//! A guest's program is copied to guest address 0, by whatever way its memory is written; then
//! [`start`] has a vCPU begin there.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "aarch64")]
use aarch64 as arch;
#[cfg(target_arch = "x86_64")]
mod x86_64;
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};
#[cfg(target_arch = "x86_64")]
use x86_64 as arch;

unsafe extern "C" {
    // The ends of the programs, in `arch`.
    static tiny_guest_fill: u8;
    static tiny_guest_touch: u8;
    static tiny_guest_end: u8;
}

/// A program for a guest.
#[derive(Clone, Copy)]
pub enum Program {
    /// Writes the complement of the 16 bytes at `source` to `target`, `times` times in a row.
    Fill,
    /// Writes one word to each of `times` pages of 4 KiB from `target`.
    Touch,
}

impl Program {
    /// Returns the code, which is to stand at guest address 0.
    pub fn code(self) -> &'static [u8] {
        let (start, end) = match self {
            Self::Fill => (&raw const tiny_guest_fill, &raw const tiny_guest_touch),
            Self::Touch => (&raw const tiny_guest_touch, &raw const tiny_guest_end),
        };
        // SAFETY: The labels are the ends of the code, which is read-only data.
        unsafe { std::slice::from_raw_parts(start, end.offset_from(start) as usize) }
    }
}

/// What a program is given: addresses in the guest, and a number.
pub struct Args {
    /// Where to read, if the program does.
    pub source: usize,
    /// Where to write.
    pub target: usize,
    /// How often.
    pub times: usize,
}

/// A call of KVM that failed, and how.
#[derive(Debug)]
pub struct Error {
    /// The ioctl.
    pub call: &'static str,
    /// The errno.
    pub source: kvm_ioctls::Error,
}

/// Makes an [`Error`] of an errno, with the call that gave it.
fn call(call: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Error {
    move |source| Error { call, source }
}

/// Has `vcpu` of `vm`, which has not run yet, begin with the program at guest address 0.
///
/// # Errors
///
/// The call of KVM that fails.
pub fn start(vm: &VmFd, vcpu: &VcpuFd, args: &Args) -> Result<(), Error> {
    arch::set_up(vm, vcpu, args)
}

/// Is this how a program ends?
pub fn has_halted(exit: &VcpuExit) -> bool {
    arch::has_halted(exit)
}
