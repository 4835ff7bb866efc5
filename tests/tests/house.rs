//! The house rules that no compiler checks.

use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A file longer than this has more than one subject.
const LINES_MAX: usize = 800;

/// Folders that are not ours to judge.
const FOREIGN: [&str; 6] = ["target", ".git", "corpus", "artifacts", "coverage", "node_modules"];

fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace");
    root.to_path_buf()
}

/// All text files of the repository: path below the root, content.
fn files() -> Vec<(String, String)> {
    let mut files = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("can be read") {
            let path = entry.expect("stays while we read").path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if FOREIGN.contains(&name) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(text) = fs::read_to_string(&path) {
                let path = path.strip_prefix(root()).expect("was found there");
                files.push((path.to_str().expect("is UTF-8").to_owned(), text));
            }
        }
    }
    assert!(files.len() > 50, "the repository was not found: {}", files.len());
    files
}

/// Our own Rust sources.
fn sources() -> impl Iterator<Item = (String, String)> {
    files().into_iter().filter(|(path, _)| path.ends_with(".rs") && !is_generated(path))
}

fn is_generated(path: &str) -> bool {
    path.contains("/proto/") && path.ends_with(".rs")
}

/// Fails with every place at once.
#[track_caller]
fn none(found: Vec<String>) {
    assert!(found.is_empty(), "{} places:\n{}", found.len(), found.join("\n"));
}

/// The places where one of `words` stands on a line.
fn places(path: &str, text: &str, words: &[String]) -> Vec<String> {
    let hit = |line: &str| words.iter().find(|word| line.contains(word.as_str())).cloned();
    text.lines()
        .enumerate()
        .filter_map(|(at, line)| Some(format!("{path}:{}: {}", at + 1, hit(line)?)))
        .collect()
}

/// Words in halves, so that this file does not contain them.
fn words(halves: &[(&str, &str)]) -> Vec<String> {
    halves.iter().map(|(first, second)| format!("{first}{second}")).collect()
}

#[test]
fn nothing_is_left_for_later() {
    let words = words(&[
        ("TO", "DO"),
        ("FIX", "ME"),
        ("XX", "X:"),
        ("to", "do!("),
        ("unimplem", "ented!("),
        ("db", "g!("),
        ("#[ign", "ore"),
    ]);
    none(sources().flat_map(|(path, text)| places(&path, &text, &words)).collect());
}

#[test]
fn the_repository_speaks_of_itself_alone() {
    let words =
        words(&[("/wor", "k/"), ("/ro", "ot/"), ("/hom", "e/"), ("../sha", "red"), ("local", "host:80")]);
    none(files().iter().flat_map(|(path, text)| places(path, text, &words)).collect());
}

#[test]
fn no_source_file_is_too_long_to_read() {
    let long = sources().filter(|(_, text)| text.lines().count() > LINES_MAX);
    none(long.map(|(path, text)| format!("{path}: {} lines", text.lines().count())).collect());
}

#[test]
fn files_are_named_for_what_they_keep() {
    let vague =
        ["mod.rs", "utils.rs", "util.rs", "helpers.rs", "helper.rs", "common.rs", "manager.rs", "misc.rs"];
    let vague = |path: &String| vague.contains(&path.rsplit('/').next().unwrap_or_default());
    none(sources().map(|(path, _)| path).filter(vague).collect());
}

#[test]
fn every_crate_takes_the_lints_of_the_workspace() {
    // fuzz/ does not: its harness macro needs unsafe code.
    let crates =
        files().into_iter().filter(|(path, _)| path.ends_with("/Cargo.toml") && !path.starts_with("fuzz/"));
    let crates: Vec<_> = crates.collect();
    assert!(crates.len() >= 6, "{crates:?}");
    none(
        crates
            .into_iter()
            .filter(|(_, text)| !text.contains("[lints]\nworkspace = true"))
            .map(|(p, _)| p)
            .collect(),
    );
}

#[test]
fn text_ends_with_one_line_feed_and_has_no_carriage_returns() {
    let ours = |path: &str| {
        [".rs", ".toml", ".md", ".proto", ".txt", ".json"].iter().any(|end| path.ends_with(end))
            && !is_generated(path)
    };
    let wrong = |text: &str| text.contains('\r') || !text.ends_with('\n') || text.ends_with("\n\n");
    none(
        files().into_iter().filter(|(path, text)| ours(path) && wrong(text)).map(|(path, _)| path).collect(),
    );
}

#[test]
fn every_dependency_has_a_licence_that_is_allowed_and_comes_from_the_registry() {
    let deny: toml::Value = toml::from_str(&fs::read_to_string(root().join("deny.toml")).expect("is there"))
        .expect("deny.toml is TOML");
    let allowed: Vec<&str> = deny["licenses"]["allow"]
        .as_array()
        .expect("is a list")
        .iter()
        .filter_map(toml::Value::as_str)
        .collect();
    let metadata = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into()))
        .args(["metadata", "--format-version", "1", "--locked", "--manifest-path"])
        .arg(root().join("Cargo.toml"))
        .output()
        .expect("cargo built this test");
    assert!(metadata.status.success(), "{}", String::from_utf8_lossy(&metadata.stderr));
    let metadata: Value = serde_json::from_slice(&metadata.stdout).expect("is JSON");
    let mut wrong = Vec::new();
    for package in metadata["packages"].as_array().expect("is a list") {
        let name = format!("{} {}", package["name"], package["version"]);
        let licence = package["license"].as_str().unwrap_or_default();
        if !is_allowed(licence, &allowed) {
            wrong.push(format!("{name}: {licence:?}"));
        }
        let source = package["source"].as_str();
        if source.is_some_and(|source| !source.starts_with("registry+")) {
            wrong.push(format!("{name} comes from {source:?}"));
        }
    }
    none(wrong);
}

/// Whether a licence expression can be met by what is allowed: `AND` needs all, `OR` or `/` one.
fn is_allowed(expression: &str, allowed: &[&str]) -> bool {
    let expression = expression.trim();
    for (operator, all) in [(" OR ", false), ("/", false), (" AND ", true)] {
        let parts = split_outside_parentheses(expression, operator);
        if parts.len() > 1 {
            let mut parts = parts.into_iter();
            let met = |part: &str| is_allowed(part, allowed);
            return if all { parts.all(met) } else { parts.any(met) };
        }
    }
    match expression.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')) {
        Some(inner) => is_allowed(inner, allowed),
        None => allowed.contains(&expression),
    }
}

fn split_outside_parentheses<'a>(text: &'a str, operator: &str) -> Vec<&'a str> {
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (at, character) in text.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ if depth == 0 && at >= start && text[at..].starts_with(operator) => {
                parts.push(&text[start..at]);
                start = at + operator.len();
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

#[test]
fn a_licence_expression_is_read_as_it_is_meant() {
    let allowed = ["MIT", "Apache-2.0", "ISC"];
    for (expression, expected) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("MIT OR GPL-3.0", true),
        ("MIT AND GPL-3.0", false),
        ("(MIT OR GPL-3.0) AND ISC", true),
        ("(GPL-2.0 OR GPL-3.0) AND ISC", false),
        ("MIT OR GPL-2.0 AND GPL-3.0", true),
        ("MIT/GPL-3.0", true),
        ("", false),
    ] {
        assert_eq!(is_allowed(expression, &allowed), expected, "{expression}");
    }
}
