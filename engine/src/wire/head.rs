//! The head of something, of a known length, that comes in pieces of any size.

/// What has come of it.
pub struct Head<const N: usize> {
    bytes: [u8; N],
    filled: usize,
}

impl<const N: usize> Default for Head<N> {
    fn default() -> Self {
        Head {
            bytes: [0; N],
            filled: 0,
        }
    }
}

impl<const N: usize> Head<N> {
    /// Takes what is missing from the front of `from`. The head once it is whole, and then begins
    /// the next.
    pub fn take(&mut self, from: &mut &[u8]) -> Option<[u8; N]> {
        let (taken, rest) = from.split_at((N - self.filled).min(from.len()));
        self.bytes[self.filled..][..taken.len()].copy_from_slice(taken);
        self.filled += taken.len();
        *from = rest;
        if self.filled < N {
            return None;
        }
        self.filled = 0;
        Some(self.bytes)
    }
}
