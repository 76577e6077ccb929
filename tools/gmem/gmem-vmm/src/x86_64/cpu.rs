// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the vCPUs are, and how the first one begins.

use guest_memfd::GuestRam;
use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, Msrs, kvm_cpuid_entry2, kvm_msr_entry, kvm_regs, kvm_segment,
};
use kvm_ioctls::{Kvm, VcpuFd};
use vm_memory::GuestAddress;

use super::{Guest, boot::Entry};
use crate::error::{Error, call};

const GDT: u64 = 0x500;
const PAGE_TABLES: u64 = 0x9000;
/// What the boot protocol calls `__BOOT_CS` and `__BOOT_DS`.
const CODE: u16 = 0x10;
const DATA: u16 = 0x18;

/// CPUID.1:ECX.
const VMX: u32 = 1 << 5;
/// CPUID.80000001H:ECX.
const SVM: u32 = 1 << 2;

fn supported_cpuid(kvm: &Kvm) -> Result<CpuId, Error> {
    kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(call("KVM_GET_SUPPORTED_CPUID"))
}

/// Returns whether guests of this host can run guests of their own.
pub fn nested(kvm: &Kvm) -> Result<bool, Error> {
    Ok(supported_cpuid(kvm)?
        .as_slice()
        .iter()
        .any(|entry| match entry.function {
            1 => entry.ecx & VMX != 0,
            0x8000_0001 => entry.ecx & SVM != 0,
            _ => false,
        }))
}

/// Clears VMX, SVM and the leaf of SVM's features. That is enough: KVM then refuses a guest's
/// attempts to set `CR4.VMXE` and `EFER.SVME`.
fn hide_nested(cpuid: &mut [kvm_cpuid_entry2]) {
    for entry in cpuid {
        match entry.function {
            1 => entry.ecx &= !VMX,
            0x8000_0001 => entry.ecx &= !SVM,
            0x8000_000a => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
            _ => (),
        }
    }
}

/// Gives each vCPU the features that KVM supports and the guest may have, and its number.
pub fn set_cpuid(guest: &Guest<'_>) -> Result<(), Error> {
    const HYPERVISOR: u32 = 1 << 31;
    const TSC_DEADLINE: u32 = 1 << 24;

    let mut supported = supported_cpuid(guest.kvm)?;
    if !guest.nested {
        hide_nested(supported.as_mut_slice());
    }
    let count = guest.vcpus.len() as u32;
    let bits = count.next_power_of_two().trailing_zeros();
    for (id, vcpu) in guest.vcpus.iter().enumerate() {
        let id = id as u32;
        let mut cpuid = supported.clone();
        for entry in cpuid.as_mut_slice() {
            match (entry.function, entry.index) {
                (1, _) => {
                    entry.ecx |= HYPERVISOR | TSC_DEADLINE;
                    entry.ebx = entry.ebx & 0xffff | id << 24 | count << 16;
                }
                // One thread a core, and then all of the package.
                (0xb | 0x1f, 0) => {
                    (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 1, 1 << 8, id);
                }
                (0xb | 0x1f, 1) => {
                    (entry.eax, entry.ebx, entry.ecx, entry.edx) = (bits, count, 2 << 8 | 1, id);
                }
                (0xb | 0x1f, index) => {
                    (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, index, id);
                }
                (0x8000_0008, _) => entry.ecx = entry.ecx & !0xf0ff | bits << 12 | (count - 1),
                (0x8000_001e, _) => {
                    entry.eax = id;
                    entry.ebx = id & 0xff;
                }
                _ => (),
            }
        }
        vcpu.set_cpuid2(&cpuid).map_err(call("KVM_SET_CPUID2"))?;
    }
    Ok(())
}

/// Has the first vCPU begin at `entry`, in 64-bit mode with the first GiB mapped. The others wait
/// for it to wake them.
pub fn start(guest: &Guest<'_>, entry: Entry) -> Result<(), Error> {
    let first = &guest.vcpus[0];
    let (code, data) = write_gdt(guest.ram)?;
    write_page_tables(guest.ram)?;
    set_sregs(first, code, data)?;
    first
        .set_regs(&kvm_regs {
            rip: entry.rip,
            rsi: entry.zero_page,
            rflags: 2,
            ..Default::default()
        })
        .map_err(call("KVM_SET_REGS"))?;
    for vcpu in guest.vcpus {
        set_msrs(vcpu)?;
    }
    Ok(())
}

/// Flat segments, and the table that has them.
fn write_gdt(ram: &GuestRam) -> Result<(kvm_segment, kvm_segment), Error> {
    let segment = |selector, type_, l, db| kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        s: 1,
        l,
        db,
        g: 1,
        ..Default::default()
    };
    // Code: executable, readable, accessed. Data: writable, accessed.
    let code = segment(CODE, 0xb, 1, 0);
    let data = segment(DATA, 0x3, 0, 1);
    let descriptor = |s: &kvm_segment| {
        let flags = u64::from(s.g) << 3 | u64::from(s.db) << 2 | u64::from(s.l) << 1;
        let access = u64::from(s.present) << 7 | u64::from(s.s) << 4 | u64::from(s.type_);
        0xf << 48 | flags << 52 | access << 40 | 0xffff
    };
    for (selector, entry) in [(CODE, descriptor(&code)), (DATA, descriptor(&data))] {
        let at = GuestAddress(GDT + u64::from(selector));
        ram.load(at, &entry.to_le_bytes()[..])?;
    }
    Ok((code, data))
}

/// Page tables that map the first GiB to itself, in pages of 2 MiB.
fn write_page_tables(ram: &GuestRam) -> Result<(), Error> {
    const PRESENT_WRITABLE: u64 = 3;
    const LARGE: u64 = 1 << 7;

    let put = |entries: &[u64], at: u64| {
        let bytes: Vec<u8> = entries
            .iter()
            .flat_map(|entry| entry.to_le_bytes())
            .collect();
        ram.load(GuestAddress(at), &bytes[..])
    };
    let (level3, level2) = (PAGE_TABLES + 0x1000, PAGE_TABLES + 0x2000);
    let large: Vec<u64> = (0..512)
        .map(|entry| entry << 21 | LARGE | PRESENT_WRITABLE)
        .collect();
    put(&[level3 | PRESENT_WRITABLE], PAGE_TABLES)?;
    put(&[level2 | PRESENT_WRITABLE], level3)?;
    put(&large, level2)?;
    Ok(())
}

fn set_sregs(vcpu: &VcpuFd, code: kvm_segment, data: kvm_segment) -> Result<(), Error> {
    const CR0_PE: u64 = 1 << 0;
    const CR0_PG: u64 = 1 << 31;
    const CR4_PAE: u64 = 1 << 5;
    const EFER_LME: u64 = 1 << 8;
    const EFER_LMA: u64 = 1 << 10;

    let mut sregs = vcpu.get_sregs().map_err(call("KVM_GET_SREGS"))?;
    sregs.cs = code;
    for segment in [
        &mut sregs.ds,
        &mut sregs.es,
        &mut sregs.fs,
        &mut sregs.gs,
        &mut sregs.ss,
    ] {
        *segment = data;
    }
    sregs.gdt.base = GDT;
    sregs.gdt.limit = DATA + 7;
    sregs.idt.base = 0;
    sregs.idt.limit = 0;
    sregs.cr3 = PAGE_TABLES;
    sregs.cr4 |= CR4_PAE;
    sregs.cr0 |= CR0_PE | CR0_PG;
    sregs.efer |= EFER_LME | EFER_LMA;
    vcpu.set_sregs(&sregs).map_err(call("KVM_SET_SREGS"))
}

/// What a PC's firmware leaves behind: memory is cached.
fn set_msrs(vcpu: &VcpuFd) -> Result<(), Error> {
    const MTRR_DEF_TYPE: u32 = 0x2ff;
    const ENABLED_WRITE_BACK: u64 = 1 << 11 | 6;

    let msrs = Msrs::from_entries(&[kvm_msr_entry {
        index: MTRR_DEF_TYPE,
        data: ENABLED_WRITE_BACK,
        ..Default::default()
    }])
    .map_err(|e| call("making a list of MSRs")(std::io::Error::other(format!("{e:?}"))))?;
    match vcpu.set_msrs(&msrs).map_err(call("KVM_SET_MSRS"))? {
        1 => Ok(()),
        _ => Err(call("KVM_SET_MSRS")(std::io::Error::from_raw_os_error(
            libc::EINVAL,
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vmx_and_svm_are_hidden_and_nothing_else() {
        let leaf = |function, registers: [u32; 4]| kvm_cpuid_entry2 {
            function,
            eax: registers[0],
            ebx: registers[1],
            ecx: registers[2],
            edx: registers[3],
            ..Default::default()
        };
        let registers = |entry: &kvm_cpuid_entry2| [entry.eax, entry.ebx, entry.ecx, entry.edx];
        let mut cpuid = [
            leaf(0, [!0; 4]),
            leaf(1, [!0; 4]),
            leaf(7, [!0; 4]),
            leaf(0x8000_0001, [!0; 4]),
            leaf(0x8000_0008, [!0; 4]),
            leaf(0x8000_000a, [!0; 4]),
        ];
        hide_nested(&mut cpuid);
        assert_eq!(
            cpuid.each_ref().map(registers),
            [
                [!0; 4],
                [!0, !0, !(1 << 5), !0],
                [!0; 4],
                [!0, !0, !(1 << 2), !0],
                [!0; 4],
                [0; 4],
            ]
        );
    }
}
