//! Standard input and output that are closed, terminals, or pipes without a reader.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    process::{Command, Stdio},
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::{Ended, Folder, data, end};

/// Runs the command in a shell, with these redirections. The tests' own standard input and output are not used.
fn redirected(folder: &Folder, args: &[&str], redirections: &str) -> Ended {
    let command = folder.command(args);
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("exec \"$0\" \"$@\" {redirections}")).arg(command.get_program());
    shell.args(command.get_args()).current_dir(folder.path("."));
    end(&mut shell, b"data")
}

#[test]
fn a_closed_standard_input_is_not_read_as_an_empty_one() {
    let folder = Folder::with_key();
    for args in [
        &["seal", "--key", "key", "-o", "out"][..],
        &["open", "--key", "key", "-o", "out"],
        &["inspect", "-"],
        &["inspect", "/dev/stdin"],
        &["inspect", "/dev/fd/0"],
        &["inspect", "/proc/self/fd/0"],
    ] {
        let said = redirected(&folder, args, "<&-").failed();
        assert!(said.contains("standard input: it is closed") && said.contains("< /dev/null"), "{said}");
    }
    assert!(folder.names().is_empty());
    let sealed = redirected(&folder, &["seal", "--key", "key"], "< /dev/null").done();
    assert_eq!(folder.run_with_input(&["open", "--key", "key"], &sealed).done(), b"");
    // Commands that do not need it ignore it.
    folder.write("in", b"data");
    redirected(&folder, &["seal", "--key", "key", "-o", "out", "in"], "<&-").done();
}

#[test]
fn a_closed_standard_output_loses_nothing_with_status_0() {
    let folder = Folder::with_key();
    folder.write("in", b"data");
    folder.run(&["seal", "--key", "key", "-o", "sealed", "in"]).done();
    for args in [
        &["seal", "--key", "key", "in"][..],
        &["seal", "--key", "key", "-o", "-", "in"],
        &["seal", "--key", "key", "-o", "/dev/stdout", "in"],
        &["seal", "--key", "key", "-o", "/dev/fd/1", "in"],
        &["seal", "--key", "key", "-o", "/proc/self/fd/1", "in"],
        &["open", "--key", "key", "sealed"],
        &["rewrap", "--key", "key", "--to", "key", "sealed"],
        &["inspect", "sealed"],
        &["completions", "bash"],
        &["man"],
    ] {
        let said = redirected(&folder, args, ">&-").failed();
        assert!(said.contains("standard output: it is closed") && said.contains("> /dev/null"), "{said}");
        redirected(&folder, args, "> /dev/null").done();
    }
    redirected(&folder, &["open", "--key", "key", "-o", "out", "sealed"], ">&- 2>&-").done();
    assert_eq!(folder.read("out"), b"data");
}

#[test]
fn a_key_is_not_appended_to_by_redirection() {
    let folder = Folder::with_key();
    folder.write("in", b"data");
    folder.run(&["seal", "--key", "key", "-o", "sealed", "in"]).done();
    folder.run(&["rewrap", "--key", "key", "--to", "key", "-o", "keys", "sealed"]).done();
    let before = ["key", "keys"].map(|name| folder.read(name));
    for (args, redirection) in [
        (&["seal", "--key", "key", "in"][..], ">> key"),
        (&["seal", "--key", "key", "-o", "/dev/stdout", "in"], ">> key"),
        (&["open", "--key", "key", "sealed"], ">> key"),
        (&["rewrap", "--key", "key", "--to", "key", "sealed"], ">> key"),
        (&["open", "--key", "key", "--keys", "keys", "sealed"], ">> keys"),
    ] {
        let said = redirected(&folder, args, redirection).failed();
        assert!(said.contains("one of the given keys"), "{said}");
    }
    assert_eq!(["key", "keys"].map(|name| folder.read(name)), before);
}

#[cfg(target_os = "linux")]
#[test]
fn a_file_that_is_already_open_is_not_replaced() {
    let folder = Folder::with_key();
    folder.write("log", b"precious");
    for (out, redirection) in
        [("/dev/fd/3", "3>> log"), ("/proc/self/fd/3", "3>> log"), ("/dev/stderr", "2>> log; cat log >&2")]
    {
        let mut shell = Command::new("sh");
        let command = folder.command(&["seal", "--key", "key", "-o", out]);
        shell.arg("-c").arg(format!("\"$0\" \"$@\" {redirection}")).arg(command.get_program());
        shell.args(command.get_args()).current_dir(folder.path("."));
        let said = end(&mut shell, b"data").stderr;
        assert!(said.contains("it is an open file"), "{said}");
        assert!(folder.read("log").starts_with(b"precious"), "{out}");
    }
}

/// Opens a pseudoterminal. Returns its end for a process, and a handle that returns everything that was written to it.
fn terminal() -> (Stdio, JoinHandle<String>) {
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap().into_string().unwrap();
    let process_side = OpenOptions::new().read(true).write(true).open(name).unwrap();
    let shown = thread::spawn(move || {
        let (mut terminal, mut shown) = (File::from(terminal), Vec::new());
        // At the end, Linux returns the error EIO, other systems no error.
        let _ = terminal.read_to_end(&mut shown);
        String::from_utf8_lossy(&shown).into_owned()
    });
    (process_side.into(), shown)
}

/// Runs the command with a terminal as its output. Returns its status, its error output, and what the terminal shows.
fn on_terminal(folder: &Folder, args: &[&str]) -> (i32, String, String) {
    let (stdout, shown) = terminal();
    // The temporary `Command` is dropped here, and with it this process's copy of the terminal.
    let process = folder.command(args).stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped()).spawn().unwrap();
    let output = process.wait_with_output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap(), shown.join().unwrap())
}

/// Runs the command with a terminal for its errors. Returns its status and what the terminal shows.
pub(super) fn errors_on_terminal(folder: &Folder, args: &[&str]) -> (i32, String) {
    let (stderr, shown) = terminal();
    let mut process = folder.command(args).stdin(Stdio::null()).stderr(stderr).spawn().unwrap();
    (process.wait().unwrap().code().unwrap(), shown.join().unwrap())
}

#[test]
fn progress_is_shown_on_a_terminal_unless_quiet_is_given() {
    let folder = Folder::with_key();
    for (args, is_shown) in [(&[][..], true), (&["--quiet"], false)] {
        let (stderr, shown) = terminal();
        let mut command = folder.command(&[&["seal", "--key", "key", "-o", "out"], args].concat());
        let mut process = command.stdin(Stdio::piped()).stderr(stderr).spawn().unwrap();
        drop(command);
        let mut input = process.stdin.take().unwrap();
        input.write_all(&data(2_000_000)).unwrap();
        // Longer than the bar takes to appear.
        thread::sleep(Duration::from_millis(1500));
        drop(input);
        assert!(process.wait().unwrap().success());
        let shown = shown.join().unwrap();
        assert_eq!(shown.contains("B/s"), is_shown, "{shown}");
    }
}

#[test]
fn encrypted_output_goes_to_a_terminal_only_if_requested() {
    let folder = Folder::with_key();
    folder.write("in", b"data");
    folder.run(&["seal", "--key", "key", "-c", "tenant=acme", "-o", "sealed", "in"]).done();
    for args in [&["seal", "--key", "key", "in"][..], &["rewrap", "--key", "key", "--to", "key", "sealed"]] {
        let (status, said, shown) = on_terminal(&folder, args);
        assert_eq!((status, &shown[..]), (1, ""), "{said}");
        assert!(said.contains("this is a terminal") && said.contains("-o -"), "{said}");
        let (status, said, shown) = on_terminal(&folder, &[args, &["-o", "-"]].concat());
        assert_eq!((status, &said[..]), (0, ""));
        assert!(shown.contains("kms-envelope"), "{shown}");
    }
    let (status, said, shown) = on_terminal(&folder, &["open", "--key", "key", "sealed"]);
    assert_eq!((status, &said[..], &shown[..]), (0, "", "data"));
    let (_, _, shown) = on_terminal(&folder, &["inspect", "sealed"]);
    assert!(shown.contains("\"tenant\" = \"acme\""), "{shown}");
    // No key is created for a refused run.
    assert_eq!(on_terminal(&folder, &["seal", "--new-key", "--key", "fresh", "in"]).0, 1);
    assert_eq!(folder.names(), ["in", "sealed"]);
}

#[test]
fn a_closed_pipe_ends_the_command_quietly() {
    let folder = Folder::with_key();
    folder.write("in", &data(3_000_000));
    folder.run(&["seal", "--key", "key", "-o", "sealed", "in"]).done();
    for args in
        [&["seal", "--key", "key", "in"][..], &["open", "--key", "key", "sealed"], &["inspect", "sealed"], &["man"]]
    {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = folder.command(args).stdout(writer).output().unwrap();
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
        // Like a process ended by SIGPIPE.
        assert_eq!(output.status.code(), Some(141));
    }
}

#[test]
fn a_failure_after_output_was_written_says_that_it_must_be_discarded() {
    let folder = Folder::with_key();
    let mut sealed = folder.run_with_input(&["seal", "--key", "key"], &data(3_000_000)).done();
    *sealed.last_mut().unwrap() ^= 1;
    let open = ["open", "--key", "key"];
    let ended = folder.run_with_input(&open, &sealed);
    let len = ended.stdout.len();
    assert!(len > 0);
    let said = ended.failed();
    let words = format!("the {len} bytes already written to standard output are incomplete and must be discarded");
    assert!(said.contains("failed authentication") && said.contains(&words), "{said}");
    // No such warning without output.
    let said = folder.run_with_input(&open, &sealed[..1000]).failed();
    assert!(!said.contains("discard"), "{said}");
    let said = folder.run_with_input(&[&open[..], &["-o", "out"]].concat(), &sealed).failed();
    assert!(!said.contains("discard") && !folder.path("out").exists(), "{said}");
}
