//! The device that a command logs in as unless `--device` says: the command's name and a number that
//! is made once for a key on a machine, and kept beside the key file. So the relay knows the device
//! again after a restart, and copies of a key on two machines do not throw each other out.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Hex digits of the number.
const DIGITS: usize = 8;

/// The device of `command` with the key in `key_file`. Where the number cannot be kept (a read-only
/// directory), the command's name alone.
pub(crate) fn default_device(command: &str, key_file: &Path) -> String {
    let mut path = key_file.as_os_str().to_owned();
    path.push(".device");
    match kept(&PathBuf::from(path)) {
        Some(number) => format!("{command}-{number}"),
        None => command.to_owned(),
    }
}

fn kept(path: &Path) -> Option<String> {
    let number = getrandom::u32().ok()?;
    let made = format!("{number:0DIGITS$x}");
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(mut file) => file.write_all(made.as_bytes()).is_ok().then_some(made),
        Err(_) => {
            let number = fs::read_to_string(path).ok()?;
            let is_number = number.len() == DIGITS && number.bytes().all(|byte| byte.is_ascii_hexdigit());
            is_number.then_some(number)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_keeps_its_number_for_a_key() {
        let dir = tempfile::tempdir().expect("a directory");
        let key = dir.path().join("me.key");
        let device = default_device("chat", &key);
        assert!(protocol::keys::is_id(&device) && device.len() == 5 + DIGITS, "{device}");
        assert_eq!(default_device("chat", &key), device);
        assert_eq!(default_device("listen", &key), device.replace("chat", "listen"));
        assert_ne!(default_device("chat", &dir.path().join("other.key")), device);
    }

    #[test]
    fn where_none_can_be_kept_the_name_is_enough() {
        assert_eq!(default_device("chat", Path::new("/no/such/me.key")), "chat");
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("me.key.device"), "a b").expect("write");
        assert_eq!(default_device("chat", &dir.path().join("me.key")), "chat");
    }
}
