//! Whether idle cores halt: asked of the kernel (PM QoS, `/dev/cpu_dma_latency`).
//!
//! A core that halted takes several times as long to wake up as an answer takes, in a virtual
//! machine above all. Whoever goes through many small files sleeps for each answer, so its core
//! halts each time. The request counts for all cores until it is taken back, or its file is closed,
//! however the process ends; the one for a single core, in sysfs, would outlive the process.
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

/// Root may write it. In a container it is missing unless it is handed in.
const ASKED_AT: &str = "/dev/cpu_dma_latency";
/// No core may take longer to wake up, in microseconds: none halts.
const AWAKE: i32 = 0;
/// What any core takes is fast enough.
const ANY: i32 = i32::MAX;
/// With more cores than this most of them would be kept awake for nothing.
const CORES_MAX: i64 = 8;

/// Dropped, it asks for nothing.
pub struct Cores {
    /// None: they stay as they are.
    asked: Option<File>,
    awake: bool,
}

impl Default for Cores {
    fn default() -> Cores {
        // SAFETY: no memory is involved.
        let cores = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
        match (1..=CORES_MAX).contains(&cores) {
            true => Cores::asked_at(Path::new(ASKED_AT)),
            false => Cores::AS_THEY_ARE,
        }
    }
}

impl Cores {
    const AS_THEY_ARE: Cores = Cores {
        asked: None,
        awake: false,
    };

    pub fn asked_at(path: &Path) -> Cores {
        Cores {
            asked: OpenOptions::new().write(true).open(path).ok(),
            ..Cores::AS_THEY_ARE
        }
    }

    /// Asks that none halts, or takes it back.
    pub fn keep_awake(&mut self, awake: bool) {
        if awake == self.awake {
            return;
        }
        if let Some(file) = &mut self.asked {
            let latency = if awake { AWAKE } else { ANY };
            match file.write_all(&latency.to_ne_bytes()) {
                Ok(()) => self.awake = awake,
                // Closing it takes everything back.
                Err(_) => *self = Cores::AS_THEY_ARE,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_is_asked_once() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut cores = Cores::asked_at(file.path());
        for awake in [false, true, true, false, false, true] {
            cores.keep_awake(awake);
        }
        let (zero, most) = ([0; 4], i32::MAX.to_ne_bytes());
        assert_eq!(
            std::fs::read(file.path()).unwrap(),
            [zero, most, zero].concat()
        );
    }

    #[test]
    fn where_nobody_may_ask_they_stay_as_they_are() {
        let mut cores = Cores::asked_at(Path::new("/nowhere/cpu_dma_latency"));
        cores.keep_awake(true);
        assert!(!cores.awake);
        // Full: writing fails.
        let mut full = Cores::asked_at(Path::new("/dev/full"));
        full.keep_awake(true);
        assert!(full.asked.is_none());
    }
}
