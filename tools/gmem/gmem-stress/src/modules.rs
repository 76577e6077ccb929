// SPDX-License-Identifier: Apache-2.0 OR MIT

//! KVM's modules, taken out and put back.

use std::{ffi::OsStr, fs, io, path::PathBuf, process::Command};

use crate::{Error, call};

/// The modules that the machine has loaded from `/lib/modules`.
pub struct Modules(Vec<PathBuf>);

fn busybox(tool: &'static str, arg: impl AsRef<OsStr>) -> Result<(), Error> {
    let output = Command::new(tool).arg(arg).output().map_err(call(tool))?;
    if output.status.success() {
        Ok(())
    } else {
        let said = String::from_utf8_lossy(&output.stderr);
        Err(Error::Call(tool, io::Error::other(said.into_owned())))
    }
}

impl Modules {
    /// Finds them. Their files are named NUMBER-NAME.ko, in the order in which they are loaded.
    pub fn find() -> Result<Self, Error> {
        let entries = fs::read_dir("/lib/modules").map_err(call("/lib/modules"))?;
        let mut files = entries
            .map(|entry| Ok(entry?.path()))
            .collect::<io::Result<Vec<_>>>()
            .map_err(call("/lib/modules"))?;
        files.sort();
        Ok(Self(files))
    }

    /// Takes them out, which fails if somebody has a reference, and puts them back.
    pub fn reload(&self) -> Result<(), Error> {
        for file in self.0.iter().rev() {
            let stem = file.file_stem().unwrap_or_default().to_string_lossy();
            let name = stem.split_once('-').map_or(&*stem, |(_, name)| name);
            busybox("rmmod", name.replace('-', "_"))?;
        }
        self.0.iter().try_for_each(|file| busybox("insmod", file))
    }
}
