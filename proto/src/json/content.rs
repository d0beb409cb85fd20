//! `data` and `data_base64`: how the bytes of an event are written in JSON.
//!
//! In: `data` is any JSON value and is stored as its own text, as written, with content type `application/json`. With
//! a content type that is not JSON, `data` must be a string and its characters are stored as UTF-8. `data_base64` is
//! stored decoded, content type `application/octet-stream` unless given.
//! Out: `data` when the content type is JSON and the bytes are JSON, or when it is `text/*` and they are UTF-8; else
//! `data_base64`. What goes out comes in again as the same bytes (JSON without the spaces between its tokens).

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use serde_json::value::{RawValue, to_raw_value};

use crate::code::Code;
use crate::failure::Fault;

/// Of `data` without a content type.
pub const JSON: &str = "application/json";
/// Of `data_base64` without a content type.
pub const OCTETS: &str = "application/octet-stream";
/// JSON nested deeper goes out as base64: many parsers fail on it, and with it on the whole answer.
pub const JSON_DEPTH_MAX: usize = 100;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Bytes as JSON: exactly one of the two is set.
#[derive(Debug, Clone)]
pub struct Written {
    /// A JSON value, on one line.
    pub data: Option<Box<RawValue>>,
    /// Base64 with padding, standard alphabet.
    pub data_base64: Option<String>,
}

/// The bytes to store and their content type. Refuses with `INVALID_EVENT`.
pub fn read(
    data: Option<&RawValue>,
    data_base64: Option<&str>,
    content_type: Option<&str>,
) -> Result<(Bytes, String), Fault> {
    match (data, data_base64) {
        (Some(_), Some(_)) => invalid("give `data` or `data_base64`, not both"),
        (None, None) => Ok((Bytes::new(), content_type.unwrap_or_default().to_owned())),
        (None, Some(text)) => match from_base64(text) {
            Some(bytes) => Ok((bytes, content_type.unwrap_or(OCTETS).to_owned())),
            None => invalid("`data_base64` is not base64"),
        },
        (Some(data), None) => {
            let content_type = content_type.unwrap_or(JSON);
            if is_json(content_type) {
                return Ok((Bytes::copy_from_slice(data.get().as_bytes()), content_type.to_owned()));
            }
            match serde_json::from_str::<String>(data.get()) {
                Ok(text) => Ok((text.into(), content_type.to_owned())),
                Err(_) => invalid(format!("`data` must be a string when `content_type` is `{content_type}`")),
            }
        }
    }
}

/// The bytes of an event as JSON.
pub fn write(bytes: &[u8], content_type: &str) -> Written {
    let data = if is_json(content_type) {
        json(bytes)
    } else if is_text(content_type) {
        std::str::from_utf8(bytes).ok().and_then(|text| to_raw_value(text).ok())
    } else {
        None
    };
    match data {
        Some(data) => Written { data: Some(data), data_base64: None },
        None => Written { data: None, data_base64: Some(to_base64(bytes)) },
    }
}

/// Standard alphabet, padding optional.
pub fn from_base64(text: &str) -> Option<Bytes> {
    BASE64.decode(text).ok().map(Bytes::from)
}

/// Standard alphabet, with padding.
pub fn to_base64(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

/// `application/json`, `text/json`, `application/cloudevents+json` and the like, parameters allowed.
pub fn is_json(content_type: &str) -> bool {
    let media = media(content_type);
    media.split_once('/').is_some_and(|(_, sub)| sub == "json" || sub.ends_with("+json"))
}

/// `text/plain`, `text/html; charset=utf-8` and the like.
pub fn is_text(content_type: &str) -> bool {
    media(content_type).starts_with("text/")
}

fn media(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// The value on one line, numbers and key order as written. `None` when it is not JSON or too deep.
fn json(bytes: &[u8]) -> Option<Box<RawValue>> {
    let raw: &RawValue = serde_json::from_slice(bytes).ok()?;
    RawValue::from_string(compact(raw.get())?).ok()
}

fn compact(json: &str) -> Option<String> {
    let mut line = String::with_capacity(json.len());
    let (mut in_string, mut escaped, mut depth) = (false, false, 0usize);
    for c in json.chars() {
        if in_string {
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
        } else {
            match c {
                ' ' | '\t' | '\r' | '\n' => continue,
                '"' => in_string = true,
                '{' | '[' => depth += 1,
                '}' | ']' => depth = depth.saturating_sub(1),
                _ => {}
            }
        }
        if depth > JSON_DEPTH_MAX {
            return None;
        }
        line.push(c);
    }
    Some(line)
}

fn invalid<T>(message: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::new(Code::InvalidEvent, message))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).unwrap()
    }

    #[test]
    fn what_is_stored() {
        let check = |data: Option<&str>, base64: Option<&str>, given: Option<&str>, bytes: &str, content_type: &str| {
            let data = data.map(raw);
            let stored = read(data.as_deref(), base64, given).unwrap();
            assert_eq!(stored, (Bytes::copy_from_slice(bytes.as_bytes()), content_type.to_owned()));
        };
        check(None, None, None, "", "");
        check(None, None, Some("text/plain"), "", "text/plain");
        check(Some(r#"{"b": 1, "a": 2}"#), None, None, r#"{"b": 1, "a": 2}"#, JSON);
        check(Some(r#""x""#), None, None, r#""x""#, JSON);
        check(Some("null"), None, None, "null", JSON);
        check(Some("123456789012345678901234567890"), None, None, "123456789012345678901234567890", JSON);
        check(Some(r#""x""#), None, Some("application/vnd.a+JSON; v=1"), r#""x""#, "application/vnd.a+JSON; v=1");
        check(Some(r#""a\nü""#), None, Some("text/plain"), "a\nü", "text/plain");
        check(Some(r#""<a/>""#), None, Some("application/xml"), "<a/>", "application/xml");
        check(None, Some("aGk="), None, "hi", OCTETS);
        check(None, Some("aGk"), Some("text/plain"), "hi", "text/plain");
    }

    #[test]
    fn what_is_refused() {
        let check = |data: Option<&str>, base64: Option<&str>, given: Option<&str>, wanted: &str| {
            let fault = read(data.map(raw).as_deref(), base64, given).unwrap_err();
            assert!(fault.code == Code::InvalidEvent && fault.message.contains(wanted), "{fault}");
        };
        check(Some("1"), Some("aGk="), None, "not both");
        check(Some("1"), None, Some("text/plain"), "must be a string when `content_type` is `text/plain`");
        check(Some(r#""\ud800""#), None, Some("text/plain"), "must be a string");
        check(None, Some("%%"), None, "not base64");
    }

    #[test]
    fn what_goes_out() {
        let check = |bytes: &[u8], content_type: &str, data: Option<&str>, base64: Option<&str>| {
            let written = write(bytes, content_type);
            assert_eq!(written.data.as_deref().map(RawValue::get), data);
            assert_eq!(written.data_base64.as_deref(), base64);
        };
        check(
            b" { \"b\" : [1, \n 1e400] , \"a\": \" \\\" \\\\\" } ",
            JSON,
            Some(r#"{"b":[1,1e400],"a":" \" \\"}"#),
            None,
        );
        check(b"{", JSON, None, Some("ew=="));
        check(b"", JSON, None, Some(""));
        check(b"\"\xff\"", JSON, None, Some("Iv8i"));
        check("ü\n".as_bytes(), "text/plain; charset=utf-8", Some(r#""ü\n""#), None);
        check(b"", "text/plain", Some(r#""""#), None);
        check(b"\xff", "text/plain", None, Some("/w=="));
        check(b"hi", "", None, Some("aGk="));
        check(b"hi", "application/xml", None, Some("aGk="));
        let deep = format!("{}{}", "[".repeat(101), "]".repeat(101));
        assert!(write(deep.as_bytes(), JSON).data.is_none());
    }

    proptest! {
        #[test]
        fn what_goes_out_comes_in_again(bytes in proptest::collection::vec(any::<u8>(), 0..60), kind in 0..4usize) {
            let content_type = [JSON, "text/plain", OCTETS, "application/xml"][kind];
            let written = write(&bytes, content_type);
            let (again, _) = read(written.data.as_deref(), written.data_base64.as_deref(), Some(content_type)).unwrap();
            if written.data.is_none() || kind != 0 {
                prop_assert_eq!(again, bytes);
            }
        }
    }
}
