//! SHA-256 of two inputs side by side.
//!
//! A processor's instructions for one input wait for each other; those of a second one fit in
//! between: both together take hardly longer than one (0.65 s of CPU for two of 1 GiB, 0.60 for
//! one).
use super::Digest;
use sha2::digest::generic_array::GenericArray;

const BLOCK: usize = 64;
const LENGTH: usize = 8;
const BEGIN: State = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

type State = [u32; 8];

/// Of one input, which comes in parts.
pub struct Hasher {
    state: State,
    /// Bytes that have come.
    length: u64,
    /// Begins with those that are no whole block yet.
    open: [u8; BLOCK],
}

impl Default for Hasher {
    fn default() -> Hasher {
        Hasher {
            state: BEGIN,
            length: 0,
            open: [0; BLOCK],
        }
    }
}

impl Hasher {
    /// Takes a part of both: as fast as one where both are at a block's begin, as they are in
    /// inputs that come in large pieces.
    pub fn update_both(both: [&mut Hasher; 2], parts: [&[u8]; 2]) {
        let [one, other] = both;
        let blocks = match one.filled() + other.filled() {
            0 => parts[0].len().min(parts[1].len()) / BLOCK * BLOCK,
            _ => 0,
        };
        let [first, second] = parts.map(|part| part.split_at(blocks));
        compress([&mut one.state, &mut other.state], [first.0, second.0]);
        for (hasher, rest) in [(one, first.1), (other, second.1)] {
            hasher.length += blocks as u64;
            hasher.update(rest);
        }
    }

    pub fn update(&mut self, mut part: &[u8]) {
        let at = self.filled();
        self.length += part.len() as u64;
        if at > 0 {
            let n = part.len().min(BLOCK - at);
            self.open[at..at + n].copy_from_slice(&part[..n]);
            part = &part[n..];
            if at + n < BLOCK {
                return;
            }
            compress([&mut self.state], [&self.open]);
        }
        let (blocks, rest) = part.split_at(part.len() / BLOCK * BLOCK);
        compress([&mut self.state], [blocks]);
        self.open[..rest.len()].copy_from_slice(rest);
    }

    pub fn finish(mut self) -> Digest {
        let (at, bits) = (self.filled(), self.length * 8);
        let mut end = [0; 2 * BLOCK];
        end[..at].copy_from_slice(&self.open[..at]);
        end[at] = 0x80;
        let n = (at + 1 + LENGTH).next_multiple_of(BLOCK);
        end[n - LENGTH..n].copy_from_slice(&bits.to_be_bytes());
        compress([&mut self.state], [&end[..n]]);
        let mut digest = [0; 32];
        for (bytes, word) in digest.chunks_exact_mut(4).zip(self.state) {
            bytes.copy_from_slice(&word.to_be_bytes());
        }
        digest
    }

    /// Bytes of the block that is open.
    fn filled(&self) -> usize {
        (self.length % BLOCK as u64) as usize
    }
}

/// Of each input by itself, two at a time.
pub fn digests(inputs: &[&[u8]]) -> Vec<Digest> {
    let mut found = Vec::with_capacity(inputs.len());
    for pair in inputs.chunks(2) {
        let (mut one, mut other) = (Hasher::default(), Hasher::default());
        if let [first, second] = *pair {
            Hasher::update_both([&mut one, &mut other], [first, second]);
            found.extend([one.finish(), other.finish()]);
        } else {
            one.update(pair[0]);
            found.push(one.finish());
        }
    }
    found
}

/// Takes whole blocks, as many of each input, into their states.
fn compress<const N: usize>(states: [&mut State; N], inputs: [&[u8]; N]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("sha") && is_x86_feature_detected!("sse4.1") {
        // SAFETY: the processor has these instructions.
        return unsafe { x86::compress(states, inputs) };
    }
    one_by_one(states, inputs);
}

/// With whatever `sha2` finds in this processor.
fn one_by_one<const N: usize>(states: [&mut State; N], inputs: [&[u8]; N]) {
    for (state, input) in states.into_iter().zip(inputs) {
        for block in input.chunks_exact(BLOCK) {
            sha2::compress256(state, std::slice::from_ref(GenericArray::from_slice(block)));
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{BLOCK, State};
    use std::arch::x86_64::*;

    /// FIPS 180-4, 4.2.2.
    #[rustfmt::skip]
    const ROUNDS: [u32; 64] = [
        0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5, 0x3956_c25b, 0x59f1_11f1, 0x923f_82a4,
        0xab1c_5ed5, 0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3, 0x72be_5d74, 0x80de_b1fe,
        0x9bdc_06a7, 0xc19b_f174, 0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc, 0x2de9_2c6f,
        0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da, 0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7,
        0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967, 0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc,
        0x5338_0d13, 0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85, 0xa2bf_e8a1, 0xa81a_664b,
        0xc24b_8b70, 0xc76c_51a3, 0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070, 0x19a4_c116,
        0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5, 0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3,
        0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208, 0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7,
        0xc671_78f2,
    ];

    /// A, B, E, F of a state and C, D, G, H: as the instructions want them.
    type Words = (__m128i, __m128i);

    /// Inputs of the same length, which is one of whole blocks.
    #[target_feature(enable = "sha,sse4.1")]
    pub fn compress<const N: usize>(states: [&mut State; N], inputs: [&[u8]; N]) {
        let zero = _mm_setzero_si128();
        let mut words = [(zero, zero); N];
        for (words, state) in words.iter_mut().zip(&states) {
            let [a, b, c, d, e, f, g, h] = state.map(|word| word as i32);
            *words = (_mm_set_epi32(a, b, e, f), _mm_set_epi32(c, d, g, h));
        }
        for at in (0..inputs[0].len()).step_by(BLOCK) {
            block(&mut words, inputs.map(|input| &input[at..at + BLOCK]));
        }
        for ((abef, cdgh), state) in words.into_iter().zip(states) {
            *state = [
                _mm_extract_epi32::<3>(abef),
                _mm_extract_epi32::<2>(abef),
                _mm_extract_epi32::<3>(cdgh),
                _mm_extract_epi32::<2>(cdgh),
                _mm_extract_epi32::<1>(abef),
                _mm_extract_epi32::<0>(abef),
                _mm_extract_epi32::<1>(cdgh),
                _mm_extract_epi32::<0>(cdgh),
            ]
            .map(|word| word as u32);
        }
    }

    /// One block of each: FIPS 180-4, 6.2.2, four rounds at a time.
    #[target_feature(enable = "sha,sse4.1")]
    #[inline]
    fn block<const N: usize>(words: &mut [Words; N], blocks: [&[u8]; N]) {
        let big_endian = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
        let before = *words;
        let mut schedule = [[_mm_setzero_si128(); 4]; N]; // its last sixteen words
        for lane in 0..N {
            for (four, bytes) in schedule[lane].iter_mut().zip(blocks[lane].chunks_exact(16)) {
                // SAFETY: it reads sixteen bytes, which need no alignment.
                let read = unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) };
                *four = _mm_shuffle_epi8(read, big_endian);
            }
        }
        for rounds in ROUNDS.chunks_exact(16) {
            for i in 0..4 {
                let [k0, k1, k2, k3] = [0, 1, 2, 3].map(|n| rounds[4 * i + n] as i32);
                let k = _mm_set_epi32(k3, k2, k1, k0);
                for lane in 0..N {
                    let (w, (abef, cdgh)) = (&mut schedule[lane], words[lane]);
                    let sum = _mm_add_epi32(w[i], k);
                    let cdgh = _mm_sha256rnds2_epu32(cdgh, abef, sum);
                    let high = _mm_shuffle_epi32::<0x0e>(sum);
                    words[lane] = (_mm_sha256rnds2_epu32(abef, cdgh, high), cdgh);
                    // The words sixteen rounds later; behind the last sixteen they are not used.
                    let (second, third, last) = (w[(i + 1) % 4], w[(i + 2) % 4], w[(i + 3) % 4]);
                    let next = _mm_sha256msg1_epu32(w[i], second);
                    let next = _mm_add_epi32(next, _mm_alignr_epi8::<4>(last, third));
                    w[i] = _mm_sha256msg2_epu32(next, last);
                }
            }
        }
        for (words, before) in words.iter_mut().zip(before) {
            words.0 = _mm_add_epi32(words.0, before.0);
            words.1 = _mm_add_epi32(words.1, before.1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest as _, Sha256};

    /// Nothing that repeats soon.
    fn bytes(n: usize, seed: u64) -> Vec<u8> {
        let mut x = seed | 1;
        let mut next = || {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x as u8
        };
        (0..n).map(|_| next()).collect()
    }

    fn right(data: &[u8]) -> Digest {
        Sha256::digest(data).into()
    }

    #[test]
    fn every_length_is_hashed_as_by_others_in_one_part_and_in_two() {
        let data = bytes(3 * BLOCK + 1, 3);
        for n in 0..data.len() {
            for cut in 0..=n {
                let mut hasher = Hasher::default();
                hasher.update(&data[..cut]);
                hasher.update(&data[cut..n]);
                assert_eq!(hasher.finish(), right(&data[..n]), "{cut} of {n}");
            }
        }
    }

    #[test]
    fn two_inputs_do_not_get_into_each_others_way() {
        let (one, other) = (bytes(9_000, 5), bytes(9_000, 7));
        for (first, second, parts) in [
            (9_000, 9_000, vec![(4_096, 4_096), (4_904, 4_904)]),
            (9_000, 8_000, vec![(5_000, 4_000), (4_000, 4_000)]),
            (
                300,
                9_000,
                vec![(0, 64), (64, 0), (100, 4_936), (136, 4_000)],
            ),
            (129, 65, vec![(1, 1), (64, 64), (64, 0)]),
        ] {
            let (mut a, mut b, mut at) = (Hasher::default(), Hasher::default(), (0, 0));
            for (n, m) in parts {
                let part = [&one[at.0..at.0 + n], &other[at.1..at.1 + m]];
                Hasher::update_both([&mut a, &mut b], part);
                at = (at.0 + n, at.1 + m);
            }
            assert_eq!(at, (first, second));
            assert_eq!(a.finish(), right(&one[..first]));
            assert_eq!(b.finish(), right(&other[..second]));
        }
    }

    #[test]
    fn any_number_of_inputs_is_hashed() {
        let data = bytes(1_000, 17);
        let inputs = [&data[..500], &data[500..], &data[..64], &[], &data[1..]];
        for n in 0..=inputs.len() {
            let expected: Vec<Digest> = inputs[..n].iter().map(|input| right(input)).collect();
            assert_eq!(digests(&inputs[..n]), expected);
        }
    }

    #[test]
    fn a_processor_without_the_instructions_gets_the_same() {
        let data = bytes(64 * BLOCK, 11);
        let (one, other) = data.split_at(32 * BLOCK);
        let (mut fast, mut plain) = ([BEGIN; 2], [BEGIN; 2]);
        let [a, b] = &mut fast;
        compress([a, b], [one, other]);
        let [a, b] = &mut plain;
        one_by_one([a, b], [one, other]);
        assert_eq!(fast, plain);
        assert_ne!(fast[0], fast[1]);
    }
}
