//! Images as files: one folder for each image column, or BasicSR's `lq` and `gt`.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::names::Names;
use super::{Exported, Format, Partial, is_there, metadata, write_file};
use crate::error::{Error, Result};
use crate::report::canvas::png;
use crate::report::decode::decode;
use crate::report::rows::{Columns, Dataset, Picture, Row};

/// One file of a row: its column and where it goes.
struct File {
    column: &'static str,
    /// Below the export's folder, with `/`.
    path: String,
    /// True if it must become a PNG to have the name of its partner.
    as_png: bool,
}

/// Exports all rows of `dataset`.
pub(super) async fn export(dataset: &Dataset, out: &Path, format: Format, mut names: Names) -> Result<Exported> {
    let mut done = Exported::default();
    let list = out.join(if format == Format::Basicsr { "meta_info.txt" } else { "metadata.jsonl" });
    let mut lines = Partial::create(&list)?;
    for part in 0..dataset.parts().len() {
        // Without images first: what is there already need not be read.
        let mut missing = Vec::new();
        let mut rows = dataset.part_rows(part..part + 1, Columns::Facts);
        while let Some(row) = rows.next().await? {
            if row.failure.is_some() {
                done.failed += 1;
                continue;
            }
            let name = names.give(&row);
            let Some(files) = files(&row, &name, format) else {
                done.without_images += 1;
                continue;
            };
            done.rows += 1;
            lines.write(line(&row, &files, format).as_bytes())?;
            let all = files.len() as u64;
            let absent: Vec<File> = files.into_iter().filter(|file| !is_there(&place(out, &file.path))).collect();
            done.kept += all - absent.len() as u64;
            if !absent.is_empty() {
                missing.push((row.at, absent));
            }
        }
        let mut rows = dataset.part_rows(part..part + 1, Columns::All);
        let mut missing = missing.into_iter().peekable();
        while let Some((at, _)) = missing.peek()
            && let Some(row) = rows.next().await?
        {
            if row.at != *at {
                continue;
            }
            for file in missing.next().map(|(_, files)| files).unwrap_or_default() {
                let Some(picture) = row.image(file.column) else { continue };
                write_file(&place(out, &file.path), &bytes_of(dataset, &row, picture, &file)?)?;
                done.written += 1;
            }
        }
    }
    lines.finish()?;
    done.renamed = names.renamed;
    Ok(done)
}

/// The files of a row called `name`; `None` if it lacks an image that the layout needs.
fn files(row: &Row, name: &str, format: Format) -> Option<Vec<File>> {
    let file = |column: &'static str, folder: &str, picture: &Picture| {
        let extension = extension(picture);
        File { column, path: format!("{folder}/{name}.{extension}"), as_png: false }
    };
    if format == Format::Mirror {
        let output = row.image("output").map(|_| File { column: "output", path: format!("{name}.png"), as_png: true });
        return output.map(|file| vec![file]);
    }
    if format != Format::Basicsr {
        let files: Vec<File> = row.images.iter().map(|(column, picture)| file(column, column, picture)).collect();
        return (!files.is_empty()).then_some(files);
    }
    let (input, target) = (row.image("input")?, row.image("target")?);
    let mut pair = vec![file("input", "lq", input), file("target", "gt", target)];
    // BasicSR looks for the partner under the very same name, extension included.
    if extension(input) != extension(target) {
        for file in &mut pair {
            file.as_png = true;
            file.path = format!("{}/{name}.png", if file.column == "input" { "lq" } else { "gt" });
        }
    }
    Some(pair)
}

/// The extension of a picture's path where it is one that a file can have, else `bin`.
pub(super) fn extension(picture: &Picture) -> String {
    let extension = picture.extension();
    let fits = (1..=8).contains(&extension.len()) && extension.bytes().all(|b| b.is_ascii_alphanumeric());
    if fits { extension } else { "bin".into() }
}

fn bytes_of(dataset: &Dataset, row: &Row, picture: &Picture, file: &File) -> Result<Vec<u8>> {
    if !file.as_png || extension(picture) == "png" {
        return Ok(picture.bytes.to_vec());
    }
    let image = decode(&picture.bytes).map_err(|why| {
        Error::DataLoss(format!("{}: {} of {} cannot be decoded: {why}", dataset.place(), file.column, row.position))
    })?;
    png(&image)
}

/// The row's line in `metadata.jsonl` (with `<column>_file_name`, by which `datasets` finds the images), or in
/// `meta_info.txt` (name, then height, width and channels, as BasicSR's own scripts write it).
fn line(row: &Row, files: &[File], format: Format) -> String {
    if format == Format::Basicsr {
        let name = files.first().and_then(|file| file.path.split_once('/')).map_or("", |(_, name)| name);
        let size = row.size.map(|(width, height)| format!(" ({height},{width},3)")).unwrap_or_default();
        return format!("{name}{size}\n");
    }
    let names = files.iter().map(|file| (format!("{}_file_name", file.column), Value::from(file.path.clone())));
    let fields: serde_json::Map<String, Value> = names.chain(metadata(row)).collect();
    Value::Object(fields).to_string() + "\n"
}

/// `path`, which uses `/`, below `out`.
fn place(out: &Path, path: &str) -> PathBuf {
    let mut place = out.to_path_buf();
    place.extend(path.split('/'));
    place
}
