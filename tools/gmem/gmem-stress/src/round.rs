// SPDX-License-Identifier: Apache-2.0 OR MIT

//! One guest, from creation to end.

use guest_memfd::{
    GUEST_MEMFD_FLAG_INIT_SHARED, GUEST_MEMFD_FLAG_MMAP, GUEST_MEMFD_FLAG_NO_DIRECT_MAP,
    GUEST_MEMFD_FLAG_PAGE_ORDER, GuestMemfd, pmd_order, supported_flags,
};
use kvm_ioctls::{Kvm, VmFd};
use tiny_guest::{Args, Program};
use vm_memory::{Bytes, VolatileMemory};

use crate::{Error, call};

pub const PAGE_SIZE: usize = 4096;
pub const PAGE: u64 = PAGE_SIZE as u64;
/// The pages that the guest touches.
const PAGES: usize = 16;

/// What KVM_CREATE_VM takes. On arm64 KVM goes over all of the address space when a VM ends, which
/// with 40 bits takes seconds on an emulated machine, and with 32 no time.
const VM_TYPE: u64 = if cfg!(target_arch = "aarch64") { 32 } else { 0 };

/// Creates a VM without anything in it.
pub fn create_vm() -> Result<VmFd, Error> {
    let kvm = Kvm::new().map_err(call("opening /dev/kvm"))?;
    loop {
        match kvm.create_vm_with_type(VM_TYPE) {
            // Deferred work of an io_uring is enough of a signal for it.
            Err(e) if e.errno() == libc::EINTR => (),
            result => return result.map_err(call("KVM_CREATE_VM")),
        }
    }
}

/// What is done in a round.
pub struct Plan {
    hidden: bool,
    allocate_first: bool,
    close_bound: bool,
    huge: bool,
}

impl Plan {
    /// How many there are.
    pub const KINDS: u8 = 16;

    /// The one with that number.
    pub fn new(number: u32) -> Self {
        Self {
            hidden: number & 1 == 0,
            allocate_first: number & 2 != 0,
            close_bound: number & 4 != 0,
            huge: number & 8 != 0,
        }
    }

    /// The same in single pages.
    pub fn in_pages(self) -> Self {
        Self {
            huge: false,
            ..self
        }
    }

    /// Carries it out.
    pub fn run(&self) -> Result<(), Error> {
        let vm = create_vm()?;
        let mut flags = GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED;
        if self.hidden {
            flags |= GUEST_MEMFD_FLAG_NO_DIRECT_MAP;
        }
        let order = pmd_order()
            .filter(|_| self.huge && supported_flags(&vm).0 & GUEST_MEMFD_FLAG_PAGE_ORDER != 0)
            .unwrap_or(0);
        // A block for the program, and blocks for the rest.
        let block = PAGE << order;
        let rest = (PAGES as u64 * PAGE).next_multiple_of(block);
        let memory = GuestMemfd::create_in_blocks(&vm, block + rest, flags, order)?;
        let mapping = memory.map()?;
        // SAFETY: The mapping is of this memory, and outlives the VM or its slot.
        unsafe { memory.bind(&vm, 0, 0, &mapping)? };

        if self.allocate_first {
            memory.allocate(block, rest).map_err(call("fallocate"))?;
        }
        // By a system call, which fails if there is no memory, where a touch would be a signal.
        memory.allocate(0, block).map_err(call("fallocate"))?;
        mapping
            .get_slice(0, PAGE_SIZE)?
            .write_slice(Program::Touch.code(), 0)?;

        let mut vcpu = vm.create_vcpu(0).map_err(call("KVM_CREATE_VCPU"))?;
        let args = Args {
            source: 0,
            target: block as usize,
            times: PAGES,
        };
        tiny_guest::start(&vm, &vcpu, &args).map_err(|e| call(e.call)(e.source))?;
        let exit = vcpu.run().map_err(call("KVM_RUN"))?;
        if !tiny_guest::has_halted(&exit) {
            return Err(Error::Exit(format!("{exit:?}")));
        }

        memory
            .punch_hole(block, (rest / 2).next_multiple_of(block))
            .map_err(call("fallocate"))?;
        if !self.close_bound {
            GuestMemfd::unbind(&vm, 0)?;
        }
        drop((memory, mapping));
        Ok(())
    }
}
