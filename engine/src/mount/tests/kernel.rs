//! A kernel for tests: the other end of a socket that a session serves.
use super::abi::{HEADER, op};
use super::content::Digest;
use super::feed::entries;
use super::feed::tests::{event, record};
use super::session::{Options, Session};
use crate::contents::seal::seal;
use sha2::Digest as _;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

pub const WAIT: Duration = Duration::from_secs(10);

/// Speaks as the kernel does.
pub struct Kernel {
    pub socket: UnixDatagram,
    pub unique: u64,
    pub session: Arc<Session>,
    pub dir: TempDir,
}

/// (errno, what came with it)
pub type Answer = (i32, Vec<u8>);

impl Kernel {
    pub fn new(change: impl FnOnce(&mut Options)) -> Kernel {
        Kernel::noting(change, None)
    }

    /// The same; what is open is noted in `table`.
    pub fn noting(change: impl FnOnce(&mut Options), table: Option<File>) -> Kernel {
        let mut options = Options {
            passthrough: true,
            no_open: false,
            deadline: WAIT,
            ttl: Duration::from_secs(3_600),
            uid: 1,
            gid: 2,
            xattr: false,
            owners: true,
        };
        change(&mut options);
        let mut kernel = Kernel::of(options, |session, end| session.serve(end, table));
        assert_eq!(kernel.init(45).0, 0);
        kernel
    }

    /// The same kernel, served by the next session; `prepare` is called before that begins.
    pub fn next(&self, table: Option<File>, prepare: impl FnOnce(&Session)) -> Kernel {
        Kernel::of(self.session.options, |session, end| {
            prepare(session);
            session.adopt(end, table)
        })
    }

    fn of(options: Options, begin: impl FnOnce(&Arc<Session>, RawFd) -> io::Result<()>) -> Kernel {
        let (socket, end) = UnixDatagram::pair().unwrap();
        socket.set_read_timeout(Some(WAIT)).unwrap();
        let session = Session::new(options);
        begin(&session, end.as_raw_fd()).unwrap();
        Kernel {
            socket,
            unique: 0,
            session,
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub fn init(&mut self, minor: u32) -> Answer {
        let body: Vec<u8> = [7, minor, 1 << 20, u32::MAX, u32::MAX]
            .iter()
            .flat_map(|word: &u32| word.to_le_bytes())
            .collect();
        self.ask(op::INIT, 0, &body)
    }

    /// Sends a request; returns its id.
    pub fn send(&mut self, opcode: u32, node: u64, body: &[u8]) -> u64 {
        self.unique += 2;
        let mut bytes = Vec::new();
        bytes.extend(((HEADER + body.len()) as u32).to_le_bytes());
        bytes.extend(opcode.to_le_bytes());
        bytes.extend(self.unique.to_le_bytes());
        bytes.extend(node.to_le_bytes());
        bytes.extend([0; 16]);
        bytes.extend(body);
        self.socket.send(&bytes).unwrap();
        self.unique
    }

    /// The next message: (unique, code, rest).
    pub fn receive(&self) -> (u64, i32, Vec<u8>) {
        let mut bytes = vec![0; 1 << 16];
        let length = self.socket.recv(&mut bytes).unwrap();
        assert_eq!(
            u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize,
            length
        );
        let code = i32::from_le_bytes(bytes[4..8].try_into().unwrap());
        let unique = u64::from_le_bytes(bytes[8..16].try_into().unwrap());
        (unique, code, bytes[16..length].to_vec())
    }

    pub fn ask(&mut self, opcode: u32, node: u64, body: &[u8]) -> Answer {
        let unique = self.send(opcode, node, body);
        self.answer_to(unique)
    }

    pub fn answer_to(&self, unique: u64) -> Answer {
        loop {
            let (to, code, rest) = self.receive();
            if to == unique {
                return (-code, rest);
            }
            assert_eq!(to, 0, "an answer that nobody waits for");
        }
    }

    pub fn lookup(&mut self, parent: u64, name: &str) -> u64 {
        let name = CString::new(name).unwrap();
        let (errno, entry) = self.ask(op::LOOKUP, parent, name.as_bytes_with_nul());
        assert_eq!(errno, 0);
        word(&entry, 0)
    }

    pub fn read(&mut self, node: u64, offset: u64, size: u32) -> Answer {
        self.ask(op::READ, node, &read_body(offset, size))
    }

    pub fn put(&self, path: &str, version: u64, content: &[u8], here: bool) {
        let digest = sha2::Sha256::digest(content).into();
        let place = here.then(|| (digest, self.object(version, content)));
        self.show(path, &record(0, version, content), version, place);
    }

    /// Shows what a watch tells of one path.
    pub fn show(
        &self,
        path: &str,
        record: &[u8],
        revision: u64,
        place: Option<(Digest, Arc<CStr>)>,
    ) {
        let told = event(path, record, false, revision);
        let places = place.into_iter().collect();
        self.session
            .show(&entries(&told, 0).unwrap(), places, false);
    }

    pub fn object(&self, version: u64, content: &[u8]) -> Arc<CStr> {
        let path = self.dir.path().join(version.to_string());
        std::fs::write(&path, content).unwrap();
        seal(&File::open(&path).unwrap()).unwrap();
        CString::new(path.to_str().unwrap()).unwrap().into()
    }

    pub fn miss(&self) -> u64 {
        self.session.next_misses(1, WAIT)[0].0
    }

    pub fn stat(&self, name: &str) -> u64 {
        self.session
            .stats()
            .iter()
            .find(|stat| stat.0 == name)
            .unwrap()
            .1
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        self.session.close();
        assert!(!self.session.running());
    }
}

pub fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

pub fn read_body(offset: u64, size: u32) -> Vec<u8> {
    let mut body = vec![0; 40];
    body[8..16].copy_from_slice(&offset.to_le_bytes());
    body[16..20].copy_from_slice(&size.to_le_bytes());
    body
}

pub fn any(_: &mut Options) {}
