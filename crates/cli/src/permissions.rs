//! Permissions of the output file.

#[cfg(unix)]
use std::io;
use std::{fs::File, path::Path};

/// Copies the owner, group, mode and access control list of the file that is replaced. The error names what could not
/// be kept.
#[cfg(unix)]
pub(crate) fn take_over(file: &File, existing: &File) -> Result<(), String> {
    use std::os::unix::fs::{MetadataExt, fchown};

    let metadata = existing.metadata().map_err(not_permitted)?;
    let (uid, gid) = (metadata.uid(), metadata.gid());
    let kept = || file.metadata().map_or((false, false), |own| (own.uid() == uid, own.gid() == gid));
    if kept() != (true, true) {
        // Only root can change the owner, but the owner can change the group to another of their groups.
        let _ = fchown(file, Some(uid), Some(gid)).or_else(|_| fchown(file, None, Some(gid)));
    }
    let (keeps_owner, keeps_group) = kept();
    let mut lost = Vec::new();
    if !keeps_owner {
        lost.push("owner");
    }
    if !keeps_group {
        lost.push("group");
    }
    // Drops setuid and setgid, as writing to a file does.
    let mode = metadata.mode() & 0o777;
    match acl::of(existing) {
        Ok(None) => {
            // The file may have a list from the directory's default, which setting the mode would activate.
            acl::remove(file).map_err(not_permitted)?;
            // A group other than before gets no permission that others do not have.
            let for_another_group = mode & 0o707 | mode & (mode & 0o007) << 3;
            set_mode(file, if keeps_group { mode } else { for_another_group })?;
        }
        // Setting the list also sets the mode.
        Ok(Some(acl)) if keeps_group && acl::set(file, &acl).is_ok() => {}
        // With a list, the group bits of the mode are not the group's permissions but the maximum for all entries.
        _ => {
            lost.push("access control list");
            set_mode(file, mode & 0o700)?;
        }
    }
    if lost.is_empty() { Ok(()) } else { Err(format!("its {} could not be kept", lost.join(" and "))) }
}

#[cfg(not(unix))]
pub(crate) fn take_over(_: &File, _: &File) -> Result<(), String> {
    Ok(())
}

/// Sets the mode that a new file in this directory would have.
#[cfg(unix)]
pub(crate) fn permit_as_new(file: &File, folder: &Path) -> Result<(), String> {
    use rustix::{
        fs::{Mode, fchmod},
        process::umask,
    };

    let requested = Mode::from_raw_mode(0o666);
    let mode = match acl::default_mode(folder).map_err(not_permitted)? {
        Some(most) => requested & most,
        None => {
            // The umask can be read only by setting it. No other thread creates files at this point.
            let mask = umask(Mode::RWXG | Mode::RWXO);
            umask(mask);
            requested - mask
        }
    };
    fchmod(file, mode).map_err(|error| not_permitted(error.into()))
}

#[cfg(not(unix))]
pub(crate) fn permit_as_new(_: &File, _: &Path) -> Result<(), String> {
    Ok(())
}

#[cfg(unix)]
fn set_mode(file: &File, mode: u32) -> Result<(), String> {
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
    file.set_permissions(permissions).map_err(not_permitted)
}

#[cfg(unix)]
fn not_permitted(error: io::Error) -> String {
    format!("its permissions could not be set: {error}")
}

/// POSIX access control lists, which Linux stores in extended attributes (acl(5), linux/posix_acl_xattr.h).
#[cfg(target_os = "linux")]
mod acl {
    use rustix::{
        buffer::spare_capacity,
        fs::{Mode, RawMode, XattrFlags, fgetxattr, fremovexattr, fsetxattr, getxattr},
        io::Errno,
    };

    use super::{File, Path, io};

    const ACCESS: &str = "system.posix_acl_access";
    const DEFAULT: &str = "system.posix_acl_default";
    /// The maximum length of an attribute (XATTR_SIZE_MAX).
    const MAX_LEN: usize = 1 << 16;

    pub(super) fn of(file: &File) -> io::Result<Option<Vec<u8>>> {
        let mut acl = Vec::with_capacity(MAX_LEN);
        let read = fgetxattr(file, ACCESS, spare_capacity(&mut acl));
        Ok(if_any(read)?.map(|_| acl))
    }

    pub(super) fn set(file: &File, acl: &[u8]) -> io::Result<()> {
        Ok(fsetxattr(file, ACCESS, acl, XattrFlags::empty())?)
    }

    pub(super) fn remove(file: &File) -> io::Result<()> {
        if_any(fremovexattr(file, ACCESS)).map(drop)
    }

    /// Returns the maximum mode that the directory's default list allows for new files. The umask does not apply to it.
    pub(super) fn default_mode(folder: &Path) -> io::Result<Option<Mode>> {
        let mut acl = Vec::with_capacity(MAX_LEN);
        match if_any(getxattr(folder, DEFAULT, spare_capacity(&mut acl)))? {
            None => Ok(None),
            Some(_) => mode(&acl).ok_or_else(|| io::ErrorKind::InvalidData.into()).map(Some),
        }
    }

    fn mode(acl: &[u8]) -> Option<Mode> {
        let [user_obj, group_obj, mask, other] = [0x01, 0x04, 0x10, 0x20];
        // A version, followed by entries of a tag, permissions and an id of 16, 16 and 32 bits.
        let entries = acl.get(4..)?.chunks_exact(8);
        let permissions = |wanted| {
            entries.clone().find_map(|entry| match *entry {
                [tag, 0, permissions, ..] if tag == wanted => Some(RawMode::from(permissions & 0o7)),
                _ => None,
            })
        };
        let group = permissions(mask).or_else(|| permissions(group_obj))?;
        Some(Mode::from_raw_mode(permissions(user_obj)? << 6 | group << 3 | permissions(other)?))
    }

    /// Returns `None` if there is no list, or if the file system does not support lists.
    fn if_any<T>(result: Result<T, Errno>) -> io::Result<Option<T>> {
        match result {
            Err(Errno::NODATA | Errno::NOTSUP | Errno::NOSYS) => Ok(None),
            result => Ok(Some(result?)),
        }
    }
}

#[cfg(all(unix, not(target_os = "linux")))]
mod acl {
    use rustix::fs::Mode;

    use super::{File, Path, io};

    pub(super) fn of(_: &File) -> io::Result<Option<Vec<u8>>> {
        Ok(None)
    }

    pub(super) fn set(_: &File, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn remove(_: &File) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn default_mode(_: &Path) -> io::Result<Option<Mode>> {
        Ok(None)
    }
}
