//! `${NAME}`, `${NAME:default}` and `${file:/path}` in the pipeline file's values; duplicate keys are found on the same walk.
//!
//! Variables are replaced in the parsed tree, so what they hold can never become YAML structure. A value with a variable in it
//! is then read like text without quotes: `sigma: "${SIGMA:25}"` is a number where a number belongs (inside `{ }` YAML
//! demands the quotes), and text where text belongs.

use std::io::Read;

use super::fault::{Fault, Step};
use super::tree::{Node, What};

/// Bytes of a `${file:…}` that are read at most.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Replaces the variables below `node`, using `lookup` for names; `path` is where `node` stands.
pub(super) fn expand(
    node: &mut Node,
    path: &mut Vec<Step>,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<(), Fault> {
    let at = node.at;
    match &mut node.what {
        What::Scalar { text, plain } => {
            if text.contains("${") {
                let replaced = replace(text, lookup).map_err(|message| Fault::new(message).at(at).in_path(path))?;
                *plain |= replaced.has_variable;
                *text = replaced.text;
            }
        }
        What::List(list) => {
            for (index, item) in list.iter_mut().enumerate() {
                path.push(Step::Index(index));
                expand(item, path, lookup)?;
                path.pop();
            }
        }
        What::Map(map) => {
            let mut seen = std::collections::HashSet::new();
            for (key, value) in map {
                path.push(Step::Key(key.text.clone()));
                if !seen.insert(key.text.clone()) {
                    path.pop();
                    return Err(Fault::duplicate(&key.text).at(key.at).in_path(path));
                }
                expand(value, path, lookup)?;
                path.pop();
            }
        }
    }
    Ok(())
}

/// `text` with its variables replaced, from the environment and files.
pub fn expand_text(text: &str) -> Result<String, String> {
    replace(text, &|name| std::env::var(name).ok()).map(|replaced| replaced.text)
}

/// A text whose variables were replaced.
struct Replaced {
    text: String,
    /// False if there were only `${{`.
    has_variable: bool,
}

fn replace(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<Replaced, String> {
    let mut out = String::new();
    let mut has_variable = false;
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        out.push_str(&rest[..start]);
        rest = &rest[start + 2..];
        if let Some(after) = rest.strip_prefix('{') {
            out.push_str("${");
            rest = after;
            continue;
        }
        let Some(end) = rest.find('}') else {
            return Err("`${` without `}`: write `${{` for a literal `${`".to_owned());
        };
        out.push_str(&value_of(&rest[..end], lookup)?);
        has_variable = true;
        rest = &rest[end + 1..];
    }
    out.push_str(rest);
    Ok(Replaced { text: out, has_variable })
}

/// The value of what stands between the braces.
fn value_of(inside: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let (name, default) = match inside.split_once(':') {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    if name == "file" {
        let path = default.filter(|path| !path.is_empty());
        return read_file(path.ok_or("`${file:…}` needs a path: `${file:/run/secrets/token}`")?);
    }
    let is_name = !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !is_name {
        // Not shown: it may be part of a secret with a `${` in it.
        return Err("what stands in `${…}` is not a variable's name: write `${{` for a literal `${`".to_owned());
    }
    lookup(name).or_else(|| default.map(str::to_owned)).ok_or_else(|| {
        format!("the environment variable `{name}` is not set: set it, or give a default as in `${{{name}:default}}`")
    })
}

/// A small text file's content without the line's end.
fn read_file(path: &str) -> Result<String, String> {
    let fail = |reason: String| format!("cannot read `{path}` of `${{file:{path}}}`: {reason}");
    let file = std::fs::File::open(path).map_err(|e| fail(e.to_string()))?;
    if !file.metadata().is_ok_and(|meta| meta.is_file()) {
        return Err(fail("not a regular file".to_owned()));
    }
    let mut text = String::new();
    file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(|e| fail(e.to_string()))?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(fail("larger than 1 MiB".to_owned()));
    }
    let trimmed = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
    Ok(trimmed.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "A" => Some("x".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    fn ok(text: &str) -> String {
        replace(text, &env).map(|r| r.text).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn values_are_replaced() {
        assert_eq!(ok("a${A}b${B:7}c"), "axb7c");
        assert_eq!(ok("${B:}"), "");
        assert_eq!(ok("${EMPTY:7}"), "");
        assert_eq!(ok("${U:http://minio:9000}"), "http://minio:9000");
        assert_eq!(ok("${{A}"), "${A}");
        assert_eq!(ok("$A $"), "$A $");
    }

    #[test]
    fn what_cannot_be_replaced_says_why() {
        for (text, part) in [
            ("${B}", "`B` is not set"),
            ("${B", "without `}`"),
            ("${a b}", "not a variable's name"),
            ("${}", "not a variable's name"),
            ("${file:}", "needs a path"),
            ("${file:/nowhere/at/all}", "cannot read"),
            ("${file:/}", "not a regular file"),
        ] {
            let error = replace(text, &env).map(|r| r.text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn a_file_loses_its_last_line_end_only() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "se\ncret\n").unwrap();
        assert_eq!(ok(&format!("${{file:{}}}", file.path().display())), "se\ncret");
    }
}
