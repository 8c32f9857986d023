//! The whole machine out of memory, as the kernel's log tells it (/dev/kmsg): an event about the node. Containers that run
//! into limits of their own are no matter of this; their status says so.

use crate::eviction::node_ref;
use crate::kubelet::Shared;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags, SeekFrom};
use rustix::io::Errno;
use std::io;
use std::sync::Arc;
use tokio::io::unix::AsyncFd;

/// A record of the log is no longer than this.
const LONGEST: usize = 8192;

/// Tells of what happens from now on, for as long as the log can be read.
pub(crate) async fn watch(kubelet: Arc<Shared>) {
    let error = match open() {
        Ok(log) => read(&log, |text| {
            tracing::warn!("{text}");
            kubelet.recorder.warning(&node_ref(&kubelet.config), "SystemOOM", text);
        })
        .await
        .err(),
        Err(error) => Some(error),
    };
    tracing::debug!(?error, "the kernel's log is not read: nobody hears when the machine runs out of memory");
}

fn open() -> io::Result<AsyncFd<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let log = rustix::fs::open("/dev/kmsg", flags, Mode::empty())?;
    rustix::fs::seek(&log, SeekFrom::End(0))?;
    crate::sys::async_fd(log)
}

async fn read(log: &AsyncFd<OwnedFd>, tell: impl Fn(String)) -> io::Result<()> {
    let mut record = [0; LONGEST];
    loop {
        let mut ready = log.readable().await?;
        let count = match rustix::io::read(log.get_ref(), &mut record) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(Errno::AGAIN) => {
                ready.clear_ready();
                continue;
            }
            // The kernel wrote over what was not read yet: the next record is there.
            Err(Errno::INTR | Errno::PIPE) => continue,
            Err(error) => return Err(error.into()),
        };
        if let Some(text) = victim(&String::from_utf8_lossy(&record[..count])) {
            tell(text);
        }
    }
}

/// What is to be told of a record, in upstream's words.
fn victim(record: &str) -> Option<String> {
    let (head, text) = record.split_once(';')?;
    // Priority and facility; only the kernel itself is believed.
    let kernel = head.split(',').next()?.parse::<u32>().is_ok_and(|number| number < 8);
    let fields = text.strip_prefix("oom-kill:")?.lines().next()?;
    let is_whole = fields.split(',').any(|field| field == "global_oom");
    if !kernel || !is_whole {
        return None;
    }
    // A name may have anything in it, a number has not: from behind.
    let (rest, pid) = fields.rsplit_once(",pid=")?;
    let name = rest.split_once(",task=")?.1;
    let pid: u32 = pid.split(',').next()?.parse().ok()?;
    Some(format!("System OOM encountered, victim process: {name}, pid: {pid}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_kernel_tells_and_only_of_the_whole_machine() {
        const GLOBAL: &str = "oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,task_memcg=/knarr/kubepods/pod1/c,task=hog, really,pid=4711,uid=0\n SUBSYSTEM=x\n";
        const LIMIT: &str = "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/knarr/kubepods/pod1,task_memcg=/knarr/kubepods/pod1/c,task=hog,pid=4711,uid=0\n";
        let told = "System OOM encountered, victim process: hog, really, pid: 4711";
        for (record, expected) in [
            (format!("6,1,2,-;{GLOBAL}"), Some(told)),
            // By a process that wrote into the log.
            (format!("14,1,2,-;{GLOBAL}"), None),
            (format!("6,1,2,-;{LIMIT}"), None),
            ("6,1,2,-;hog invoked oom-killer: gfp_mask=0x1\n".to_owned(), None),
            ("6,1,2,-;oom-kill:global_oom,task=x,pid=y\n".to_owned(), None),
            ("nonsense".to_owned(), None),
        ] {
            assert_eq!(victim(&record).as_deref(), expected, "{record}");
        }
    }

    #[tokio::test]
    async fn records_are_read_one_by_one_until_the_log_ends() {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (log, kernel) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let log = crate::sys::async_fd(log).unwrap();
        let told = std::sync::Mutex::new(Vec::new());
        let write = async {
            for pid in [1, 2] {
                let record = format!("6,1,2,-;oom-kill:global_oom,task=a,pid={pid},uid=0\n");
                rustix::io::write(&kernel, record.as_bytes()).unwrap();
                rustix::io::write(&kernel, b"6,1,2,-;something else\n").unwrap();
                tokio::task::yield_now().await;
            }
            drop(kernel);
        };
        let (ended, ()) = tokio::join!(read(&log, |text| told.lock().unwrap().push(text)), write);
        ended.unwrap();
        let expected = [1, 2].map(|pid| format!("System OOM encountered, victim process: a, pid: {pid}"));
        assert_eq!(told.into_inner().unwrap(), expected);
    }
}
