// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Faults race on one page of a fresh memfd_secret() file, and with the one ftruncate() that it can
//! have.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    ptr,
};

use super::{Act, Rng, Successes, at_once};
use crate::{Error, call, inject::Functions, round::PAGE_SIZE};

const FAULTS: usize = 0;
const FAULTS_FAIL: usize = 1;

/// A shared mapping of a page, which may lie beyond the end of its file.
struct Mapping(*mut libc::c_void);

// SAFETY: The memory is accessed by the kernel only.
unsafe impl Send for Mapping {}
// SAFETY: As above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn of(file: &File) -> Result<Self, Error> {
        // SAFETY: A mapping at an address that the kernel chooses.
        let at = unsafe {
            libc::mmap(
                ptr::null_mut(),
                PAGE_SIZE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(call("mmap of secret memory")(io::Error::last_os_error()));
        }
        Ok(Self(at))
    }

    /// Has the kernel write to the page, so that an error is an errno, and no signal.
    fn touch(&self) -> io::Result<()> {
        // SAFETY: The kernel writes to the mapping.
        match unsafe { libc::getrandom(self.0, 8, 0) } {
            8 => Ok(()),
            ..0 => Err(io::Error::last_os_error()),
            // arm64 tries one byte by itself after a fault.
            _ => Err(io::Error::from_raw_os_error(libc::EFAULT)),
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: The mapping is that of `of`, and nobody uses it any more.
        unsafe { libc::munmap(self.0, PAGE_SIZE) };
    }
}

fn secret() -> Result<File, Error> {
    // SAFETY: No pointers are passed.
    let fd = unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) };
    if fd < 0 {
        return Err(call("memfd_secret")(io::Error::last_os_error()));
    }
    // SAFETY: The kernel just gave us this descriptor, nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) }.into())
}

/// Half of the rounds, then the other half, in which six zaps in ten fail.
pub fn rounds(rounds: u32, rng: &mut Rng) -> Result<(), Error> {
    let successes = Successes::of(["faults", "faults that failed"]);
    let half = rounds.div_ceil(2);
    for number in 0..half {
        round(number, false, &successes, rng)?;
    }
    let functions = Functions::new(&["folio_zap_direct_map"], 60)?;
    for number in 0..half {
        round(number, true, &successes, rng)?;
    }
    drop(functions);
    // A quarter of them can have a fault that fails on purpose.
    successes.check(rounds / 4)
}

fn round(number: u32, errors: bool, successes: &Successes<2>, rng: &mut Rng) -> Result<(), Error> {
    let file = secret()?;
    let mapping = Mapping::of(&file)?;
    let grow = || {
        file.set_len(PAGE_SIZE as u64)
            .map_err(call("ftruncate of secret memory"))
    };
    let beyond_end = number % 2 == 0;
    if !beyond_end {
        grow()?;
    }
    let touch = || {
        let result = mapping.touch();
        // Beyond the end of the file a fault fails by itself.
        if errors && !beyond_end {
            successes.count(FAULTS_FAIL, result.as_ref().map_or(Ok(()), |()| Err(())));
        }
        match result {
            Ok(()) => {
                successes.count(FAULTS, Ok::<_, Error>(()));
                Ok(())
            }
            // What a fault that fails, or is beyond the end, is to a system call.
            Err(e) if (errors || beyond_end) && e.raw_os_error() == Some(libc::EFAULT) => Ok(()),
            Err(e) => Err(call("a fault on secret memory")(e)),
        }
    };
    let mut acts: Vec<Act<'_>> = vec![Box::new(touch), Box::new(touch), Box::new(touch)];
    if beyond_end {
        acts.push(Box::new(grow));
    }
    at_once(acts, rng)
}
