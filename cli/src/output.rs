//! What goes to the person and what goes to the next program: stdout is data, stderr is talk.
//!
//! Colour only on a terminal, and never with `NO_COLOR` or `TERM=dumb`. Text from events is made printable before it gets here
//! ([`printable`]), JSON is made so here ([`json_text`]): an event must not be able to move somebody's cursor. A closed pipe is an
//! error like any other; `exit` turns it into a quiet end.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use serde::Serialize;
use serde_json::Value;

/// One line of data.
pub fn line(text: impl Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    // Flushed line by line: the reader may be a program that waits for it, and what is printed gets acked afterwards.
    out.flush()
}

/// Raw data.
pub fn bytes(data: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(data)?;
    out.flush()
}

/// One JSON value for people and programs: indented.
pub fn json(value: &impl Serialize) -> anyhow::Result<()> {
    Ok(line(escaped(&serde_json::to_string_pretty(value)?))?)
}

/// One JSON value of many: one line.
pub fn json_line(value: &impl Serialize) -> anyhow::Result<()> {
    Ok(line(json_text(value)?)?)
}

/// A value as JSON on one line that a terminal can be shown: what would control it is written as `\u` and four digits, which is
/// the same JSON.
pub fn json_text(value: &impl Serialize) -> serde_json::Result<String> {
    Ok(escaped(&serde_json::to_string(value)?))
}

/// The same JSON without a character that would control a terminal. Those below the blank are in its layout only.
pub fn escaped(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if c > ' ' && controls(c) {
            // All of them are in the first plane: one unit of UTF-16.
            out.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            out.push(c);
        }
    }
    out
}

/// Talk, made printable: it quotes others. Nobody listening is fine.
pub fn say(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{}", printable_lines(&text.to_string()));
}

/// A JSON value as one line of talk.
pub fn say_json(value: &Value) {
    let _ = writeln!(io::stderr().lock(), "{}", escaped(&value.to_string()));
}

/// `1 file`, `2 files`.
pub fn count(number: impl Into<u64>, one: &str, many: &str) -> String {
    let number = number.into();
    format!("{number} {}", if number == 1 { one } else { many })
}

/// Colours, or none (the default).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Paint(bool);

impl Paint {
    /// For what goes to stdout.
    pub fn stdout() -> Self {
        Self(allowed() && io::stdout().is_terminal())
    }

    /// For what goes to stderr.
    pub fn stderr() -> Self {
        Self(allowed() && io::stderr().is_terminal())
    }

    /// Good news.
    pub fn green(self, text: impl Display) -> String {
        self.wrap("32", text)
    }

    /// Bad news.
    pub fn red(self, text: impl Display) -> String {
        self.wrap("31", text)
    }

    /// To look at.
    pub fn yellow(self, text: impl Display) -> String {
        self.wrap("33", text)
    }

    /// What matters less.
    pub fn dim(self, text: impl Display) -> String {
        self.wrap("2", text)
    }

    /// What matters.
    pub fn bold(self, text: impl Display) -> String {
        self.wrap("1", text)
    }

    /// One of six colours, the same for the same number: tells many sources apart.
    pub fn nth(self, number: usize, text: impl Display) -> String {
        const COLOURS: [&str; 6] = ["36", "33", "32", "35", "34", "31"];
        self.wrap(COLOURS[number % COLOURS.len()], text)
    }

    fn wrap(self, code: &str, text: impl Display) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }
}

fn allowed() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Whether a terminal would obey this character instead of showing it: C0, DEL, C1, and the bidirectional controls, which can make a
/// line read as something else.
fn controls(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The text on one line, with everything that would control a terminal made visible.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if controls(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}

/// Text of many lines for a terminal: line ends and tabs stay, everything else that would control it is made visible.
pub fn printable_lines(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (number, line) in text.split('\n').enumerate() {
        if number > 0 {
            out.push('\n');
        }
        let line = line.strip_suffix('\r').unwrap_or(line);
        for (number, part) in line.split('\t').enumerate() {
            if number > 0 {
                out.push('\t');
            }
            out.push_str(&printable(part));
        }
    }
    out
}

/// A question with the answer no by default. Without a terminal to ask at, the answer is what `unattended` says.
pub fn confirm(question: &str, unattended: bool) -> io::Result<bool> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Ok(unattended);
    }
    let mut err = io::stderr().lock();
    write!(err, "{question} [y/N] ")?;
    err.flush()?;
    drop(err);
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_tabs_stay_and_nothing_else_does() {
        assert_eq!(printable_lines("a\tb\r\nc\u{1b}[2J\r\u{7}\n"), "a\tb\nc\\u{1b}[2J\\r\\u{7}\n");
    }

    #[test]
    fn an_event_cannot_move_the_cursor() {
        assert_eq!(printable("a\x1b[2Jb\nc\td\u{202e}e"), "a\\u{1b}[2Jb\\nc\\td\\u{202e}e");
        assert_eq!(printable("grün {\"a\":1}"), "grün {\"a\":1}");
    }

    /// DEL, the two ends of C1, and every bidirectional control.
    const CONTROLS: &str = "\u{7f}\u{80}\u{9b}\u{9f}\u{61c}\u{200e}\u{200f}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}";

    #[test]
    fn every_control_is_made_visible() {
        for c in CONTROLS.chars() {
            assert_eq!(printable(&c.to_string()), format!("\\u{{{:x}}}", u32::from(c)));
        }
        assert_eq!(printable("\u{a0}é\u{200d}🦀"), "\u{a0}é\u{200d}🦀", "nothing else is");
    }

    #[test]
    fn json_controls_no_terminal_and_says_the_same() {
        let value = serde_json::json!({"a\u{9b}": [format!("\u{1b}\n{CONTROLS}é🦀")]});
        let text = json_text(&value).unwrap();
        assert!(!text.chars().any(controls), "{text:?}");
        assert!(text.starts_with(r#"{"a\u009b":["\u001b\n\u007f\u0080"#), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
        let pretty = escaped(&serde_json::to_string_pretty(&value).unwrap());
        assert!(!pretty.chars().any(|c| c != '\n' && controls(c)), "{pretty:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&pretty).unwrap(), value);
    }

    #[test]
    fn one_is_not_many() {
        assert_eq!([0_u32, 1, 2].map(|number| count(number, "file", "files")), ["0 files", "1 file", "2 files"]);
    }

    #[test]
    fn no_colour_means_no_bytes() {
        assert_eq!(Paint(false).red("x"), "x");
        assert_eq!(Paint(true).red("x"), "\x1b[31mx\x1b[0m");
    }
}
