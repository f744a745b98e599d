//! Permissions of the files that the command creates and uses.

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

/// Returns the command, to be run by a shell after `prelude`.
pub(super) fn in_shell(folder: &Folder, prelude: &str, args: &[&str]) -> Command {
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

/// Returns whether this process can change the owner of files.
fn is_root(folder: &Folder) -> bool {
    let is_root = chown(folder.path("."), Some(0), None).is_ok();
    if !is_root {
        eprintln!("skipped: needs root");
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

/// Seals to `out` as a user other than root, in a folder of root with this mode. Returns the warnings.
fn seal_as_other(folder: &Folder, folder_mode: u32, uid: u32, gid: u32) -> String {
    set_mode(&folder.path("."), folder_mode);
    set_mode(&folder.path("key"), 0o644);
    let program = folder.path("program");
    let built = env!("CARGO_BIN_EXE_kms-envelope");
    if !program.exists() {
        fs::hard_link(built, &program).or_else(|_| fs::copy(built, &program).map(drop)).unwrap();
    }
    let mut command = Command::new(program);
    command.args(["-q", "seal", "--key", "key", "-o", "out"]).current_dir(folder.path(".")).uid(uid).gid(gid);
    end(&mut command, b"data").stderr
}

#[test]
fn the_command_warns_of_a_lost_owner_or_group_and_grants_nobody_access() {
    let folder = Folder::with_key();
    if !is_root(&folder) {
        return;
    }
    for (owner, group, before, lost, after) in [
        (12345, 54321, 0o664, "group", 0o644),
        (54321, 20000, 0o664, "owner", 0o664),
        (54321, 54321, 0o642, "owner and group", 0o602),
    ] {
        let path = folder.path("out");
        fs::write(&path, b"").unwrap();
        chown(&path, Some(owner), Some(group)).unwrap();
        set_mode(&path, before);
        let said = seal_as_other(&folder, 0o777, 12345, 20000);
        assert!(said.contains(&format!("warning: out: its {lost} could not be kept")), "{said}");
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!((metadata.uid(), metadata.gid(), mode(&path)), (12345, 20000, after), "{lost}");
        fs::remove_file(path).unwrap();
    }
}

/// Access control lists, as Linux stores them.
#[cfg(target_os = "linux")]
mod acl {
    use rustix::{
        buffer::spare_capacity,
        fs::{XattrFlags, getxattr, setxattr},
        io::Errno,
    };

    use super::*;

    const ACCESS: &str = "system.posix_acl_access";
    const DEFAULT: &str = "system.posix_acl_default";
    const OWNER: u16 = 0x01;
    const USER: u16 = 0x02;
    const GROUP: u16 = 0x04;
    const MASK: u16 = 0x10;
    const OTHER: u16 = 0x20;

    /// Returns a list with these tags and permissions. A user entry is for user 1000.
    fn list(entries: &[(u16, u16)]) -> Vec<u8> {
        let mut list = 2u32.to_le_bytes().to_vec();
        for (tag, permissions) in entries {
            list.extend(tag.to_le_bytes());
            list.extend(permissions.to_le_bytes());
            list.extend(if *tag == USER { 1000u32 } else { u32::MAX }.to_le_bytes());
        }
        list
    }

    /// Sets a list. Returns whether the file system supports lists.
    fn set(path: &Path, name: &str, list: &[u8]) -> bool {
        match setxattr(path, name, list, XattrFlags::empty()) {
            Err(Errno::NOTSUP) => {
                eprintln!("skipped: no access control lists here");
                false
            }
            set => set.map(|()| true).unwrap(),
        }
    }

    fn get(path: &Path) -> Option<Vec<u8>> {
        let mut list = Vec::with_capacity(1000);
        getxattr(path, ACCESS, spare_capacity(&mut list)).ok()?;
        Some(list)
    }

    #[test]
    fn a_replaced_file_keeps_its_access_control_list() {
        let folder = Folder::with_key();
        let path = folder.path("out");
        folder.write("out", b"");
        // The group has no permissions, but the group bits of the mode show those of user 1000.
        let before = list(&[(OWNER, 6), (USER, 6), (GROUP, 0), (MASK, 6), (OTHER, 0)]);
        if !set(&path, ACCESS, &before) {
            return;
        }
        assert_eq!(mode(&path), 0o660);
        assert_eq!(folder.run(&["seal", "--key", "key", "-o", "out"]).stderr, "");
        assert_eq!((get(&path), mode(&path)), (Some(before), 0o660));
    }

    #[test]
    fn a_replaced_file_gets_no_access_control_list_from_its_folder() {
        let folder = Folder::with_key();
        let path = folder.path("out");
        folder.write("out", b"");
        set_mode(&path, 0o664);
        let default = list(&[(OWNER, 7), (USER, 7), (GROUP, 0), (MASK, 7), (OTHER, 0)]);
        if !set(&folder.path("."), DEFAULT, &default) {
            return;
        }
        assert_eq!(folder.run(&["seal", "--key", "key", "-o", "out"]).stderr, "");
        assert_eq!((get(&path), mode(&path)), (None, 0o664));
    }

    #[test]
    fn a_new_file_gets_what_the_default_of_its_folder_gives_and_the_umask_does_not_apply() {
        let folder = Folder::with_key();
        for default in [
            &[(OWNER, 7), (GROUP, 0), (OTHER, 0)][..],
            &[(OWNER, 7), (GROUP, 7), (OTHER, 5)],
            &[(OWNER, 7), (USER, 7), (GROUP, 5), (MASK, 5), (OTHER, 0)],
            &[(OWNER, 6), (USER, 4), (GROUP, 0), (MASK, 6), (OTHER, 4)],
        ] {
            if !set(&folder.path("."), DEFAULT, &list(default)) {
                return;
            }
            folder.write("as usual", b"");
            let mut command = in_shell(&folder, "umask 022", &["seal", "--key", "key", "-o", "out"]);
            assert_eq!(end(&mut command, b"data").stderr, "");
            let [usual, out] = ["as usual", "out"].map(|name| folder.path(name));
            assert_eq!((get(&out), mode(&out)), (get(&usual), mode(&usual)), "{default:?}");
            fs::remove_file(usual).unwrap();
            fs::remove_file(out).unwrap();
        }
    }

    #[test]
    fn the_command_warns_of_a_lost_access_control_list_and_leaves_access_to_the_owner_only() {
        let folder = Folder::with_key();
        let path = folder.path("out");
        let before = list(&[(OWNER, 6), (USER, 6), (GROUP, 4), (MASK, 6), (OTHER, 4)]);
        folder.write("out", b"");
        if !is_root(&folder) || !set(&path, ACCESS, &before) {
            return;
        }
        chown(&path, Some(12345), Some(54321)).unwrap();
        let said = seal_as_other(&folder, 0o777, 12345, 20000);
        assert!(said.contains("out: its group and access control list could not be kept"), "{said}");
        assert_eq!((get(&path), mode(&path)), (None, 0o600));
    }
}

#[test]
fn a_file_that_cannot_be_replaced_is_reported_with_a_hint() {
    let folder = Folder::with_key();
    if !is_root(&folder) {
        return;
    }
    folder.write("out", b"as it was");
    set_mode(&folder.path("out"), 0o666);
    // As in /tmp.
    let said = seal_as_other(&folder, 0o1777, 12345, 20000);
    assert!(said.contains("out: cannot be written") && said.contains("redirect standard output"), "{said}");
    assert_eq!(folder.read("out"), b"as it was");
}

#[test]
fn file_names_in_commands_to_copy_are_quoted_for_a_shell() {
    let folder = Folder::with_key();
    for (name, argument) in [("a key; true", "'a key; true'"), ("it's", r"'it'\''s'"), ("-R", "./-R")] {
        fs::copy(folder.path("key"), folder.path(name)).unwrap();
        set_mode(&folder.path(name), 0o644);
        let said = folder.run(&["seal", &format!("--key={name}")]).stderr;
        assert!(said.ends_with(&format!("chmod 600 {argument}\n")), "{said}");
        let advice = said.rsplit(": ").next().unwrap();
        assert!(Command::new("sh").args(["-c", advice]).current_dir(folder.path(".")).status().unwrap().success());
        assert_eq!(mode(&folder.path(name)), 0o600);
    }
}

#[test]
fn the_command_warns_of_keys_that_other_users_can_read_or_modify() {
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
        (&key, &seals, 0o644, "other users can read this key: chmod 600 key"),
        (&key, &seals, 0o640, "other users can read this key: chmod 600 key"),
        (&key, &seals, 0o620, "other users can modify this key: chmod go-w key"),
        (&key, &seals, 0o666, "other users can read and modify this key: chmod 600 key"),
        (&private, &opens, 0o600, ""),
        (&private, &opens, 0o640, "other users can read this key: chmod 600 private.pem"),
        (&private, &opens, 0o602, "other users can modify this key: chmod go-w private.pem"),
        (&public, &seals_publicly, 0o664, "other users can modify this key: chmod go-w public.pem"),
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
        // `--quiet` does not silence a warning.
        assert_eq!(folder.run(&[&["--quiet"], args].concat()).stderr, warned);
        set_mode(path, 0o600);
    }
}
