// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Offlining a block of memory that has a page out of the direct map fails, or ends on a signal.
//! The page stays what and where it is.
//!
//! (arm64 never offlines memory that was there at boot.)

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

/// The size of a block of memory.
fn block_size() -> Result<u64, Error> {
    let size = fs::read_to_string(format!("{BLOCKS}/block_size_bytes"))
        .map_err(call("the size of a block of memory"))?;
    u64::from_str_radix(size.trim(), 16)
        .ok()
        .filter(|size| *size > 0)
        .ok_or_else(|| Error::Race(format!("a block of memory has the size {size}")))
}

/// Tries to offline a block of memory, and returns how that ended: a status of 0 is a success.
fn offline(block: u64) -> Result<End, Error> {
    let state = format!("{BLOCKS}/memory{block}/state");
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

/// The number of the last block of memory.
fn last_block() -> Result<u64, Error> {
    let entries = fs::read_dir(BLOCKS).map_err(call("the blocks of memory"))?;
    entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name();
            name.to_str()?.strip_prefix("memory")?.parse().ok()
        })
        .max()
        .ok_or_else(|| Error::Race("there are no blocks of memory".into()))
}

/// A page of data: its offset, and its physical address.
struct Page {
    offset: u64,
    at: u64,
}

/// Finds a page of data in the midst of memory: the first block and the last one have holes, and
/// cannot be offlined for that alone.
fn page(guest: &Guest, pagemap: &Pagemap, size: u64) -> Result<Page, Error> {
    let last = last_block()?;
    for offset in (0..guest.data.size() as u64).step_by(PAGE_SIZE) {
        write(guest, offset)?;
        let at = physical(pagemap, guest, offset)?;
        if (1..last).contains(&(at / size)) {
            return Ok(Page { offset, at });
        }
    }
    Err(Error::Race("all memory is in two blocks".into()))
}

fn write(guest: &Guest, offset: u64) -> Result<(), Error> {
    Ok(guest
        .data
        .get_slice(offset as usize, PAGE_SIZE)?
        .write_obj(PATTERN, 0)?)
}

fn physical(pagemap: &Pagemap, guest: &Guest, offset: u64) -> Result<u64, Error> {
    pagemap
        .physical(guest.data.as_ptr().wrapping_add(offset as usize))
        .map_err(call("reading the pagemap"))
}

pub fn round() -> Result<(), Error> {
    let pagemap = Pagemap::open()?;
    let size = block_size()?;
    // More than two blocks.
    let guest = Guest::new((2 * size / PAGE + 1) as usize)?;
    let range = guest.range();
    guest
        .memory
        .allocate(range.start, range.end - range.start)
        .map_err(call("fallocate"))?;
    let Page { offset, at } = page(&guest, &pagemap, size)?;
    let stays = |what: &str| {
        match offline(at / size)? {
            End::Exit(libc::EBUSY | libc::EINTR) | End::Signal(libc::SIGALRM) => (),
            end => {
                return Err(Error::Race(format!(
                    "offlining a block with {what} ended with {end:?}"
                )));
            }
        }
        let page = guest.data.get_slice(offset as usize, PAGE_SIZE)?;
        let pattern: u64 = page.read_obj(0)?;
        if physical(&pagemap, &guest, offset)? != at || pattern != PATTERN {
            return Err(Error::Race(format!("{what} is not what it was")));
        }
        Ok(())
    };
    stays("a hidden page")?;

    let vcpu = guest.vm.create_vcpu(0).map_err(call("KVM_CREATE_VCPU"))?;
    set_clock(&vcpu, range.start + offset + PAGE / 2)?;
    stays("a clock's page")?;

    // A leaked page is nobody's, so that nothing has to stay. (That the page is still in use makes
    // memory failure report an error.)
    let _ = fs::write(
        "/sys/kernel/debug/hwpoison/corrupt-pfn",
        (at / PAGE).to_string(),
    );
    guest
        .memory
        .punch_hole(range.start, range.end - range.start)
        .map_err(call("fallocate"))?;
    match offline(at / size)? {
        End::Exit(0 | libc::EBUSY | libc::EINTR) | End::Signal(libc::SIGALRM) => Ok(()),
        end => Err(Error::Race(format!(
            "offlining a block with a leaked page ended with {end:?}"
        ))),
    }
}

/// Has KVM write kvm-clock to that address of the guest, and keep a mapping of the page.
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
