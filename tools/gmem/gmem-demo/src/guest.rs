// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A guest whose only memory is a guest_memfd, and which fills that memory with a secret.

use direct_map_scan::Pattern;
use guest_memfd::{GUEST_MEMFD_FLAG_INIT_SHARED, GUEST_MEMFD_FLAG_MMAP, GuestMemfd};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use tiny_guest::{Args, Program};
use vm_memory::{Bytes, MmapRegion, VolatileMemory};

use crate::{
    Error, Holder, call,
    secret::{self, PAGE_SIZE},
};

/// Where the guest finds the complement of its secret.
const PATTERN: usize = PAGE_SIZE;
/// Where the guest begins to write. Below are its code and the disguised secret.
const SECRETS: usize = 2 * PAGE_SIZE;

/// A guest that has run and halted; its memory is still there.
pub struct Guest {
    // In the order of what needs what.
    vm: Option<(VcpuFd, VmFd)>,
    region: MmapRegion,
    memory: GuestMemfd,
    /// Where the pages with the secret begin, and how many they are.
    first: usize,
    pages: usize,
}

impl Guest {
    /// Creates a guest with memory of these flags (besides those needed to map it), and has it
    /// write `pages` pages full of the secret.
    pub fn run(pattern: &Pattern, pages: usize, flags: u64) -> Result<Self, Error> {
        let kvm = Kvm::new().map_err(call("opening /dev/kvm"))?;
        let vm = kvm.create_vm().map_err(call("KVM_CREATE_VM"))?;
        let size = SECRETS + pages * PAGE_SIZE;
        let memory = GuestMemfd::create(
            &vm,
            size as u64,
            flags | GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED,
        )?;
        let region = memory.map()?;
        // SAFETY: The mapping is of this memory, and `Guest` drops it after the VM.
        unsafe { memory.bind(&vm, 0, 0, &region)? };

        let contents = region.get_slice(0, size)?;
        contents.write_slice(Program::Fill.code(), 0)?;
        contents.write_slice(pattern.inverted(), PATTERN)?;

        let mut vcpu = vm.create_vcpu(0).map_err(call("KVM_CREATE_VCPU"))?;
        let args = Args {
            source: PATTERN,
            target: SECRETS,
            times: pages * PAGE_SIZE / Pattern::LEN,
        };
        tiny_guest::start(&vm, &vcpu, &args).map_err(|e| call(e.call)(e.source))?;
        let exit = vcpu.run().map_err(call("KVM_RUN"))?;
        if !tiny_guest::has_halted(&exit) {
            return Err(Error::Exit(format!("{exit:?}")));
        }
        Ok(Self {
            vm: Some((vcpu, vm)),
            region,
            memory,
            first: SECRETS,
            pages,
        })
    }

    /// Returns where the pages with the secret are.
    pub fn secrets(&self) -> *const u8 {
        self.region.as_ptr().wrapping_add(self.first)
    }

    /// Frees the first `pages` of the pages with the secret, which has more of them.
    pub fn punch_hole(&mut self, pages: usize) -> Result<(), Error> {
        let size = pages * PAGE_SIZE;
        self.memory
            .punch_hole(self.first as u64, size as u64)
            .map_err(call("fallocate(FALLOC_FL_PUNCH_HOLE) of a guest_memfd"))?;
        self.first += size;
        self.pages -= pages;
        Ok(())
    }

    /// Ends the VM. Its memory stays.
    pub fn stop(&mut self) {
        self.vm = None;
    }
}

impl Holder for Guest {
    fn check(&mut self, pattern: &Pattern) -> Result<(), Error> {
        // SAFETY: The region has that many pages from there.
        match unsafe { secret::pages_without(pattern, self.secrets(), self.pages) } {
            0 => Ok(()),
            wrong => Err(Error::NotWritten {
                wrong,
                pages: self.pages,
            }),
        }
    }
}
