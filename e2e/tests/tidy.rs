//! Style as a test: the order of the rooms, the length of files, text that must not be here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    e2e::here().parent().unwrap().to_owned()
}

/// Which rooms each room may use, from the table in ARCHITECTURE.md, with what those use.
fn allowed() -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let mut direct: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in text.lines().filter(|l| l.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        if let [room, .., uses] = cells.as_slice() {
            let uses = uses.trim_end_matches('|').trim();
            let list = if uses == "-" { Vec::new() } else { uses.split(", ").map(str::to_owned).collect() };
            direct.insert(room.trim_matches('`').to_owned(), list);
        }
    }
    let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for room in direct.keys() {
        let (mut seen, mut todo) = (BTreeSet::new(), direct[room].clone());
        while let Some(next) = todo.pop() {
            if next == "all" {
                seen.extend(direct.keys().cloned());
            } else if seen.insert(next.clone()) {
                todo.extend(direct.get(&next).cloned().unwrap_or_default());
            }
        }
        all.insert(room.clone(), seen);
    }
    all
}

#[test]
fn rooms_use_only_what_the_architecture_says() {
    let allowed = allowed();
    for (room, uses) in &allowed {
        let manifest = fs::read_to_string(root().join("src").join(room).join("Cargo.toml")).unwrap();
        let dependencies = manifest.split("[dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
        for name in dependencies.lines().filter_map(|l| l.split(['.', ' ']).next()) {
            if allowed.contains_key(name) {
                assert!(uses.contains(name), "{room} uses {name}, which ARCHITECTURE.md does not allow");
            }
        }
    }
    let rooms = fs::read_dir(root().join("src")).unwrap().flatten().filter(|e| e.path().is_dir()).count();
    assert_eq!(rooms, allowed.len(), "every room has a row in ARCHITECTURE.md");
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn files_can_be_read_in_one_sitting() {
    /// Lines without the tests at the end.
    const MOST: usize = 700;
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    let long: Vec<String> = files
        .iter()
        .filter(|path| !path.components().any(|c| c.as_os_str() == "tests"))
        .filter_map(|path| {
            let text = fs::read_to_string(path).unwrap();
            let lines = text.split("#[cfg(test)]\nmod tests {").next().unwrap().lines().count();
            (lines > MOST).then(|| format!("{} has {lines} lines", path.display()))
        })
        .collect();
    assert!(long.is_empty(), "{long:#?}");
}

#[test]
fn nothing_is_left_undone_in_the_code() {
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    let marks = [concat!("todo", "!("), concat!("unimplemented", "!("), concat!("dbg", "!(")];
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        for mark in marks {
            assert!(!text.contains(mark), "{} has {mark}", path.display());
        }
    }
}
