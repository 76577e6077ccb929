// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A guest whose memory is raced for.

use std::ops::Range;

use guest_memfd::{
    GUEST_MEMFD_FLAG_INIT_SHARED, GUEST_MEMFD_FLAG_MMAP, GUEST_MEMFD_FLAG_NO_DIRECT_MAP, GuestMemfd,
};
use kvm_ioctls::{VcpuFd, VmFd};
use tiny_guest::{Args, Program};
use vm_memory::{Bytes, MmapRegion, VolatileMemory};

use crate::{
    Error, call,
    round::{PAGE, PAGE_SIZE, create_vm},
};

/// The memslots: one page of code, and the data behind it.
pub const CODE: u32 = 0;
pub const DATA: u32 = 1;

/// A VM, its memory and its memslots, from guest address 0.
pub struct Guest {
    pub vm: VmFd,
    pub memory: GuestMemfd,
    pub code: MmapRegion,
    pub data: MmapRegion,
}

impl Guest {
    /// Creates it, with so many pages of data.
    pub fn new(pages: usize) -> Result<Self, Error> {
        let vm = create_vm()?;
        let flags =
            GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED | GUEST_MEMFD_FLAG_NO_DIRECT_MAP;
        let memory = GuestMemfd::create(&vm, (pages as u64 + 1) * PAGE, flags)?;
        let code = memory.map_at(0, PAGE_SIZE)?;
        code.get_slice(0, PAGE_SIZE)?
            .write_slice(Program::Touch.code(), 0)?;
        let data = memory.map_at(PAGE, pages * PAGE_SIZE)?;
        let guest = Self {
            vm,
            memory,
            code,
            data,
        };
        // SAFETY: The slot is removed before the mapping, or KVM has nothing to access by it.
        unsafe { guest.memory.bind(&guest.vm, CODE, 0, &guest.code)? };
        guest.bind_data()?;
        Ok(guest)
    }

    /// Binds the data, which is not bound.
    pub fn bind_data(&self) -> Result<(), Error> {
        // SAFETY: As in `new`.
        unsafe { self.memory.bind(&self.vm, DATA, PAGE, &self.data)? };
        Ok(())
    }

    /// Where the data is, in the guest as in the file.
    pub fn range(&self) -> Range<u64> {
        PAGE..PAGE + self.data.size() as u64
    }

    /// Has `vcpu` begin anew with a program that writes to each page of data.
    pub fn start(&self, vcpu: &VcpuFd) -> Result<(), Error> {
        let args = Args {
            source: 0,
            target: PAGE_SIZE,
            times: self.data.size() / PAGE_SIZE,
        };
        tiny_guest::start(&self.vm, vcpu, &args).map_err(|e| call(e.call)(e.source))
    }
}
