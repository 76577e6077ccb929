// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The ACPI tables of a machine with reduced hardware (ACPI 6.5, 4.1).

use acpi_tables::{
    Aml,
    aml::{Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package, ResourceTemplate, Usize},
    fadt::{FADTBuilder, Flags},
    gas::{AccessSize, AddressSpace, GAS},
    madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic},
    rsdp::Rsdp,
    sdt::Sdt,
    xsdt::XSDT,
};
use guest_memfd::GuestRam;
use vm_memory::GuestAddress;

use super::{DISKS, FIRST_DISK_IRQ, IOAPIC, LOCAL_APIC, RESET, SERIAL, SERIAL_IRQ, SLEEP};
use crate::{devices::DISK_SIZE, error::Error};

/// Where the tables begin: where a PC has its firmware, and the kernel would look for them. Up to
/// 1 MiB this is no RAM to the guest.
pub const RSDP: u64 = 0xe_0000;
const TABLES: u64 = RSDP + 0x100;

const OEM: [u8; 6] = *b"GMEM  ";
const TABLE: [u8; 8] = *b"GMEMVMM ";
const REVISION: u32 = 1;

/// Writes tables that describe these vCPUs and disks.
pub fn write(ram: &GuestRam, cpus: usize, disks: usize) -> Result<(), Error> {
    let mut next = TABLES;
    let mut put = |table: &dyn Aml| -> Result<u64, Error> {
        let mut bytes = Vec::new();
        table.to_aml_bytes(&mut bytes);
        let at = next;
        next += (bytes.len() as u64).next_multiple_of(16);
        ram.load(GuestAddress(at), &bytes[..])?;
        Ok(at)
    };

    let dsdt = put(&dsdt(disks))?;
    let register = |port: u16| {
        GAS::new(
            AddressSpace::SystemIo,
            8,
            0,
            AccessSize::ByteAccess,
            port.into(),
        )
    };
    let mut fadt = FADTBuilder::new(OEM, TABLE, REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    fadt.sleep_control_reg = register(SLEEP);
    fadt.sleep_status_reg = register(SLEEP + 1);
    fadt.reset_reg = register(RESET);
    fadt.reset_value = 1;
    let fadt = put(&fadt.finalize())?;

    let local = LocalInterruptController::Address(LOCAL_APIC);
    let mut madt = MADT::new(OEM, TABLE, REVISION, local);
    for id in 0..cpus as u8 {
        madt.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, IOAPIC, 0));
    let madt = put(&madt)?;

    let mut xsdt = XSDT::new(OEM, TABLE, REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = put(&xsdt)?;

    let mut rsdp = Vec::new();
    Rsdp::new(OEM, xsdt).to_aml_bytes(&mut rsdp);
    ram.load(GuestAddress(RSDP), &rsdp[..])?;
    Ok(())
}

/// The devices: a serial port, disks, and how to power off.
fn dsdt(disks: usize) -> Sdt {
    let mut dsdt = Sdt::new(*b"DSDT", 36, 2, OEM, TABLE, REVISION);
    let mut add = |object: &dyn Aml| {
        let mut bytes = Vec::new();
        object.to_aml_bytes(&mut bytes);
        dsdt.append_slice(&bytes);
    };
    let edge = |irq: u32| Interrupt::new(true, true, false, false, irq);

    // The value of `SLP_TYP` that means off, for both registers; any will do.
    add(&Name::new(
        "_S5_".into(),
        &Package::new(vec![&5u8, &5u8, &0u8, &0u8]),
    ));
    add(&Device::new(
        "_SB_.COM1".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0501")),
            &Name::new("_UID".into(), &0u8),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![&IO::new(SERIAL, SERIAL, 1, 8), &edge(SERIAL_IRQ)]),
            ),
        ],
    ));
    for disk in 0..disks {
        let at = DISKS + disk as u64 * DISK_SIZE;
        add(&Device::new(
            format!("_SB_.VD{disk:02}").as_str().into(),
            vec![
                &Name::new("_HID".into(), &"LNRO0005"),
                &Name::new("_UID".into(), &(disk as Usize)),
                // Its accesses are coherent; there are no others on this machine.
                &Name::new("_CCA".into(), &1u8),
                &Name::new(
                    "_CRS".into(),
                    &ResourceTemplate::new(vec![
                        &Memory32Fixed::new(true, at as u32, DISK_SIZE as u32),
                        &edge(FIRST_DISK_IRQ + disk as u32),
                    ]),
                ),
            ],
        ));
    }
    dsdt
}
