//! The one thing in EXIF that changes pixels: orientation.

use super::Numbers;

const ORIENTATION: u16 = 0x0112;
const SHORT: u16 = 3;

/// The orientation (1 to 8) in a block of EXIF data, which is a little TIFF file, with or without `Exif\0\0` before it. 1
/// where there is none or the block is broken: what people put into EXIF is no reason to lose an image.
pub(super) fn orientation(block: &[u8]) -> u8 {
    find(block.strip_prefix(b"Exif\0\0").unwrap_or(block)).filter(|o| (1..=8).contains(o)).unwrap_or(1)
}

fn find(bytes: &[u8]) -> Option<u8> {
    let little = match bytes.get(..4)? {
        [b'I', b'I', 42, 0] => true,
        [b'M', b'M', 0, 42] => false,
        _ => return None,
    };
    let numbers = Numbers { bytes, little };
    let directory = numbers.u32(4)? as usize;
    let entries = usize::from(numbers.u16(directory)?);
    (0..entries).map_while(|i| directory.checked_add(2 + 12 * i)).find_map(|at| {
        let found = numbers.u16(at)? == ORIENTATION && numbers.u16(at + 2)? == SHORT && numbers.u32(at + 4)? == 1;
        found.then(|| numbers.u16(at + 8).and_then(|o| u8::try_from(o).ok()))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_byte_orders_and_rubbish() {
        let little = b"II\x2a\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
        let big = b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x08\0\0\0\0\0\0";
        assert_eq!(orientation(little), 6);
        assert_eq!(orientation(big), 8);
        assert_eq!(orientation(&[&b"Exif\0\0"[..], little].concat()), 6);
        for length in 0..little.len() {
            assert!(matches!(orientation(&little[..length]), 1 | 6), "{length}");
        }
        let mut far = *little;
        far[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(orientation(&far), 1);
        assert_eq!(orientation(b""), 1);
    }
}
