// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Linux in a gmem-vmm, and at its shell a program that holds the secret.

use std::{
    io::{Read, Write},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::Duration,
};

use clap::Args;
use direct_map_scan::Pattern;

use crate::{Error, Holder, call, hold};

/// What the guest's shell says when it waits for a command.
const PROMPT: &str = "guest # ";
/// Longer than any of our guests is silent, on an emulated machine that is busy.
const PATIENCE: Duration = Duration::from_secs(180);

/// What a guest boots.
#[derive(Args)]
pub struct Linux {
    /// Boot this Linux as the guest, rather than a program that only writes.
    #[arg(long, requires = "initrd")]
    kernel: Option<PathBuf>,

    /// Its initial RAM disk: it gives a shell, and has gmem-demo.
    #[arg(long, requires = "kernel")]
    initrd: Option<PathBuf>,

    /// The VMM that boots it.
    #[arg(long, default_value = "gmem-vmm")]
    vmm: PathBuf,
}

impl Linux {
    /// Is there one?
    pub fn is_given(&self) -> bool {
        self.kernel.is_some()
    }

    /// Boots it in memory of its own, and has it hold the secret in `pages` pages.
    pub fn run(&self, pattern: &Pattern, pages: usize, hidden: bool) -> Result<LinuxGuest, Error> {
        let mut command = Command::new(&self.vmm);
        command
            .args(["--cpus", "2", "--cmdline", "quiet"])
            .arg(format!(
                "--no-direct-map={}",
                if hidden { "on" } else { "off" }
            ))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        for (option, file) in [("--kernel", &self.kernel), ("--initrd", &self.initrd)] {
            command.arg(option).args(file);
        }
        let mut vmm = command.spawn().map_err(call("starting the VMM"))?;
        let (Some(keyboard), Some(screen)) = (vmm.stdin.take(), vmm.stdout.take()) else {
            return Err(Error::Exit("no console".into()));
        };
        let mut guest = LinuxGuest {
            vmm,
            keyboard,
            console: Console::new(screen),
            pages,
        };

        guest.console.wait_for(PROMPT)?;
        // As digits: that is not the secret.
        guest.enter(&format!("gmem-demo --pages {pages} --hold {pattern}"))?;
        guest.check_answer()?;
        Ok(guest)
    }
}

/// A guest, at whose shell the program runs.
pub struct LinuxGuest {
    vmm: Child,
    keyboard: ChildStdin,
    console: Console,
    pages: usize,
}

impl LinuxGuest {
    fn enter(&mut self, line: &str) -> Result<(), Error> {
        self.keyboard
            .write_all(format!("{line}\n").as_bytes())
            .map_err(call("typing at the guest's console"))
    }

    /// Has the program said that all its pages hold the secret?
    fn check_answer(&mut self) -> Result<(), Error> {
        let said = self.console.wait_for(hold::ANSWER)?;
        let holding = said
            .rsplit('\n')
            .next()
            .and_then(|line| line.trim().parse::<usize>().ok())
            .unwrap_or(0);
        match self.pages - holding.min(self.pages) {
            0 => Ok(()),
            wrong => Err(Error::NotWritten {
                wrong,
                pages: self.pages,
            }),
        }
    }
}

impl Holder for LinuxGuest {
    fn check(&mut self, _: &Pattern) -> Result<(), Error> {
        self.enter(hold::CHECK)?;
        self.check_answer()
    }

    /// Ends the program, the guest, and waits for the VMM.
    fn end(mut self) -> Result<(), Error> {
        self.enter(hold::END)?;
        self.console.wait_for(PROMPT)?;
        self.enter("exit")?;
        let status = self.vmm.wait().map_err(call("waiting for the VMM"))?;
        if !status.success() {
            return Err(Error::Exit(format!("{status}")));
        }
        Ok(())
    }
}

impl Drop for LinuxGuest {
    fn drop(&mut self) {
        // It is gone, unless something went wrong before.
        let _ = self.vmm.kill();
        let _ = self.vmm.wait();
    }
}

/// What the guest's console shows, passed on line by line.
struct Console {
    bytes: Receiver<Vec<u8>>,
    /// What nobody waited for so far.
    seen: String,
    /// The line that is not complete.
    line: String,
}

impl Console {
    fn new(mut screen: ChildStdout) -> Self {
        let (sender, bytes) = channel();
        thread::spawn(move || {
            let mut buffer = [0; 256];
            while let Ok(n @ 1..) = screen.read(&mut buffer) {
                if sender.send(buffer[..n].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self {
            bytes,
            seen: String::new(),
            line: String::new(),
        }
    }

    /// Reads until there is `text`, and returns what was before it.
    fn wait_for(&mut self, text: &'static str) -> Result<String, Error> {
        loop {
            if let Some(at) = self.seen.find(text) {
                let rest = self.seen.split_off(at + text.len());
                let mut said = std::mem::replace(&mut self.seen, rest);
                said.truncate(at);
                return Ok(said);
            }
            let bytes = self
                .bytes
                .recv_timeout(PATIENCE)
                .map_err(|e| Error::Silent {
                    text,
                    why: match e {
                        RecvTimeoutError::Timeout => "the guest is silent",
                        RecvTimeoutError::Disconnected => "the VMM ended",
                    },
                })?;
            let text = String::from_utf8_lossy(&bytes).replace('\r', "");
            self.show(&text);
            self.seen.push_str(&text);
        }
    }

    /// Passes on the lines that are complete now.
    fn show(&mut self, text: &str) {
        /// A shell's question where the cursor is.
        const WHERE: &str = "\x1b[6n";

        self.line.push_str(text);
        while let Some((line, rest)) = self.line.split_once('\n') {
            if !line.is_empty() {
                println!("  | {}", line.replace(WHERE, ""));
            }
            self.line = rest.to_owned();
        }
    }
}
