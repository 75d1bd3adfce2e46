//! Walks over encoded protobuf messages, for the few fields that the engine looks at itself.

/// What a field holds.
pub enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

/// Of a number that is a value.
const VALUE_BYTES_MAX: usize = 10;
/// Of a tag or a length: others do not decode what has more.
const SHORT_BYTES_MAX: usize = 5;

fn varint(rest: &mut &[u8], bytes_max: usize) -> Option<u64> {
    let mut value = 0;
    for shift in (0..bytes_max).map(|at| 7 * at) {
        let (&byte, tail) = rest.split_first()?;
        *rest = tail;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn chunk<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (bytes, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*bytes)
}

/// Takes the next field: its number and what it holds. `None`: it is cut off, or no field.
pub fn field<'a>(rest: &mut &'a [u8]) -> Option<(u64, Value<'a>)> {
    let tag = u32::try_from(varint(rest, SHORT_BYTES_MAX)?).ok()?;
    let value = match tag & 7 {
        0 => Value::Varint(varint(rest, VALUE_BYTES_MAX)?),
        1 => Value::Fixed64(u64::from_le_bytes(chunk(rest)?)),
        2 => {
            let length = usize::try_from(varint(rest, SHORT_BYTES_MAX)?).ok()?;
            let (bytes, tail) = rest.split_at_checked(length)?;
            *rest = tail;
            Value::Bytes(bytes)
        }
        5 => Value::Fixed32(u32::from_le_bytes(chunk(rest)?)),
        _ => return None,
    };
    Some((u64::from(tag >> 3), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tag 1 of a varint in `tag` bytes, and the number 5 in so many.
    fn padded(tag: usize, number: usize) -> Vec<u8> {
        let wide = |low: u8, bytes: usize| match bytes {
            1 => vec![low],
            _ => [&[low | 0x80], &vec![0x80; bytes - 2][..], &[0]].concat(),
        };
        [wide(0x08, tag), wide(5, number)].concat()
    }

    #[test]
    fn what_is_padded_is_read_as_far_as_protobuf_reads_it() {
        for tag in 1..8 {
            for number in 1..13 {
                let bytes = padded(tag, number);
                let read = field(&mut &bytes[..]);
                let usual = matches!(read, Some((1, Value::Varint(5))));
                assert_eq!(usual, tag <= 5 && number <= 10, "{tag} {number}");
            }
        }
        assert!(field(&mut &[0x88, 0x80, 0x80, 0x80, 0x10, 5][..]).is_none());
        assert!(field(&mut &[0x0a, 0x80, 0x80, 0x80, 0x80, 0x80, 0][..]).is_none());
    }
}
