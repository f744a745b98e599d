//! A scheduler and executors as processes, which the program starts.

use std::process::Command;

/// Runs the subcommand `ballista`, and returns what it printed.
fn ballista(arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kms-envelope-lake"));
    let output = command.arg("ballista").args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn two_executors_have_the_same_answers_as_datafusion_on_plain_tables() {
    let report = ballista(&["--scale", "0.01"]);
    assert_eq!(report.matches(": the same ").count(), 22, "{report}");
    for executor in ["executor 1: ", "executor 2: "] {
        let (_, tasks) = report.split_once(executor).unwrap();
        let tasks: u32 = tasks.split(' ').next().unwrap().parse().unwrap();
        assert!(tasks > 22, "{report}");
    }
}

#[test]
fn a_query_whose_executor_is_killed_has_the_right_answer_or_fails() {
    let report = ballista(&["--scale", "0.01", "--kill", "9"]);
    let [killed, afterward] = report.lines().collect::<Vec<_>>()[..] else { panic!("{report}") };
    assert!(killed.contains("Q9: the right answer while") || killed.contains("Q9: an error"), "{report}");
    assert!(afterward.contains("Q9: the right answer afterward"), "{report}");
}
