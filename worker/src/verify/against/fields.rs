//! Key, value and headers of a record, as slices of its encoded bytes.

use kafka_backup_shared::archive::record::read_varint;

use crate::reader::Header;

/// What a record consists of beside offset and timestamp.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fields<'a> {
    /// `None` is null.
    pub(super) key: Option<&'a [u8]>,
    /// `None` is null: a tombstone, where the topic is compacted.
    pub(super) value: Option<&'a [u8]>,
    /// In order, with duplicates.
    pub(super) headers: Vec<Header<'a>>,
}

impl<'a> Fields<'a> {
    /// The fields of an encoded body; `None` where it is not exactly one.
    pub(super) fn of(mut body: &'a [u8]) -> Option<Self> {
        let rest = &mut body;
        let key = take(rest)?;
        let value = take(rest)?;
        let count = usize::try_from(read_varint(rest)?).ok()?;
        // Each takes two bytes at least.
        let mut headers = Vec::with_capacity(count.min(rest.len() / 2));
        for _ in 0..count {
            headers.push((take(rest)??, take(rest)?));
        }
        body.is_empty().then_some(Self {
            key,
            value,
            headers,
        })
    }

    /// Whether librdkafka can give the header keys back: they are C strings there, and rdkafka wants UTF-8.
    pub(super) fn has_readable_headers(&self) -> bool {
        let readable = |key: &[u8]| !key.contains(&0) && std::str::from_utf8(key).is_ok();
        self.headers.iter().all(|(key, _)| readable(key))
    }
}

/// Takes bytes with their length off the front; the inner `None` is null.
fn take<'a>(rest: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let Ok(length) = usize::try_from(read_varint(rest)?) else {
        return Some(None);
    };
    let bytes = rest.get(..length)?;
    *rest = &rest[length..];
    Some(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_and_empty_are_told_apart_and_headers_keep_order_and_duplicates() {
        // Null key, empty value; headers a=null, a=x, empty key=empty.
        let body = [1, 0, 6, 2, b'a', 1, 2, b'a', 2, b'x', 0, 0];
        let fields = Fields::of(&body).unwrap();
        assert_eq!((fields.key, fields.value), (None, Some(&b""[..])));
        let expected: [Header<'_>; 3] = [(b"a", None), (b"a", Some(b"x")), (b"", Some(b""))];
        assert_eq!(fields.headers, expected);
        assert_eq!(Fields::of(&[0, 1, 0]).unwrap().key, Some(&b""[..]));
    }

    #[test]
    fn a_body_that_is_cut_or_too_long_is_none() {
        let body = [2, b'k', 2, b'v', 2, 2, b'a', 2, b'x'];
        assert!(Fields::of(&body).is_some());
        for end in 0..body.len() {
            assert_eq!(Fields::of(&body[..end]), None, "{end}");
        }
        assert_eq!(Fields::of(&[&body[..], &[0]].concat()), None);
        assert_eq!(Fields::of(&[1, 1, 2, 1, 1]), None, "a header without key");
        assert_eq!(Fields::of(&[1, 1, 1]), None, "-1 headers");
    }

    #[test]
    fn header_keys_that_rdkafka_cannot_give_are_known() {
        for (key, readable) in [
            (&b"trace"[..], true),
            (b"", true),
            ("ü".as_bytes(), true),
            (b"\xff", false),
            (b"a\0b", false),
        ] {
            let fields = Fields {
                key: None,
                value: None,
                headers: vec![(b"fine", None), (key, None)],
            };
            assert_eq!(fields.has_readable_headers(), readable, "{key:?}");
        }
    }
}
