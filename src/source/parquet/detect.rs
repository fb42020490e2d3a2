//! Which columns are meant where the pipeline file says `auto`.

use arrow::datatypes::{FieldRef, Schema};

use super::columns::{Kind, is_image_struct, is_key, list};
use crate::error::{Error, Result};

/// Names of reference columns, in lower case.
const REFERENCE_NAMES: [&str; 13] = [
    "url",
    "image_url",
    "img_url",
    "uri",
    "image",
    "path",
    "file_name",
    "image_path",
    "s3_key",
    "jpg",
    "png",
    "webp",
    "bytes",
];

/// Names of key columns, in lower case, the best first.
const KEY_NAMES: [&str; 5] = ["key", "id", "uid", "sample_id", "__key__"];

/// The column that holds or names the images: marked as such, a `struct<bytes, path>`, or called like one; of the first kind
/// there is, and only one of it.
pub(super) fn detect_reference(schema: &Schema, file: &str, taken: &[&Option<String>]) -> Result<String> {
    let names = |is: &dyn Fn(&FieldRef) -> bool| -> Vec<&str> {
        let free = |field: &&FieldRef| !taken.iter().any(|taken| taken.as_ref() == Some(field.name()));
        schema.fields().iter().filter(free).filter(|field| is(field)).map(|field| field.name().as_str()).collect()
    };
    let marked = marked_images(schema);
    let is_named = |field: &FieldRef| REFERENCE_NAMES.contains(&field.name().to_lowercase().as_str());
    let tiers = [
        names(&|field| marked.contains(&field.name().as_str()) && Kind::of(field.data_type()).is_some()),
        names(&|field| is_image_struct(field.data_type())),
        names(&|field| is_named(field) && Kind::of(field.data_type()).is_some()),
    ];
    let key = "source.parquet.columns.reference";
    match tiers.iter().find(|tier| !tier.is_empty()).map(Vec::as_slice) {
        Some([one]) => Ok((*one).to_owned()),
        Some(several) => Err(Error::Config(format!(
            "{key}: several columns of {file} could be the image: {}: name one of them",
            list(several.iter().copied())
        ))),
        None => {
            let unfit = names(&|field| is_named(field));
            let unfit = if unfit.is_empty() {
                String::new()
            } else {
                format!("; {} would be called so, but are no string, binary or struct<bytes, path>", list(unfit))
            };
            Err(Error::Config(format!(
                "{key}: no column of {file} looks like an image or a reference to one{unfit}: name it; the file has {}",
                list(schema.fields().iter().map(|field| field.name().as_str()))
            )))
        }
    }
}

/// The first of the usual names that is there.
pub(super) fn detect_key(schema: &Schema) -> Option<String> {
    let fits = |name: &str, is: &dyn Fn(&str, &str) -> bool| {
        let mut fields = schema.fields().iter();
        fields.find(|field| is(field.name(), name) && is_key(field.data_type())).map(|field| field.name().clone())
    };
    KEY_NAMES
        .iter()
        .find_map(|name| fits(name, &|a, b| a == b).or_else(|| fits(name, &|a, b| a.eq_ignore_ascii_case(b))))
}

/// The columns that the `huggingface` key of the schema's metadata marks as images.
pub(super) fn marked_images(schema: &Schema) -> Vec<&str> {
    let features = || {
        let json: serde_json::Value = serde_json::from_str(schema.metadata().get("huggingface")?).ok()?;
        json.pointer("/info/features")?.as_object().cloned()
    };
    let features = features().unwrap_or_default();
    let is_image = |name: &str| features.get(name).is_some_and(|feature| feature["_type"] == "Image");
    schema.fields().iter().map(|field| field.name().as_str()).filter(|name| is_image(name)).collect()
}
