//! Plain YAML scalars: what a text without quotes means where any type may stand (YAML 1.2's core schema).

/// What YAML's core schema makes of a plain scalar.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Resolved {
    /// `~`, `null`.
    Null,
    /// `true`, `false`.
    Bool(bool),
    /// A whole number from 0 up; also `0x1f` and `0o17`.
    Unsigned(u64),
    /// A whole number below 0.
    Signed(i64),
    /// Any other finite number.
    Float(f64),
    /// None of these.
    Text,
}

/// Reads a plain scalar. Numbers that f64 cannot hold, `.inf` and `.nan` are texts: no key takes them.
pub(super) fn resolve(text: &str) -> Resolved {
    match text {
        "~" | "null" | "Null" | "NULL" => return Resolved::Null,
        "true" | "True" | "TRUE" => return Resolved::Bool(true),
        "false" | "False" | "FALSE" => return Resolved::Bool(false),
        _ => {}
    }
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let whole = match digits.as_bytes() {
        // Rust would take a second sign.
        [b'0', b'x' | b'o', b'+' | b'-', ..] => None,
        [b'0', b'x', ..] => u64::from_str_radix(&digits[2..], 16).ok(),
        [b'0', b'o', ..] => u64::from_str_radix(&digits[2..], 8).ok(),
        [b'0'..=b'9', ..] => digits.parse().ok(),
        _ => None,
    };
    if let Some(whole) = whole {
        return match i64::try_from(i128::from(whole) * if negative { -1 } else { 1 }) {
            Ok(signed) if negative && whole > 0 => Resolved::Signed(signed),
            _ if negative && whole > 0 => Resolved::Text,
            _ => Resolved::Unsigned(whole),
        };
    }
    // Rust also reads `inf`, `infinity` and `nan`, which YAML takes for words.
    let is_number =
        digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') && digits.contains(|c: char| c.is_ascii_digit());
    match text.parse::<f64>() {
        Ok(float) if is_number && float.is_finite() => Resolved::Float(float),
        _ => Resolved::Text,
    }
}

#[cfg(test)]
mod tests {
    use super::Resolved::{Bool, Float, Null, Signed, Text, Unsigned};
    use super::*;

    #[test]
    fn texts_mean_what_yaml_says() {
        for (text, meaning) in [
            ("~", Null),
            ("null", Null),
            ("true", Bool(true)),
            ("FALSE", Bool(false)),
            ("yes", Text),
            ("0", Unsigned(0)),
            ("-0", Unsigned(0)),
            ("+7", Unsigned(7)),
            ("007", Unsigned(7)),
            ("0x1F", Unsigned(31)),
            ("0o17", Unsigned(15)),
            ("18446744073709551615", Unsigned(u64::MAX)),
            ("-9223372036854775808", Signed(i64::MIN)),
            ("-5", Signed(-5)),
            ("1.5", Float(1.5)),
            (".5", Float(0.5)),
            ("-5.", Float(-5.0)),
            ("1e3", Float(1000.0)),
            ("1e400", Text),
            (".inf", Text),
            ("inf", Text),
            ("nan", Text),
            ("0x", Text),
            ("0x+5", Text),
            ("+-5", Text),
            ("1_000", Text),
            ("25s", Text),
            ("", Text),
            ("-", Text),
            (".", Text),
            ("2026-11-23", Text),
        ] {
            assert_eq!(resolve(text), meaning, "{text}");
        }
    }

    #[test]
    fn numbers_too_large_for_whole_ones_are_numbers_still() {
        assert_eq!(resolve("18446744073709551616"), Float(18446744073709551616.0));
    }
}
