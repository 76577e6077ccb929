// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What is measured: memory of a guest, and of `memfd_secret()`.

use std::{
    fs::File,
    io,
    os::fd::{FromRawFd, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use guest_memfd::{GUEST_MEMFD_FLAG_INIT_SHARED, GUEST_MEMFD_FLAG_MMAP, GuestMemfd};
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use tiny_guest::{Args, Program};
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory};

use crate::{Error, kind::Kind, meter::Cost};

pub const PAGE_SIZE: usize = 4096;
/// Of how many pages one is touched, where a touch needs a long preparation.
const SAMPLE: usize = 16;
/// How much is copied to the guest's memory at a time, in bytes; as
/// [`GuestRam::load`](guest_memfd::GuestRam::load) does.
const CHUNK: usize = 64 << 10;

/// After that long, memory will not be free any more.
const PATIENCE: Duration = Duration::from_secs(60);

/// How pages come.
#[derive(Clone, Copy)]
pub enum Way {
    /// Touched by the VMM.
    Touch,
    /// Allocated at once, then touched by the VMM.
    Fallocate,
    /// Allocated one by one, or block by block, then touched by the VMM.
    PageByPage,
    /// Touched by the guest, with so many vCPUs at once.
    Guest(usize),
}

impl Way {
    /// The vCPUs that it takes.
    pub fn vcpus(self) -> usize {
        if let Self::Guest(vcpus) = self {
            vcpus
        } else {
            1
        }
    }
}

/// Writes to one word of each page of `mapping` from `first`.
fn touch(mapping: &MmapRegion, first: usize, pages: usize) {
    for page in first..first + pages {
        // SAFETY: Within the mapping, which nobody else uses.
        unsafe { mapping.as_ptr().add(page * PAGE_SIZE).write_volatile(1) };
    }
}

/// Runs a vCPU until it halts.
fn run(vcpu: &mut VcpuFd) -> Result<(), Error> {
    let exit = vcpu.run()?;
    if tiny_guest::has_halted(&exit) {
        Ok(())
    } else {
        Err(Error::Exit(format!("{exit:?}")))
    }
}

/// A guest, and the guest_memfd that is its memory: a page, or a huge page, for its program, and
/// those that are measured.
pub struct Gmem {
    /// The pages before those that are measured.
    first: usize,
    pages: usize,
    // In the order of what needs what.
    vcpus: Vec<VcpuFd>,
    vm: VmFd,
    mapping: MmapRegion,
    memory: GuestMemfd,
}

impl Gmem {
    /// Creates one with `pages` pages to be measured, or a few more that fill a block, none of
    /// which is there, and `vcpus` vCPUs, each of which will touch an equal part of them.
    pub fn new(pages: usize, vcpus: usize, kind: Kind) -> Result<Self, Error> {
        let vm = Kvm::new()?.create_vm()?;
        let flags = kind.flags | GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED;
        let first = 1 << kind.order;
        let pages = pages.next_multiple_of(first);
        let size = ((first + pages) * PAGE_SIZE) as u64;
        let memory = GuestMemfd::create_in_blocks(&vm, size, flags, kind.order)?;
        let mapping = memory.map()?;
        mapping
            .get_slice(0, PAGE_SIZE)?
            .write_slice(Program::Touch.code(), 0)?;
        // SAFETY: The mapping is of this memory, and outlives the VM or its slot.
        unsafe { memory.bind(&vm, 0, 0, &mapping)? };

        let part = pages / vcpus;
        let vcpus = (0..vcpus)
            .map(|n| {
                let vcpu = vm.create_vcpu(n as u64)?;
                let args = Args {
                    source: 0,
                    target: PAGE_SIZE * (first + n * part),
                    times: part,
                };
                tiny_guest::start(&vm, &vcpu, &args).map_err(Error::Start)?;
                Ok(vcpu)
            })
            .collect::<Result<_, Error>>()?;
        Ok(Self {
            first,
            pages,
            vcpus,
            vm,
            mapping,
            memory,
        })
    }

    /// How many pages are measured.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// All pages come, in that way.
    pub fn populate(&mut self, way: Way) -> Result<(), Error> {
        match way {
            Way::Touch => (),
            Way::Fallocate => self.fallocate(0, self.pages)?,
            Way::PageByPage => {
                let block = 1 << self.memory.order();
                (0..self.pages)
                    .step_by(block)
                    .try_for_each(|page| self.fallocate(page, block))?;
            }
            Way::Guest(_) => return self.run(),
        }
        touch(&self.mapping, self.first, self.pages);
        Ok(())
    }

    /// Userspace copies something to all pages.
    pub fn copy(&self) -> Result<(), Error> {
        let image = vec![1; CHUNK];
        let end = (self.first + self.pages) * PAGE_SIZE;
        for at in (self.first * PAGE_SIZE..end).step_by(CHUNK) {
            self.mapping
                .get_slice(at, CHUNK.min(end - at))?
                .copy_from(&image[..]);
        }
        Ok(())
    }

    /// Userspace touches one page in [`SAMPLE`], each time after the kernel has freed vmalloc()
    /// memory, whose translations are flushed along. Returns what the touches cost, in time.
    ///
    /// A memslot that comes and goes has arrays in such memory.
    pub fn touch_after_vfree(&self) -> Result<Cost, Error> {
        let mut cost = Cost::default();
        for page in (self.first..self.first + self.pages).step_by(SAMPLE) {
            for memory_size in [PAGE_SIZE as u64, 0] {
                let region = kvm_userspace_memory_region {
                    slot: 1,
                    guest_phys_addr: 1 << 32,
                    memory_size,
                    userspace_addr: self.mapping.as_ptr() as u64,
                    flags: 0,
                };
                // SAFETY: The guest does not run while it has this memslot.
                unsafe { self.vm.set_user_memory_region(region)? };
            }
            cost += Cost::of_time(1, || touch(&self.mapping, page, 1));
        }
        Ok(cost)
    }

    /// The guest touches all pages, with all vCPUs at once.
    fn run(&mut self) -> Result<(), Error> {
        match self.vcpus.as_mut_slice() {
            [vcpu] => run(vcpu),
            vcpus => thread::scope(|scope| {
                let running: Vec<_> = vcpus
                    .iter_mut()
                    .map(|vcpu| scope.spawn(|| run(vcpu)))
                    .collect();
                running
                    .into_iter()
                    .try_for_each(|vcpu| vcpu.join().map_err(|_| Error::Thread)?)
            }),
        }
    }

    /// Allocates `pages` pages from `first`, of those that are measured.
    fn fallocate(&self, first: usize, pages: usize) -> Result<(), Error> {
        self.memory
            .allocate(
                ((self.first + first) * PAGE_SIZE) as u64,
                (pages * PAGE_SIZE) as u64,
            )
            .map_err(|e| Error::Call("fallocate", e))
    }

    /// Allocates all pages, as soon as there is memory for them, and touches them.
    pub fn populate_when_free(&self) -> Result<(), Error> {
        let start = Instant::now();
        loop {
            match self.fallocate(0, self.pages) {
                Err(Error::Call(_, e))
                    if e.raw_os_error() == Some(libc::ENOMEM) && start.elapsed() < PATIENCE => {}
                result => break result?,
            }
        }
        touch(&self.mapping, self.first, self.pages);
        Ok(())
    }

    /// Frees all pages.
    pub fn punch_hole(&self) -> Result<(), Error> {
        self.memory
            .punch_hole(
                (self.first * PAGE_SIZE) as u64,
                (self.pages * PAGE_SIZE) as u64,
            )
            .map_err(|e| Error::Call("fallocate", e))
    }

    /// Takes the memory away from the guest, and returns both: dropping the first closes the file,
    /// which frees it.
    pub fn unbind(self) -> Result<(impl Sized, impl Sized), Error> {
        GuestMemfd::unbind(&self.vm, 0)?;
        Ok(((self.mapping, self.memory), (self.vcpus, self.vm)))
    }
}

/// Pages of `memfd_secret()`, none of which is there.
pub struct Secret {
    pages: usize,
    mapping: MmapRegion,
}

impl Secret {
    /// Creates them.
    pub fn new(pages: usize) -> Result<Self, Error> {
        let unlimited = libc::rlimit {
            rlim_cur: libc::RLIM_INFINITY,
            rlim_max: libc::RLIM_INFINITY,
        };
        // Secret memory is charged to it.
        // SAFETY: The structure is valid for reads.
        if unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &unlimited) } != 0 {
            return Err(Error::Call("setrlimit", io::Error::last_os_error()));
        }
        // SAFETY: No pointers are passed.
        let fd = unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) };
        if fd < 0 {
            return Err(Error::Call("memfd_secret", io::Error::last_os_error()));
        }
        // SAFETY: The kernel just gave us this descriptor, nobody else knows it.
        let file = File::from(unsafe { OwnedFd::from_raw_fd(fd as i32) });
        let size = pages * PAGE_SIZE;
        file.set_len(size as u64)
            .map_err(|e| Error::Call("ftruncate", e))?;
        let mapping = MmapRegion::from_file(FileOffset::new(file, 0), size)
            .map_err(guest_memfd::Error::from)?;
        Ok(Self { pages, mapping })
    }

    /// Userspace touches all pages.
    pub fn touch(&self) -> Result<(), Error> {
        touch(&self.mapping, 0, self.pages);
        Ok(())
    }
}
