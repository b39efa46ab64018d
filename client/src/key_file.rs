//! Key files: the 32-byte seed of an Ed25519 key as 64 lowercase hex digits and a newline, readable
//! by its owner alone.
//!
//! # Invariants
//! - A file is never overwritten, and never exists with a mode wider than 0600.
//! - A file that others may read or write is refused: the key may be theirs by now.
//! - Buffers that held the seed are wiped; no error shows any of the content.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;
use thiserror::Error;
use zeroize::Zeroizing;

/// Bytes of a key file: 64 digits and a newline.
const FILE_BYTES: usize = 65;

/// The widest mode of a key file.
const MODE_MAX: u32 = 0o600;

/// Why a key file is not written or read.
#[derive(Debug, Error)]
pub enum KeyFileError {
    /// There is a file of that name.
    #[error("{} exists already: choose another name, or move it away if its key is not needed", .0.display())]
    Exists(PathBuf),
    /// Others may read or write the file.
    #[error("{} has mode {mode:04o}, so others may have its key; if they do not: chmod 600 {}", .path.display(), .path.display())]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file holds something else.
    #[error("{} is no key file: expected 64 lowercase hex digits and a newline, as `client keygen` writes them", .0.display())]
    Form(PathBuf),
    /// There is no such file.
    #[error("there is no key file {}: make one with `client keygen --out {}`", .0.display(), .0.display())]
    Missing(PathBuf),
    /// The operating system refuses; the source says why.
    #[error("cannot {operation} {}", .path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        error: io::Error,
    },
}

/// Makes a random key from the operating system's randomness.
///
/// # Panics
/// If the operating system has no randomness to give.
#[must_use]
pub fn generate() -> SigningKey {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *seed).expect("the operating system gives random bytes");
    SigningKey::from_bytes(&seed)
}

/// Writes `key` to a new file with mode 0600, and waits until it is on disk. Leaves no file behind
/// on failure.
///
/// # Errors
/// [`KeyFileError`], above all if the file exists.
pub fn create(path: &Path, key: &SigningKey) -> Result<(), KeyFileError> {
    let io = |operation, error| KeyFileError::Io { operation, path: path.to_owned(), error };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE_MAX).open(path).map_err(|error| {
        match error.kind() {
            io::ErrorKind::AlreadyExists => KeyFileError::Exists(path.to_owned()),
            _ => io("create", error),
        }
    })?;
    let seed = Zeroizing::new(key.to_bytes());
    let mut content = Zeroizing::new([b'\n'; FILE_BYTES]);
    faster_hex::hex_encode(&*seed, &mut content[..64]).expect("the buffer has two digits a byte");
    file.write_all(&*content).and_then(|()| file.sync_all()).map_err(|error| {
        // Best effort: the error that matters is the one being reported.
        let _ = std::fs::remove_file(path);
        io("write", error)
    })
}

/// Reads a key from a file that only its owner may read.
///
/// # Errors
/// [`KeyFileError`], with the fix where there is one.
pub fn load(path: &Path) -> Result<SigningKey, KeyFileError> {
    let io = |operation, error| KeyFileError::Io { operation, path: path.to_owned(), error };
    let file = File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => KeyFileError::Missing(path.to_owned()),
        _ => io("open", error),
    })?;
    // Of the open file: what a name stands for can change between two looks.
    let metadata = file.metadata().map_err(|error| io("inspect", error))?;
    if !metadata.is_file() {
        return Err(KeyFileError::Form(path.to_owned()));
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & !MODE_MAX != 0 {
        return Err(KeyFileError::Mode { path: path.to_owned(), mode });
    }
    // One byte more than a key file has, so that a longer one shows; never grown, so never copied.
    let mut content = Zeroizing::new(Vec::with_capacity(FILE_BYTES + 1));
    content.resize(FILE_BYTES + 1, 0);
    let mut filled = 0;
    loop {
        match (&file).read(&mut content[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(io("read", error)),
        }
    }
    let digits = match &content[..filled] {
        [digits @ .., b'\n'] => digits,
        digits => digits,
    };
    let mut seed = Zeroizing::new([0; 32]);
    let is_key = digits.len() == 64
        && faster_hex::hex_decode_with_case(digits, &mut *seed, faster_hex::CheckCase::Lower).is_ok();
    if is_key { Ok(SigningKey::from_bytes(&seed)) } else { Err(KeyFileError::Form(path.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn written(content: &[u8], mode: u32) -> Result<SigningKey, KeyFileError> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("key");
        fs::write(&path, content).expect("write");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
        load(&path)
    }

    #[test]
    fn a_key_comes_back_and_its_file_is_private_and_permanent() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("key");
        let key = generate();
        create(&path, &key).expect("a new file");
        assert_eq!(load(&path).expect("the same file").to_bytes(), key.to_bytes());
        let metadata = fs::metadata(&path).expect("metadata");
        assert_eq!((metadata.permissions().mode() & 0o7777, metadata.len()), (0o600, 65));
        let before = fs::read(&path).expect("read");
        let error = create(&path, &generate()).expect_err("it exists");
        assert!(matches!(error, KeyFileError::Exists(_)), "{error}");
        assert_eq!(fs::read(&path).expect("read"), before);
    }

    #[test]
    fn wider_modes_are_refused_with_the_fix() {
        let content = [b'0'; 64];
        for mode in [0o644, 0o640, 0o604, 0o660, 0o700, 0o601, 0o4600] {
            let error = written(&content, mode).expect_err("others may read it").to_string();
            assert!(error.contains(&format!("mode {mode:04o}")) && error.contains("chmod 600 /"), "{error}");
        }
        for mode in [0o600, 0o400] {
            assert!(written(&content, mode).is_ok(), "{mode:o}");
        }
    }

    #[test]
    fn other_contents_are_refused_without_being_shown() {
        let digits = "0123456789abcdef".repeat(4);
        for content in [
            String::new(),
            digits[1..].to_owned(),
            format!("{digits}0"),
            format!("{digits}\n\n"),
            format!("{digits}\r\n"),
            format!(" {digits}"),
            digits.to_uppercase(),
            digits.replacen('0', "g", 1),
            digits.repeat(100),
        ] {
            let error = written(content.as_bytes(), 0o600).expect_err("no key").to_string();
            assert!(error.contains("expected 64 lowercase hex digits") && !error.contains("123456"), "{error}");
        }
        assert!(written(format!("{digits}\n").as_bytes(), 0o600).is_ok());
        assert!(matches!(load(Path::new("/")), Err(KeyFileError::Form(_))));
        assert!(matches!(load(Path::new("/no/such")), Err(KeyFileError::Missing(_))));
    }
}
