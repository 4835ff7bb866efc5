//! Messages as SQS takes them.
//!
//! Text of the characters that SQS takes goes as it is, so that who looks at a queue can read it. Anything
//! else, and nothing at all, goes as a binary attribute: that costs 13 bytes of the limit, and base64 in the
//! body would cost a third of it.

use super::{BATCH, BYTES_MAX};
use aws_sdk_sqs::{
    primitives::Blob,
    types::{Message, MessageAttributeValue, SendMessageBatchRequestEntry},
};
use bytes::Bytes;

/// The attribute that has what is no text.
pub(super) const BYTES: &str = "bytes";

/// Its type.
const BINARY: &str = "Binary";

/// The body beside it: there must be one.
const PLACEHOLDER: &str = "-";

/// What its value begins with, for it must not be empty either.
const FORM: u8 = 1;

/// What SQS takes as it is.
fn text(body: &[u8]) -> Option<&str> {
    let text = str::from_utf8(body).ok().filter(|text| !text.is_empty())?;
    let taken = |letter| matches!(letter, '\t' | '\n' | '\r' | '\u{20}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
    text.chars().all(taken).then_some(text)
}

/// Bytes that SQS counts on top of a body's own.
pub(super) fn overhead(body: &[u8]) -> usize {
    match text(body) {
        Some(_) => 0,
        None => PLACEHOLDER.len() + BYTES.len() + BINARY.len() + size_of_val(&FORM),
    }
}

/// The batches that these bodies are sent in, in their order.
pub(super) fn batches(bodies: &[Bytes]) -> Vec<Vec<SendMessageBatchRequestEntry>> {
    let mut batches = Vec::new();
    let (mut batch, mut bytes) = (Vec::new(), 0);
    for body in bodies {
        let size = body.len() + overhead(body);
        if batch.len() == BATCH || (!batch.is_empty() && bytes + size > BYTES_MAX) {
            batches.push(std::mem::take(&mut batch));
            bytes = 0;
        }
        batch.push(entry(batch.len(), body));
        bytes += size;
    }
    if !batch.is_empty() {
        batches.push(batch);
    }
    batches
}

fn entry(id: usize, body: &Bytes) -> SendMessageBatchRequestEntry {
    let entry = SendMessageBatchRequestEntry::builder().id(id.to_string());
    let entry = if let Some(text) = text(body) {
        entry.message_body(text)
    } else {
        let value = MessageAttributeValue::builder()
            .data_type(BINARY)
            .binary_value(Blob::new([&[FORM], &body[..]].concat()))
            .build()
            .expect("it has a type");
        entry.message_body(PLACEHOLDER).message_attributes(BYTES, value)
    };
    entry.build().expect("it has an id and a body")
}

/// What was sent.
pub(super) fn sent(message: &mut Message) -> Bytes {
    let attribute = message.message_attributes.as_ref().and_then(|attributes| attributes.get(BYTES));
    if let Some((&FORM, bytes)) =
        attribute.and_then(|value| value.binary_value()).and_then(|value| value.as_ref().split_first())
    {
        return Bytes::copy_from_slice(bytes);
    }
    message.body.take().unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(bodies: &[Bytes]) -> Vec<usize> {
        batches(bodies).iter().map(Vec::len).collect()
    }

    #[test]
    fn what_sqs_takes_as_text_goes_as_it_is() {
        for taken in ["{\"id\":1}", "\t\r\n", "é\u{e000}\u{fffd}\u{10000}\u{10ffff}"] {
            assert_eq!(overhead(taken.as_bytes()), 0, "{taken:?}");
        }
        for other in [&b""[..], b"\0", b"\x1f", b"\xff", "\u{fffe}".as_bytes(), "\u{ffff}".as_bytes()] {
            assert_eq!(overhead(other), 13, "{other:?}");
        }
    }

    #[test]
    fn a_batch_has_ten_entries_and_one_mebibyte_at_most() {
        assert_eq!(sizes(&[]), [0usize; 0]);
        assert_eq!(sizes(&vec!["a".into(); 21]), [10, 10, 1]);
        let half = Bytes::from(vec![b'7'; BYTES_MAX / 2]);
        assert_eq!(sizes(&[half.clone(), half.clone(), half.clone()]), [2, 1]);
        assert_eq!(sizes(&["a".into(), half.clone(), half]), [2, 1]);
        // As bytes they would fit, but what SQS adds counts.
        let bytes = Bytes::from(vec![0; BYTES_MAX / 2]);
        assert_eq!(sizes(&[bytes.clone(), bytes]), [1, 1]);
    }

    #[test]
    fn entries_of_a_batch_have_names_of_their_own() {
        let batch = &batches(&["a".into(), "b".into()])[0];
        assert_eq!(batch.iter().map(|entry| &entry.id[..]).collect::<Vec<_>>(), ["0", "1"]);
    }
}
