//! Murmur2 as Kafka's clients have it, written apart from the library's: it checks that one.

/// The lane of a key.
pub(crate) fn lane_of(key: &str, lanes: u32) -> u16 {
    u16::try_from(positive(key) % lanes).unwrap()
}

/// The partition of a key.
pub(crate) fn partition_of(key: &str, partitions: u32) -> i32 {
    i32::try_from(positive(key) % partitions).unwrap()
}

/// Another key of the same lane as `key`.
pub(crate) fn neighbour_of(key: &str, lanes: u32) -> String {
    let lane = lane_of(key, lanes);
    (0..).map(|n| format!("neighbour-{n}")).find(|other| lane_of(other, lanes) == lane).unwrap()
}

/// A key of another lane than `key`.
pub(crate) fn stranger_to(key: &str, lanes: u32) -> String {
    let lane = lane_of(key, lanes);
    (0..).map(|n| format!("stranger-{n}")).find(|other| lane_of(other, lanes) != lane).unwrap()
}

fn positive(key: &str) -> u32 {
    murmur2(key.as_bytes()) & 0x7fff_ffff
}

fn murmur2(data: &[u8]) -> u32 {
    let m: u32 = 0x5bd1_e995;
    let mut h = 0x9747_b28c ^ u32::try_from(data.len()).unwrap();
    let mut at = 0;
    while data.len() - at >= 4 {
        let mut k = u32::from_le_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]]);
        k = k.wrapping_mul(m);
        k ^= k >> 24;
        k = k.wrapping_mul(m);
        h = h.wrapping_mul(m) ^ k;
        at += 4;
    }
    let left = &data[at..];
    if left.len() == 3 {
        h ^= u32::from(left[2]) << 16;
    }
    if left.len() >= 2 {
        h ^= u32::from(left[1]) << 8;
    }
    if !left.is_empty() {
        h ^= u32::from(left[0]);
        h = h.wrapping_mul(m);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(m);
    h ^ (h >> 15)
}
