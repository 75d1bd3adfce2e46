//! How much log there is behind an index.
use std::collections::VecDeque;

/// Distance of the marks that translate bytes of log into indexes.
const MARK_BYTES: u64 = 64 << 10;

/// How many bytes of log stand before an index, at marks some way apart.
#[derive(Default)]
pub struct Sizes {
    /// (index, bytes before it), ascending.
    marks: VecDeque<(u64, u64)>,
    total: u64,
}

impl Sizes {
    /// From the files of a log: (first index behind the file's start, bytes before it).
    pub fn of(mut marks: Vec<(u64, u64)>, total: u64) -> Sizes {
        marks.sort_unstable();
        Sizes {
            marks: marks.into(),
            total,
        }
    }

    pub fn append(&mut self, index: u64, bytes: u64) {
        while self.marks.back().is_some_and(|m| m.0 > index) {
            self.marks.pop_back(); // the log was truncated and grows again
        }
        if self
            .marks
            .back()
            .is_none_or(|m| self.total - m.1 >= MARK_BYTES)
        {
            self.marks.push_back((index, self.total));
        }
        self.total += bytes;
    }

    /// Bytes appended after `index`, to the precision of a mark.
    pub fn after(&self, index: u64) -> u64 {
        let i = self.marks.partition_point(|m| m.0 <= index);
        self.total - if i == 0 { 0 } else { self.marks[i - 1].1 }
    }

    /// The last index that has at least `keep` bytes behind it up to and with `end`.
    pub fn before(&self, end: u64, keep: u64) -> Option<u64> {
        let i = self.marks.partition_point(|m| m.0 <= end);
        let end_bytes = self.marks.get(i).map_or(self.total, |m| m.1);
        let mark = self
            .marks
            .iter()
            .take(i)
            .rev()
            .find(|m| end_bytes - m.1 >= keep)?;
        mark.0.checked_sub(1)
    }

    pub fn purge(&mut self, index: u64) {
        while self.marks.len() > 1 && self.marks[1].0 <= index {
            self.marks.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Sizes;

    #[test]
    fn sizes_translate_between_bytes_and_indexes() {
        let mut sizes = Sizes::default();
        for index in 1..=100 {
            sizes.append(index, 64 << 10);
        }
        assert_eq!(sizes.after(100), 64 << 10);
        assert_eq!(sizes.after(0), 100 * (64 << 10));
        assert_eq!(sizes.before(100, 10 * (64 << 10)), Some(90));
        assert_eq!(sizes.before(100, 1000 * (64 << 10)), None);
        sizes.purge(90);
        assert_eq!(sizes.before(100, 10 * (64 << 10)), Some(90));
        assert_eq!(sizes.before(100, 11 * (64 << 10)), Some(89));
        sizes.append(50, 64 << 10); // truncated behind 49
        assert_eq!(sizes.after(49), 101 * (64 << 10));
    }
}
