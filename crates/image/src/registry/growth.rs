//! A file that is read while it is being written: a layer is unpacked as it arrives.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex};

/// How far the file has come.
#[derive(Default)]
pub(super) struct Growth {
    state: Mutex<State>,
    grew: Condvar,
}

#[derive(Clone, Copy, Default)]
struct State {
    bytes: u64,
    end: Option<End>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Whole,
    Broken,
}

/// The writing side. Dropped before it says that the file is whole, it lets the reader fail.
pub(super) struct Grower(Arc<Growth>);

impl Grower {
    pub(super) fn new(growth: &Arc<Growth>) -> Self {
        Self(growth.clone())
    }

    /// The file is good up to here.
    pub(super) fn reached(&self, bytes: u64) {
        self.set(|state| state.bytes = bytes);
    }

    /// Nothing more comes.
    pub(super) fn whole(&self) {
        self.set(|state| state.end = Some(End::Whole));
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.state.lock().expect("growth lock is never poisoned"));
        self.0.grew.notify_all();
    }
}

impl Drop for Grower {
    fn drop(&mut self) {
        self.set(|state| state.end = state.end.or(Some(End::Broken)));
    }
}

/// The reading side; its reads wait for what is not there yet.
pub(super) struct Follow {
    pub(super) file: File,
    pub(super) at: u64,
    pub(super) growth: Arc<Growth>,
}

impl Read for Follow {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut state = self.growth.state.lock().expect("growth lock is never poisoned");
        while state.bytes <= self.at {
            match state.end {
                Some(End::Whole) => return Ok(0),
                Some(End::Broken) => return Err(io::Error::other("the download broke off")),
                None => state = self.growth.grew.wait(state).expect("growth lock is never poisoned"),
            }
        }
        let most = (state.bytes - self.at).min(buf.len() as u64) as usize;
        drop(state);
        let n = self.file.read_at(&mut buf[..most], self.at)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_wait_for_what_is_written_and_end_with_the_writer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        for (whole, text) in [(true, Some("onetwo")), (false, None)] {
            std::fs::write(&path, "one").unwrap();
            let growth = Arc::new(Growth::default());
            let mut follow = Follow { file: File::open(&path).unwrap(), at: 0, growth: growth.clone() };
            let grower = Grower::new(&growth);
            let reading = std::thread::spawn(move || {
                let mut all = String::new();
                follow.read_to_string(&mut all).ok().map(|_| all)
            });
            grower.reached(3);
            std::fs::write(&path, "onetwo").unwrap();
            grower.reached(6);
            if whole {
                grower.whole();
            }
            drop(grower);
            assert_eq!(reading.join().unwrap().as_deref(), text);
        }
    }
}
