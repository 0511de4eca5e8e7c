//! Which lane a key belongs to.

/// The lane of a record key.
pub(crate) fn of_key(key: &[u8], lanes: u16) -> u16 {
    let slot = (murmur2(key) & 0x7fff_ffff) % u32::from(lanes.max(1));
    u16::try_from(slot).unwrap_or_default()
}

/// Murmur2 as Kafka's clients have it (`org.apache.kafka.common.utils.Utils.murmur2`), so that lanes and partitions are
/// the same function of the key in every language.
pub(crate) fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let (words, tail) = data.as_chunks::<4>();
    let mut hash = SEED ^ len;
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        let tail = tail.iter().rev().fold(0, |acc, byte| (acc << 8) | u32::from(*byte));
        hash = (hash ^ tail).wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of Kafka's own test (`org.apache.kafka.common.utils.UtilsTest.testMurmur2`).
    #[test]
    fn murmur2_is_kafkas() {
        for (key, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()).cast_signed(), hash, "{key}");
        }
    }

    /// Of 1,000 keys; a lane of so many is the partition of so many. `scripts/strangers vectors` has written the file.
    #[test]
    fn hashes_and_lanes_are_those_of_kafkas_java_client() {
        let mut lines = include_str!("../../tests/vectors/murmur2.tsv").lines();
        let counts = lines.find_map(|line| line.strip_prefix("# key\tmurmur2\t")).unwrap();
        let counts: Vec<u16> = counts.split('\t').map(|count| count.parse().unwrap()).collect();
        let mut keys = 0;
        for line in lines {
            let fields: Vec<_> = line.split('\t').collect();
            let [key, hash, partitions @ ..] = &fields[..] else { panic!("{line}") };
            let bytes: Vec<u8> =
                (0..key.len()).step_by(2).map(|at| u8::from_str_radix(&key[at..at + 2], 16).unwrap()).collect();
            assert_eq!(murmur2(&bytes).cast_signed().to_string(), *hash, "{key}");
            assert_eq!(partitions.len(), counts.len());
            for (partition, count) in partitions.iter().zip(&counts) {
                assert_eq!(of_key(&bytes, *count).to_string(), *partition, "{key} of {count}");
            }
            keys += 1;
        }
        assert_eq!(keys, 1000);
    }

    #[test]
    fn every_key_has_one_lane_in_range() {
        for lanes in [1, 7, 32, 1024] {
            for key in ["", "a", "tenant-1", "ü"] {
                assert!(of_key(key.as_bytes(), lanes) < lanes);
            }
        }
    }
}
