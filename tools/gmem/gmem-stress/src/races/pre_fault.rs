// SPDX-License-Identifier: Apache-2.0 OR MIT

//! KVM_PRE_FAULT_MEMORY of a whole slot races with the deletion of the slot, with holes and with a
//! signal each millisecond. It has to get ahead, and to end when its process is killed.

use std::{
    convert::Infallible,
    io,
    os::fd::{AsRawFd, BorrowedFd},
    panic::{self, AssertUnwindSafe},
    ptr,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use guest_memfd::GuestMemfd;
use kvm_bindings::{KVMIO, kvm_pre_fault_memory};
use vmm_sys_util::{ioctl::ioctl_with_mut_ref, ioctl_iowr_nr};

use super::{
    Act, Rng, at_once,
    guest::{DATA, Guest},
    process::{End, Process},
};
use crate::{Error, call, round::PAGE};

ioctl_iowr_nr!(KVM_PRE_FAULT_MEMORY, KVMIO, 0xd5, kvm_pre_fault_memory);

const PAGES: u64 = 1024;
/// How far it has to get, and for how long it runs at least.
const PROGRESS: u64 = 16;
const LENGTH: Duration = Duration::from_millis(500);
/// How long the slot stays, at most, in microseconds.
const BOUND_FOR: u64 = 20_000;
/// How long that and the end may take on an emulated machine with checks.
const LIMIT: Duration = Duration::from_secs(60);

/// A number that a process and its children share.
struct Shared(*const AtomicU64);

// SAFETY: It is atomic, and outlives the children that use it.
unsafe impl Sync for Shared {}

impl Shared {
    fn new() -> Result<Self, Error> {
        // SAFETY: A mapping at an address that the kernel chooses.
        let at = unsafe {
            libc::mmap(
                ptr::null_mut(),
                PAGE as usize,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(call("mmap")(io::Error::last_os_error()));
        }
        Ok(Self(at.cast()))
    }

    fn get(&self) -> &AtomicU64 {
        // SAFETY: It is mapped until this is dropped, and zero is a number.
        unsafe { &*self.0 }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: It is the mapping of `new`.
        unsafe { libc::munmap(self.0.cast_mut().cast(), PAGE as usize) };
    }
}

pub fn round(rng: &mut Rng) -> Result<(), Error> {
    let pages = Shared::new()?;
    let seed = rng.fork();
    let start = Instant::now();
    let mut process = Process::spawn(|| {
        let Err(e) = race(&pages, seed);
        eprintln!("error: {e}");
        1
    })?;
    while start.elapsed() < LENGTH || pages.get().load(Ordering::Relaxed) < PROGRESS {
        thread::sleep(Duration::from_millis(1));
        if let Some(end) = process.wait(Duration::ZERO)? {
            return Err(Error::Race(format!("a child ended by itself: {end:?}")));
        }
        if start.elapsed() > LIMIT {
            return Err(Error::Race(format!(
                "KVM_PRE_FAULT_MEMORY has done {} pages in {} s",
                pages.get().load(Ordering::Relaxed),
                LIMIT.as_secs()
            )));
        }
    }
    process.kill();
    match process.wait(LIMIT)? {
        Some(End::Signal(libc::SIGKILL)) => Ok(()),
        Some(end) => Err(Error::Race(format!("a child that was killed: {end:?}"))),
        None => Err(Error::Race("a child that was killed does not end".into())),
    }
}

extern "C" fn nothing(_: libc::c_int) {}

/// Has SIGALRM interrupt this process each millisecond, and do nothing else.
fn alarm_each_millisecond() -> io::Result<()> {
    let millisecond = libc::timeval {
        tv_sec: 0,
        tv_usec: 1000,
    };
    let timer = libc::itimerval {
        it_interval: millisecond,
        it_value: millisecond,
    };
    // SAFETY: All zero is no flags and an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = nothing as *const () as usize;
    // SAFETY: The handler does nothing; the structures are valid.
    let ret = unsafe {
        match libc::sigaction(libc::SIGALRM, &action, ptr::null_mut()) {
            0 => libc::setitimer(libc::ITIMER_REAL, &timer, ptr::null_mut()),
            error => error,
        }
    };
    if ret == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Blocks SIGALRM in this thread, so that another one gets it, or unblocks it.
fn mask_alarm(how: libc::c_int) {
    // SAFETY: The set is initialized before it is used.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGALRM);
        libc::pthread_sigmask(how, &set, ptr::null_mut());
    }
}

/// A thread without an end. An error ends this process, which its parent sees.
fn without_end<'a>(act: impl FnOnce() -> Result<Infallible, Error> + Send + 'a) -> Act<'a> {
    Box::new(|| {
        match panic::catch_unwind(AssertUnwindSafe(act)) {
            Ok(Ok(never)) => match never {},
            Ok(Err(e)) => eprintln!("error: {e}"),
            // The panic has told the rest.
            Err(_) => eprintln!("error: a thread panicked"),
        }
        // SAFETY: It ends the process, whose other threads wait for nothing.
        unsafe { libc::_exit(1) }
    })
}

/// Races for ever, counting pages.
fn race(pages: &Shared, mut rng: Rng) -> Result<Infallible, Error> {
    let guest = &Guest::new(PAGES as usize)?;
    let vcpu = &guest.vm.create_vcpu(0).map_err(call("KVM_CREATE_VCPU"))?;
    let range = guest.range();
    mask_alarm(libc::SIG_BLOCK);
    alarm_each_millisecond().map_err(call("setitimer"))?;

    let mut pauses = rng.fork();
    let mut holes = rng.fork();
    let start = range.start;
    let acts: Vec<Act<'_>> = vec![
        without_end(move || {
            mask_alarm(libc::SIG_UNBLOCK);
            loop {
                let mut rest = kvm_pre_fault_memory {
                    gpa: range.start,
                    size: range.end - range.start,
                    ..Default::default()
                };
                while rest.size > 0 {
                    let size = rest.size;
                    let result = pre_fault(vcpu.as_raw_fd(), &mut rest);
                    pages
                        .get()
                        .fetch_add((size - rest.size) / PAGE, Ordering::Relaxed);
                    match result.map_err(|e| e.raw_os_error()) {
                        Ok(()) | Err(Some(libc::EINTR | libc::EAGAIN)) => (),
                        // The slot is gone, for now.
                        Err(Some(libc::ENOENT | libc::EFAULT)) => break,
                        Err(e) => {
                            let e = io::Error::from_raw_os_error(e.unwrap_or(0));
                            return Err(call("KVM_PRE_FAULT_MEMORY")(e));
                        }
                    }
                }
            }
        }),
        without_end(move || {
            loop {
                GuestMemfd::unbind(&guest.vm, DATA)?;
                guest.bind_data()?;
                thread::sleep(Duration::from_micros(pauses.below(BOUND_FOR)));
            }
        }),
        without_end(move || {
            loop {
                let first = holes.below(PAGES);
                let count = 1 + holes.below(PAGES - first);
                guest
                    .memory
                    .punch_hole(start + first * PAGE, count * PAGE)
                    .map_err(call("fallocate"))?;
            }
        }),
    ];
    at_once(acts, &mut rng)?;
    Err(Error::Race("threads without an end have ended".into()))
}

/// One call, after which `rest` is what it has not done.
fn pre_fault(vcpu: i32, rest: &mut kvm_pre_fault_memory) -> io::Result<()> {
    // SAFETY: The vCPU's descriptor is open.
    let vcpu = unsafe { BorrowedFd::borrow_raw(vcpu) };
    // SAFETY: It is the structure of this ioctl.
    match unsafe { ioctl_with_mut_ref(&vcpu, KVM_PRE_FAULT_MEMORY(), rest) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
