//! What is said on standard error.

use std::io::{self, Write};

/// Says things besides what the command was asked for. Warnings and errors are said always, the rest unless the user
/// wants quiet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Console {
    pub(crate) quiet: bool,
}

impl Console {
    /// Prints a line that is good to know, such as the name of a new key.
    pub(crate) fn note(self, text: &str) {
        if !self.quiet {
            say(text);
        }
    }

    /// Prints a line about something that should be changed.
    pub(crate) fn warn(self, text: &str) {
        say(&format!("warning: {text}"));
    }
}

/// Prints a line. Standard error may be closed: nobody reads it then.
pub(crate) fn say(text: &str) {
    let _ = writeln!(io::stderr(), "kms-envelope: {}", one_line(text));
}

/// Nobody reads more, and strangers choose how much a message or an answer says.
const MAX_LEN: usize = 4000;

/// Control characters and those that reverse text as escapes: a file's name or a service's answer must not drive the terminal.
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
