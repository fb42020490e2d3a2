//! YAML text → a tree of nodes that remember where they stand.
//!
//! The pipeline file goes through this tree, not straight into the structs, so that `--set` can edit it, variables can be
//! replaced after parsing, and every later complaint (a misspelt key, an impossible combination) can still point at a line
//! and a column. The parser is serde-saphyr's own event parser; what YAML could do to us is bounded here: size, depth, number
//! of nodes (counted after aliases are copied, so a billion laughs stop at the hundred-thousandth).

use serde_saphyr::granit_parser::{Event, Options, Parser, ScalarStyle, Span, StrInput};

use super::fault::Fault;

/// Bytes of a pipeline file that are read at most.
pub(super) const MAX_BYTES: usize = 1 << 20;
/// Lists and maps inside each other.
const MAX_DEPTH: usize = 64;
/// Nodes, copies made by aliases included.
const MAX_NODES: usize = 100_000;

/// Where a node stands: in the file (`source` 0) or in the n-th `--set` (from 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Place {
    /// 0 for the file, else the number of the `--set`.
    pub(super) source: usize,
    /// From 1.
    pub(super) line: usize,
    /// From 1, in characters.
    pub(super) column: usize,
    /// Characters to underline; at least 1.
    pub(super) len: usize,
}

/// A YAML node.
#[derive(Debug, Clone)]
pub(super) struct Node {
    /// Its content.
    pub(super) what: What,
    /// Where it starts.
    pub(super) at: Place,
}

/// The content of a node.
#[derive(Debug, Clone)]
pub(super) enum What {
    /// A scalar as text. If it is `plain` (written without quotes, or made of variables), numbers, booleans and null are
    /// recognised when it is read; otherwise it is a string.
    Scalar {
        /// The text, escapes resolved.
        text: String,
        /// See above.
        plain: bool,
    },
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the order written.
    Map(Vec<(Key, Node)>),
}

/// A key of a map.
#[derive(Debug, Clone)]
pub(super) struct Key {
    /// Its text.
    pub(super) text: String,
    /// Where it starts.
    pub(super) at: Place,
}

/// Reads one YAML document. `source` goes into every [`Place`].
pub(super) fn parse(text: &str, source: usize) -> Result<Node, Fault> {
    if text.len() > MAX_BYTES {
        let at = Place { source, line: 1, column: 1, len: 1 };
        return Err(Fault::new(format!("larger than {} KiB: this is not a pipeline file", MAX_BYTES >> 10)).at(at));
    }
    let options = serde_saphyr::granit_parser::options! {
        emit_comments: false,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    };
    let mut builder = Builder::new(text, options, source);
    let root = builder.document()?;
    Ok(root.unwrap_or(Node { what: What::null(), at: Place { source, line: 1, column: 1, len: 1 } }))
}

impl What {
    /// YAML's null.
    fn null() -> Self {
        Self::Scalar { text: "~".to_owned(), plain: true }
    }
}

impl Node {
    /// True for a plain scalar that YAML's core schema reads as null.
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.what, What::Scalar { text, plain: true } if matches!(text.as_str(), "~" | "null" | "Null" | "NULL"))
    }
}

/// Builds nodes from the parser's events.
struct Builder<'a> {
    parser: Parser<'a, StrInput<'a>>,
    source: usize,
    nodes: usize,
    /// Finished anchored nodes by the parser's number; small.
    anchors: Vec<(usize, Node)>,
}

impl<'a> Builder<'a> {
    fn new(text: &'a str, options: Options, source: usize) -> Self {
        Self { parser: Parser::new_from_str_with_options(text, options), source, nodes: 0, anchors: Vec::new() }
    }

    /// The whole stream: at most one document.
    fn document(&mut self) -> Result<Option<Node>, Fault> {
        let mut root = None;
        while let Some((event, at)) = self.next()? {
            match event {
                Event::DocumentStart(..) if root.is_some() => {
                    return Err(Fault::new("a pipeline file is one document: remove `---` and what follows").at(at));
                }
                event if event.is_node() => root = Some(self.node(event, at, 0)?),
                _ => {}
            }
        }
        Ok(root)
    }

    fn next(&mut self) -> Result<Option<(Event<'a>, Place)>, Fault> {
        match self.parser.next_event() {
            None => Ok(None),
            Some(Ok((event, span))) => Ok(Some((event, self.place(span)))),
            Some(Err(error)) => {
                let mark = *error.marker();
                let at = Place { source: self.source, line: mark.line().max(1), column: mark.col() + 1, len: 1 };
                Err(Fault::new(format!("not YAML: {}", error.info())).at(at).syntax())
            }
        }
    }

    fn place(&self, span: Span) -> Place {
        let len =
            if span.start.line() == span.end.line() { span.end.col().saturating_sub(span.start.col()) } else { 1 };
        Place { source: self.source, line: span.start.line().max(1), column: span.start.col() + 1, len: len.max(1) }
    }

    fn count(&mut self, more: usize, at: Place) -> Result<(), Fault> {
        self.nodes += more;
        if self.nodes > MAX_NODES {
            return Err(
                Fault::new(format!("more than {MAX_NODES} values, aliases counted as often as they are used")).at(at)
            );
        }
        Ok(())
    }

    /// The node that `event` starts.
    fn node(&mut self, event: Event<'a>, at: Place, depth: usize) -> Result<Node, Fault> {
        if depth > MAX_DEPTH {
            return Err(Fault::new(format!("nested deeper than {MAX_DEPTH} levels")).at(at));
        }
        self.count(1, at)?;
        let (what, anchor, tag) = match event {
            Event::Alias(id) => {
                let Some(index) = self.anchors.iter().position(|(anchor, _)| *anchor == id) else {
                    return Err(Fault::new("an alias inside the value that it names").at(at));
                };
                // Counted before it is copied: the copy of a copy of a copy would be the bomb.
                self.count(cost(&self.anchors[index].1.what), at)?;
                let what = self.anchors[index].1.what.clone();
                if depth + height(&what) > MAX_DEPTH {
                    return Err(Fault::new(format!("nested deeper than {MAX_DEPTH} levels")).at(at));
                }
                return Ok(Node { what, at });
            }
            Event::Scalar(text, style, anchor, tag) => {
                (What::Scalar { text: text.into_owned(), plain: style == ScalarStyle::Plain }, anchor, tag)
            }
            Event::SequenceStart(_, anchor, tag) => {
                let mut list = Vec::new();
                loop {
                    match self.next()? {
                        Some((Event::SequenceEnd, _)) | None => break,
                        Some((event, at)) if event.is_node() => list.push(self.node(event, at, depth + 1)?),
                        Some(_) => {}
                    }
                }
                (What::List(list), anchor, tag)
            }
            Event::MappingStart(_, anchor, tag) => (What::Map(self.map(depth)?), anchor, tag),
            _ => return Err(Fault::new("not YAML: a value is missing here").at(at)),
        };
        if tag.is_some() {
            return Err(Fault::new("YAML tags (`!…`) mean nothing in a pipeline file: remove it").at(at));
        }
        let node = Node { what, at };
        if anchor > 0 {
            self.count(cost(&node.what), at)?;
            self.anchors.push((anchor, node.clone()));
        }
        Ok(node)
    }

    fn map(&mut self, depth: usize) -> Result<Vec<(Key, Node)>, Fault> {
        let mut map: Vec<(Key, Node)> = Vec::new();
        loop {
            let key = match self.next()? {
                Some((Event::MappingEnd, _)) | None => return Ok(map),
                Some((event, at)) if event.is_node() => match self.node(event, at, depth + 1)?.what {
                    What::Scalar { text, .. } => Key { text, at },
                    _ => return Err(Fault::new("a key must be a word, not a list or a map").at(at)),
                },
                Some(_) => continue,
            };
            let value = loop {
                match self.next()? {
                    Some((event, at)) if event.is_node() => break self.node(event, at, depth + 1)?,
                    Some(_) => {}
                    None => return Ok(map),
                }
            };
            map.push((key, value));
        }
    }
}

/// What a copy of a node costs, in nodes: a long text counts as several.
fn cost(what: &What) -> usize {
    match what {
        What::Scalar { text, .. } => 1 + text.len() / 32,
        What::List(list) => 1 + list.iter().map(|n| cost(&n.what)).sum::<usize>(),
        What::Map(map) => 1 + map.iter().map(|(k, n)| 1 + k.text.len() / 32 + cost(&n.what)).sum::<usize>(),
    }
}

/// Levels below a node.
fn height(what: &What) -> usize {
    match what {
        What::Scalar { .. } => 0,
        What::List(list) => 1 + list.iter().map(|n| height(&n.what)).max().unwrap_or(0),
        What::Map(map) => 1 + map.iter().map(|(_, n)| height(&n.what)).max().unwrap_or(0),
    }
}
