//! YAML text as a tree of plain nodes, each with its line and column.
//!
//! A strict subset: one document, text keys, no anchors, aliases or tags. What is outside is reported with its place and
//! read as nothing, so that the rest of the file is still checked; only broken syntax ends the reading. Duplicate keys
//! are kept for the caller to report. Size and depth are bounded. Nothing here knows what the keys mean.

use saphyr_parser::{Event, Marker, Parser, ScalarStyle};

use super::errors::SpecError;

/// Deepest nesting. The deepest key of a project file is at 5.
const DEPTH_MAX: usize = 32;

/// A place in the file; both count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// Line.
    pub line: usize,
    /// Column, in characters.
    pub column: usize,
}

impl From<Marker> for Mark {
    fn from(marker: Marker) -> Self {
        Self { line: marker.line(), column: marker.col() + 1 }
    }
}

/// A value and where it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Where it starts.
    pub at: Mark,
    /// What it is.
    pub value: Value,
}

/// What a node is. Scalars keep their text: what they mean depends on the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Text, number, boolean or nothing.
    Scalar {
        /// As written, without quotes.
        text: String,
        /// Written without quotes.
        plain: bool,
    },
    /// `[a, b]` or lines with dashes.
    List(Vec<Node>),
    /// `{a: b}` or lines with colons, in the order of the file.
    Map(Vec<Entry>),
}

/// One line of a mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key starts.
    pub at: Mark,
    /// Its value.
    pub value: Node,
}

impl Node {
    fn nothing(at: Mark) -> Self {
        Self { at, value: Value::Scalar { text: String::new(), plain: true } }
    }

    /// Whether nothing was written: an empty value, `~` or `null`.
    pub fn is_nothing(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null"))
    }

    /// What it is, for messages.
    pub fn kind(&self) -> &'static str {
        match &self.value {
            _ if self.is_nothing() => "nothing",
            Value::Scalar { .. } => "a single value",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }
}

/// Reads `text`. The tree is `None` when there is nothing to look at: an empty file or broken syntax.
pub fn parse(text: &str) -> (Option<Node>, Vec<SpecError>) {
    let mut tree = Tree::default();
    for event in Parser::new_from_str(text) {
        match event {
            Ok((event, span)) => {
                if !tree.on(event, span.start.into()) {
                    return (None, tree.errors);
                }
            }
            Err(error) => {
                tree.errors.push(SpecError::new((*error.marker()).into(), format!("not YAML: {}", error.info())));
                return (None, tree.errors);
            }
        }
    }
    (tree.root, tree.errors)
}

#[derive(Default)]
struct Tree {
    root: Option<Node>,
    open: Vec<Open>,
    errors: Vec<SpecError>,
    documents: usize,
}

/// A collection that is being read.
struct Open {
    at: Mark,
    value: Value,
    key: Option<(String, Mark)>,
}

impl Tree {
    /// Takes one event; false when reading must end.
    fn on(&mut self, event: Event<'_>, at: Mark) -> bool {
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    self.error(at, "a second document begins here; a project file is one document");
                    return false;
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.plain_only(at, anchor, tag.is_some());
                let value = Value::Scalar { text: text.into_owned(), plain: style == ScalarStyle::Plain };
                self.attach(Node { at, value });
            }
            Event::Alias(_) => {
                self.error(at, "aliases (`*name`) are not supported; write the value out");
                self.attach(Node::nothing(at));
            }
            Event::SequenceStart(anchor, tag) => {
                self.plain_only(at, anchor, tag.is_some());
                return self.open(at, Value::List(Vec::new()));
            }
            Event::MappingStart(anchor, tag) => {
                self.plain_only(at, anchor, tag.is_some());
                return self.open(at, Value::Map(Vec::new()));
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(done) = self.open.pop() {
                    self.attach(Node { at: done.at, value: done.value });
                }
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
        }
        true
    }

    fn error(&mut self, at: Mark, message: &str) {
        self.errors.push(SpecError::new(at, message.to_owned()));
    }

    fn plain_only(&mut self, at: Mark, anchor: usize, tagged: bool) {
        if anchor > 0 {
            self.error(at, "anchors (`&name`) are not supported; write the value out");
        }
        if tagged {
            self.error(at, "tags (`!name`) are not supported");
        }
    }

    fn open(&mut self, at: Mark, value: Value) -> bool {
        if self.open.len() >= DEPTH_MAX {
            self.error(at, "nested too deep");
            return false;
        }
        self.open.push(Open { at, value, key: None });
        true
    }

    /// Puts a finished node where it belongs: into the innermost open collection, or at the root.
    fn attach(&mut self, node: Node) {
        let Some(parent) = self.open.last_mut() else {
            self.root = Some(node);
            return;
        };
        match &mut parent.value {
            Value::List(items) => items.push(node),
            Value::Map(entries) => match parent.key.take() {
                Some((key, at)) => entries.push(Entry { key, at, value: node }),
                None => {
                    let at = node.at;
                    let key = match node.value {
                        Value::Scalar { text, .. } => text,
                        Value::List(_) | Value::Map(_) => {
                            self.errors.push(SpecError::new(at, "a key must be text".to_owned()));
                            String::new()
                        }
                    };
                    parent.key = Some((key, at));
                }
            },
            Value::Scalar { .. } => {}
        }
    }
}
