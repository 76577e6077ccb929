// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The device tree that describes the machine.

use vm_fdt::FdtWriter;

use super::{
    DISKS, FIRST_DISK_IRQ, Guest, RAM, SERIAL, SERIAL_IRQ, SERIAL_SIZE,
    boot::Loaded,
    cpu,
    gic::{DISTRIBUTOR, DISTRIBUTOR_SIZE, REDISTRIBUTOR_SIZE, REDISTRIBUTORS},
};
use crate::{devices::DISK_SIZE, error::Error};

/// The interrupt controller's handle.
const GIC: u32 = 1;
/// Kinds of interrupts: shared, and private to a CPU.
const SPI: u32 = 0;
const PPI: u32 = 1;
const EDGE: u32 = 1;
const LEVEL: u32 = 4;
/// Of a UART that nobody ever asks for its speed.
const CLOCK: u32 = 1_843_200;

/// Makes the tree. `line` is the command line, with the zero at its end.
pub fn tree(guest: &Guest<'_>, loaded: &Loaded, line: &[u8]) -> Result<Vec<u8>, Error> {
    let mut fdt = FdtWriter::new()?;
    let root = fdt.begin_node("")?;
    fdt.property_string("compatible", "linux,dummy-virt")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_u32("interrupt-parent", GIC)?;

    let chosen = fdt.begin_node("chosen")?;
    fdt.property("bootargs", line)?;
    fdt.property_string("stdout-path", &format!("/serial@{SERIAL:x}"))?;
    if let Some((start, end)) = loaded.initrd {
        fdt.property_u64("linux,initrd-start", start)?;
        fdt.property_u64("linux,initrd-end", end)?;
    }
    fdt.end_node(chosen)?;

    let memory = fdt.begin_node(&format!("memory@{RAM:x}"))?;
    fdt.property_string("device_type", "memory")?;
    fdt.property_array_u64("reg", &[RAM, guest.ram.size()])?;
    fdt.end_node(memory)?;

    let cpus = fdt.begin_node("cpus")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 0)?;
    for vcpu in guest.vcpus {
        let id = cpu::affinity(vcpu)?;
        let node = fdt.begin_node(&format!("cpu@{id:x}"))?;
        fdt.property_string("device_type", "cpu")?;
        fdt.property_string("compatible", "arm,armv8")?;
        fdt.property_string("enable-method", "psci")?;
        fdt.property_u64("reg", id)?;
        fdt.end_node(node)?;
    }
    fdt.end_node(cpus)?;

    let psci = fdt.begin_node("psci")?;
    fdt.property_string("compatible", "arm,psci-1.0")?;
    fdt.property_string("method", "hvc")?;
    fdt.end_node(psci)?;

    let timer = fdt.begin_node("timer")?;
    fdt.property_string("compatible", "arm,armv8-timer")?;
    // Secure physical, physical, virtual, hypervisor.
    let interrupts = [13, 14, 11, 10].map(|irq| [PPI, irq, LEVEL]);
    fdt.property_array_u32("interrupts", interrupts.as_flattened())?;
    fdt.property_null("always-on")?;
    fdt.end_node(timer)?;

    let gic = fdt.begin_node(&format!("interrupt-controller@{DISTRIBUTOR:x}"))?;
    fdt.property_string("compatible", "arm,gic-v3")?;
    fdt.property_null("interrupt-controller")?;
    fdt.property_u32("#interrupt-cells", 3)?;
    fdt.property_phandle(GIC)?;
    fdt.property_array_u64(
        "reg",
        &[
            DISTRIBUTOR,
            DISTRIBUTOR_SIZE,
            REDISTRIBUTORS,
            REDISTRIBUTOR_SIZE * guest.vcpus.len() as u64,
        ],
    )?;
    fdt.end_node(gic)?;

    let serial = fdt.begin_node(&format!("serial@{SERIAL:x}"))?;
    fdt.property_string("compatible", "ns16550a")?;
    fdt.property_array_u64("reg", &[SERIAL, SERIAL_SIZE])?;
    fdt.property_u32("clock-frequency", CLOCK)?;
    fdt.property_array_u32("interrupts", &[SPI, SERIAL_IRQ, EDGE])?;
    fdt.end_node(serial)?;

    for disk in 0..guest.disks {
        let at = DISKS + disk as u64 * DISK_SIZE;
        let node = fdt.begin_node(&format!("virtio@{at:x}"))?;
        fdt.property_string("compatible", "virtio,mmio")?;
        fdt.property_array_u64("reg", &[at, DISK_SIZE])?;
        fdt.property_array_u32("interrupts", &[SPI, FIRST_DISK_IRQ + disk as u32, EDGE])?;
        fdt.property_null("dma-coherent")?;
        fdt.end_node(node)?;
    }
    fdt.end_node(root)?;
    Ok(fdt.finish()?)
}
