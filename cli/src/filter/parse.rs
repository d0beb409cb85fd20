//! From words to an expression: `OR` of `AND`s of comparisons, with `NOT` and parentheses.

use agentbus_proto::did_you_mean;

use super::Wrong;
use super::lex::{Kind, Op, Word};

/// Parentheses and NOTs in each other.
const DEPTH_MAX: usize = 64;

/// Fields and what they are called in an event's JSON form.
const FIELDS: [(&str, &str); 18] = [
    ("id", "id"),
    ("type", "type"),
    ("source", "source"),
    ("to", "to"),
    ("correlation", "correlation_id"),
    ("correlation_id", "correlation_id"),
    ("causation", "causation_id"),
    ("causation_id", "causation_id"),
    ("key", "ordering_key"),
    ("ordering_key", "ordering_key"),
    ("priority", "priority"),
    ("time", "time"),
    ("expires", "expires"),
    ("hops", "hops"),
    ("content_type", "content_type"),
    ("replay_of", "replay_of"),
    ("attributes", "attributes"),
    ("data", "data"),
];

/// An expression.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Expr {
    All(Vec<Expr>),
    Any(Vec<Expr>),
    Not(Box<Expr>),
    There(Vec<Step>),
    Compare(Vec<Step>, Op, Literal),
}

/// One step into a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

/// A value as it was written.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Literal {
    pub text: String,
    /// Not quoted: may stand for a number, true, false or null.
    pub bare: bool,
}

/// Reads all words; `end` is the length of the text.
pub(super) fn parse(words: &[Word], end: usize) -> Result<Expr, Wrong> {
    let mut parser = Parser { words, at: 0, end, depth: 0 };
    let expr = parser.any()?;
    match parser.peek() {
        None => Ok(expr),
        Some(word) => Err(Wrong::new(word.at, "AND or OR is missing")),
    }
}

struct Parser<'a> {
    words: &'a [Word],
    at: usize,
    end: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&'a Word> {
        self.words.get(self.at)
    }

    fn next(&mut self) -> Option<&'a Word> {
        let word = self.peek()?;
        self.at += 1;
        Some(word)
    }

    fn takes(&mut self, key: &str) -> bool {
        let found = matches!(self.peek(), Some(Word { kind: Kind::Bare(word), .. }) if word.eq_ignore_ascii_case(key));
        self.at += usize::from(found);
        found
    }

    fn any(&mut self) -> Result<Expr, Wrong> {
        let mut parts = vec![self.all()?];
        while self.takes("or") {
            parts.push(self.all()?);
        }
        Ok(one_or(parts, Expr::Any))
    }

    fn all(&mut self) -> Result<Expr, Wrong> {
        let mut parts = vec![self.single()?];
        while self.takes("and") {
            parts.push(self.single()?);
        }
        Ok(one_or(parts, Expr::All))
    }

    fn single(&mut self) -> Result<Expr, Wrong> {
        let at = self.peek().map_or(self.end, |word| word.at);
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(Wrong::new(at, format!("nested more than {DEPTH_MAX} deep")));
        }
        let expr = if self.takes("not") {
            Expr::Not(Box::new(self.single()?))
        } else if matches!(self.peek(), Some(Word { kind: Kind::Open, .. })) {
            self.at += 1;
            let inner = self.any()?;
            match self.next() {
                Some(Word { kind: Kind::Close, .. }) => inner,
                other => return Err(Wrong::new(other.map_or(self.end, |word| word.at), "`)` is missing")),
            }
        } else {
            self.comparison()?
        };
        self.depth -= 1;
        Ok(expr)
    }

    fn comparison(&mut self) -> Result<Expr, Wrong> {
        let path = match self.next() {
            Some(Word { at, kind: Kind::Bare(name) }) => path(name).map_err(|why| Wrong::new(*at, why))?,
            Some(word) => return Err(Wrong::new(word.at, "a field is missing")),
            None => return Err(Wrong::new(self.end, "a field is missing")),
        };
        let Some(Word { kind: Kind::Op(op), .. }) = self.peek() else { return Ok(Expr::There(path)) };
        self.at += 1;
        let value = match self.next() {
            Some(Word { kind: Kind::Bare(text), .. }) => Literal { text: text.clone(), bare: true },
            Some(Word { kind: Kind::Quoted(text), .. }) => Literal { text: text.clone(), bare: false },
            other => return Err(Wrong::new(other.map_or(self.end, |word| word.at), "a value is missing")),
        };
        Ok(Expr::Compare(path, *op, value))
    }
}

fn one_or(mut parts: Vec<Expr>, many: fn(Vec<Expr>) -> Expr) -> Expr {
    match parts.len() {
        1 => parts.remove(0),
        _ => many(parts),
    }
}

/// `data.items[0].id` as steps. The first one must be a field of events.
fn path(text: &str) -> Result<Vec<Step>, String> {
    let (field, rest) = text.find(['.', '[']).map_or((text, ""), |at| text.split_at(at));
    let Some((_, name)) = FIELDS.iter().find(|(short, _)| *short == field) else {
        let known: Vec<&str> = FIELDS.iter().map(|(short, _)| *short).collect();
        let hint = match did_you_mean(field, &known) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("there are {};", known.join(", ")),
        };
        return Err(format!("there is no field `{field}`; {hint}"));
    };
    let mut steps = vec![Step::Key((*name).to_owned())];
    if !rest.is_empty() && !["data", "attributes"].contains(name) {
        return Err(format!("`{field}` has no parts; `data` and `attributes` have"));
    }
    if *name == "attributes" && !rest.is_empty() {
        // Names of attributes may have dots.
        steps.push(Step::Key(rest.trim_start_matches('.').to_owned()));
        return Ok(steps);
    }
    let mut rest = rest;
    while !rest.is_empty() {
        if let Some(inside) = rest.strip_prefix('[') {
            let (number, behind) = inside.split_once(']').ok_or("`[` takes a number and `]`")?;
            steps.push(Step::Index(number.parse().map_err(|_| "`[` takes a number and `]`")?));
            rest = behind;
        } else {
            let key = rest.strip_prefix('.').unwrap_or(rest);
            let (key, behind) = key.find(['.', '[']).map_or((key, ""), |at| key.split_at(at));
            if key.is_empty() {
                return Err("a name is missing behind `.`".to_owned());
            }
            steps.push(Step::Key(key.to_owned()));
            rest = behind;
        }
    }
    Ok(steps)
}
