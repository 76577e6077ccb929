// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The programs for aarch64: EL1, no translation.

use std::{arch::global_asm, mem::offset_of};

use kvm_bindings::{
    KVM_ARM_VCPU_PSCI_0_2, KVM_REG_ARM_CORE, KVM_REG_ARM64, KVM_REG_SIZE_U64,
    KVM_SYSTEM_EVENT_SHUTDOWN, kvm_regs, kvm_vcpu_init, user_pt_regs,
};
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};

use crate::{Args, Error, call};

// x0: source; x1: target; x2: times. They end with PSCI's SYSTEM_OFF.
//
// Filling goes by half of it at a time, all through one register, because KVM keeps the registers
// of a guest that has stopped in the host's memory, side by side.
//
// Without translation, data is device memory to the guest: accesses are aligned. Stage 2 makes them
// coherent with the host's (FWB).
global_asm!(
    ".pushsection .rodata",
    ".globl tiny_guest_fill, tiny_guest_touch, tiny_guest_end",
    ".balign 4",
    "tiny_guest_fill:",
    "2: mov x3, #0",
    "3: ldr x4, [x0, x3]",
    "mvn x4, x4",
    "str x4, [x1, x3]",
    "add x3, x3, #8",
    "cmp x3, #16",
    "b.ne 3b",
    "add x1, x1, x3",
    "subs x2, x2, #1",
    "b.ne 2b",
    "mov x4, #0",
    "mov w0, #0x84000000",
    "orr w0, w0, #8",
    "hvc #0",
    "tiny_guest_touch:",
    "2: str x2, [x1]",
    "add x1, x1, #4096",
    "subs x2, x2, #1",
    "b.ne 2b",
    "mov w0, #0x84000000",
    "orr w0, w0, #8",
    "hvc #0",
    "tiny_guest_end:",
    ".popsection",
);

pub fn set_up(vm: &VmFd, vcpu: &VcpuFd, args: &Args) -> Result<(), Error> {
    let mut init = kvm_vcpu_init::default();
    vm.get_preferred_target(&mut init)
        .map_err(call("KVM_ARM_PREFERRED_TARGET"))?;
    init.features[0] |= 1 << KVM_ARM_VCPU_PSCI_0_2;
    vcpu.vcpu_init(&init).map_err(call("KVM_ARM_VCPU_INIT"))?;

    let x = offset_of!(kvm_regs, regs) + offset_of!(user_pt_regs, regs);
    let pc = offset_of!(kvm_regs, regs) + offset_of!(user_pt_regs, pc);
    for (offset, value) in [
        (x, args.source),
        (x + 8, args.target),
        (x + 16, args.times),
        (pc, 0),
    ] {
        // A core register is named by where it is in `kvm_regs`, in words.
        let word = offset as u64 / 4;
        let id = KVM_REG_ARM64 | KVM_REG_SIZE_U64 | u64::from(KVM_REG_ARM_CORE) | word;
        vcpu.set_one_reg(id, &value.to_ne_bytes())
            .map_err(call("KVM_SET_ONE_REG"))?;
    }
    Ok(())
}

pub fn has_halted(exit: &VcpuExit) -> bool {
    matches!(exit, VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN, _))
}
