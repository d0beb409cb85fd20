//! Words of a filter: operators, parentheses, quoted texts, and everything else between spaces.

use super::Wrong;

/// A word with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    pub at: usize,
    pub kind: Kind,
}

/// What a word is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Open,
    Close,
    Op(Op),
    /// Not quoted: a field, a key word or a value.
    Bare(String),
    /// Quoted: always a value.
    Quoted(String),
}

/// How two values are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    Equal,
    Differs,
    Less,
    LessOrEqual,
    More,
    MoreOrEqual,
    Contains,
}

/// Splits a text into words.
pub(super) fn words(text: &str) -> Result<Vec<Word>, Wrong> {
    let mut words = Vec::new();
    let mut rest = text.char_indices().peekable();
    while let Some((at, c)) = rest.next() {
        let mut followed = |next: char| rest.next_if(|(_, c)| *c == next).is_some();
        let kind = match c {
            c if c.is_whitespace() => continue,
            '(' => Kind::Open,
            ')' => Kind::Close,
            '~' => Kind::Op(Op::Contains),
            '=' => {
                followed('=');
                Kind::Op(Op::Equal)
            }
            '!' if followed('=') => Kind::Op(Op::Differs),
            '!' => return Err(Wrong::new(at, "`!` goes with `=`")),
            '<' => Kind::Op(if followed('=') { Op::LessOrEqual } else { Op::Less }),
            '>' => Kind::Op(if followed('=') { Op::MoreOrEqual } else { Op::More }),
            '\'' | '"' => {
                let inside = &text[at + 1..];
                let Some(length) = inside.find(c) else { return Err(Wrong::new(at, "the quote is not closed")) };
                while rest.next_if(|(next, _)| *next <= at + 1 + length).is_some() {}
                Kind::Quoted(inside[..length].to_owned())
            }
            c => {
                let mut bare = String::from(c);
                while let Some((_, c)) = rest.next_if(|(_, c)| !c.is_whitespace() && !"()~=!<>'\"".contains(*c)) {
                    bare.push(c);
                }
                match bare.to_ascii_lowercase().as_str() {
                    "contains" => Kind::Op(Op::Contains),
                    _ => Kind::Bare(bare),
                }
            }
        };
        words.push(Word { at, kind });
    }
    Ok(words)
}
