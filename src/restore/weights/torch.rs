//! Files of `torch.save`: a zip file with a pickle that describes tensors, and their storages beside it, not compressed.

use std::collections::HashMap;
use std::io::Cursor;
use std::ops::Range;

use zip::{CompressionMethod, ZipArchive};

use super::pickle::{self, Named, View};
use super::{Entry, Stored};

/// Name and place of each tensor.
pub(super) fn table(bytes: &[u8]) -> Result<Vec<(String, Entry)>, String> {
    let files = files(bytes)?;
    let pickle = files.iter().find(|(name, _)| *name == "data.pkl" || name.ends_with("/data.pkl"));
    let (name, place) = pickle.ok_or("a zip file without data.pkl: not what torch.save writes")?;
    let folder = name.strip_suffix("data.pkl").unwrap_or_default();
    if let Some(order) = files.get(&format!("{folder}byteorder"))
        && bytes[order.clone()] != *b"little"
    {
        return Err("its numbers are big-endian".into());
    }
    let entry = |(name, value): (String, Named)| {
        let entry = match value {
            Named::Tensor(view) => {
                let storage = files.get(&format!("{folder}data/{}", view.storage));
                placed(&view, storage.cloned()).map_err(|why| format!("tensor {name}: {why}"))?
            }
            Named::Other(what) => Entry {
                shape: Vec::new(),
                stored: Stored::Other(what.to_owned()),
                bytes: 0..0,
                strides: None,
                interleaved_heads: None,
            },
        };
        Ok((name, entry))
    };
    let entries =
        pickle::dictionary(&bytes[place.clone()])?.into_iter().map(entry).collect::<Result<Vec<_>, String>>()?;
    if !entries.iter().any(|(_, entry)| !matches!(&entry.stored, Stored::Other(_))) {
        let names: Vec<_> = entries.iter().map(|(name, _)| name.as_str()).collect();
        return Err(format!("no tensors in its dictionary, but {}: save model.state_dict()", super::listed(&names)));
    }
    Ok(entries)
}

/// The places of the archive's files, all of which are stored as they are.
fn files(bytes: &[u8]) -> Result<HashMap<String, Range<usize>>, String> {
    let fault = |error: zip::result::ZipError| format!("not a sound zip file, or cut short: {error}");
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(fault)?;
    let mut files = HashMap::new();
    for index in 0..archive.len() {
        let file = archive.by_index_raw(index).map_err(fault)?;
        let name = file.name().map_err(fault)?.into_owned();
        if file.compression() != CompressionMethod::Stored || file.encrypted() || file.compressed_size() != file.size()
        {
            return Err(format!("{name} in it is compressed, which torch.save does not do"));
        }
        let place = file.data_start().and_then(|start| {
            let start = usize::try_from(start).ok()?;
            let end = start.checked_add(usize::try_from(file.size()).ok()?)?;
            (end <= bytes.len()).then_some(start..end)
        });
        let place = place.ok_or_else(|| format!("cut short: {name} in it is not all there"))?;
        if files.insert(name.clone(), place).is_some() {
            return Err(format!("{name} is in it twice"));
        }
    }
    Ok(files)
}

/// Holds a view against its storage.
fn placed(view: &View, storage: Option<Range<usize>>) -> Result<Entry, String> {
    let storage = storage.ok_or_else(|| format!("its storage data/{} is missing", view.storage))?;
    let plain = |bytes| Entry {
        shape: view.shape.clone(),
        stored: view.stored.clone(),
        bytes,
        strides: None,
        interleaved_heads: None,
    };
    let size = match &view.stored {
        Stored::Plain(dtype) => dtype.size_in_bytes(),
        _ => return Ok(plain(storage.start..storage.start)),
    };
    let there = storage.len() / size;
    if view.count > there {
        return Err(format!("its storage is to have {} values, {there} are there", view.count));
    }
    let values = view.shape.iter().try_fold(1usize, |all, dim| all.checked_mul(*dim));
    let values = values.ok_or_else(|| format!("shape {:?}", view.shape))?;
    if values == 0 {
        return Ok(plain(storage.start..storage.start));
    }
    // One behind the last value, counted from the first.
    let end =
        view.shape.iter().zip(&view.strides).try_fold(1usize, |end, (dim, stride)| {
            (dim - 1).checked_mul(*stride).and_then(|last| end.checked_add(last))
        });
    let inside = end.filter(|end| view.offset.checked_add(*end).is_some_and(|end| end <= there));
    let end = inside.ok_or_else(|| {
        let View { offset, shape, strides, .. } = view;
        format!(
            "shape {shape:?} with strides {strides:?} from value {offset} on does not fit its storage of {there} values"
        )
    })?;
    if values > end {
        return Err(format!(
            "shape {:?} with strides {:?} repeats values: save a copy of it",
            view.shape, view.strides
        ));
    }
    let mut row_after_row = vec![1; view.shape.len()];
    for dim in (1..view.shape.len()).rev() {
        row_after_row[dim - 1] = row_after_row[dim] * view.shape[dim];
    }
    let same = view.strides.iter().zip(&row_after_row).zip(&view.shape).all(|((a, b), dim)| a == b || *dim == 1);
    let start = storage.start + view.offset * size;
    Ok(Entry { strides: (!same).then(|| view.strides.clone()), ..plain(start..start + end * size) })
}
