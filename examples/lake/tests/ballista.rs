//! A scheduler and executors as processes, which the program starts. Tests with keys in AWS KMS need Python with moto:
//!
//! ```text
//! (cd ../.. && python3 -m venv .venv && .venv/bin/pip install -r tests/python/requirements.txt)
//! cargo test -- --include-ignored
//! ```

use std::process::Command;

/// Runs the subcommand `ballista`, and returns what it printed.
fn ballista(arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kms-envelope-lake"));
    let output = command.arg("ballista").args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn python() -> String {
    std::env::var("KMS_ENVELOPE_PYTHON")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../../.venv/bin/python").into())
}

/// Returns the number that follows a text.
fn number_after(text: &str, report: &str) -> u32 {
    let (_, number) = report.split_once(text).unwrap_or_else(|| panic!("{report}"));
    number.split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn two_executors_have_the_same_answers_as_datafusion_on_plain_tables() {
    let report = ballista(&[]);
    assert_eq!(same_and_failed(&report, ""), (22, 0));
    for executor in ["executor 1: ", "executor 2: "] {
        assert!(number_after(executor, &report) > 22, "{report}");
    }
}

#[test]
#[ignore = "needs Python with moto: see the top of this file"]
fn two_executors_with_keys_in_kms_have_the_same_answers_and_call_it_once_for_each_file() {
    let report = ballista(&["--moto", &python()]);
    assert_eq!(same_and_failed(&report, ""), (22, 0));
    assert_eq!(number_after("requests to KMS: ", &report), 8, "{report}");
    // The client, the scheduler and two executors open eight files.
    let reading = number_after("to write the tables, ", &report);
    assert!((16..=32).contains(&reading), "{report}");
}

/// Returns the numbers of queries that have the same answer as on plain tables, and of those that fail because a file cannot
/// be opened for this reason. There are no others.
#[track_caller]
fn same_and_failed(report: &str, reason: &str) -> (usize, usize) {
    let lines = report.lines().filter(|line| line.starts_with('Q'));
    let (failed, same): (Vec<_>, Vec<_>) = lines.partition(|line| line.contains(": an error, "));
    assert_eq!(same.len() + failed.len(), 22, "{report}");
    for line in &failed {
        assert!(line.contains(&format!(".parquet cannot be opened: {reason}")), "{line}");
    }
    assert!(same.iter().all(|line| line.contains(": the same ")), "{report}");
    (same.len(), failed.len())
}

#[test]
fn with_another_key_all_queries_fail() {
    let report = ballista(&["--wrong-key", "--executors", "1"]);
    assert_eq!(same_and_failed(&report, "no encrypted data key could be decrypted"), (0, 22));
}

#[test]
#[ignore = "needs Python with moto: see the top of this file"]
fn with_another_key_of_kms_all_queries_fail() {
    let report = ballista(&["--wrong-key", "--executors", "1", "--moto", &python()]);
    assert_eq!(same_and_failed(&report, "none of the message's encrypted data keys is for arn:aws:kms:"), (0, 22));
}

#[test]
fn with_another_key_on_one_of_two_executors_no_answer_is_wrong() {
    let (_, failed) = same_and_failed(&ballista(&["--wrong-key"]), "no encrypted data key could be decrypted");
    assert!(failed > 0);
}

#[test]
fn a_query_whose_executor_is_killed_has_the_right_answer_or_fails() {
    let report = ballista(&["--kill", "9"]);
    let [killed, afterward] = report.lines().collect::<Vec<_>>()[..] else { panic!("{report}") };
    assert!(killed.contains("Q9: the right answer while") || killed.contains("Q9: an error"), "{report}");
    assert!(afterward.contains("Q9: the right answer afterward"), "{report}");
}

#[test]
fn the_measurement_reports_every_query() {
    let report = ballista(&["--bench", "--rounds", "1", "--scale", "0.001"]);
    assert_eq!(report.matches("| Q").count(), 22, "{report}");
    assert_eq!(report.matches("tasks of each executor (").count(), 4, "{report}");
}
