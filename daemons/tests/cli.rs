//! The commands that need no platform, through the real binary: what they print, where, and how they end.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

/// What a command printed and how it ended.
struct Ended {
    code: i32,
    out: String,
    err: String,
}

/// A command in an empty folder, in an environment that says nothing.
fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    command.args(arguments).current_dir(folder).env_clear().env("HOME", folder);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn ended(mut command: Command) -> Ended {
    let output = command.output().expect("the binary was just built");
    Ended {
        code: output.status.code().expect("no signal"),
        out: String::from_utf8(output.stdout).expect("text"),
        err: String::from_utf8(output.stderr).expect("text"),
    }
}

fn run(arguments: &[&str]) -> Ended {
    let folder = tempfile::tempdir().expect("a temporary folder");
    ended(command(folder.path(), arguments))
}

#[track_caller]
fn answers(arguments: &[&str], expected: &str) {
    let Ended { code, out, err } = run(arguments);
    assert_eq!((code, out.as_str(), err.as_str()), (0, expected, ""), "{arguments:?}");
}

#[track_caller]
fn fails(arguments: &[&str], expected_code: i32, expected: &str) {
    let Ended { code, out, err } = run(arguments);
    assert_eq!((code, out.as_str(), err.as_str()), (expected_code, "", expected), "{arguments:?}");
}

/// Compares with a checked-in file; UPDATE=1 writes it.
#[track_caller]
fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli").join(name);
    if std::env::var_os("UPDATE").is_some() {
        fs::create_dir_all(path.parent().expect("has one")).expect("made");
        fs::write(&path, text).expect("written");
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == text,
        "{name} has changed; UPDATE=1 cargo test -p quorate --test cli writes it. Now:\n{text}"
    );
}

#[test]
fn a_plan_shows_waves_critical_path_and_time() {
    answers(
        &["plan", "((3+5)*(4/2))"],
        "\
3 operations in 2 waves, at most 2 at once

wave 1    n0    3 + 5
          n1    4 / 2
wave 2    n2    n0 * n1

critical path  n0 → n2
predicted      2 ms with 2 at once; one after another 3 ms
",
    );
    let slower = run(&["plan", "a+b+c+d", "--workers", "1", "--cost", "add=3ms"]);
    assert!(
        slower.out.ends_with("predicted      9 ms with 1 at once; one after another 9 ms\n"),
        "{}",
        slower.out
    );
    answers(&["plan", "5"], "nothing to run: the result is what is written\n");
}

#[test]
fn a_plan_is_drawn_for_other_programs() {
    answers(
        &["plan", "(1+x)*2", "--dot"],
        "\
digraph plan {
  rankdir=BT;
  n0 [label=\"n0: 1 + x\"];
  n1 [label=\"n1: n0 * 2\"];
  n0 -> n1;
}
",
    );
    answers(
        &["plan", "(1+x)*2", "--mermaid"],
        "flowchart BT\n  n0[\"n0: 1 + x\"]\n  n1[\"n1: n0 * 2\"]\n  n0 --> n1\n",
    );
    golden("plan.json", &run(&["plan", "(1+x)*2", "--json"]).out);
    answers(&["plan", "(1+x)*(1+x)-2", "--tree"], "n2 = n1 - 2\n└─ n1 = n0 * n0\n   └─ n0 = 1 + x\n");
}

#[test]
fn a_big_plan_is_counted_and_not_listed() {
    let expression = (0..500).map(|n| format!("x{n}")).collect::<Vec<_>>().join("+");
    let plan = run(&["plan", &expression]);
    assert!(plan.out.starts_with("499 operations in 9 waves, at most"), "{}", plan.out);
    assert!(plan.out.lines().count() < 20, "{}", plan.out);
}

#[test]
fn an_expression_comes_from_standard_input_too() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut child =
        command(folder.path(), &["plan", "-", "--json"]).stdin(Stdio::piped()).spawn().expect("starts");
    child.stdin.take().expect("piped").write_all(b"1+2\n").expect("reads");
    let output = child.wait_with_output().expect("ends");
    let plan: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&plan["expression"], &plan["operations"]), (&"1+2".into(), &1.into()));
}

#[test]
fn errors_of_an_expression_are_exit_1_with_a_caret() {
    for command in ["plan", "eval"] {
        fails(
            &[command, "1+2)"],
            1,
            "error: this `)` closes nothing (unmatched-parenthesis)\n1 | 1+2)\n  |    ^\n",
        );
        fails(
            &[command, "2 3", "--json"],
            1,
            "{\"detail\":\"expected an operator, `)` or the end, found `3`\",\"kind\":\"expected-operator\",\"span\":[2,3]}\n",
        );
    }
}

#[test]
fn wrong_usage_is_exit_2_and_says_what_is_right() {
    for (arguments, said) in [
        (&[][..], "Usage: quorate"),
        (&["evil", "1"], "eval"),
        (&["eval"], "<EXPRESSION>"),
        (&["eval", "1", "-p", "a"], "usage: -p NAME=VALUE"),
        (&["eval", "a", "-p", "a=1", "-p", "a=2"], "the parameter `a` is given twice"),
        (&["eval", "1", "--timeout", "5"], "250ms, 10s or 5m"),
        (&["plan", "1", "--cost", "pow=1ms"], "add, sub, mul and div"),
        (&["scale", "pow", "1"], "add, sub, mul, div"),
        (&["eval", "1", "--url", "localhost"], "expected http://HOST:PORT"),
        (&["eval", "1", "--set", "limits"], "expected KEY=VALUE"),
        (&["eval", "1", "--set", "limits.nods=1"], "did you mean `limits.nodes`?"),
        (&["--log", "quorate=lots", "plan", "1"], "log filter"),
    ] {
        let Ended { code, out, err } = run(arguments);
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}: {err}");
        assert!(err.contains(said), "{arguments:?}: {said} is not in\n{err}");
    }
}

#[test]
fn a_platform_that_is_not_there_is_exit_3() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", free.local_addr().expect("bound"));
    drop(free);
    for arguments in
        [&["status"][..], &["status", "--url", &url], &["eval", "1+1", "--url", &url], &["dlq", "list"]]
    {
        let Ended { code, out, err } = run(arguments);
        assert_eq!((code, out.as_str()), (3, ""), "{arguments:?}: {err}");
        assert!(err.starts_with("error: no platform"), "{err}");
    }
}

#[test]
fn a_data_folder_that_can_t_be_used_is_exit_2_at_once() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("file"), "").expect("written");
    for data in ["file", "file/below", "/proc/quorate"] {
        for wanted in [&["eval", "1+1", "--data", data][..], &["up", "--data", data]] {
            let Ended { code, out, err } = ended(command(folder.path(), wanted));
            assert_eq!((code, out.as_str()), (2, ""), "{wanted:?}: {err}");
            assert!(err.starts_with("error: the data folder can't be used") && err.contains(data), "{err}");
            assert_eq!(err.lines().count(), 1, "{err}");
        }
    }
}

#[test]
fn what_a_platform_that_was_killed_left_behind_leads_to_nobody() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let somebody = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", somebody.local_addr().expect("bound"));
    fs::write(folder.path().join("up.json"), format!("{{\"url\": \"{url}\", \"pid\": 1}}")).expect("written");
    fs::write(folder.path().join("up.lock"), "quorate up (process 1)").expect("written");
    let Ended { code, out, err } = ended(command(folder.path(), &["status", "--data", "."]));
    assert_eq!((code, out.as_str()), (3, ""), "{err}");
    assert!(err.starts_with("error: no platform runs on the data in ."), "{err}");
}

#[test]
fn a_configuration_is_explained_with_the_place_of_every_value() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(
        folder.path().join("quorate.toml"),
        "data = \"/q\"\n[limits]\nnodes = 77\n[functions.default]\nreplication = \"none\"\n",
    )
    .expect("written");
    let mut check = command(folder.path(), &["config", "check", "--set", "limits.digits=99"]);
    check.env("QUORATE_LIMITS_NESTING", "88");
    let Ended { code, out, err } = ended(check);
    assert_eq!((code, err.as_str()), (0, ""));
    golden("config-check.txt", &out);

    // What is printed is a configuration file.
    fs::write(folder.path().join("again.toml"), &out).expect("written");
    let mut check = command(folder.path(), &["config", "check", "--config", "again.toml", "--json"]);
    check.env_remove("QUORATE_LIMITS_NESTING");
    let again: serde_json::Value = serde_json::from_str(&ended(check).out).expect("JSON");
    let nesting = again.as_array().expect("a list").iter().find(|value| value["key"] == "limits.nesting");
    assert_eq!(nesting.expect("is there")["value"], "88");
}

#[test]
fn a_wrong_configuration_is_exit_2_with_file_line_and_suggestion() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("quorate.toml"), "[limits]\nnods = 77\n\n[timeouts]\nlease = 2\n")
        .expect("written");
    let Ended { code, out, err } = ended(command(folder.path(), &["config", "check"]));
    assert_eq!((code, out.as_str()), (2, ""));
    golden("config-wrong.txt", &err);
}

#[test]
fn what_is_no_receipt_is_exit_1_and_a_missing_file_exit_2() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("r.json"), "{\"a\": 1}").expect("written");
    let Ended { code, out, err } = ended(command(folder.path(), &["verify", "r.json"]));
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.starts_with("error: the receipt proves nothing: not the receipt of an expression"), "{err}");
    let Ended { code, err, .. } = ended(command(folder.path(), &["verify", "missing.json"]));
    assert_eq!(code, 2);
    assert!(err.starts_with("error: can't read missing.json"), "{err}");
}

#[test]
fn there_are_no_keys_before_they_are_made() {
    answers(&["keys", "show", "--json"], "{\n  \"sets\": {}\n}\n");
}

#[test]
fn completions_and_manual_pages_are_generated() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = run(&["completions", shell]);
        assert!(script.code == 0 && script.out.contains("quorate"), "{shell}");
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    assert_eq!(ended(command(folder.path(), &["man", "--to", "man"])).code, 0);
    assert!(folder.path().join("man/quorate-eval.1").exists());
    assert!(run(&["man"]).out.contains(".TH quorate 1"));
}

/// What people read first: a change is seen in review.
#[test]
fn helps_are_the_ones_that_are_checked_in() {
    for command in [
        &[][..],
        &["eval"],
        &["up"],
        &["plan"],
        &["status"],
        &["top"],
        &["faults"],
        &["verify"],
        &["audit"],
        &["keys"],
        &["tokens", "make"],
        &["tls", "make"],
        &["dlq"],
        &["scale"],
        &["simulate"],
        &["config", "check"],
    ] {
        let mut arguments = command.to_vec();
        arguments.push("--help");
        let Ended { code, out, err } = run(&arguments);
        assert_eq!((code, err.as_str()), (0, ""), "{command:?}");
        let name = if command.is_empty() { "quorate".to_owned() } else { command.join("-") };
        golden(&format!("help/{name}.txt"), &out);
    }
}

/// A recorded load of the repository.
const AZURE_CODE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../benches/traces/azure-code.csv");

/// The figures of benches/README.md, and the same ones in each form.
#[test]
fn a_simulation_of_a_recorded_load_is_always_the_same() {
    let arguments = ["simulate", AZURE_CODE, "--policy", "threshold>4", "--policy", "balanced,kpa"];
    let replay = |form: &[&str]| {
        let Ended { code, out, err } = run(&[&arguments[..], form].concat());
        assert_eq!((code, err.as_str()), (0, ""), "{form:?}: no bar in a pipe");
        out
    };
    let json: Vec<serde_json::Value> = serde_json::from_str(&replay(&["--json"])).expect("an array");
    let stated = [
        ("threshold>4", "4.316", "12.293", 29),
        ("balanced", "4.074", "10.553", 29),
        ("kpa", "8.481", "33.644", 21),
    ];
    assert_eq!(json.len(), stated.len());
    for (row, (policy, cost, violations, flips)) in json.iter().zip(stated) {
        let mut fields: Vec<_> = row.as_object().expect("an object").keys().map(String::as_str).collect();
        fields.sort_unstable();
        assert_eq!(
            fields,
            [
                "actions",
                "cost_ratio",
                "flips",
                "p50_wait_s",
                "p99_wait_s",
                "policy",
                "seed",
                "service",
                "start_delay_s",
                "trace",
                "violations",
            ]
        );
        let number = |field: &str| row[field].as_f64().expect("a number");
        assert_eq!((row["trace"].as_str(), row["policy"].as_str()), (Some("azure-code"), Some(policy)));
        assert_eq!((row["start_delay_s"].as_u64(), row["seed"].as_u64()), (Some(10), Some(1)));
        assert_eq!(row["service"], "exponential");
        assert_eq!(format!("{:.3}", number("cost_ratio")), cost, "{policy}");
        assert_eq!(format!("{:.3}", 100.0 * number("violations")), violations, "{policy}");
        assert_eq!(row["flips"].as_u64(), Some(flips), "{policy}");
        assert!(number("p50_wait_s") <= number("p99_wait_s") && row["actions"].as_u64() > Some(flips));
    }
    golden("simulate.csv", &replay(&["--csv"]));
    golden("simulate.txt", &replay(&[]));
}

#[test]
fn a_simulation_is_drawn_where_asked() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("small & <odd>.csv"), "# bin_width_s: 60\n10\n40\n10\n0\n")
        .expect("written");
    let arguments = ["simulate", "small & <odd>.csv", "--policy", "balanced,lean", "--chart", "new/charts"];
    let Ended { code, err, .. } = ended(command(folder.path(), &arguments));
    assert_eq!((code, err.as_str()), (0, ""));
    let picture = fs::read_to_string(folder.path().join("new/charts/small & <odd>.svg")).expect("drawn");
    for part in ["<svg", "small &amp; &lt;odd&gt;", "balanced", "lean", "</svg>"] {
        assert!(picture.contains(part), "{part}");
    }
}

#[test]
fn what_cant_be_simulated_is_exit_2_and_one_line() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, text) in [
        ("rubbish.csv", "# bin_width_s: 60\n12\ntwelve\n"),
        ("negative.csv", "-1\n"),
        ("width.csv", "# bin_width_s: 0\n12\n"),
        ("empty.csv", ""),
        ("idle.csv", "0\n0\n"),
        ("long.csv", "# bin_width_s: 99999999\n1\n"),
        ("load.csv", "1\n"),
    ] {
        fs::write(folder.path().join(name), text).expect("written");
    }
    fs::create_dir(folder.path().join("other")).expect("made");
    fs::write(folder.path().join("other/load.csv"), "1\n").expect("written");
    fs::write(folder.path().join("binary.csv"), [0xFF, 0xFE]).expect("written");
    for (arguments, expected) in [
        (&["missing.csv"][..], "can't read missing.csv: No such file or directory (os error 2)"),
        (&["binary.csv"], "can't read binary.csv: stream did not contain valid UTF-8"),
        (&["rubbish.csv"], "rubbish.csv: line 3 is not a count of requests: \"twelve\""),
        (&["negative.csv"], "negative.csv: line 1 is not a count of requests: \"-1\""),
        (
            &["width.csv"],
            "width.csv: line 1: bin_width_s must be a whole number of seconds, at least 1, not \"0\"",
        ),
        (&["empty.csv"], "empty.csv: the trace has no counts"),
        (
            &["idle.csv"],
            "idle.csv: the trace is empty but for rare bins: its 99.5th percentile is 0, which cannot be scaled",
        ),
        (&["long.csv"], "long.csv: the trace covers 99999999 s, more than 7948800: cut it"),
        (
            &["load.csv", "other/load.csv"],
            "two traces are called \"load\": the table and the charts name them by it; rename other/load.csv",
        ),
        (
            &[
                "load.csv",
                "--chart",
                "c",
                "--policy",
                "hpa-80,hpa-50,keda-5,keda-1,kpa,tt,lean,strict,balanced",
            ],
            "a chart shows at most 8 policies, not 9: name fewer with --policy",
        ),
        (&["load.csv", "--chart", "load.csv"], "can't write load.csv: File exists (os error 17)"),
    ] {
        let arguments = [&["simulate"], arguments].concat();
        let Ended { code, out, err } = ended(command(folder.path(), &arguments));
        assert_eq!((code, out.as_str(), err), (2, "", format!("error: {expected}\n")), "{arguments:?}");
    }
    // A shell that sees no quotes takes the rest of `threshold>4` for a file's name.
    let Ended { code, err, .. } =
        ended(command(folder.path(), &["simulate", "load.csv", "--policy", "threshold"]));
    assert_eq!(code, 2);
    assert!(err.starts_with("error: invalid value 'threshold' for '--policy <NAME>'"), "{err}");
    assert!(err.contains("a similar value exists: 'threshold>4'"), "{err}");
}
