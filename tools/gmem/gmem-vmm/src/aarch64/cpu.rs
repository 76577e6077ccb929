// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the vCPUs are, and how the first one begins.

use std::mem::offset_of;

use kvm_bindings::{
    KVM_ARM_VCPU_POWER_OFF, KVM_ARM_VCPU_PSCI_0_2, KVM_REG_ARM_CORE, KVM_REG_ARM64,
    KVM_REG_SIZE_U64, PSR_A_BIT, PSR_D_BIT, PSR_F_BIT, PSR_I_BIT, PSR_MODE_EL1h, kvm_regs,
    kvm_vcpu_init, user_pt_regs,
};
use kvm_ioctls::{VcpuFd, VmFd};

use super::boot::Loaded;
use crate::error::{Error, call};

/// Makes the vCPUs what the host's are. The first one runs; the others wait for it to call PSCI.
pub fn init(vm: &VmFd, vcpus: &[VcpuFd]) -> Result<(), Error> {
    let mut init = kvm_vcpu_init::default();
    vm.get_preferred_target(&mut init)
        .map_err(call("KVM_ARM_PREFERRED_TARGET"))?;
    init.features[0] |= 1 << KVM_ARM_VCPU_PSCI_0_2;
    for vcpu in vcpus {
        vcpu.vcpu_init(&init).map_err(call("KVM_ARM_VCPU_INIT"))?;
        init.features[0] |= 1 << KVM_ARM_VCPU_POWER_OFF;
    }
    Ok(())
}

/// Has the first vCPU begin in the kernel, at EL1 without interrupts.
pub fn start(vcpu: &VcpuFd, loaded: &Loaded) -> Result<(), Error> {
    let at = offset_of!(kvm_regs, regs);
    let state = PSR_D_BIT | PSR_A_BIT | PSR_I_BIT | PSR_F_BIT | PSR_MODE_EL1h;
    for (offset, value) in [
        (at + offset_of!(user_pt_regs, regs), loaded.tree),
        (at + offset_of!(user_pt_regs, pc), loaded.entry),
        (at + offset_of!(user_pt_regs, pstate), state.into()),
    ] {
        // A core register is named by where it is in `kvm_regs`, in words.
        let word = offset as u64 / 4;
        let id = KVM_REG_ARM64 | KVM_REG_SIZE_U64 | u64::from(KVM_REG_ARM_CORE) | word;
        vcpu.set_one_reg(id, &value.to_ne_bytes())
            .map_err(call("KVM_SET_ONE_REG"))?;
    }
    Ok(())
}

/// The affinity that a vCPU has, which its node of the device tree names.
pub fn affinity(vcpu: &VcpuFd) -> Result<u64, Error> {
    /// Op0 3, Op1 0, CRn 0, CRm 0, Op2 5.
    const MPIDR_EL1: u64 = 0x6030_0000_0013_c005;
    const AFFINITY: u64 = 0xff_00ff_ffff;

    let mut value = [0; 8];
    vcpu.get_one_reg(MPIDR_EL1, &mut value)
        .map_err(call("KVM_GET_ONE_REG"))?;
    Ok(u64::from_ne_bytes(value) & AFFINITY)
}
