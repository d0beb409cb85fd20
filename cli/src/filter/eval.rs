//! Whether an expression holds for an event.

use std::cmp::Ordering;

use serde_json::Value;

use super::lex::Op;
use super::parse::{Expr, Literal, Step};

/// Asks an event in its JSON form.
pub(super) fn holds(expr: &Expr, event: &Value) -> bool {
    match expr {
        Expr::All(parts) => parts.iter().all(|part| holds(part, event)),
        Expr::Any(parts) => parts.iter().any(|part| holds(part, event)),
        Expr::Not(part) => !holds(part, event),
        Expr::There(path) => find(path, event).is_some(),
        Expr::Compare(path, op, literal) => compare(find(path, event), *op, literal),
    }
}

/// The value at a path; null counts as none.
fn find<'a>(path: &[Step], event: &'a Value) -> Option<&'a Value> {
    let mut value = event;
    for step in path {
        value = match step {
            Step::Key(key) => value.get(key)?,
            Step::Index(index) => value.get(index)?,
        };
    }
    (!value.is_null()).then_some(value)
}

fn compare(value: Option<&Value>, op: Op, literal: &Literal) -> bool {
    if literal.bare && literal.text == "null" {
        return match op {
            Op::Equal => value.is_none(),
            Op::Differs => value.is_some(),
            _ => false,
        };
    }
    let Some(value) = value else { return op == Op::Differs };
    match op {
        Op::Equal => order(value, literal) == Some(Ordering::Equal),
        Op::Differs => order(value, literal) != Some(Ordering::Equal),
        Op::Less => order(value, literal) == Some(Ordering::Less),
        Op::More => order(value, literal) == Some(Ordering::Greater),
        Op::LessOrEqual => matches!(order(value, literal), Some(Ordering::Less | Ordering::Equal)),
        Op::MoreOrEqual => matches!(order(value, literal), Some(Ordering::Greater | Ordering::Equal)),
        Op::Contains => contains(value, literal),
    }
}

/// Numbers as numbers, texts as texts; of different kinds there is no order.
fn order(value: &Value, literal: &Literal) -> Option<Ordering> {
    match value {
        Value::Number(number) => {
            let wanted: f64 = Some(&literal.text).filter(|_| literal.bare)?.parse().ok()?;
            number.as_f64()?.partial_cmp(&wanted)
        }
        Value::Bool(truth) => {
            let wanted: bool = Some(&literal.text).filter(|_| literal.bare)?.parse().ok()?;
            (*truth == wanted).then_some(Ordering::Equal)
        }
        Value::String(text) => Some(text.as_str().cmp(&literal.text)),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// A text that has the other in it, a list with such an element; of anything else, its JSON.
fn contains(value: &Value, literal: &Literal) -> bool {
    match value {
        Value::String(text) => text.contains(&literal.text),
        Value::Array(elements) => elements.iter().any(|one| order(one, literal) == Some(Ordering::Equal)),
        other => other.to_string().contains(&literal.text),
    }
}
