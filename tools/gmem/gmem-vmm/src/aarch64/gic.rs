// SPDX-License-Identifier: Apache-2.0 OR MIT

//! KVM's GICv3.

use kvm_bindings::{
    KVM_DEV_ARM_VGIC_CTRL_INIT, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_DEV_ARM_VGIC_GRP_CTRL,
    KVM_DEV_ARM_VGIC_GRP_NR_IRQS, KVM_VGIC_V3_ADDR_TYPE_DIST, KVM_VGIC_V3_ADDR_TYPE_REDIST,
    kvm_create_device, kvm_device_attr, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3,
};
use kvm_ioctls::{DeviceFd, VmFd};

use crate::error::{Error, call};

pub const DISTRIBUTOR: u64 = 0x0800_0000;
pub const DISTRIBUTOR_SIZE: u64 = 0x1_0000;
pub const REDISTRIBUTORS: u64 = 0x080a_0000;
/// Of each vCPU.
pub const REDISTRIBUTOR_SIZE: u64 = 0x2_0000;
/// The first 32 are private to each vCPU.
const INTERRUPTS: u32 = 128;

/// The interrupt controller, for as long as the guest.
pub struct IrqChip {
    _device: DeviceFd,
}

impl IrqChip {
    /// Creates it, for the vCPUs that the VM has by now.
    pub fn new(vm: &VmFd) -> Result<Self, Error> {
        let mut create = kvm_create_device {
            type_: kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3,
            ..Default::default()
        };
        let device = vm
            .create_device(&mut create)
            .map_err(call("KVM_CREATE_DEVICE of a GICv3"))?;
        let set = |group: u32, attr: u32, value: *const u64| {
            device
                .set_device_attr(&kvm_device_attr {
                    group,
                    attr: attr.into(),
                    addr: value as u64,
                    flags: 0,
                })
                .map_err(call("KVM_SET_DEVICE_ATTR of a GICv3"))
        };
        let interrupts = u64::from(INTERRUPTS.to_le());
        set(KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, &raw const interrupts)?;
        for (kind, at) in [
            (KVM_VGIC_V3_ADDR_TYPE_DIST, DISTRIBUTOR),
            (KVM_VGIC_V3_ADDR_TYPE_REDIST, REDISTRIBUTORS),
        ] {
            set(KVM_DEV_ARM_VGIC_GRP_ADDR, kind, &raw const at)?;
        }
        set(
            KVM_DEV_ARM_VGIC_GRP_CTRL,
            KVM_DEV_ARM_VGIC_CTRL_INIT,
            std::ptr::null(),
        )?;
        Ok(Self { _device: device })
    }
}
