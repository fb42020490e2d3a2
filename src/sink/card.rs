//! The dataset card: the `README.md` by which the Hugging Face hub and `datasets` find the data, and people their way.

use bytes::Bytes;

use super::Dataset;
use super::schema::{Columns, ImageColumn};
use crate::error::Result;
use crate::store::patiently;

/// Writes the card if the dataset has none; one that a person has edited stays.
pub async fn write_card(dataset: &Dataset, columns: &Columns, split: &str) -> Result<()> {
    let card = Bytes::from(card(columns, split));
    patiently(dataset.give_up, || dataset.folder.create("README.md", card.clone())).await.map(|_| ())
}

/// The card's text.
pub fn card(columns: &Columns, split: &str) -> String {
    let list = |names: Vec<String>| {
        if names.is_empty() {
            "none".to_owned()
        } else {
            names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
        }
    };
    let images = list(columns.images.iter().map(|image| image.name().to_owned()).collect());
    let scores = list(columns.scores.iter().map(ToString::to_string).collect());
    let kept = list(columns.kept.iter().map(|field| field.name().clone()).collect());
    let what = if columns.images.contains(&ImageColumn::Target) {
        "pairs of a degraded image (`input`) and the clean one (`target`), with every operation and parameter recorded"
    } else {
        "images and what is known of them"
    };
    let restored = if columns.restores {
        ". Each was\nrestored (`output`) by the `model` and for the `task` that its row names"
    } else {
        ""
    };
    let variants = match columns.variants {
        1 => "One row for each input position".to_owned(),
        n => format!("{n} rows (`variant` 0 to {}) for each input position", n - 1),
    };
    format!(
        "---\n\
         configs:\n\
         - config_name: default\n  data_files:\n  - split: {split}\n    path: data/**/*.parquet\n\
         tags:\n- lm4lv\n- image-restoration\n\
         ---\n\n\
         # A dataset made by lm4lv\n\n\
         Rows of {what}{restored}. {variants}; (`partition`, `offset`, `variant`) is unique. Rows whose image could not be had are\n\
         here too, with `status` = `failed`, an `error_code` and null images.\n\n\
         * images: {images} (file bytes and a path)\n\
         * scores: {scores}\n\
         * kept input columns: {kept}\n\
         * `ops`: what was done to `input`, in order, `params` as JSON; with `seed` enough to do it again\n\n\
         ## Reading it\n\n\
         ```python\n\
         import datasets, duckdb, polars, pyarrow.dataset\n\n\
         datasets.load_dataset(\"PATH\", split=\"{split}\")          # shows pictures\n\
         pyarrow.dataset.dataset(\"PATH/data\").to_table(columns=[\"key\", \"status\"])\n\
         duckdb.sql(\"select status, count(*) from 'PATH/data/**/*.parquet' group by 1\")\n\
         polars.scan_parquet(\"PATH/data\").filter(polars.col(\"status\") == \"success\")\n\
         ```\n\n\
         `lm4lv verify PATH` checks that nothing is missing and nothing twice.\n"
    )
}
