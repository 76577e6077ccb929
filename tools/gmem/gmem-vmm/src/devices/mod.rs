// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The guest's devices: a serial port, and disks.

mod block;
mod serial;
mod virtio;

use std::{io, path::PathBuf, sync::Arc};

use guest_memfd::GuestRam;
use kvm_ioctls::VmFd;
use vm_superio::Trigger;

pub use self::serial::Console;
use self::{block::Disk, virtio::Transport};
use crate::{
    arch::{self, FIRST_DISK_IRQ, MAX_DISKS, SERIAL_IRQ},
    error::Error,
};

/// The bytes of address space that a disk has.
pub const DISK_SIZE: u64 = 0x1000;

/// An edge on an interrupt line of the guest.
///
/// By a call, not by an eventfd: KVM on arm64 (7.3) handles that with interrupts off, and warns
/// if it has to interrupt a vCPU for it.
struct Interrupt {
    vm: Arc<VmFd>,
    irq: u32,
}

impl Trigger for Interrupt {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        let line = arch::irq_line(self.irq);
        self.vm.set_irq_line(line, true)?;
        Ok(self.vm.set_irq_line(line, false)?)
    }
}

/// All devices of a guest.
pub struct Devices {
    console: Arc<Console>,
    disks: Vec<Transport>,
}

impl Devices {
    /// Creates them. Disk `n` is at `arch::DISKS + n * DISK_SIZE`.
    pub fn new(vm: &Arc<VmFd>, ram: &GuestRam, disks: &[PathBuf]) -> Result<Self, Error> {
        if disks.len() > MAX_DISKS {
            return Err(Error::Disks {
                count: disks.len(),
                max: MAX_DISKS,
            });
        }
        let interrupt = |irq| Interrupt {
            vm: Arc::clone(vm),
            irq,
        };
        let mut transports = Vec::new();
        for (irq, path) in (FIRST_DISK_IRQ..).zip(disks) {
            let disk = Disk::open(path)?;
            let memory = ram.memory().clone();
            transports.push(Transport::new(disk, memory, interrupt(irq))?);
        }
        Ok(Self {
            console: Arc::new(Console::new(interrupt(SERIAL_IRQ))),
            disks: transports,
        })
    }

    pub fn console(&self) -> &Arc<Console> {
        &self.console
    }

    pub fn disks(&self) -> usize {
        self.disks.len()
    }

    fn disk(&self, addr: u64) -> Option<(&Transport, u64)> {
        let offset = addr.checked_sub(arch::DISKS)?;
        let disk = self.disks.get(usize::try_from(offset / DISK_SIZE).ok()?)?;
        Some((disk, offset % DISK_SIZE))
    }

    /// A read by a vCPU at a guest address. Where no device is, there are ones.
    pub fn read(&self, addr: u64, data: &mut [u8]) {
        match self.disk(addr) {
            Some((disk, offset)) => disk.read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// A write by a vCPU at a guest address.
    pub fn write(&self, addr: u64, data: &[u8]) {
        if let Some((disk, offset)) = self.disk(addr) {
            disk.write(offset, data);
        }
    }
}
