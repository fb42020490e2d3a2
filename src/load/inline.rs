//! `data:` URIs (RFC 2397), base64 or percent-encoded, measured before they are decoded.

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use percent_encoding::percent_decode_str;

use crate::load::body::{Stop, too_large};
use crate::sample::FailureCode;

/// As browsers take it: padding or none, and bits that no byte needs are ignored.
const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

/// Characters that a file of `max` bytes may have, not counting `%41` for `A`. Base64 takes four characters for three bytes; a
/// few blanks or line ends on top are no reason to refuse.
fn limit(base64: bool, max: u64) -> u64 {
    if base64 { max / 3 * 4 + max / 8 + 4 } else { max }
}

fn is_base64(kind: &str) -> bool {
    kind.rsplit(';').next().is_some_and(|word| word.trim().eq_ignore_ascii_case("base64"))
}

/// False if what stands behind `data:` is too long for a file of `max` bytes, however it is written.
pub(crate) fn fits(uri: &str, max: u64) -> bool {
    let Some((kind, data)) = uri.split_once(',') else { return uri.len() as u64 <= max };
    let limit = limit(is_base64(kind), max);
    let length = data.len() as u64;
    length <= limit || (length <= limit * 3 && data.contains('%'))
}

/// Decodes what stands behind `data:`, if it cannot exceed `max` bytes.
pub(crate) fn decode(uri: &str, max: u64) -> Result<Bytes, Stop> {
    let bad = |why: &str| Stop::record(FailureCode::BadReference, format!("data: URI: {}", why.trim_end_matches('.')));
    let (kind, data) = uri.split_once(',').ok_or_else(|| bad("there is no comma"))?;
    let base64 = is_base64(kind);
    let limit = limit(base64, max);
    if !fits(uri, max) {
        return Err(too_large(max));
    }
    let mut raw: Vec<u8> = percent_decode_str(data).take(usize::try_from(limit).unwrap_or(usize::MAX) + 1).collect();
    if raw.len() as u64 > limit {
        return Err(too_large(max));
    }
    if base64 {
        raw.retain(|b| !b.is_ascii_whitespace());
        let engine = if raw.iter().any(|b| matches!(b, b'-' | b'_')) { &URL_SAFE } else { &STANDARD };
        raw = engine.decode(&raw).map_err(|e| bad(&format!("not base64: {e}")))?;
    }
    if raw.len() as u64 > max {
        return Err(too_large(max));
    }
    Ok(raw.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::Fault;

    #[test]
    fn both_codings() {
        let decode = |uri| decode(uri, 100).unwrap();
        assert_eq!(decode("image/png;base64,AQID")[..], [1, 2, 3]);
        assert_eq!(decode("image/png;charset=x; BASE64 , AQ ID\n")[..], [1, 2, 3]);
        assert_eq!(decode(";base64,AQI=")[..], [1, 2]);
        assert_eq!(decode(";base64,AQI%3D")[..], [1, 2]);
        assert_eq!(decode(";base64,AQI")[..], [1, 2]);
        assert_eq!(decode(";base64,_-8")[..], [0xff, 0xef]);
        assert_eq!(decode(";base64,/%2B8")[..], [0xff, 0xef]);
        assert_eq!(decode("image/png,%89PNG+%00")[..], *b"\x89PNG+\0");
        assert!(decode(",").is_empty());
    }

    #[test]
    fn refusals() {
        let code = |uri: &str| match decode(uri, 100) {
            Err(Stop::Final(Fault::Record(code, message))) => {
                assert!(message.len() < 200 && !message.ends_with('.'), "{message}");
                code
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(code("image/png;base64"), FailureCode::BadReference);
        assert_eq!(code(";base64,A*"), FailureCode::BadReference);
        assert_eq!(code(&format!(";base64,{}", "A".repeat(136))), FailureCode::TooLarge);
        assert_eq!(code(&format!(";base64,{}", "A".repeat(1_000_000))), FailureCode::TooLarge);
        assert_eq!(code(&format!(",{}", "%41".repeat(101))), FailureCode::TooLarge);
        assert_eq!(decode(&format!(";base64,{}", "AAAA".repeat(33)), 100).unwrap().len(), 99);
    }
}
