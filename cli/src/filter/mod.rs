//! `--where`: a small expression over the fields of an event. Pure: text in, a filter or an error that points at the fault out.
//!
//! ```text
//! type = order.paid AND (data.total > 100 OR attributes.vip = yes) AND NOT source = test
//! ```
//! `lex` makes words of the text, `parse` an expression of them, `eval` asks an event. Fields are those of the event's JSON
//! form, with `correlation`, `causation` and `key` for short; `data.…` looks into JSON data, `data.items[0].id` into lists.
//! A comparison with a field that is not there is false; only `!=` is true.

mod eval;
mod lex;
mod parse;

use agentbus_proto::{Code, Fault};
use serde_json::Value;

use parse::Expr;

/// For `--help` of the commands that filter.
pub const HELP: &str = "\
Filters (--where):
  FIELD OP VALUE       OP is = != < <= > >= or ~ (contains; also spelled `contains`)
  FIELD                it is there
  AND OR NOT ( )       AND binds closer than OR
  Fields: id type source to correlation causation key priority time expires hops attributes.NAME data data.PATH[0].PATH
  Values: words, numbers, true, false, null, 'quoted text'. Numbers compare as numbers, all else as text.
  Example: --where \"type = order.paid AND data.total > 100\"";

/// A filter that was understood.
#[derive(Debug, Clone, PartialEq)]
pub struct Filter {
    expr: Expr,
}

impl Filter {
    /// Reads an expression. `INVALID_EVENT` with the place of the fault.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        let words = lex::words(text).map_err(|fault| fault.show(text))?;
        parse::parse(&words, text.len()).map(|expr| Self { expr }).map_err(|fault| fault.show(text))
    }

    /// Whether an event in its JSON form is wanted.
    pub fn matches(&self, event: &Value) -> bool {
        eval::holds(&self.expr, event)
    }
}

/// What is wrong with a text, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wrong {
    /// Byte at which it begins.
    at: usize,
    why: String,
}

impl Wrong {
    fn new(at: usize, why: impl Into<String>) -> Self {
        Self { at, why: why.into() }
    }

    fn show(self, text: &str) -> Fault {
        let (before, rest) = text.split_at(self.at.min(text.len()));
        let near: String = rest.chars().take(20).collect();
        let place = match near.is_empty() {
            true => "at the end".to_owned(),
            false => format!("at `{near}` (character {})", before.chars().count() + 1),
        };
        Fault::new(Code::InvalidEvent, format!("--where: {} {place}", self.why))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event() -> Value {
        json!({
            "id": "e-1", "type": "order.paid", "source": "shop", "to": "order.paid", "correlation_id": "c-1",
            "time": "2026-11-20T10:00:00Z", "hops": 2, "attributes": {"region": "eu", "a-b": "1"},
            "data": {"total": 120.5, "vip": true, "items": [{"id": "x"}, {"id": "y"}], "note": "rush order", "tags": ["a", "b"], "none": null},
        })
    }

    #[test]
    fn expressions_mean_what_they_say() {
        let check = |text: &str, wanted: bool| {
            let filter = Filter::parse(text).unwrap_or_else(|fault| panic!("{text}: {fault}"));
            assert_eq!(filter.matches(&event()), wanted, "{text}");
        };
        check("type = order.paid", true);
        check("type=order.paid", true);
        check("type != order.paid", false);
        check("data.total > 100", true);
        check("data.total > 120.5", false);
        check("data.total >= 120.5 and data.total<=120.5", true);
        check("data.total > '9'", false);
        check("data.vip = true", true);
        check("data.vip = false OR source = 'shop'", true);
        check("NOT source = shop", false);
        check("not (source = test) AND hops = 2", true);
        check("source = test AND hops = 2 OR id = e-1", true);
        check("source = test AND (hops = 2 OR id = e-1)", false);
        check("data.items[1].id = y", true);
        check("data.items[2].id = y", false);
        check("data.note ~ rush", true);
        check("data.note contains \"rush order\"", true);
        check("data.tags ~ b", true);
        check("data.tags ~ c", false);
        check("data ~ 120.5", true);
        check("attributes.region = eu AND attributes.a-b = 1", true);
        check("correlation = c-1", true);
        check("data.vip", true);
        check("data.missing", false);
        check("data.missing = 1", false);
        check("data.missing != 1", true);
        check("data.missing = null", true);
        check("data.none = null", true);
        check("data.total = null", false);
        check("time > 2026-11-20T09:00:00Z", true);
        check("time < 2026-11-20T09:00:00Z", false);
    }

    #[test]
    fn a_fault_is_pointed_at() {
        let said = |text: &str| Filter::parse(text).unwrap_err().message;
        assert_eq!(said(""), "--where: a field is missing at the end");
        assert_eq!(said("type ="), "--where: a value is missing at the end");
        assert_eq!(
            said("typ = x"),
            "--where: there is no field `typ`; did you mean `type`? at `typ = x` (character 1)"
        );
        assert_eq!(said("type = x y"), "--where: AND or OR is missing at `y` (character 10)");
        assert_eq!(said("(type = x"), "--where: `)` is missing at the end");
        assert_eq!(said("type = 'x"), "--where: the quote is not closed at `'x` (character 8)");
        assert_eq!(said("type ! x"), "--where: `!` goes with `=` at `! x` (character 6)");
        assert_eq!(said("data.a[x] = 1"), "--where: `[` takes a number and `]` at `data.a[x] = 1` (character 1)");
        assert_eq!(said("type = x)"), "--where: AND or OR is missing at `)` (character 9)");
    }

    #[test]
    fn nesting_has_a_bound() {
        assert!(Filter::parse(&format!("{}type{}", "(".repeat(40), ")".repeat(40))).is_ok());
        let deep = format!("{}type{}", "(".repeat(5000), ")".repeat(5000));
        assert!(Filter::parse(&deep).unwrap_err().message.contains("nested"));
    }
}
