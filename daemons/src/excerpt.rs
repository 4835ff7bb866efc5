//! The line of a text that an error is about, with a caret under what is to blame.

use std::{fmt, ops::Range};
use unicode_width::UnicodeWidthChar;

/// Columns of the text that are shown; an expression may be one line of a megabyte.
const COLUMNS: usize = 96;

/// A line with a marked part, ready to be printed.
///
/// ```
/// let shown = quorate::excerpt::Excerpt::new("1 +\n(2 / 0)", 7..8);
/// assert_eq!((shown.line(), shown.column()), (2, 4));
/// assert_eq!(shown.to_string(), "2 | (2 / 0)\n  |    ^");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excerpt {
    line: usize,
    column: usize,
    shown: String,
    before: usize,
    marked: usize,
}

impl Excerpt {
    /// The line of `text` that holds the bytes `span`. A span that is out of bounds, or that splits a
    /// character, is widened or cut to what there is: it may come from another process.
    #[must_use]
    pub fn new(text: &str, span: Range<usize>) -> Self {
        let start = floor(text, span.start);
        let end = floor(text, span.end).max(start);
        let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |newline| start + newline);
        let line = 1 + text[..line_start].bytes().filter(|byte| *byte == b'\n').count();
        let column = 1 + text[line_start..start].chars().count();

        let (head, cut_head) = tail(&text[line_start..start], COLUMNS / 2);
        let marked = &text[start..end.min(line_end)];
        let (rest, cut_rest) = front(&text[start..line_end], COLUMNS - width(head));
        let marked = width(marked).min(width(rest)).max(1);
        let ellipsis = if cut_head { "…" } else { "" };
        Self {
            line,
            column,
            shown: format!("{ellipsis}{head}{rest}{}", if cut_rest { "…" } else { "" })
                .chars()
                .map(visible)
                .collect(),
            before: width(head) + width(ellipsis),
            marked,
        }
    }

    /// The line's number, from 1.
    #[must_use]
    pub fn line(&self) -> usize {
        self.line
    }

    /// The character within the line at which the marked part begins, from 1.
    #[must_use]
    pub fn column(&self) -> usize {
        self.column
    }
}

impl fmt::Display for Excerpt {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.line.to_string();
        writeln!(to, "{number} | {}", self.shown)?;
        write!(to, "{:1$} | {2:3$}{4:^<5$}", "", number.len(), "", self.before, "", self.marked)
    }
}

/// The nearest character boundary at or before `at`.
fn floor(text: &str, at: usize) -> usize {
    text.floor_char_boundary(at.min(text.len()))
}

fn width(text: &str) -> usize {
    text.chars().map(char_width).sum()
}

/// What a terminal shows for a character and does not obey: the text may be somebody else's.
fn visible(character: char) -> char {
    match character {
        '\t' | '\r' => ' ',
        _ if character.is_control() || is_turning(character) => char::REPLACEMENT_CHARACTER,
        _ => character,
    }
}

/// Whether it turns the direction of what follows, so that a line reads as another one.
fn is_turning(character: char) -> bool {
    matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A character that is not shown as it is takes one column, as what is shown for it.
fn char_width(character: char) -> usize {
    character.width().filter(|_| !is_turning(character)).unwrap_or(1)
}

/// The last characters of `text` that fit, and whether any were cut.
fn tail(text: &str, columns: usize) -> (&str, bool) {
    let mut left = columns;
    for (at, character) in text.char_indices().rev() {
        match left.checked_sub(char_width(character)) {
            Some(less) => left = less,
            None => return (&text[at + character.len_utf8()..], true),
        }
    }
    (text, false)
}

/// The first characters of `text` that fit, and whether any were cut.
fn front(text: &str, columns: usize) -> (&str, bool) {
    let mut left = columns;
    for (at, character) in text.char_indices() {
        match left.checked_sub(char_width(character)) {
            Some(less) => left = less,
            None => return (&text[..at], true),
        }
    }
    (text, false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(text: &str, span: Range<usize>, shown: &str) {
        assert_eq!(Excerpt::new(text, span).to_string(), shown);
    }

    #[test]
    fn caret_stands_under_what_is_to_blame() {
        check("1/0", 1..2, "1 | 1/0\n  |  ^");
        check("a + bcd", 4..7, "1 | a + bcd\n  |     ^^^");
    }

    #[test]
    fn end_of_the_text_has_a_caret_after_it() {
        check("1+", 2..2, "1 | 1+\n  |   ^");
        check("", 0..0, "1 | \n  | ^");
    }

    #[test]
    fn wide_characters_move_the_caret_by_their_columns() {
        check("数+é/0", 6..7, "1 | 数+é/0\n  |     ^");
    }

    #[test]
    fn control_characters_are_shown_and_not_obeyed() {
        check("1\t+\r+\x1b[31m", 5..6, "1 | 1 + +\u{fffd}[31m\n  |      ^");
        check("\0\x07\x7f\u{9b}/0", 5..6, "1 | \u{fffd}\u{fffd}\u{fffd}\u{fffd}/0\n  |     ^");
    }

    #[test]
    fn a_line_cannot_be_turned_around() {
        check("\u{202e}1/0\u{2066}", 4..5, "1 | \u{fffd}1/0\u{fffd}\n  |   ^");
    }

    #[test]
    fn only_the_first_line_of_a_span_is_marked() {
        check("(1\n+2", 0..5, "1 | (1\n  | ^^");
    }

    #[test]
    fn a_long_line_is_cut_around_the_caret() {
        let text = format!("{}/0+{}", "1+".repeat(500), "2+".repeat(500));
        let shown = Excerpt::new(&text, 1000..1001).to_string();
        let (line, caret) = shown.split_once('\n').expect("two lines");
        assert!(line.starts_with("1 | …") && line.ends_with('…'), "{line}");
        assert!(line.chars().count() <= COLUMNS + 6);
        let column = caret.find('^').expect("a caret");
        assert_eq!(line.chars().nth(column), Some('/'));
    }

    proptest! {
        #[test]
        fn any_span_of_any_text_is_shown(text in ".{0,200}(\n.{0,200})?", start in 0usize..900, length in 0usize..900) {
            let shown = Excerpt::new(&text, start..start + length);
            prop_assert!(shown.to_string().contains('^'));
            prop_assert!(!shown.to_string().contains(|c: char| c.is_control() && c != '\n'));
        }
    }
}
