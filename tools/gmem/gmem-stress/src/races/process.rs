// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Processes that are killed, or that take a descriptor with them.

use std::{
    io::{self, Read},
    os::unix::net::UnixStream,
    thread,
    time::{Duration, Instant},
};

use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use crate::{Error, call};

/// How a process ended.
#[derive(Debug, PartialEq)]
pub enum End {
    Exit(i32),
    Signal(i32),
}

/// A child process. It is killed when this is dropped.
pub struct Process(Option<libc::pid_t>);

impl Process {
    /// Has a child run `act` and exit with what it returns. No other thread may be running.
    pub fn spawn(act: impl FnOnce() -> i32) -> Result<Self, Error> {
        // SAFETY: The child has the only thread that there was, so that it can do whatever the
        // parent could.
        match unsafe { libc::fork() } {
            -1 => Err(call("fork")(io::Error::last_os_error())),
            0 => {
                let status = act();
                // SAFETY: It has no effect on memory. (What the parent has not printed yet, it
                // prints itself.)
                unsafe { libc::_exit(status) }
            }
            pid => Ok(Self(Some(pid))),
        }
    }

    /// Sends SIGKILL.
    pub fn kill(&self) {
        if let Some(pid) = self.0 {
            // SAFETY: It has no effect on memory, and the child has not been waited for.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
    }

    /// Returns how it ended, or `None` if it does not within that time.
    pub fn wait(&mut self, limit: Duration) -> Result<Option<End>, Error> {
        let start = Instant::now();
        let Some(pid) = self.0 else { return Ok(None) };
        let mut status = 0;
        loop {
            // SAFETY: `status` can be written to.
            match unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG) } {
                -1 => return Err(call("waitpid")(io::Error::last_os_error())),
                0 if start.elapsed() > limit => return Ok(None),
                0 => thread::sleep(Duration::from_millis(1)),
                _ => break,
            }
        }
        self.0 = None;
        Ok(Some(if libc::WIFSIGNALED(status) {
            End::Signal(libc::WTERMSIG(status))
        } else {
            End::Exit(libc::WEXITSTATUS(status))
        }))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        // Nobody asks how it ended; one that does not is seen by whoever waits for the machine.
        let _ = self.wait(Duration::from_secs(60));
    }
}

/// A process that receives one descriptor, and exits with it when this is dropped.
pub struct Holder {
    socket: UnixStream,
    // After the socket, whose end it waits for.
    process: Process,
}

impl Holder {
    /// Starts it. No other thread may be running.
    pub fn new() -> Result<Self, Error> {
        let (socket, theirs) = UnixStream::pair().map_err(call("socketpair"))?;
        let ours = socket.try_clone().map_err(call("dup"))?;
        let process = Process::spawn(move || {
            drop(ours);
            let mut theirs = theirs;
            let received = theirs.recv_with_fd(&mut [0]);
            let _ = theirs.read(&mut [0]);
            i32::from(!matches!(received, Ok((1, Some(_)))))
        })?;
        Ok(Self { socket, process })
    }

    /// The socket to send it by.
    pub fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// Has it exit, and waits for that.
    pub fn end(mut self) -> Result<(), Error> {
        self.socket
            .shutdown(std::net::Shutdown::Both)
            .map_err(call("shutdown"))?;
        match self.process.wait(Duration::from_secs(60))? {
            Some(End::Exit(0)) => Ok(()),
            other => Err(Error::Race(format!(
                "a process that holds a descriptor ends with {other:?}"
            ))),
        }
    }
}
