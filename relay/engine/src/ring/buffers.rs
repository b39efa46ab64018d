//! Receive buffers that the kernel picks from: a provided-buffer ring.
//!
//! The kernel takes a buffer when bytes have arrived, not when a receive is armed, so a few hundred
//! buffers serve any number of idle connections.
//!
//! # Flow
//! All buffers start out in the ring. A completion names the one it filled: [`Buffers::filled`]
//! shows it, [`Buffers::give_back`] puts it behind the others, [`Buffers::publish`] tells the
//! kernel of all that were given back, with one store for the whole batch.
//!
//! # Invariants
//! - A buffer is either the kernel's (in the ring, or being filled) or ours (between its completion
//!   and `give_back`); ours are shown by `&mut self`, one at a time.
//! - The mapping outlives the registration: whoever owns [`Buffers`] drops it only when no receive
//!   is in flight, or leaks it.
//!
//! See `io_uring_register_buf_ring(3)`.

use std::io;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

/// The one buffer group of an engine.
pub(super) const GROUP: u16 = 0;

/// Most buffers a ring can hold.
const COUNT_MAX: u16 = 1 << 15;

/// The buffers of one engine and the ring that offers them to the kernel.
#[derive(Debug)]
pub(super) struct Buffers {
    /// `count` entries of 16 bytes; page aligned as the kernel demands.
    ring: Mapping,
    /// `count` buffers of `bytes` each.
    memory: Mapping,
    count: u16,
    bytes: u32,
    /// Where the next buffer goes; counts on without end, the ring takes it modulo `count`.
    tail: u16,
    /// The tail that the kernel knows.
    published: u16,
}

impl Buffers {
    /// Maps the memory (pages count only once written) and registers it.
    ///
    /// # Errors
    /// `InvalidInput` for a count that is no power of two up to 32,768 or for empty buffers; else
    /// the operating system's, from mapping or from registering.
    pub(super) fn new(submitter: &Submitter<'_>, count: u16, bytes: u32) -> io::Result<Self> {
        if !count.is_power_of_two() || count > COUNT_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("receive_buffers is {count}, not a power of two up to {COUNT_MAX}"),
            ));
        }
        if bytes == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "receive_buffer_bytes is 0"));
        }
        let mut buffers = Self {
            ring: Mapping::new(usize::from(count) * size_of::<BufRingEntry>())?,
            memory: Mapping::new(usize::from(count) * bytes as usize)?,
            count,
            bytes,
            tail: 0,
            published: 0,
        };
        // SAFETY: the mapping holds `count` entries and outlives the registration (see the
        // module).
        unsafe {
            submitter.register_buf_ring_with_flags(buffers.ring.start.as_ptr() as u64, count, GROUP, 0)?;
        }
        for id in 0..count {
            buffers.give_back(id);
        }
        buffers.publish();
        Ok(buffers)
    }

    /// Bytes of one buffer.
    pub(super) fn bytes(&self) -> u32 {
        self.bytes
    }

    /// The first `length` bytes of a buffer that a completion has just named.
    ///
    /// # Panics
    /// If the buffer does not exist or is shorter.
    pub(super) fn filled(&mut self, id: u16, length: usize) -> &mut [u8] {
        assert!(id < self.count && length <= self.bytes as usize);
        let offset = usize::from(id) * self.bytes as usize;
        // SAFETY: the range lies inside the mapping by the assertion above, mapped memory is
        // initialised (zeroed), and its buffer is ours from the completion until `give_back`,
        // which needs the borrow of `self` back.
        unsafe { slice::from_raw_parts_mut(self.memory.start.as_ptr().add(offset), length) }
    }

    /// Puts a buffer back, unseen by the kernel until [`Buffers::publish`].
    pub(super) fn give_back(&mut self, id: u16) {
        debug_assert!(id < self.count);
        let slot = usize::from(self.tail & (self.count - 1));
        let offset = usize::from(id) * self.bytes as usize;
        // SAFETY: `slot` is below `count`, so the entry is inside the mapping; the kernel does not
        // read entries from the published tail on.
        let entry = unsafe { &mut *self.ring.start.cast::<BufRingEntry>().as_ptr().add(slot) };
        entry.set_addr(self.memory.start.as_ptr() as u64 + offset as u64);
        entry.set_len(self.bytes);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Lets the kernel see what was given back.
    pub(super) fn publish(&mut self) {
        if self.tail == self.published {
            return;
        }
        // SAFETY: the start of the mapping is the first entry of the ring, whose reserved field is
        // the tail: two bytes, aligned, read by the kernel only and written here only.
        unsafe {
            let tail = BufRingEntry::tail(self.ring.start.cast::<BufRingEntry>().as_ptr());
            AtomicU16::from_ptr(tail.cast_mut()).store(self.tail, Ordering::Release);
        }
        self.published = self.tail;
    }
}

/// Anonymous private memory, page aligned and zeroed.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

impl Mapping {
    fn new(bytes: usize) -> io::Result<Self> {
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches no memory that
        // exists.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let mapping = Self { start, bytes };
        // The kernel writes here whatever a forked child does with its copy.
        // SAFETY: the range is the mapping made above.
        if unsafe { libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_DONTFORK) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(mapping)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped in `new`, and no borrow of it outlives its owner.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::Buffers;
    use io_uring::IoUring;
    use std::io::ErrorKind;

    #[test]
    fn sizes_that_the_ring_cannot_have_are_refused() {
        let ring = IoUring::new(1).unwrap();
        for (count, bytes) in [(0, 64), (3, 64), (40_000, 64), (4, 0)] {
            let error = Buffers::new(&ring.submitter(), count, bytes).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{count} of {bytes}");
        }
    }

    #[test]
    fn buffers_do_not_overlap() {
        let ring = IoUring::new(1).unwrap();
        let mut buffers = Buffers::new(&ring.submitter(), 4, 100).unwrap();
        for id in 0..4 {
            buffers.filled(id, 100).fill(id as u8 + 1);
        }
        for id in 0..4 {
            assert!(buffers.filled(id, 100).iter().all(|&byte| byte == id as u8 + 1));
        }
    }
}
