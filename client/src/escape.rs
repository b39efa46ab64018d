//! Makes text of other people fit for a terminal: what could move the cursor, change colours, set a
//! title, turn the writing direction or break a line is shown as an escape instead.
//!
//! Escaped are the control characters (C0, DEL, C1, of which U+009B starts a terminal sequence by
//! itself), the line and paragraph separators, the directional marks, embeddings, overrides and
//! isolates, the byte order mark and the zero-width space. The zero-width joiner stays: emoji are
//! made with it.

use std::fmt::{self, Write};

/// Shows a text with every unsafe character as `\n`, `\t` or `\u{…}`, on one line.
#[derive(Clone, Copy, Debug)]
pub struct ForTerminal<'a>(pub &'a str);

impl fmt::Display for ForTerminal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '\n' => f.write_str("\\n"),
            '\t' => f.write_str("\\t"),
            c if is_unsafe(c) => write!(f, "\\u{{{:x}}}", u32::from(c)),
            c => f.write_char(c),
        })
    }
}

/// Shows a JSON document that was written without white space, with every unsafe character in its
/// strings as `\uXXXX`: the same document, fit for a terminal.
#[derive(Clone, Copy, Debug)]
pub struct JsonForTerminal<'a>(pub &'a str);

impl fmt::Display for JsonForTerminal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .chars()
            .try_for_each(|c| if is_unsafe(c) { write!(f, "\\u{:04x}", u32::from(c)) } else { f.write_char(c) })
    }
}

/// All of them lie in the basic plane, so that four hex digits name them in JSON.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_sequences_become_visible() {
        let hostile = "a\x1b[31mred\u{9b}2J\r\n\tb\u{202e}c\u{7f}\u{2028}";
        let shown = ForTerminal(hostile).to_string();
        assert_eq!(shown, "a\\u{1b}[31mred\\u{9b}2J\\u{d}\\n\\tb\\u{202e}c\\u{7f}\\u{2028}");
        assert!(!shown.chars().any(is_unsafe));
    }

    #[test]
    fn ordinary_text_stays() {
        for text in ["Grüße, 世界!", "👩‍👩‍👧 and 👋🏽", "שלום", "back\\slash"] {
            assert_eq!(ForTerminal(text).to_string(), text);
        }
    }

    #[test]
    fn json_means_the_same() {
        let text = "\u{9b}31m \u{7f}\u{202e}\u{feff} \n ok 世";
        let json = serde_json::to_string(text).expect("a string is JSON");
        let shown = JsonForTerminal(&json).to_string();
        assert!(!shown.chars().any(is_unsafe), "{shown}");
        assert_eq!(serde_json::from_str::<String>(&shown).expect("still JSON"), text);
    }
}
