//! Output to standard error.

use std::io::{self, Write};

/// Prints notes and warnings. Warnings are always printed, notes only without `--quiet`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Console {
    pub(crate) quiet: bool,
}

impl Console {
    /// Prints useful information, such as the name of a new key.
    pub(crate) fn note(self, text: &str) {
        if !self.quiet {
            say(text);
        }
    }

    /// Prints a warning about something that the user should change.
    pub(crate) fn warn(self, text: &str) {
        say(&format!("warning: {text}"));
    }
}

/// Prints a line. Ignores errors, because standard error may be closed.
pub(crate) fn say(text: &str) {
    let _ = writeln!(io::stderr(), "kms-envelope: {}", one_line(text));
}

/// The maximum length of a line: attackers control the length of names in a message or a response.
const MAX_LEN: usize = 4000;

/// Escapes control characters and those that change the direction of text: a file name or the response of a service
/// must not control the terminal.
pub(crate) fn one_line(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(MAX_LEN));
    for c in text.chars() {
        if out.len() >= MAX_LEN {
            out.push('…');
            break;
        }
        let reverses = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() || reverses { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}
