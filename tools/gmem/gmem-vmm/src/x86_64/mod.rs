// SPDX-License-Identifier: Apache-2.0 OR MIT

//! x86_64: a machine without PCI or legacy devices but a serial port, described by ACPI.

mod acpi;
mod boot;
mod cpu;

use guest_memfd::GuestRam;
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use vm_memory::GuestAddress;

pub use self::{boot::KernelKind, cpu::nested};
use crate::{
    devices::{DISK_SIZE, Devices},
    error::{Error, call},
    machine::{self, End},
};

pub const NAME: &str = "x86_64";
pub const KERNELS: &str = "a bzImage's header, nor an ELF file's";
pub const PAGE_SIZE: u64 = 4096;
pub const MAX_CPUS: i64 = 16;
pub const MAX_MEMORY: u64 = 256 << 30;

/// Where RAM leaves room for devices, up to 4 GiB, and where it goes on.
const GAP: u64 = 0xc000_0000;
const ABOVE_GAP: u64 = 1 << 32;

/// Ports of the serial port, and of what ACPI calls the sleep and the reset registers.
const SERIAL: u16 = 0x3f8;
const SLEEP: u16 = 0x600;
const RESET: u16 = 0x608;

pub const SERIAL_IRQ: u32 = 4;
pub const DISKS: u64 = GAP;
pub const FIRST_DISK_IRQ: u32 = 5;
/// The inputs of the I/O APIC are 24.
pub const MAX_DISKS: usize = 16;

const IOAPIC: u32 = 0xfec0_0000;
const LOCAL_APIC: u32 = 0xfee0_0000;
/// Three pages that KVM needs on Intel, of address space that is nobody's.
const TSS: usize = 0xfffb_d000;

const _: () = assert!(DISKS + MAX_DISKS as u64 * DISK_SIZE <= IOAPIC as u64);

/// Where a guest's RAM is.
pub fn ram(size: u64) -> Vec<(GuestAddress, u64)> {
    let mut ranges = vec![(GuestAddress(0), size.min(GAP))];
    if size > GAP {
        ranges.push((GuestAddress(ABOVE_GAP), size - GAP));
    }
    ranges
}

/// KVM has the interrupt controllers of a PC.
pub struct IrqChip;

pub fn before_vcpus(vm: &VmFd) -> Result<(), Error> {
    vm.set_tss_address(TSS).map_err(call("KVM_SET_TSS_ADDR"))?;
    vm.create_irq_chip().map_err(call("KVM_CREATE_IRQCHIP"))
}

pub fn after_vcpus(_vm: &VmFd, _vcpus: &[VcpuFd]) -> Result<IrqChip, Error> {
    Ok(IrqChip)
}

/// An interrupt as `KVM_IRQ_LINE` names it.
pub fn irq_line(irq: u32) -> u32 {
    irq
}

/// What there is to be set up before the guest runs.
pub struct Guest<'a> {
    pub kvm: &'a Kvm,
    /// The guest may be a hypervisor itself.
    pub nested: bool,
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
        cpu::set_cpuid(self)?;
        let words = ["console=ttyS0", cmdline].map(str::to_owned);
        acpi::write(self.ram, self.vcpus.len(), self.disks)?;
        let entry = boot::load(self.ram, kind, kernel, initrd, &words)?;
        cpu::start(self, entry)
    }
}

/// Does what a vCPU asks for.
pub fn handle(exit: VcpuExit<'_>, devices: &Devices) -> Option<End> {
    const SLEEP_ENABLE: u8 = 1 << 5;

    let serial = SERIAL..SERIAL + 8;
    match exit {
        VcpuExit::IoIn(port, data) if serial.contains(&port) => {
            devices.console().read(u64::from(port - SERIAL), data);
        }
        VcpuExit::IoOut(port, data) if serial.contains(&port) => {
            devices.console().write(u64::from(port - SERIAL), data);
        }
        VcpuExit::IoOut(SLEEP, &[value]) if value & SLEEP_ENABLE != 0 => {
            return Some(End::PowerOff);
        }
        VcpuExit::IoOut(RESET, _) => return Some(End::Reset),
        // Nothing is there.
        VcpuExit::IoIn(_, data) => data.fill(0xff),
        VcpuExit::IoOut(..) => (),
        other => return machine::handle(other, devices),
    }
    None
}
