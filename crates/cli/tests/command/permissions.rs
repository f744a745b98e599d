//! Who may read and write what the command makes and uses.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt, PermissionsExt, chown},
        process::CommandExt,
    },
    path::Path,
    process::Command,
};

use crate::{Folder, end, fixture};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// The command, run by a shell after `prelude`.
fn in_shell(folder: &Folder, prelude: &str, args: &[&str]) -> Command {
    let command = folder.command(args);
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("{prelude}; exec \"$0\" \"$@\"")).arg(command.get_program());
    shell.args(command.get_args()).current_dir(folder.path("."));
    shell
}

#[test]
fn a_new_file_gets_the_mode_that_the_umask_leaves() {
    let folder = Folder::with_key();
    for (umask, expected) in [("022", 0o644), ("027", 0o640), ("077", 0o600), ("002", 0o664), ("0", 0o666)] {
        let mut command = in_shell(&folder, &format!("umask {umask}"), &["seal", "--key", "key", "-o", "out"]);
        assert_eq!(end(&mut command, b"data").stderr, "");
        assert_eq!(mode(&folder.path("out")), expected, "{umask}");
        fs::remove_file(folder.path("out")).unwrap();
    }
}

#[test]
fn a_replaced_file_keeps_its_mode() {
    let folder = Folder::with_key();
    folder.write("in", b"data");
    folder.write("out", b"");
    for permissions in [0o600, 0o664, 0o606, 0o755] {
        set_mode(&folder.path("out"), permissions);
        assert_eq!(folder.run(&["seal", "--key", "key", "-o", "out", "in"]).stderr, "");
        assert_eq!(mode(&folder.path("out")), permissions);
    }
}

/// Whether this process may give files away.
fn is_root(folder: &Folder) -> bool {
    let is_root = chown(folder.path("."), Some(0), None).is_ok();
    if !is_root {
        eprintln!("left out: needs root");
    }
    is_root
}

#[test]
fn a_replaced_file_keeps_its_owner_and_group() {
    let folder = Folder::with_key();
    if !is_root(&folder) {
        return;
    }
    folder.write("out", b"");
    set_mode(&folder.path("out"), 0o640);
    chown(folder.path("out"), Some(12345), Some(54321)).unwrap();
    assert_eq!(folder.run(&["seal", "--key", "key", "-o", "out"]).stderr, "");
    let metadata = fs::metadata(folder.path("out")).unwrap();
    assert_eq!((metadata.uid(), metadata.gid(), mode(&folder.path("out"))), (12345, 54321, 0o640));
}

#[test]
fn an_owner_or_group_that_cannot_be_kept_is_warned_of_and_gains_nobody_access() {
    let folder = Folder::with_key();
    if !is_root(&folder) {
        return;
    }
    set_mode(&folder.path("."), 0o777);
    set_mode(&folder.path("key"), 0o644);
    let program = folder.path("program");
    let built = env!("CARGO_BIN_EXE_kms-envelope");
    fs::hard_link(built, &program).or_else(|_| fs::copy(built, &program).map(drop)).unwrap();
    let seal_as_other = |uid, gid| {
        let args = ["-q", "seal", "--key", "key", "-o", "out"];
        let mut command = Command::new(&program);
        command.args(args).current_dir(folder.path(".")).uid(uid).gid(gid);
        end(&mut command, b"data").stderr
    };
    for (owner, group, before, lost, after) in [
        (12345, 54321, 0o664, "group", 0o644),
        (54321, 20000, 0o664, "owner", 0o664),
        (54321, 54321, 0o642, "owner and group", 0o602),
    ] {
        let path = folder.path("out");
        fs::write(&path, b"").unwrap();
        chown(&path, Some(owner), Some(group)).unwrap();
        set_mode(&path, before);
        let said = seal_as_other(12345, 20000);
        assert!(said.contains(&format!("warning: out: its {lost} could not be kept")), "{said}");
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!((metadata.uid(), metadata.gid(), mode(&path)), (12345, 20000, after), "{lost}");
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn keys_that_others_can_read_or_change_are_warned_of() {
    let folder = Folder::with_key();
    let private = folder.path("private.pem");
    let public = folder.path("public.pem");
    fs::copy(fixture("pem/rsa-private.pem"), &private).unwrap();
    fs::copy(fixture("pem/rsa-public.pem"), &public).unwrap();
    let key = folder.path("key");
    assert_eq!(mode(&key), 0o600);

    let seals = ["seal", "--key", "key"];
    let seals_publicly = ["seal", "--key", "rsa:public.pem"];
    set_mode(&public, 0o644);
    let sealed = folder.run(&seals_publicly);
    assert_eq!(sealed.stderr, "");
    folder.write("sealed", &sealed.done());
    let opens = ["open", "--key", "rsa:private.pem", "sealed"];
    for (path, args, mode, words) in [
        (&key, &seals[..], 0o600, ""),
        (&key, &seals, 0o644, "others can read this key: chmod 600 key"),
        (&key, &seals, 0o640, "others can read this key: chmod 600 key"),
        (&key, &seals, 0o620, "others can change this key: chmod go-w key"),
        (&key, &seals, 0o666, "others can read and change this key: chmod 600 key"),
        (&private, &opens, 0o600, ""),
        (&private, &opens, 0o640, "others can read this key: chmod 600 private.pem"),
        (&private, &opens, 0o602, "others can change this key: chmod go-w private.pem"),
        (&public, &seals_publicly, 0o664, "others can change this key: chmod go-w public.pem"),
        (&public, &seals_publicly, 0o444, ""),
    ] {
        set_mode(path, mode);
        let ended = folder.run(args);
        let warned = ended.stderr.clone();
        ended.done();
        let name = path.file_name().unwrap().display();
        let expected = match words {
            "" => String::new(),
            words => format!("kms-envelope: warning: {name}: {words}\n"),
        };
        assert_eq!(warned, expected, "{path:?} {mode:o}");
        // A warning is not silenced.
        assert_eq!(folder.run(&[&["--quiet"], args].concat()).stderr, warned);
        set_mode(path, 0o600);
    }
}
