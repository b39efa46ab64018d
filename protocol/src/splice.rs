//! Puts `"seq":N,` behind the first `{` of a sender's frame, and takes it out again. Every other
//! byte stays as the sender wrote it.

/// Bytes that [`splice_seq`] adds at most: `"seq":` , 16 digits (a seq is below 2^53) and a comma.
pub const SPLICE_BYTES_MAX: usize = 6 + 16 + 1;

/// Bytes that `seq` adds to a frame.
#[must_use]
pub fn spliced_bytes(seq: u64) -> usize {
    6 + seq.checked_ilog10().map_or(1, |log| log as usize + 1) + 1
}

/// Appends `frame` with `seq` spliced in. `frame` is a JSON object with at least one field, as
/// [`crate::decode`] accepted it: only white space stands before its first `{`.
pub fn splice_seq(out: &mut Vec<u8>, frame: &[u8], seq: u64) {
    let behind = frame.iter().position(|&byte| byte == b'{').map_or(0, |at| at + 1);
    out.extend_from_slice(&frame[..behind]);
    out.extend_from_slice(b"\"seq\":");
    out.extend_from_slice(itoa::Buffer::new().format(seq).as_bytes());
    out.push(b',');
    out.extend_from_slice(&frame[behind..]);
}

/// Splits what [`splice_seq`] made into the seq and the sender's bytes, given in two parts: up to
/// and with the `{`, and the rest. `None` if there is no such splice.
#[must_use]
pub fn unsplice_seq(frame: &[u8]) -> Option<(u64, &[u8], &[u8])> {
    let behind = frame.iter().position(|&byte| byte == b'{')? + 1;
    let rest = frame[behind..].strip_prefix(b"\"seq\":")?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let seq = std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()?;
    let rest = rest[digits..].strip_prefix(b",")?;
    Some((seq, &frame[..behind], rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splices_behind_the_first_brace_and_back() {
        for seq in [0, 1, 9, 10, 99, 100, 12_345, (1 << 53) - 1] {
            let frame = b" \t\n{ \"type\" :\"message\",\"message\":\"{\"}  ";
            let mut out = Vec::new();
            splice_seq(&mut out, frame, seq);
            assert_eq!(out.len(), frame.len() + spliced_bytes(seq));
            assert!(spliced_bytes(seq) <= SPLICE_BYTES_MAX);
            assert!(serde_json::from_slice::<serde_json::Value>(&out).is_ok_and(|json| json["seq"] == seq));
            let (got, head, tail) = unsplice_seq(&out).expect("it was spliced");
            assert_eq!((got, [head, tail].concat()), (seq, frame.to_vec()));
        }
    }

    #[test]
    fn what_was_not_spliced_is_told_apart() {
        for frame in ["", "{", "{}", "{\"seq\":,}", "{\"seq\":1}", "{ \"seq\":1,\"a\":2}", "{\"a\":1}"] {
            assert_eq!(unsplice_seq(frame.as_bytes()), None, "{frame}");
        }
    }
}
