// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The last close of a guest_memfd races with the deletion of its slots, with KVM_RUN, with holes
//! that are punched through another descriptor, with munmap(), and with the end of a reference that
//! somebody else has.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use guest_memfd::GuestMemfd;
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use super::{
    Act, Rng, at_once,
    guest::{CODE, DATA, Guest},
    process::Holder,
};
use crate::{Error, call, round::PAGE};

const PAGES: usize = 16;

/// Whoever else has a reference to the file.
enum Other {
    Nobody,
    /// A process that received it.
    Process(Holder),
    /// A socket that it was sent to, which was sent to itself.
    Cycle(UnixStream),
    /// An io_uring, which lets go of it later.
    Ring(OwnedFd),
}

impl Other {
    const KINDS: u32 = 4;

    /// Before there is a file: a process must not have one by its birth.
    fn new(number: u32) -> Result<Self, Error> {
        Ok(match number % Self::KINDS {
            0 => Self::Nobody,
            1 => Self::Process(Holder::new()?),
            2 => {
                let (socket, theirs) = UnixStream::pair().map_err(call("socketpair"))?;
                socket
                    .send_with_fd([0].as_slice(), theirs.as_raw_fd())
                    .map_err(call("sendmsg"))?;
                Self::Cycle(socket)
            }
            _ => Self::Ring(ring()?),
        })
    }

    /// Gives it a reference.
    fn take(&self, file: &File) -> Result<(), Error> {
        let send = |socket: &UnixStream| {
            socket
                .send_with_fd([0].as_slice(), file.as_raw_fd())
                .map(drop)
                .map_err(call("sendmsg"))
        };
        match self {
            Self::Nobody => Ok(()),
            Self::Process(holder) => send(holder.socket()),
            Self::Cycle(socket) => send(socket),
            Self::Ring(ring) => register(ring, file),
        }
    }

    fn end(self) -> Result<(), Error> {
        match self {
            Self::Process(holder) => holder.end(),
            _ => Ok(()),
        }
    }
}

fn ring() -> Result<OwnedFd, Error> {
    /// `struct io_uring_params`, all zero.
    #[repr(C, align(8))]
    struct Params([u8; 120]);

    let mut params = Params([0; 120]);
    // SAFETY: The kernel writes to no more than the parameters.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, &raw mut params) };
    if fd < 0 {
        return Err(call("io_uring_setup")(io::Error::last_os_error()));
    }
    // SAFETY: The kernel just gave us this descriptor, nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn register(ring: &OwnedFd, file: &File) -> Result<(), Error> {
    const IORING_REGISTER_FILES: u32 = 2;

    let files = [file.as_raw_fd()];
    // SAFETY: The kernel reads the one descriptor.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_io_uring_register,
            ring.as_raw_fd(),
            IORING_REGISTER_FILES,
            files.as_ptr(),
            files.len(),
        )
    };
    if ret < 0 {
        return Err(call("io_uring_register")(io::Error::last_os_error()));
    }
    Ok(())
}

pub fn round(number: u32, rng: &mut Rng) -> Result<(), Error> {
    let other = Other::new(number)?;
    let guest = Guest::new(PAGES)?;
    let range = guest.range();
    guest
        .memory
        .allocate(range.start, PAGES as u64 / 2 * PAGE)
        .map_err(call("fallocate"))?;
    let mut vcpu = guest.vm.create_vcpu(0).map_err(call("KVM_CREATE_VCPU"))?;
    guest.start(&vcpu)?;
    let duplicate = guest.memory.file().try_clone().map_err(call("dup"))?;
    other.take(guest.memory.file())?;

    let Guest {
        vm,
        memory,
        code,
        data,
    } = guest;
    let acts: Vec<Act<'_>> = vec![
        // It halts, or has no memory any more, which has many errors.
        Box::new(|| {
            let _ = vcpu.run();
            Ok(())
        }),
        Box::new(|| {
            GuestMemfd::unbind(&vm, DATA)?;
            // The other slot is there when the file goes, or also goes.
            if number / Other::KINDS % 2 == 0 {
                GuestMemfd::unbind(&vm, CODE)?;
            }
            Ok(())
        }),
        Box::new(move || punch(&duplicate, range.start, PAGES as u64 * PAGE)),
        Box::new(move || {
            drop((code, data));
            Ok(())
        }),
        Box::new(move || {
            drop(memory);
            Ok(())
        }),
        Box::new(move || other.end()),
    ];
    at_once(acts, rng)
}

fn punch(file: &File, offset: u64, len: u64) -> Result<(), Error> {
    let mode = libc::FALLOC_FL_KEEP_SIZE | libc::FALLOC_FL_PUNCH_HOLE;
    // SAFETY: No pointers are passed.
    let ret = unsafe { libc::fallocate(file.as_raw_fd(), mode, offset as i64, len as i64) };
    if ret == 0 {
        Ok(())
    } else {
        Err(call("fallocate")(io::Error::last_os_error()))
    }
}
