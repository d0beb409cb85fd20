//! A delivery whose event is handed out as a message.

use prost::Message as _;
use serde_json::{Value, json};

use super::to_legacy;
use crate::code::Code;
use crate::event::v1::Event;
use crate::failure::Fault;
use crate::json::DeliveryJson;
use crate::sidecar::wire;

/// The JSON of a delivery with `message` in the place of `event`. Fails with `INVALID_EVENT` when the bytes are no event.
pub fn hand(mut delivery: wire::Delivery) -> Result<Value, Fault> {
    let event = Event::decode(std::mem::take(&mut delivery.event))
        .map_err(|error| Fault::new(Code::InvalidEvent, format!("not an agentbus.event.v1.Event: {error}")))?;
    let mut json = json!(DeliveryJson::from_wire(delivery)?);
    if let Value::Object(keys) = &mut json {
        keys.remove("event");
        keys.insert("message".to_owned(), json!(to_legacy(&event)));
    }
    Ok(json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_holds_the_message_instead_of_the_event() {
        let message = json!({
            "message_id": "m", "from_agent": "a", "to_agent": "b", "message_type": "t", "body": {"content": 1.5},
        });
        let (event, _) = super::super::accept(message.to_string().as_bytes(), "a").unwrap();
        let event = event.encode_to_vec().into();
        let delivery = wire::Delivery { delivery_id: "d".into(), attempt: 1, event, ..wire::Delivery::default() };
        let json = hand(delivery).unwrap();
        assert_eq!((&json["delivery_id"], &json["message"], json.get("event")), (&json!("d"), &message, None));
        let junk = wire::Delivery { event: b"\xff".as_slice().into(), ..wire::Delivery::default() };
        assert_eq!(hand(junk).unwrap_err().code, Code::InvalidEvent);
    }
}
