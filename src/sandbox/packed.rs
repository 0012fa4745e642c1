//! A module whose data does not end in zeros.
//!
//! A linker lays a static that begins with something else than zeros out whole: the request area's
//! few bytes of capacity bring tens of kilobytes, or a megabyte, of zeros into the file. A new memory
//! is all zeros anyway, and whoever copies the data into one copies them for nothing.
//!
//! Pure: a binary in, a binary out. Only the ends of active segments go; their number and order stay,
//! which instructions refer to. Where it is not plain that nothing else changes, all stays: where
//! segments overlap, or lie outside the memory, or at places that are computed.
//!
//! Part of the build script too, which packs the built-in handlers' files.

use std::borrow::Cow;
use std::ops::Range;
use wasm_encoder::{ConstExpr, DataSection, Module, RawSection};
use wasmparser::{DataKind, DataSectionReader, Operator, Parser, Payload, Result};

/// A page of memory, unless a module says otherwise.
const PAGE_BYTES: u64 = 65536;

/// A segment of the data section: where in the memory it begins, if it is an active one.
pub type Segment<'a> = (Option<u32>, &'a [u8]);

/// `wasm`, a binary, without the zeros at the ends of its data segments. What cannot be read is left
/// to those who say why.
pub fn packed(wasm: &[u8]) -> Cow<'_, [u8]> {
    match trimmed(wasm) {
        Ok(Some(packed)) => Cow::Owned(packed),
        _ => Cow::Borrowed(wasm),
    }
}

/// The bytes of all data segments of `wasm`, a binary; of as much of it as can be read.
#[allow(dead_code, reason = "the build script only packs")]
pub fn data_bytes(wasm: &[u8]) -> usize {
    let payloads = Parser::new(0).parse_all(wasm).map_while(Result::ok);
    let sections = payloads.filter_map(|payload| match payload {
        Payload::DataSection(section) => Some(section),
        _ => None,
    });
    let segments = sections.flatten().map_while(Result::ok);
    segments.map(|segment| segment.data.len()).sum()
}

/// `None`: there is nothing to leave out.
fn trimmed(wasm: &[u8]) -> Result<Option<Vec<u8>>> {
    rewritten(wasm, |segments| {
        let mut data = DataSection::new();
        let mut left_out = 0;
        for (at, bytes) in segments {
            let Some(at) = at else {
                data.passive(bytes.iter().copied());
                continue;
            };
            let kept = without_zeros(bytes);
            left_out += bytes.len() - kept.len();
            let at = at + kept.start as u32;
            let offset = ConstExpr::i32_const(at.cast_signed());
            data.active(0, &offset, bytes[kept].iter().copied());
        }
        (left_out > 0).then_some(data)
    })
}

/// `wasm` with what `rewrite` makes of its data segments. `None`: they are not plain, there are none, or
/// `rewrite` makes nothing of them.
///
/// # Errors
/// It cannot be read.
pub fn rewritten<'a>(
    wasm: &'a [u8],
    rewrite: impl FnOnce(Vec<Segment<'a>>) -> Option<DataSection>,
) -> Result<Option<Vec<u8>>> {
    let mut memory_bytes = None;
    let mut module = Module::new();
    let mut rewrite = Some(rewrite);
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload?;
        match &payload {
            Payload::MemorySection(section) => {
                for memory in section.clone() {
                    let memory = memory?;
                    if memory.page_size_log2.is_some() {
                        return Ok(None);
                    }
                    memory_bytes = Some(memory.initial.saturating_mul(PAGE_BYTES));
                }
            }
            Payload::DataSection(section) => {
                let Some(segments) = segments(section.clone(), memory_bytes)? else {
                    return Ok(None);
                };
                // A module has one such section at most.
                let Some(data) = rewrite.take().and_then(|rewrite| rewrite(segments)) else {
                    return Ok(None);
                };
                module.section(&data);
                continue;
            }
            _ => {}
        }
        if let Some((id, range)) = payload.as_section() {
            let data = &wasm[range];
            module.section(&RawSection { id, data });
        }
    }
    Ok(rewrite.is_none().then(|| module.finish()))
}

/// All segments of `section`, if they are plain: active ones of the first memory at fixed places,
/// within `memory_bytes` and without overlap, and passive ones.
fn segments(
    section: DataSectionReader<'_>,
    memory_bytes: Option<u64>,
) -> Result<Option<Vec<Segment<'_>>>> {
    let mut segments = Vec::new();
    let mut places: Vec<Range<u64>> = Vec::new();
    for segment in section {
        let segment = segment?;
        let DataKind::Active {
            memory_index,
            offset_expr,
        } = segment.kind
        else {
            segments.push((None, segment.data));
            continue;
        };
        let mut operators = offset_expr.get_operators_reader();
        let (Operator::I32Const { value }, Operator::End) = (operators.read()?, operators.read()?)
        else {
            return Ok(None);
        };
        let at = value.cast_unsigned();
        let end = u64::from(at) + segment.data.len() as u64;
        // Without a memory even an empty one is a mistake.
        if memory_index != 0 || memory_bytes.is_none_or(|bytes| end > bytes) {
            return Ok(None);
        }
        places.push(u64::from(at)..end);
        segments.push((Some(at), segment.data));
    }
    places.sort_unstable_by_key(|place| (place.start, place.end));
    let apart = places.is_sorted_by(|one, next| one.end <= next.start);
    Ok(apart.then_some(segments))
}

/// What of `bytes` is between the zeros at both ends.
fn without_zeros(bytes: &[u8]) -> Range<usize> {
    let end = bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1);
    let start = bytes[..end].iter().position(|byte| *byte != 0).unwrap_or(0);
    start..end
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is left of the data segments, each with its place, or that nothing was to be done.
    fn check(fields: &str, expected: Option<&[Segment<'_>]>) {
        let text = format!("(module {fields} (func (export \"f\")))");
        let wasm = wat::parse_str(&text).expect("a text in order");
        let packed = packed(&wasm);
        assert_eq!(
            matches!(packed, Cow::Owned(_)),
            expected.is_some(),
            "{text}"
        );
        let Some(expected) = expected else {
            return;
        };
        let mut left = Vec::new();
        for payload in Parser::new(0).parse_all(&packed) {
            if let Payload::DataSection(section) = payload.expect("it is whole") {
                let segments = segments(section, Some(u64::MAX)).expect("it is whole");
                left = segments.expect("they are as plain as before");
            }
        }
        assert_eq!(left, expected, "{text}");
    }

    #[test]
    fn zeros_at_both_ends_are_left_out_and_no_others() {
        check(
            r#"(memory 1) (data (i32.const 16) "\00\00a\00\00b\00") (data "\00p\00")
                (data (i32.const 65500) "\00\00")"#,
            Some(&[(Some(18), b"a\0\0b"), (None, b"\0p\0"), (Some(65500), b"")]),
        );
        check(r#"(memory 1) (data (i32.const 16) "ab")"#, None);
        check("(memory 1)", None);
    }

    #[test]
    fn where_zeros_may_matter_they_stay() {
        for fields in [
            // They overwrite.
            r#"(memory 1) (data (i32.const 0) "abc") (data (i32.const 2) "\00d\00")"#,
            // The instance is refused for them.
            r#"(memory 1) (data (i32.const 65535) "a\00")"#,
            r#"(data (i32.const 0) "")"#,
            // They lie wherever the expression says.
            r#"(memory 1) (data (i32.add (i32.const 1) (i32.const 2)) "a\00")"#,
        ] {
            check(fields, None);
        }
    }

    #[test]
    fn what_is_no_module_stays() {
        assert_eq!(&*packed(b"\0asm\x01\0\0\0\x0b"), b"\0asm\x01\0\0\0\x0b");
        assert_eq!(&*packed(b""), b"");
    }
}
