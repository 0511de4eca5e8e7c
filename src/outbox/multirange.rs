//! The text in which a set of settled numbers is stored: that of PostgreSQL's multiranges, `{[1,5),[7,8)}`.

use std::fmt::Write as _;

use rangemap::RangeSet;

/// The stored text of a set.
pub(crate) fn to_text(set: &RangeSet<i64>) -> String {
    let mut text = String::from("{");
    for (index, range) in set.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        // Writing to a string does not fail.
        let _ = write!(text, "{comma}[{},{})", range.start, range.end);
    }
    text.push('}');
    text
}

/// The set of a stored text, or `None` if it is not one.
pub(crate) fn from_text(text: &str) -> Option<RangeSet<i64>> {
    let mut rest = text.strip_prefix('{')?.strip_suffix('}')?;
    let mut set = RangeSet::new();
    while !rest.is_empty() {
        let (range, after) = rest.strip_prefix('[')?.split_once(')')?;
        let (start, end) = range.split_once(',')?;
        let range = start.parse().ok()?..end.parse().ok()?;
        if range.is_empty() {
            return None;
        }
        set.insert(range);
        rest = after.strip_prefix(',').unwrap_or(after);
    }
    Some(set)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_not_a_set_is_not_read() {
        for text in ["", "{", "{[1,2]}", "{(1,2)}", "{[2,1)}", "{[a,b)}", "[1,2)"] {
            assert_eq!(from_text(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_set_reads_back_as_it_was_written(ranges in proptest::collection::vec((1i64..1000, 1i64..50), 0..20)) {
            let set: RangeSet<i64> = ranges.into_iter().map(|(start, len)| start..start + len).collect();
            prop_assert_eq!(from_text(&to_text(&set)), Some(set));
        }

        #[test]
        fn reading_never_panics(text in "[\\[\\]{}(),0-9-]{0,40}") {
            let _ = from_text(&text);
        }
    }
}
