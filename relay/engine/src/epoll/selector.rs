//! The four system calls that this engine makes through libc: `epoll_create1`, `epoll_ctl`,
//! `epoll_wait` and `epoll_pwait2`.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::time::Duration;

/// Events taken out of the kernel by one wait.
const READY_MAX: usize = 1024;

/// Interest in everything, told at each change: see the parent module.
const INTEREST: u32 = (libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET) as u32;

/// What became ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Readiness {
    /// The token given to [`Selector::add`].
    pub(super) token: u64,
    /// A read will not block: there are bytes, an end of file or an error.
    pub(super) readable: bool,
    /// A write will not block: there is room, or an error.
    pub(super) writable: bool,
    /// After the bytes, if any, there is an end of file or an error.
    pub(super) ending: bool,
}

impl Readiness {
    fn new(event: libc::epoll_event) -> Self {
        let has = |flags: libc::c_int| event.events & flags as u32 != 0;
        let broken = has(libc::EPOLLERR | libc::EPOLLHUP);
        let ending = broken || has(libc::EPOLLRDHUP);
        Self {
            token: event.u64,
            readable: ending || has(libc::EPOLLIN),
            writable: broken || has(libc::EPOLLOUT),
            ending,
        }
    }
}

/// The seconds and nanoseconds that `epoll_pwait2` takes: 64 bits each, whatever `libc::timespec`
/// has.
#[repr(C)]
struct KernelTimespec {
    seconds: i64,
    nanoseconds: i64,
}

/// An epoll instance and room for what it reports.
pub(super) struct Selector {
    epoll: OwnedFd,
    ready: Vec<libc::epoll_event>,
    /// Whether `epoll_pwait2` is there (Linux 5.11), which knows nanoseconds.
    precise: bool,
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Selector").field("epoll", &self.epoll).field("precise", &self.precise).finish_non_exhaustive()
    }
}

impl Selector {
    /// Makes an epoll instance that watches nothing.
    ///
    /// # Errors
    /// The operating system's, when there are no more descriptors.
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: epoll_create1 takes no pointers.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: epoll_create1 has just returned this descriptor; nobody else owns it.
        let epoll = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { epoll, ready: Vec::with_capacity(READY_MAX), precise: true })
    }

    /// Watches a descriptor until it is closed or [removed](Selector::remove). What it is ready
    /// for already is told by the next wait.
    ///
    /// # Errors
    /// `ENOMEM` or `ENOSPC`, when the kernel has no room for another watch.
    pub(super) fn add(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: INTEREST, u64: token };
        // SAFETY: both descriptors are open and the event lives through the call.
        let result =
            unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd.as_raw_fd(), &raw mut event) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Watches a descriptor no longer. Needed only for one that stays open elsewhere.
    pub(super) fn remove(&self, fd: BorrowedFd<'_>) {
        // SAFETY: both descriptors are open; EPOLL_CTL_DEL reads no event.
        let result =
            unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_DEL, fd.as_raw_fd(), ptr::null_mut()) };
        debug_assert_eq!(result, 0, "{}", io::Error::last_os_error());
    }

    /// Waits until something becomes ready or `timeout` has passed (`None`: no limit), and returns
    /// how much did: ask [`Selector::ready`] for each. A signal ends the wait with nothing.
    ///
    /// # Errors
    /// The operating system's, none of which is expected of an open epoll instance.
    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        self.ready.clear();
        let count = match timeout {
            Some(limit) if self.precise && !limit.is_zero() => self.wait_precisely(limit),
            limit => self.wait_milliseconds(limit),
        };
        let Ok(count) = usize::try_from(count) else {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                Some(libc::EINTR) => Ok(0),
                // Containers answer EPERM for calls that their seccomp filter does not know.
                Some(libc::ENOSYS | libc::EPERM) if self.precise => {
                    self.precise = false;
                    self.wait(timeout)
                }
                _ => Err(error),
            };
        };
        // SAFETY: the kernel wrote `count` events into the buffer, and not more than READY_MAX,
        // which is its capacity.
        unsafe { self.ready.set_len(count) };
        Ok(count)
    }

    /// One of what the last [`Selector::wait`] counted.
    pub(super) fn ready(&self, index: usize) -> Readiness {
        Readiness::new(self.ready[index])
    }

    fn wait_precisely(&mut self, limit: Duration) -> libc::c_long {
        let limit = KernelTimespec {
            seconds: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            nanoseconds: i64::from(limit.subsec_nanos()),
        };
        // SAFETY: the buffer has room for READY_MAX events, the limit lives through the call, and
        // without a signal mask its size is not looked at. Numbers are passed as the longs that
        // the system call takes.
        unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                libc::c_long::from(self.epoll.as_raw_fd()),
                self.ready.as_mut_ptr(),
                READY_MAX as libc::c_long,
                &raw const limit,
                ptr::null::<libc::sigset_t>(),
                0 as libc::c_long,
            )
        }
    }

    /// Rounds up, so that nobody wakes before the time and finds nothing to do.
    fn wait_milliseconds(&mut self, limit: Option<Duration>) -> libc::c_long {
        let limit = limit.map_or(-1, |limit| {
            libc::c_int::try_from(limit.as_nanos().div_ceil(1_000_000)).unwrap_or(libc::c_int::MAX)
        });
        // SAFETY: the buffer has room for READY_MAX events.
        let count = unsafe {
            libc::epoll_wait(self.epoll.as_raw_fd(), self.ready.as_mut_ptr(), READY_MAX as libc::c_int, limit)
        };
        libc::c_long::from(count)
    }
}

#[cfg(test)]
mod tests {
    use super::Selector;
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, Instant};

    #[test]
    fn a_change_is_told_once() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut selector = Selector::new().unwrap();
        selector.add(ours.as_fd(), 7).unwrap();
        assert_eq!(selector.wait(None).unwrap(), 1);
        let ready = selector.ready(0);
        assert!(ready.token == 7 && ready.writable && !ready.readable);

        theirs.write_all(b"x").unwrap();
        assert_eq!(selector.wait(None).unwrap(), 1);
        assert!(selector.ready(0).readable && !selector.ready(0).ending);
        assert_eq!(selector.wait(Some(Duration::ZERO)).unwrap(), 0);

        drop(theirs);
        assert_eq!(selector.wait(None).unwrap(), 1);
        assert!(selector.ready(0).ending);
    }

    #[test]
    fn a_wait_is_never_shorter_than_its_limit() {
        for precise in [true, false] {
            let mut selector = Selector::new().unwrap();
            selector.precise = precise;
            let limit = Duration::from_micros(1300);
            let start = Instant::now();
            assert_eq!(selector.wait(Some(limit)).unwrap(), 0);
            assert!(start.elapsed() >= limit, "precise: {precise}");
        }
    }

    #[test]
    fn what_was_removed_is_not_told() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut selector = Selector::new().unwrap();
        selector.add(ours.as_fd(), 7).unwrap();
        selector.remove(ours.as_fd());
        drop(theirs);
        assert_eq!(selector.wait(Some(Duration::ZERO)).unwrap(), 0);
    }
}
