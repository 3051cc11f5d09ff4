//! Memory of large answers and parts of objects, used again and again.
//!
//! A backup holds its answers until they are stored, a restore its parts until they are acknowledged. Given back to the
//! allocator, memory of so many sizes stays with the process for a while and is found again by chance only, by the thread that
//! gave it back: the peak of a backup was a third above what is held, that of a restore twice.
//!
//! # Guarantees
//! - Memory comes back when the last slice of a content is gone.
//! - A content takes at most twice its size; memory that waits to be used again makes room for contents of other sizes.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// Smaller contents are left to the allocator.
const SMALLEST: usize = 256 << 10;

/// Memory that waits for the next large content; clones share it.
#[derive(Clone, Default)]
pub struct Buffers {
    free: Arc<Mutex<Vec<Vec<u8>>>>,
}

/// The memory of a content.
struct Lent {
    bytes: Vec<u8>,
    buffers: Buffers,
}

impl Buffers {
    fn free(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        // Nothing panics while it is held.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An empty buffer with room for `length` bytes.
    pub(crate) fn take(&self, length: usize) -> Vec<u8> {
        let mut free = self.free();
        if length >= SMALLEST
            && let Some(at) = free.iter().position(|buffer| fits(buffer, length))
        {
            return free.swap_remove(at);
        }
        let mut room = 0;
        while room < length
            && let Some(unfit) = free.pop()
        {
            room += unfit.capacity();
        }
        drop(free);
        match length >= SMALLEST {
            // Contents of about the same size share their memory.
            true => Vec::with_capacity(length.next_multiple_of(SMALLEST)),
            false => Vec::with_capacity(length),
        }
    }

    /// The content, whose memory comes back when it is gone.
    pub(crate) fn lend(&self, bytes: Vec<u8>) -> Bytes {
        if bytes.capacity() < SMALLEST {
            return bytes.into();
        }
        Bytes::from_owner(Lent {
            bytes,
            buffers: self.clone(),
        })
    }
}

fn fits(buffer: &Vec<u8>, length: usize) -> bool {
    (length..=length * 2).contains(&buffer.capacity())
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        self.buffers.free().push(bytes);
    }
}

impl fmt::Debug for Buffers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffers({} free)", self.free().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(buffers: &Buffers, length: usize) -> Bytes {
        let mut buffer = buffers.take(length);
        assert!(buffer.is_empty() && buffer.capacity() >= length);
        buffer.resize(length, 7);
        buffers.lend(buffer)
    }

    #[test]
    fn memory_is_used_again_once_the_last_slice_is_gone() {
        let buffers = Buffers::default();
        let first = answer(&buffers, 2 << 20);
        let (place, slice) = (first.as_ptr(), first.slice(100..200));
        drop(first);
        assert_eq!(buffers.free().len(), 0);
        assert_eq!(slice, [7; 100][..]);
        drop(slice);
        let second = answer(&buffers, (2 << 20) - 5000);
        assert_eq!(second.as_ptr(), place);
        assert_eq!(second.len(), (2 << 20) - 5000);
    }

    #[test]
    fn what_waits_makes_room_for_other_sizes() {
        let buffers = Buffers::default();
        let all: Vec<Bytes> = (0..8).map(|_| answer(&buffers, 2 << 20)).collect();
        drop(all);
        assert_eq!(buffers.free().len(), 8);
        // A small answer would waste a large buffer.
        let small: Vec<Bytes> = (0..40).map(|_| answer(&buffers, 300 << 10)).collect();
        assert_eq!(buffers.free().len(), 0);
        assert!(small.iter().all(|answer| answer.len() == 300 << 10));
        drop((answer(&buffers, 10), small));
        assert_eq!(buffers.free().len(), 40);
    }
}
