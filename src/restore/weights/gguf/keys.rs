//! The keys of a GGUF file, and the reader of its header.

use std::ops::Range;

use super::Blocks;

/// Arrays of arrays of arrays.
const DEEPEST: usize = 4;

/// A key and its value, where they lie in the file.
#[derive(Debug, Clone)]
pub(in crate::restore) struct Pair {
    pub(in crate::restore) key: String,
    kind: u32,
    value: Range<usize>,
    /// Key, type and value, as they stand in the file.
    pub(in crate::restore) all: Range<usize>,
}

impl Pair {
    /// The value as a whole number that is not negative; of an array, the one that all of it is.
    pub(super) fn whole(&self, bytes: &[u8]) -> Result<u64, String> {
        let mut reader = Reader { bytes, at: self.value.start };
        let fault = || format!("key {}: not a whole number", self.key);
        if self.kind != 9 {
            return reader.whole(self.kind).ok_or_else(fault);
        }
        let (kind, count) = (reader.u32()?, reader.u64()?);
        let first = reader.whole(kind).ok_or_else(fault)?;
        for _ in 1..count {
            if reader.whole(kind).ok_or_else(fault)? != first {
                return Err(format!("key {}: layers that differ are not supported", self.key));
            }
        }
        Ok(first)
    }

    pub(super) fn real(&self, bytes: &[u8]) -> Result<f64, String> {
        let mut reader = Reader { bytes, at: self.value.start };
        let value = match self.kind {
            // As a decimal number of f32's precision, which it was when it was written.
            6 => f32::from_bits(reader.u32()?).to_string().parse().ok(),
            12 => Some(f64::from_bits(reader.u64()?)),
            _ => None,
        };
        value.filter(|value: &f64| value.is_finite()).ok_or_else(|| format!("key {}: not a number", self.key))
    }

    pub(super) fn text<'a>(&self, bytes: &'a [u8]) -> Result<&'a str, String> {
        match self.kind {
            8 => Reader { bytes, at: self.value.start }.text(),
            _ => Err(format!("key {}: not a text", self.key)),
        }
    }
}

/// A place in a file.
pub(super) struct Reader<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: u64) -> Result<&'a [u8], String> {
        let rest = &self.bytes[self.at.min(self.bytes.len())..];
        let taken = usize::try_from(count).ok().and_then(|count| rest.get(..count));
        let taken = taken.ok_or_else(|| {
            format!("cut short, or it lies: {count} bytes are to follow byte {} of {}", self.at, self.bytes.len())
        })?;
        self.at += taken.len();
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64)?);
        Ok(array)
    }

    pub(super) fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Result<&'a str, String> {
        let at = self.at;
        let length = self.u64()?;
        std::str::from_utf8(self.take(length)?).map_err(|_| format!("the text at byte {at} is not UTF-8"))
    }

    /// A whole number of one of the file's types.
    fn whole(&mut self, kind: u32) -> Option<u64> {
        match kind {
            0 => self.array().ok().map(|[byte]| byte.into()),
            1 => self.array().ok().and_then(|byte| i8::from_le_bytes(byte).try_into().ok()),
            2 => self.array().ok().map(|bytes| u16::from_le_bytes(bytes).into()),
            3 => self.array().ok().and_then(|bytes| i16::from_le_bytes(bytes).try_into().ok()),
            4 => self.u32().ok().map(u64::from),
            5 => self.array().ok().and_then(|bytes| i32::from_le_bytes(bytes).try_into().ok()),
            10 => self.u64().ok(),
            11 => self.array().ok().and_then(|bytes| i64::from_le_bytes(bytes).try_into().ok()),
            _ => None,
        }
    }

    pub(super) fn pair(&mut self) -> Result<Pair, String> {
        let start = self.at;
        let key = self.text()?.to_owned();
        let kind = self.u32()?;
        let value = self.at;
        self.skip(kind, 0).map_err(|why| format!("key {key}: {why}"))?;
        Ok(Pair { key, kind, value: value..self.at, all: start..self.at })
    }

    fn skip(&mut self, kind: u32, depth: usize) -> Result<(), String> {
        let size = |kind| match kind {
            0 | 1 | 7 => Some(1),
            2 | 3 => Some(2),
            4..=6 => Some(4),
            10..=12 => Some(8),
            _ => None,
        };
        match (kind, size(kind)) {
            (_, Some(size)) => self.take(size).map(|_| ()),
            (8, _) => {
                let length = self.u64()?;
                self.take(length).map(|_| ())
            }
            (9, _) if depth < DEEPEST => {
                let (kind, count) = (self.u32()?, self.u64()?);
                match size(kind) {
                    Some(size) => self.take(count.saturating_mul(size)).map(|_| ()),
                    None => (0..count).try_for_each(|_| self.skip(kind, depth + 1)),
                }
            }
            (9, _) => Err("arrays in arrays in arrays".into()),
            (other, _) => Err(format!("type {other} is unknown")),
        }
    }

    /// A tensor, the offset in place of its bytes' start.
    pub(super) fn tensor(&mut self) -> Result<Blocks, String> {
        let name = self.text()?.to_owned();
        let rank = self.u32()?;
        if !(1..=4).contains(&rank) {
            return Err(format!("tensor {name}: {rank} dimensions"));
        }
        let dims = (0..rank).map(|_| self.u64()).collect::<Result<Vec<_>, _>>()?;
        let (kind, offset) = (self.u32()?, self.u64()?);
        let offset = usize::try_from(offset).map_err(|_| format!("tensor {name}: offset {offset}"))?;
        Ok(Blocks { name, dims, kind, bytes: offset..offset })
    }
}
