//! CRC-32C (Castagnoli, RFC 3720), of which Kafka's record batches and the names of segments are.
//!
//! Every byte of a restore is summed four times and every one of a backup twice: by carry-less multiplication, where the processor
//! has it, that takes half the time of the instruction which is made for this sum.

use crc_fast::CrcAlgorithm::Crc32Iscsi;
use crc_fast::Digest;

/// The CRC of `bytes`.
pub fn of(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// The CRC of what has the CRC `before`, with `bytes` behind it.
pub fn append(before: u32, bytes: &[u8]) -> u32 {
    let mut digest = Digest::new_with_init_state(Crc32Iscsi, u64::from(!before));
    digest.update(bytes);
    of_32_bits(digest.finalize())
}

/// The CRC of what has the CRC `before`, with `length` bytes behind it that have the CRC `behind`.
pub fn combine(before: u32, behind: u32, length: u64) -> u32 {
    let (before, behind) = (u64::from(before), u64::from(behind));
    of_32_bits(crc_fast::checksum_combine(
        Crc32Iscsi, before, behind, length,
    ))
}

fn of_32_bits(crc: u64) -> u32 {
    u32::try_from(crc).expect("a CRC of 32 bits has no more")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn it_is_the_crc_of_the_rfc() {
        // RFC 3720, B.4.
        assert_eq!(of(&[0; 32]), 0x8a91_36aa);
        assert_eq!(of(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(of(b"123456789"), 0xe306_9283);
        assert_eq!(of(b""), 0);
    }

    #[test]
    fn it_is_what_others_sum_of_whole_segments_too() {
        let byte = |i: u32| i.wrapping_mul(2_654_435_761).to_be_bytes()[0];
        let bytes: Vec<u8> = (0..(2 << 20) + 17).map(byte).collect();
        for start in [0, 1, 7, 61, 1000] {
            let (bytes, cut) = (&bytes[start..], 512 << 10);
            let expected = crc32c::crc32c(bytes);
            assert_eq!(of(bytes), expected, "{start}");
            let (front, back) = bytes.split_at(cut + start);
            assert_eq!(append(of(front), back), expected, "{start}");
            assert_eq!(combine(of(front), of(back), back.len() as u64), expected);
        }
    }

    proptest! {
        #[test]
        fn wherever_it_is_cut_it_is_what_others_sum(
            bytes in proptest::collection::vec(any::<u8>(), 0..5000), cut in 0usize..5000,
        ) {
            let expected = crc32c::crc32c(&bytes);
            let (front, back) = bytes.split_at(cut.min(bytes.len()));
            prop_assert_eq!(of(&bytes), expected);
            prop_assert_eq!(append(of(front), back), expected);
            prop_assert_eq!(combine(of(front), of(back), back.len() as u64), expected);
        }
    }
}
