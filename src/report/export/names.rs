//! The names of exported rows: from the paths in the dataset, safe for file systems, and never the same twice.
//!
//! Of rows that would have the same name (keys may repeat; letters that differ in case only count as the same, since some
//! file systems think so) the first in the dataset's order keeps it, each later one gets `~<partition>-<offset>` behind it.
//! To know which names repeat, one pass over the names keeps 8 bytes a row.

use std::collections::HashSet;

use super::Format;
use crate::error::Result;
use crate::report::rows::{Columns, Dataset, Row};

/// Bytes of a path's component: file systems take 255, and suffix and extension come behind.
const MAX_COMPONENT: usize = 180;

/// Gives names to rows, in the order of the dataset.
pub(super) struct Names {
    format: Format,
    /// True if some record has more than one variant: then every name says which.
    variants: bool,
    /// Hashes of all names, sorted.
    all: Vec<u64>,
    /// Of those, the ones that repeat or that are also a folder's.
    repeated: HashSet<u64>,
    /// Of the repeated, those that were given.
    given: HashSet<u64>,
    /// Rows that got a suffix so far.
    pub(super) renamed: u64,
}

impl Names {
    /// Reads the names of all rows.
    pub(super) async fn read(dataset: &Dataset, format: Format) -> Result<Self> {
        let mut all = Vec::new();
        let mut with_variants = Vec::new();
        let mut folders = HashSet::new();
        let mut variants = false;
        let mut rows = dataset.rows(Columns::Names);
        while let Some(row) = rows.next().await? {
            if row.failure.is_some() {
                continue;
            }
            variants |= row.variant > 0;
            let stem = stem(&row, format);
            for (at, _) in stem.match_indices('/') {
                folders.insert(hash(&stem[..at]));
            }
            // Whether names say the variant is known at the end only.
            all.push(hash(&stem));
            with_variants.push(hash(&named(stem, row.variant, true)));
        }
        if variants {
            all = with_variants;
        }
        all.sort_unstable();
        let mut repeated: HashSet<u64> = all.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
        repeated.extend(folders.into_iter().filter(|folder| all.binary_search(folder).is_ok()));
        Ok(Self { format, variants, all, repeated, given: HashSet::new(), renamed: 0 })
    }

    /// The name of `row`, without extension. To be called once for each row that did not fail, in order.
    pub(super) fn give(&mut self, row: &Row) -> String {
        let name = named(stem(row, self.format), row.variant, self.variants);
        let hashed = hash(&name);
        if !self.repeated.contains(&hashed) || self.given.insert(hashed) {
            return name;
        }
        self.renamed += 1;
        let mut renamed = format!("{name}~{}-{}", safe_component(row.position.partition.as_str()), row.position.offset);
        // Only a key that was made to look like such a name gets here.
        while self.all.binary_search(&hash(&renamed)).is_ok() {
            renamed.push('~');
        }
        renamed
    }
}

fn named(stem: String, variant: u16, variants: bool) -> String {
    if variants { format!("{stem}_v{variant}") } else { stem }
}

/// The first 8 bytes of BLAKE3 of the lower-case name.
fn hash(name: &str) -> u64 {
    let hash = blake3::hash(name.to_lowercase().as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hash.as_bytes()[..8]);
    u64::from_le_bytes(first)
}

/// Extensions that say nothing any more, since the exported file has one of its own.
const EXTENSIONS: [&str; 8] = ["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"];

/// A row's path without variant and extension (`a/cat.jpg.v3.png` is `a/cat`), as the format can bear it.
fn stem(row: &Row, format: Format) -> String {
    let path = row.images.first().map_or(row.key.as_str(), |(_, picture)| picture.path.as_str());
    let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
    let cut = |file: &'_ str, ends: &dyn Fn(&str) -> bool| match file.rsplit_once('.') {
        Some((name, end)) if !name.is_empty() && ends(end) => name.len(),
        _ => file.len(),
    };
    let file = &file[..cut(file, &|_| !row.images.is_empty())];
    let file = &file[..cut(file, &|end| end.strip_prefix('v').is_some_and(|v| *v == row.variant.to_string()))];
    let file = &file[..cut(file, &|end| EXTENSIONS.contains(&end.to_ascii_lowercase().as_str()))];
    let parts = folder.split('/').chain([file]).filter(|part| !matches!(*part, "" | "." | ".."));
    let mut parts: Vec<String> = parts.map(safe_component).collect();
    if parts.is_empty() {
        parts.push("_".into());
    }
    match format {
        Format::Folder | Format::Mirror => parts.join("/"),
        // BasicSR looks into one folder and splits lines of meta_info.txt at spaces.
        Format::Basicsr => shortened(parts.join("_").replace(char::is_whitespace, "_")),
        // A WebDataset key ends at its first dot.
        Format::Webdataset => shortened(parts.join("_").replace(['.', ' '], "_")),
    }
}

/// A component of a path without what Windows, macOS or a shell would stumble over.
fn safe_component(part: &str) -> String {
    let bad = |c: char| c.is_control() || matches!(c, '\\' | '/' | ':' | '*' | '?' | '"' | '<' | '>' | '|');
    let safe: String = part.chars().map(|c| if bad(c) { '_' } else { c }).collect();
    // Names that start with a dot are hidden, and Windows drops dots and spaces at the end.
    let safe = safe.trim_end_matches(['.', ' ']);
    shortened(match safe.strip_prefix('.') {
        Some(rest) => format!("_{rest}"),
        None if safe.is_empty() => "_".to_owned(),
        None => safe.to_owned(),
    })
}

/// At most [`MAX_COMPONENT`] bytes; what is longer ends in a hash of the whole.
fn shortened(name: String) -> String {
    if name.len() <= MAX_COMPONENT {
        return name;
    }
    let mut end = MAX_COMPONENT - 17;
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}-{:016x}", &name[..end], hash(&name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Partition, Position};
    use crate::report::rows::{Address, Picture};

    fn row(path: &str, offset: u64) -> Row {
        Row {
            at: Address { part: 0, row: offset },
            key: "key".into(),
            variant: 0,
            position: Position { partition: Partition::of_file(0, 0), offset },
            url: None,
            failure: None,
            size: None,
            original_size: None,
            sha256: None,
            images: vec![("input", Picture { bytes: Default::default(), path: path.into() })],
            source_file: None,
            source_row: None,
            seed: None,
            ops: Vec::new(),
            scores: Vec::new(),
            other: Default::default(),
        }
    }

    fn names(paths: &[&str], format: Format) -> Vec<String> {
        let mut all: Vec<u64> = paths.iter().map(|path| hash(&stem(&row(path, 0), format))).collect();
        all.sort_unstable();
        let repeated = all.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
        let mut names = Names { format, variants: false, all, repeated, given: HashSet::new(), renamed: 0 };
        paths.iter().enumerate().map(|(i, path)| names.give(&row(path, i as u64))).collect()
    }

    #[test]
    fn paths_are_safe() {
        let of = |path: &str, format| stem(&row(path, 0), format);
        assert_eq!(of("a/b.c.png", Format::Folder), "a/b.c");
        assert_eq!(of("a/cat.JPG.png", Format::Folder), "a/cat");
        assert_eq!(of("a/cat.jpg.v0.png", Format::Folder), "a/cat");
        assert_eq!(of("a/cat.v1.png", Format::Folder), "a/cat.v1");
        assert_eq!(of(".jpg.png", Format::Folder), "_jpg");
        assert_eq!(of("../../etc/passwd.png", Format::Folder), "etc/passwd");
        assert_eq!(of("/a//./b.png", Format::Folder), "a/b");
        assert_eq!(of("..", Format::Folder), "_");
        assert_eq!(of(".hidden", Format::Folder), "_hidden");
        assert_eq!(of("c:\\x\u{0}y. .png", Format::Folder), "c__x_y");
        assert_eq!(of("a b/c d.e.png", Format::Basicsr), "a_b_c_d.e");
        assert_eq!(of("a b/c.d.e.png", Format::Webdataset), "a_b_c_d_e");
        let long = format!("{}.png", "ä".repeat(4000));
        assert!(of(&long, Format::Folder).len() <= MAX_COMPONENT);
        assert_ne!(of(&long, Format::Folder), of(&format!("{}b.png", "ä".repeat(4000)), Format::Folder));
    }

    #[test]
    fn repeated_names_get_a_suffix_in_order() {
        let given = names(&["a/x.png", "a/y.png", "A/X.jpg", "a/x.png"], Format::Folder);
        assert_eq!(given, ["a/x", "a/y", "A/X~00000-00000-2", "a/x~00000-00000-3"]);
        let trap = names(&["x.png", "x.png", "x~00000-00000-1.png"], Format::Webdataset);
        assert_eq!(trap, ["x", "x~00000-00000-1~", "x~00000-00000-1"]);
    }
}
