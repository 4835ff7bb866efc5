//! Any bytes give a message or an error, and a message that was decoded survives the wire.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use quorate_pbft::{
    Configuration,
    message::{Message, wire},
};

fuzz_target!(|data: &[u8]| {
    let Some((selector, data)) = data.split_first() else { return };
    let bytes = Bytes::copy_from_slice(data);
    match selector % 5 {
        0 => {
            if let Ok(message) = wire::decode(bytes) {
                let again = wire::decode(wire::encode(&message)).expect("what was encoded decodes");
                assert_eq!(message, again);
                let bytes = wire::encode_body(&message.body);
                let mut body = message.body;
                let again = wire::decode_body(body.kind() as u32, bytes);
                // What a request names is beside its bytes.
                if let Message::Request(request) = &mut body
                    && !request.named.is_empty()
                {
                    request.operations.clear();
                }
                // A batch keeps the bytes it came in, whatever carries it.
                assert_eq!(again, Ok(body));
            }
        }
        1 => {
            if let Ok(record) = wire::decode_record(bytes) {
                assert_eq!(wire::decode_record(wire::encode_record(&record)), Ok(record));
            }
        }
        2 => {
            if let Ok(batch) = wire::decode_batch(bytes) {
                let again = wire::batch(batch.time, batch.seal, batch.requests.clone());
                let again = wire::decode_batch(again.bytes).expect("what was encoded decodes");
                assert_eq!((again.time, again.seal), (batch.time, batch.seal));
                assert_eq!(again.requests, batch.requests);
            }
        }
        3 => {
            if let Ok(new_key) = wire::decode_new_key(bytes) {
                assert_eq!(wire::decode_new_key(wire::encode_new_key(&new_key)), Ok(new_key));
            }
        }
        _ => {
            if let Ok(configuration) = Configuration::from_bytes(data) {
                assert_eq!(configuration.to_bytes(), data, "a configuration has one encoding");
            }
        }
    }
});
