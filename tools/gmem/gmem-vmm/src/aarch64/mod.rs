// SPDX-License-Identifier: Apache-2.0 OR MIT

//! arm64: a machine with a GICv3, PSCI and a serial port, described by a device tree.

mod boot;
mod cpu;
mod fdt;
mod gic;

use guest_memfd::GuestRam;
use kvm_bindings::{
    KVM_ARM_IRQ_TYPE_SHIFT, KVM_ARM_IRQ_TYPE_SPI, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN,
};
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};
use vm_memory::GuestAddress;

pub use self::{boot::KernelKind, gic::IrqChip};
use crate::{
    devices::Devices,
    error::Error,
    machine::{self, End},
};

pub const NAME: &str = "arm64";
pub const KERNELS: &str = "an Image's header";
/// The largest that a kernel may be built for.
pub const PAGE_SIZE: u64 = 64 << 10;
pub const MAX_CPUS: i64 = 16;
pub const MAX_MEMORY: u64 = 256 << 30;

/// Where RAM begins. Below are the devices.
const RAM: u64 = 0x8000_0000;
const SERIAL: u64 = 0x0900_0000;
const SERIAL_SIZE: u64 = 0x1000;

/// Shared peripheral interrupts, by their numbers among these.
pub const SERIAL_IRQ: u32 = 1;
pub const FIRST_DISK_IRQ: u32 = 2;
pub const DISKS: u64 = 0x0a00_0000;
pub const MAX_DISKS: usize = 16;

/// Where a guest's RAM is.
pub fn ram(size: u64) -> Vec<(GuestAddress, u64)> {
    vec![(GuestAddress(RAM), size)]
}

pub fn before_vcpus(_vm: &VmFd) -> Result<(), Error> {
    Ok(())
}

/// The interrupt controller is made for vCPUs that are there.
pub fn after_vcpus(vm: &VmFd, vcpus: &[VcpuFd]) -> Result<IrqChip, Error> {
    cpu::init(vm, vcpus)?;
    IrqChip::new(vm)
}

/// An interrupt as `KVM_IRQ_LINE` names it: with its type, and behind those that are private.
pub fn irq_line(irq: u32) -> u32 {
    KVM_ARM_IRQ_TYPE_SPI << KVM_ARM_IRQ_TYPE_SHIFT | (irq + 32)
}

/// What there is to be set up before the guest runs.
pub struct Guest<'a> {
    pub ram: &'a GuestRam,
    pub vcpus: &'a [VcpuFd],
    pub disks: usize,
}

impl Guest<'_> {
    /// Loads what it boots from, and has its vCPUs begin there.
    pub fn boot(
        &self,
        kind: KernelKind,
        kernel: &[u8],
        initrd: Option<&[u8]>,
        cmdline: &str,
    ) -> Result<(), Error> {
        let loaded = boot::load(self.ram, kind, kernel, initrd)?;
        let line = machine::command_line(&["console=ttyS0", cmdline], boot::COMMAND_LINE_SIZE)?;
        let tree = fdt::tree(self, &loaded, &line)?;
        loaded.put_tree(self.ram, &tree)?;
        cpu::start(&self.vcpus[0], &loaded)
    }
}

/// Does what a vCPU asks for.
pub fn handle(exit: VcpuExit<'_>, devices: &Devices) -> Option<End> {
    let serial = SERIAL..SERIAL + SERIAL_SIZE;
    match exit {
        VcpuExit::MmioRead(addr, data) if serial.contains(&addr) => {
            devices.console().read(addr - SERIAL, data);
        }
        VcpuExit::MmioWrite(addr, data) if serial.contains(&addr) => {
            devices.console().write(addr - SERIAL, data);
        }
        VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN, _) => return Some(End::PowerOff),
        VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET, _) => return Some(End::Reset),
        other => return machine::handle(other, devices),
    }
    None
}
