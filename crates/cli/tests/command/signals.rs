//! Signals while files are written.

use std::{
    fs,
    io::Write,
    os::unix::{
        fs::PermissionsExt,
        process::{CommandExt, ExitStatusExt},
    },
    process::{Child, ChildStdin, Command, Stdio},
};

use crate::{Folder, data, end, permissions::in_shell};

pub(crate) fn send(signal: &str, process: &Child) {
    let sent = Command::new("kill").args(["-s", signal, &process.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

/// Starts a command that reads a pipe, and writes `input` to it, which is more than the pipe holds: afterwards the
/// command is reading, and its temporary file exists. The pipe ends when the second value is dropped.
pub(crate) fn start(command: &mut Command, input: &[u8]) -> (Child, ChildStdin) {
    let mut process = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut pipe = process.stdin.take().unwrap();
    pipe.write_all(input).unwrap();
    (process, pipe)
}

#[test]
fn a_signal_leaves_no_unfinished_file() {
    let folder = Folder::with_key();
    folder.write("out", b"as it was");
    let plaintext = data(3_000_000);
    let sealed = folder.run_with_input(&["seal", "--key", "key"], &plaintext).done();
    for (args, input) in
        [(["seal", "--key", "key", "-o", "out"], &plaintext), (["open", "--key", "key", "-o", "out"], &sealed)]
    {
        for (signal, number) in [("HUP", 1), ("INT", 2), ("QUIT", 3), ("TERM", 15), ("XCPU", 24)] {
            let (mut process, _pipe) = start(&mut in_shell(&folder, "ulimit -c 0", &args), &input[..2_000_000]);
            assert_eq!(folder.names().len(), 2);
            send(signal, &process);
            // Not an exit status, with which a shell would continue its loop.
            assert_eq!(process.wait().unwrap().signal(), Some(number), "{args:?} {signal}");
            assert_eq!(folder.names(), ["out"], "{args:?} {signal}");
            assert_eq!(folder.read("out"), b"as it was");
        }
    }
}

#[test]
fn exceeding_the_file_size_limit_fails_and_leaves_no_output() {
    let folder = Folder::with_key();
    // In units of 512 or 1024 bytes.
    let mut command = in_shell(&folder, "ulimit -f 100", &["seal", "--key", "key", "-o", "out"]);
    let said = end(&mut command, &data(3_000_000)).failed();
    assert!(said.contains("out: cannot be written: File too large"), "{said}");
    assert!(folder.names().is_empty());
}

#[cfg(target_os = "linux")]
#[test]
fn a_file_that_cannot_be_created_is_reported_with_the_system_error() {
    let folder = Folder::with_key();
    let args = ["seal", "--key", "key", "-o", "out"];
    let said = end(&mut in_shell(&folder, "ulimit -n 5", &args), b"data").failed();
    assert!(said.contains("out: cannot be written: cannot watch for signals: Too many open files"), "{said}");
    for limit in 4..20 {
        let ended = end(&mut in_shell(&folder, &format!("ulimit -n {limit}"), &args), b"data");
        assert!(ended.status == 0 && folder.names() == ["out"] || !ended.failed().is_empty(), "{limit}");
    }
    let said = folder.run(&["seal", "--key", "key", "-o", "none/out"]).failed();
    assert!(said.contains("in the directory none: No such file or directory (os error 2)\n"), "{said}");
}

#[test]
fn only_the_owner_may_read_a_file_that_is_not_complete() {
    let folder = Folder::with_key();
    folder.write("out", b"");
    fs::set_permissions(folder.path("out"), fs::Permissions::from_mode(0o666)).unwrap();
    let sealed = folder.run_with_input(&["seal", "--key", "key"], &data(3_000_000)).done();
    for out in ["out", "new"] {
        let (mut process, _pipe) =
            start(&mut folder.command(&["open", "--key", "key", "-o", out]), &sealed[..2_000_000]);
        let temporary = folder.names().into_iter().find(|name| name.starts_with(".kms-envelope-")).unwrap();
        assert_eq!(fs::metadata(folder.path(&temporary)).unwrap().permissions().mode() & 0o777, 0o600);
        send("TERM", &process);
        process.wait().unwrap();
    }
}

#[test]
fn a_mode_that_is_changed_during_the_run_is_kept() {
    let folder = Folder::with_key();
    folder.write("out", b"");
    let set_mode = |mode| fs::set_permissions(folder.path("out"), fs::Permissions::from_mode(mode)).unwrap();
    set_mode(0o644);
    let (mut process, pipe) = start(&mut folder.command(&["seal", "--key", "key", "-o", "out"]), &data(2_000_000));
    set_mode(0o600);
    drop(pipe);
    assert!(process.wait().unwrap().success());
    assert_eq!(fs::metadata(folder.path("out")).unwrap().permissions().mode() & 0o777, 0o600);
}

#[cfg(target_os = "linux")]
#[test]
fn a_signal_that_is_ignored_as_by_nohup_does_not_end_the_run() {
    let folder = Folder::with_key();
    let plaintext = data(2_000_000);
    let command = folder.command(&["seal", "--key", "key", "-o", "out"]);
    let mut shell = Command::new("sh");
    shell.arg0("sh").args(["-c", "trap '' HUP INT; exec \"$0\" \"$@\""]).arg(command.get_program());
    shell.args(command.get_args()).current_dir(folder.path("."));
    let (mut process, pipe) = start(&mut shell, &plaintext);
    send("HUP", &process);
    send("INT", &process);
    drop(pipe);
    assert!(process.wait().unwrap().success());
    assert!(folder.run(&["open", "--key", "key", "out"]).done() == plaintext);
}
