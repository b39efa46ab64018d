//! What is refused at the start, with what sentence.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use relay_store::{OpenError, Options, Store, check};
use rusqlite::Connection;
use tempfile::tempdir;

use crate::kit::{Making, NOW, commit, kept, open, options};

fn refusal(dir: &std::path::Path) -> String {
    Store::open(&options(dir), 1, NOW).expect_err("the store is refused").to_string()
}

#[test]
fn a_directory_is_used_by_one_process_at_a_time() {
    let dir = tempdir().unwrap();
    let (store, _) = open(dir.path());
    let text = refusal(dir.path());
    let expected = format!("is in use by process {}: end it first, or take another", std::process::id());
    assert!(text.contains(&expected), "{text}");
    assert!(matches!(check(dir.path()), Err(OpenError::Locked { .. })));
    drop(store);
    open(dir.path());
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    let dir = tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    commit(&mut store, &Making::default().user(1).message(2, 1, 1, "a").0);
    store.close().unwrap();
    let file = dir.path().join("relay.db");
    let sql = Connection::open(&file).unwrap();
    sql.pragma_update(None, "user_version", 2).unwrap();
    drop(sql);
    let before = fs::read(&file).unwrap();
    let text = refusal(dir.path());
    assert!(
        text.contains("has format 2, and this relay reads formats up to 1: start the relay that wrote it"),
        "{text}"
    );
    assert!(matches!(check(dir.path()), Err(OpenError::Newer { found: 2, .. })));
    assert!(fs::read(&file).unwrap() == before);
    let sql = Connection::open(&file).unwrap();
    sql.pragma_update(None, "user_version", 1).unwrap();
    drop(sql);
    assert_eq!(kept(&open(dir.path()).1, 1), [1]);
}

#[test]
fn a_database_of_something_else_is_refused() {
    let dir = tempdir().unwrap();
    let sql = Connection::open(dir.path().join("relay.db")).unwrap();
    sql.execute_batch("CREATE TABLE other (x)").unwrap();
    drop(sql);
    assert!(refusal(dir.path()).ends_with("relay.db is not a relay's database: take another directory with --data"));
}

#[test]
fn a_file_that_is_no_database_is_refused() {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("relay.db"), vec![b'x'; 10_000]).unwrap();
    let text = refusal(dir.path());
    assert!(text.contains("cannot be used: file is not a database") && text.contains("relay store check"), "{text}");
}

#[test]
fn directories_are_made_and_where_they_cannot_be_the_path_is_named() {
    let dir = tempdir().unwrap();
    open(&dir.path().join("a/b"));
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let text = refusal(&file.join("c"));
    assert!(text.contains("cannot make the directory") && text.contains("file/c") && text.contains("--data"), "{text}");
    // Root may write anywhere.
    if !rustix::process::geteuid().is_root() {
        let closed = dir.path().join("closed");
        fs::create_dir(&closed).unwrap();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o500)).unwrap();
        assert!(refusal(&closed).contains("cannot lock"));
    }
}

#[test]
fn nothing_to_check_is_no_success() {
    let dir = tempdir().unwrap();
    assert!(matches!(check(dir.path()), Err(OpenError::Absent(_))));
    assert!(fs::read_dir(dir.path()).unwrap().next().is_none(), "a check made files");
    let nowhere = Options { dir: dir.path().join("nowhere"), ..options(dir.path()) };
    assert!(matches!(check(&nowhere.dir), Err(OpenError::Absent(_))));
}
