//! System calls on /dev/fuse and on mount points.
use super::abi::{IOCTL_BACKING_CLOSE, IOCTL_BACKING_OPEN};
use super::cores::Cores;
use super::eager::{Eager, LOOK};
use super::notice::Notice;
use super::reply::Message;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::thread::yield_now;
use std::time::Instant;

/// A connection to the kernel. Readers must use one thread; anybody may write.
pub struct Device(File);

/// `struct fuse_backing_map`
#[repr(C)]
struct BackingMap {
    fd: i32,
    flags: u32,
    padding: u64,
}

/// What a wait for the next request ended with.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    Message(usize),
    /// The other descriptor is readable: stop.
    Stop,
    /// The kernel has ended the connection, or nothing is mounted with the descriptor.
    Ended,
}

/// How the one thread that reads waits.
#[derive(Default)]
pub struct Waits {
    eager: Eager,
    cores: Cores,
}

impl Device {
    /// Takes a copy of the descriptor; the caller keeps its own. Reads no longer block on either.
    pub fn duplicate(fd: RawFd) -> io::Result<Device> {
        if fd < 0 {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        // SAFETY: borrowed only for the call below, which fails cleanly on a closed number.
        let own = unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned()?;
        // SAFETY: fcntl on a descriptor that we own.
        let flags = check(unsafe { libc::fcntl(own.as_raw_fd(), libc::F_GETFL) })?;
        // SAFETY: as above.
        check(unsafe { libc::fcntl(own.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) })?;
        Ok(Device(File::from(own)))
    }

    /// Waits for the next request, or for `stop` to become readable.
    pub fn receive(
        &self,
        buffer: &mut [u8],
        waits: &mut Waits,
        stop: BorrowedFd<'_>,
    ) -> io::Result<Received> {
        if let Some(received) = self.look(buffer)? {
            return Ok(received);
        }
        let since = Instant::now();
        let looks = waits.eager.looks();
        waits.cores.keep_awake(looks);
        let mut found = match looks {
            true => self.look_again(buffer, since)?,
            false => None,
        };
        loop {
            if let Some(received) = found {
                waits.eager.waited(since.elapsed());
                return Ok(received);
            }
            // Who sleeps keeps nobody awake.
            waits.cores.keep_awake(false);
            if self.wait(stop)? {
                return Ok(Received::Stop);
            }
            found = self.look(buffer)?;
        }
    }

    /// Looks for a while. Whoever else wants this core has it before each look.
    fn look_again(&self, buffer: &mut [u8], since: Instant) -> io::Result<Option<Received>> {
        loop {
            yield_now();
            let received = self.look(buffer)?;
            if received.is_some() || since.elapsed() > LOOK {
                return Ok(received);
            }
        }
    }

    /// None: there is no request.
    fn look(&self, buffer: &mut [u8]) -> io::Result<Option<Received>> {
        loop {
            match (&self.0).read(buffer) {
                Ok(0) => return Ok(Some(Received::Ended)),
                Ok(length) => return Ok(Some(Received::Message(length))),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => return Ok(None),
                    // ENOENT: the request was given up while we took it.
                    Some(libc::EINTR | libc::ENOENT) => {}
                    Some(libc::ENODEV | libc::EPERM | libc::ECONNABORTED | libc::ECONNRESET) => {
                        return Ok(Some(Received::Ended));
                    }
                    _ => return Err(error),
                },
            }
        }
    }

    /// True when `stop` is readable.
    fn wait(&self, stop: BorrowedFd<'_>) -> io::Result<bool> {
        let mut watched = [watch(self.0.as_fd()), watch(stop)];
        // SAFETY: two initialised entries, both descriptors borrowed for the call.
        match check(unsafe { libc::poll(watched.as_mut_ptr(), 2, -1) }) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
            _ => Ok(watched[1].revents != 0),
        }
    }

    /// Writes one whole message.
    pub fn send(&self, message: &[u8]) -> io::Result<()> {
        (&self.0).write(message).map(drop)
    }

    /// Asks the kernel to hand out again what a dead server had taken.
    pub fn resend(&self) -> io::Result<()> {
        self.send(Message::default().notice(&Notice::Resend).sealed())
    }

    /// Lets the kernel read `file` itself; returns the id to name it by.
    pub fn backing_open(&self, file: &File) -> io::Result<u32> {
        let map = BackingMap {
            fd: file.as_raw_fd(),
            flags: 0,
            padding: 0,
        };
        // SAFETY: the kernel reads the struct, which lives until the call returns.
        let id = unsafe { libc::ioctl(self.0.as_raw_fd(), IOCTL_BACKING_OPEN as _, &map) };
        check(id).map(|id| id as u32)
    }

    /// Ends what `backing_open` began, once no open file uses it.
    pub fn backing_close(&self, id: u32) {
        // SAFETY: the kernel reads one u32. An id that it does not know is an error without effect.
        unsafe { libc::ioctl(self.0.as_raw_fd(), IOCTL_BACKING_CLOSE as _, &id) };
    }
}

/// Opens /dev/fuse, not inherited by child processes.
pub fn open() -> io::Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_CLOEXEC;
    // SAFETY: a constant path.
    let fd = check(unsafe { libc::open(c"/dev/fuse".as_ptr(), flags) })?;
    // SAFETY: just opened, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Mounts read-only, without set-uid programs and devices; `source` is what `mount` shows.
pub fn mount(fd: RawFd, mountpoint: &str, source: &str, options: &str) -> io::Result<()> {
    let options = CString::new(format!("fd={fd},rootmode=40000,{options}"))?;
    let (point, source) = (CString::new(mountpoint)?, CString::new(source)?);
    let flags = libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV;
    // SAFETY: four strings that live until the call returns.
    check(unsafe {
        let kind = c"fuse.dfs".as_ptr();
        libc::mount(
            source.as_ptr(),
            point.as_ptr(),
            kind,
            flags,
            options.as_ptr().cast(),
        )
    })
    .map(drop)
}

/// Takes the mount out of sight at once; with `force` the kernel also ends the connection, so that
/// nobody waits on it any more.
pub fn unmount(mountpoint: &str, force: bool) -> io::Result<()> {
    let point = CString::new(mountpoint)?;
    let force = if force { libc::MNT_FORCE } else { 0 };
    let flags = libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW | force;
    // SAFETY: one string that lives until the call returns.
    check(unsafe { libc::umount2(point.as_ptr(), flags) }).map(drop)
}

fn watch(fd: BorrowedFd<'_>) -> libc::pollfd {
    libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    }
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn cores_are_kept_awake_while_it_looks_and_not_while_it_sleeps() {
        let asked = tempfile::NamedTempFile::new().unwrap();
        let mut waits = Waits {
            eager: Eager::looking(),
            cores: Cores::asked_at(asked.path()),
        };
        let (_kernel, end) = UnixDatagram::pair().unwrap();
        let device = Device::duplicate(end.as_raw_fd()).unwrap();
        let (stop, signal) = io::pipe().unwrap();
        drop(signal);
        let received = device.receive(&mut [0; 16], &mut waits, stop.as_fd());
        assert_eq!(received.unwrap(), Received::Stop);
        let written = std::fs::read(asked.path()).unwrap();
        assert_eq!(written, [[0; 4], i32::MAX.to_ne_bytes()].concat());
    }
}
