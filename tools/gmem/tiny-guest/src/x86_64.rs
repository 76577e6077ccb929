// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The programs for x86_64: 32-bit protected mode, flat segments, no paging.

use std::arch::global_asm;

use kvm_bindings::{kvm_regs, kvm_segment};
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};

use crate::{Args, Error, call};

// esi: source; edi: target; ecx: times.
//
// Filling goes one word at a time, all through one register, because KVM keeps the registers of a
// guest that has stopped in the host's memory, side by side.
global_asm!(
    ".pushsection .rodata",
    ".globl tiny_guest_fill, tiny_guest_touch, tiny_guest_end",
    ".code32",
    "tiny_guest_fill:",
    "2: xor edx, edx",
    "3: mov eax, [esi + edx]",
    "not eax",
    "mov [edi + edx], eax",
    "add edx, 4",
    "cmp edx, 16",
    "jne 3b",
    "add edi, edx",
    "dec ecx",
    "jnz 2b",
    "xor eax, eax",
    "hlt",
    "tiny_guest_touch:",
    "2: mov [edi], ecx",
    "add edi, 4096",
    "dec ecx",
    "jnz 2b",
    "hlt",
    "tiny_guest_end:",
    ".code64",
    ".popsection",
);

pub fn set_up(_vm: &VmFd, vcpu: &VcpuFd, args: &Args) -> Result<(), Error> {
    const PROTECTED_MODE: u64 = 1;

    let mut sregs = vcpu.get_sregs().map_err(call("KVM_GET_SREGS"))?;
    let flat = kvm_segment {
        limit: 0xffff_ffff,
        selector: 8,
        type_: 3,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    sregs.cs = kvm_segment { type_: 11, ..flat };
    for segment in [
        &mut sregs.ds,
        &mut sregs.es,
        &mut sregs.fs,
        &mut sregs.gs,
        &mut sregs.ss,
    ] {
        *segment = kvm_segment {
            selector: 16,
            ..flat
        };
    }
    sregs.cr0 |= PROTECTED_MODE;
    vcpu.set_sregs(&sregs).map_err(call("KVM_SET_SREGS"))?;
    vcpu.set_regs(&kvm_regs {
        rip: 0,
        rflags: 2,
        rsi: args.source as u64,
        rdi: args.target as u64,
        rcx: args.times as u64,
        ..Default::default()
    })
    .map_err(call("KVM_SET_REGS"))
}

pub fn has_halted(exit: &VcpuExit) -> bool {
    matches!(exit, VcpuExit::Hlt)
}
