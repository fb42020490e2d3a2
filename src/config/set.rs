//! `--set a.b.c=value`: edits the tree before it is read, so that a mistake in it is told like one in the file.

use super::fault::{Fault, Step};
use super::tree::{Key, Node, Place, What, parse};

/// Applies `--set` number `source` (from 1) to the tree. The value is YAML; the path's steps are keys, `"keys with dots"` and
/// list indexes (`recipe.0` or `recipe[0]`). Keys that are not there yet are added.
pub(super) fn apply(root: &mut Node, set: &str, source: usize) -> Result<(), Fault> {
    let at = Place { source, line: 1, column: 1, len: 1 };
    let (path, value) = split(set).map_err(|message| Fault::new(message).at(at))?;
    let mut value = parse(value, source).map_err(|fault| fault.in_path(&path))?;
    // Whatever is wrong inside the value is reported as the `--set`'s.
    relocate(&mut value, at);
    let mut node = root;
    for (depth, step) in path.iter().enumerate() {
        node = child(node, step, at).map_err(|message| Fault::new(message).at(at).in_path(&path[..depth]))?;
    }
    *node = value;
    Ok(())
}

/// The path and the value's text.
fn split(set: &str) -> Result<(Vec<Step>, &str), String> {
    let usage = || "write it as key.key=value, such as sink.dir=out".to_owned();
    let mut path = Vec::new();
    let mut rest = set;
    loop {
        if let Some(quoted) = rest.strip_prefix('"') {
            let (key, after) = quoted.split_once('"').ok_or_else(usage)?;
            path.push(Step::Key(key.to_owned()));
            rest = after;
        } else {
            let end = rest.find(['.', '=', '[']).ok_or_else(usage)?;
            let word = &rest[..end];
            if word.is_empty() {
                return Err(usage());
            }
            path.push(word.parse().map_or_else(|_| Step::Key(word.to_owned()), Step::Index));
            rest = &rest[end..];
        }
        while let Some(bracket) = rest.strip_prefix('[') {
            let (index, after) = bracket.split_once(']').ok_or_else(usage)?;
            path.push(Step::Index(index.parse().map_err(|_| usage())?));
            rest = after;
        }
        match rest.as_bytes().first() {
            Some(b'=') => return Ok((path, &rest[1..])),
            Some(b'.') => rest = &rest[1..],
            _ => return Err(usage()),
        }
    }
}

/// The node one step further, made if it is a key that is not there.
fn child<'a>(node: &'a mut Node, step: &Step, at: Place) -> Result<&'a mut Node, String> {
    if let What::Scalar { .. } = node.what {
        // `resize: none` gives way to `--set load.resize.size=224`.
        node.what = What::Map(Vec::new());
    }
    let map = match &mut node.what {
        What::Map(map) => map,
        What::List(list) => {
            let len = list.len();
            let Step::Index(index) = step else {
                return Err(format!("a list of {len} stands here: name an item by its number, from 0"));
            };
            let missing = || format!("the list has {len} items, none with the number {index} (from 0)");
            return list.get_mut(*index).ok_or_else(missing);
        }
        What::Scalar { .. } => return Err("no key is allowed here".to_owned()),
    };
    let text = match step {
        Step::Key(key) => key.clone(),
        Step::Index(index) => index.to_string(),
    };
    let index = match map.iter().position(|(key, _)| key.text == text) {
        Some(index) => index,
        None => {
            let empty = Node { what: What::Scalar { text: "~".to_owned(), plain: true }, at };
            map.push((Key { text, at }, empty));
            map.len() - 1
        }
    };
    Ok(&mut map[index].1)
}

fn relocate(node: &mut Node, at: Place) {
    node.at = at;
    match &mut node.what {
        What::Scalar { .. } => {}
        What::List(list) => list.iter_mut().for_each(|n| relocate(n, at)),
        What::Map(map) => {
            for (key, value) in map {
                key.at = at;
                relocate(value, at);
            }
        }
    }
}

/// The node that `path` leads to, or the last one on the way: where a complaint about `path` points.
pub(super) fn nearest_place(root: &Node, path: &[Step]) -> Place {
    let mut node = root;
    let mut place = root.at;
    for step in path {
        let next = match (&node.what, step) {
            (What::Map(map), Step::Key(word)) => {
                map.iter().find(|(key, _)| key.text == *word).map(|(key, n)| (key.at, n))
            }
            (What::List(list), Step::Index(index)) => list.get(*index).map(|n| (n.at, n)),
            _ => None,
        };
        let Some((at, inner)) = next else { break };
        (place, node) = (at, inner);
    }
    place
}

/// Lengthens `path` to the first place below it where `key` has this `value`, if there is one.
pub(super) fn refine(root: &Node, path: &mut Vec<Step>, key: &str, value: &str) {
    fn search(node: &Node, wanted: (&str, &str), path: &mut Vec<Step>) -> bool {
        let mut enter = |step: Step, inner: &Node| {
            let here = matches!((&step, &inner.what), (Step::Key(key), What::Scalar { text, .. }) if (key.as_str(), text.as_str()) == wanted);
            path.push(step);
            let found = here || search(inner, wanted, path);
            if !found {
                path.pop();
            }
            found
        };
        match &node.what {
            What::Scalar { .. } => false,
            What::List(list) => list.iter().enumerate().any(|(index, inner)| enter(Step::Index(index), inner)),
            What::Map(map) => map.iter().any(|(key, inner)| enter(Step::Key(key.text.clone()), inner)),
        }
    }
    let mut node = root;
    for step in path.iter() {
        let next = match (&node.what, step) {
            (What::Map(map), Step::Key(word)) => map.iter().find(|(key, _)| key.text == *word).map(|(_, inner)| inner),
            (What::List(list), Step::Index(index)) => list.get(*index),
            _ => None,
        };
        let Some(inner) = next else { return };
        node = inner;
    }
    search(node, (key, value), path);
}

/// `a.b[0]` as steps: the paths that the checks name.
pub(super) fn steps(path: &str) -> Vec<Step> {
    split(&format!("{path}=")).map(|(steps, _)| steps).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::fault::show_path;
    use super::*;

    #[test]
    fn paths_are_split() {
        let shown = |set: &str| split(set).map(|(path, value)| (show_path(&path), value.to_owned()));
        assert_eq!(shown("a.b=c=d"), Ok(("a.b".to_owned(), "c=d".to_owned())));
        assert_eq!(shown("a.0.b="), Ok(("a[0].b".to_owned(), String::new())));
        assert_eq!(shown("a[0][1].b=1"), Ok(("a[0][1].b".to_owned(), "1".to_owned())));
        assert_eq!(
            shown("stores.\"s3://a.b\".region=x"),
            Ok(("stores.\"s3://a.b\".region".to_owned(), "x".to_owned()))
        );
        for wrong in ["", "a", "=1", "a.=1", ".a=1", "a[x]=1", "a[0=1", "\"a=1"] {
            assert!(split(wrong).is_err(), "{wrong}");
        }
    }
}
