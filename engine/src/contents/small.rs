//! Small contents that become files, many in one go: for each alone, what Python does around the
//! system calls costs half as much as they do.
use super::seal::seal;
use super::sha256::digests;
use super::{Digest, hex};
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Modes of an object's file, as `dfs.cache.objects` has them.
const UNFINISHED: u32 = 0o200;
const WHOLE: u32 = 0o444;

/// Makes a file of each content that has that digest and no file yet; see `store_objects` of the
/// stub.
pub fn store(root: &Path, contents: &[(&[u8], &[u8])]) -> Vec<bool> {
    let data: Vec<&[u8]> = contents.iter().map(|(_, data)| *data).collect();
    let found = digests(&data).into_iter();
    found
        .zip(contents)
        .map(|(found, (digest, data))| found == **digest && make(root, &found, data).is_ok())
        .collect()
}

/// Of a file that could not be written an empty one is left: at its path may be another by now.
fn make(root: &Path, digest: &Digest, data: &[u8]) -> io::Result<()> {
    let name = hex(digest);
    let path = root.join(&name[..2]).join(name);
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(UNFINISHED)
        .open(&path)?;
    let written = fill(&file, data);
    if written.is_err() {
        file.set_len(0)?;
    }
    written
}

fn fill(mut file: &File, data: &[u8]) -> io::Result<()> {
    file.write_all(data)?;
    file.set_permissions(Permissions::from_mode(WHOLE))?;
    seal(file)
}
