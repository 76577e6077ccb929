// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A guest: its memory, its vCPUs and its devices.

use std::{
    fmt, io,
    sync::{
        Arc,
        mpsc::{self, Sender},
    },
    thread,
    time::Instant,
};

use guest_memfd::{
    GUEST_MEMFD_FLAG_INIT_SHARED, GUEST_MEMFD_FLAG_MMAP, GUEST_MEMFD_FLAG_NO_DIRECT_MAP, GuestRam,
    HugePages,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};

use crate::{
    Args, Huge, Switch, arch,
    devices::Devices,
    error::{Error, call},
    image,
    terminal::RawTerminal,
};

/// The flags that a guest's memory needs, with a direct map or without.
pub const FLAGS: u64 = GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED;

/// Why a guest does not run any more.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    PowerOff,
    Reset,
    Crash(String),
    Quit,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PowerOff => f.write_str("the guest powered off"),
            Self::Reset => f.write_str(
                "the guest asked for a reset, which ends it; its console may say why (a panic?)",
            ),
            Self::Crash(how) => write!(f, "the guest crashed: {how}"),
            Self::Quit => f.write_str("ended by Ctrl-A X"),
        }
    }
}

/// A guest that is ready to run.
pub struct Machine {
    vcpus: Vec<VcpuFd>,
    devices: Arc<Devices>,
    /// The interrupt controller, where it is a device.
    _irqchip: arch::IrqChip,
    // After what uses it.
    _ram: GuestRam,
}

impl Machine {
    /// Creates the guest and loads what it boots from.
    pub fn new(kvm: &Kvm, args: &Args) -> Result<Self, Error> {
        let path = args.kernel.as_deref().unwrap_or_else(|| "".as_ref());
        let (kind, kernel) = image::kernel(path)?;
        let initrd = args.initrd.as_deref().map(image::initrd).transpose()?;

        let vm = Arc::new(kvm.create_vm().map_err(call("KVM_CREATE_VM"))?);
        let flags = if args.no_direct_map == Switch::On {
            GUEST_MEMFD_FLAG_NO_DIRECT_MAP
        } else {
            0
        };
        let ram = memory(&vm, args, flags)?;

        arch::before_vcpus(&vm)?;
        let vcpus = (0..u64::from(args.cpus))
            .map(|id| vm.create_vcpu(id).map_err(call("KVM_CREATE_VCPU")))
            .collect::<Result<Vec<_>, _>>()?;
        let irqchip = arch::after_vcpus(&vm, &vcpus)?;
        let devices = Devices::new(&vm, &ram, &args.disk)?;

        let guest = arch::Guest {
            ram: &ram,
            vcpus: &vcpus,
            disks: devices.disks(),
            #[cfg(target_arch = "x86_64")]
            kvm,
            // KVM cannot map VMCB and VMCS pages there: an L2 entry would end the VM.
            #[cfg(target_arch = "x86_64")]
            nested: args.no_direct_map == Switch::Off,
        };
        guest.boot(kind, &kernel, initrd.as_deref(), &args.cmdline)?;
        Ok(Self {
            vcpus,
            devices: Arc::new(devices),
            _irqchip: irqchip,
            _ram: ram,
        })
    }

    /// Runs the guest until it ends.
    pub fn run(self) -> Result<End, Error> {
        let terminal = RawTerminal::new();
        let (ended, end) = mpsc::channel();
        let console = Arc::clone(self.devices.console());
        let quit = ended.clone();
        spawn("console", move || {
            if console.type_in() {
                let _ = quit.send(End::Quit);
            }
        })?;
        for (id, mut vcpu) in self.vcpus.into_iter().enumerate() {
            let devices = Arc::clone(&self.devices);
            let ended: Sender<End> = ended.clone();
            spawn(&format!("vcpu{id}"), move || {
                let end = run_vcpu(&mut vcpu, &devices);
                // Nobody waits for it if another vCPU was first.
                let _ = ended.send(end);
            })?;
        }
        // The other threads end with the process.
        let end = end.recv().unwrap_or(End::Quit);
        drop(terminal);
        Ok(end)
    }
}

/// Creates the guest's memory, and tells how far that is if it takes long.
fn memory(vm: &Arc<VmFd>, args: &Args, flags: u64) -> Result<GuestRam, Error> {
    let ranges = arch::ram(args.memory);
    let start = Instant::now();
    let mut told = 0;
    let mut progress = |done: u64, all: u64| {
        let seconds = start.elapsed().as_secs();
        if seconds > told {
            told = seconds;
            eprintln!(
                "gmem-vmm: [{seconds} s] {} of {} MiB of RAM allocated",
                done >> 20,
                all >> 20
            );
        }
    };

    let ram = match args.huge_pages {
        Huge::Off => GuestRam::create(vm, &ranges, flags)?,
        Huge::Auto => {
            GuestRam::create_in_huge_pages(vm, &ranges, flags, HugePages::Auto, &mut progress)?
        }
        Huge::On => {
            GuestRam::create_in_huge_pages(vm, &ranges, flags, HugePages::On, &mut progress)?
        }
    };
    if args.prealloc {
        ram.file().allocate_all(progress)?;
    }
    Ok(ram)
}

fn spawn(name: &str, act: impl FnOnce() + Send + 'static) -> Result<(), Error> {
    thread::Builder::new()
        .name(name.into())
        .spawn(act)
        .map(drop)
        .map_err(call("starting a thread"))
}

/// Runs a vCPU until it ends the guest.
fn run_vcpu(vcpu: &mut VcpuFd, devices: &Devices) -> End {
    loop {
        let exit = match vcpu.run() {
            Ok(exit) => exit,
            Err(e) => match io::Error::from(e).kind() {
                io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock => continue,
                _ => return End::Crash(format!("KVM_RUN: {e}")),
            },
        };
        match arch::handle(exit, devices) {
            None => (),
            Some(end) => return end,
        }
    }
}

/// What is the same on all architectures: memory that is a disk's, or nobody's.
pub fn handle(exit: VcpuExit<'_>, devices: &Devices) -> Option<End> {
    match exit {
        VcpuExit::MmioRead(addr, data) => devices.read(addr, data),
        VcpuExit::MmioWrite(addr, data) => devices.write(addr, data),
        VcpuExit::Intr => (),
        VcpuExit::Shutdown => return Some(End::Crash("a fault while handling faults".into())),
        other => return Some(End::Crash(format!("{other:x?}"))),
    }
    None
}

/// The command line of a kernel, which ends with a zero.
pub fn command_line(words: &[&str], max: usize) -> Result<Vec<u8>, Error> {
    let mut line = words.join(" ").trim().to_owned().into_bytes();
    if line.len() >= max || line.contains(&0) {
        return Err(Error::CommandLine {
            len: line.len(),
            max: max - 1,
        });
    }
    line.push(0);
    Ok(line)
}
