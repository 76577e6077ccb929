// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Offlining a block of memory that has a page out of the direct map fails, or ends on a signal.
//! The page stays what and where it is.

use std::{fs, time::Duration};

use direct_map_scan::Pagemap;
use vm_memory::{Bytes, VolatileMemory};

use super::{
    guest::Guest,
    process::{End, Process},
};
use crate::{
    Error, call,
    round::{PAGE, PAGE_SIZE},
};

const BLOCKS: &str = "/sys/devices/system/memory";
/// A signal comes after that, in seconds, and ends it at once.
const ALARM: u32 = 10;
const LIMIT: Duration = Duration::from_secs(60);

const PATTERN: u64 = 0x6d65_6d66_645f_7365;

/// Tries to offline the block of memory at that address, and returns how that ended: a status of 0
/// is a success.
fn offline(physical: u64) -> Result<End, Error> {
    let size = fs::read_to_string(format!("{BLOCKS}/block_size_bytes"))
        .map_err(call("the size of a block of memory"))?;
    let size = u64::from_str_radix(size.trim(), 16)
        .ok()
        .filter(|size| *size > 0)
        .ok_or_else(|| Error::Race(format!("a block of memory has the size {size}")))?;
    let state = format!("{BLOCKS}/memory{}/state", physical / size);
    let mut process = Process::spawn(|| {
        // SAFETY: It has no effect on memory.
        unsafe { libc::alarm(ALARM) };
        fs::write(&state, "offline").map_or_else(|e| e.raw_os_error().unwrap_or(1), |()| 0)
    })?;
    let end = process
        .wait(LIMIT)?
        .ok_or_else(|| Error::Race("offlining does not end on a signal".into()))?;
    if end == End::Exit(0) {
        fs::write(&state, "online").map_err(call("onlining a block of memory"))?;
    }
    println!("offlining {state}: {end:?}");
    Ok(end)
}

pub fn round() -> Result<(), Error> {
    let guest = Guest::new(1)?;
    let page = guest.data.get_slice(0, PAGE_SIZE)?;
    page.write_obj(PATTERN, 0)?;
    let pagemap = Pagemap::open()?;
    let physical = || {
        pagemap
            .physical(guest.data.as_ptr())
            .map_err(call("reading the pagemap"))
    };
    let at = physical()?;
    let stays = |what: &str| {
        if offline(at)? == End::Exit(0) {
            return Err(Error::Race(format!("a block with {what} can be offlined")));
        }
        if physical()? != at || page.read_obj::<u64>(0)? != PATTERN {
            return Err(Error::Race(format!("{what} is not what it was")));
        }
        Ok(())
    };
    stays("a hidden page")?;

    #[cfg(target_arch = "x86_64")]
    {
        let vcpu = guest.vm.create_vcpu(0).map_err(call("KVM_CREATE_VCPU"))?;
        set_clock(&vcpu, PAGE + PAGE / 2)?;
        stays("a clock's page")?;
    }

    // A leaked page is nobody's, so that nothing has to stay.
    fs::write(
        "/sys/kernel/debug/hwpoison/corrupt-pfn",
        (at / PAGE).to_string(),
    )
    .map_err(call("hwpoison"))?;
    guest
        .memory
        .punch_hole(PAGE, PAGE)
        .map_err(call("fallocate"))?;
    offline(at).map(drop)
}

/// Has KVM write kvm-clock to that address of the guest, and keep a mapping of the page.
#[cfg(target_arch = "x86_64")]
fn set_clock(vcpu: &kvm_ioctls::VcpuFd, at: u64) -> Result<(), Error> {
    const MSR_KVM_SYSTEM_TIME_NEW: u32 = 0x4b56_4d01;
    const ENABLED: u64 = 1;

    let msrs = kvm_bindings::Msrs::from_entries(&[kvm_bindings::kvm_msr_entry {
        index: MSR_KVM_SYSTEM_TIME_NEW,
        data: at | ENABLED,
        ..Default::default()
    }])
    .map_err(|e| Error::Race(format!("{e:?}")))?;
    match vcpu.set_msrs(&msrs).map_err(call("KVM_SET_MSRS"))? {
        1 => Ok(()),
        _ => Err(Error::Race("KVM does not take the MSR of the clock".into())),
    }
}
