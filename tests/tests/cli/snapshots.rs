//! What the commands print, as a user sees it. `make snapshots` accepts what they print now.

use insta::{assert_snapshot, with_settings};

use crate::support::Scratch;

/// Programs besides `ssdkd`.
const PROGRAMS: [&str; 6] =
    ["ssdkd-invert", "ssdkd-balance", "ssdkd-sample", "ssdkd-distill", "ssdkd-teach", "ssdkd-evaluate"];

/// What differs between machines and days, and what stands for it.
const FILTERS: [(&str, &str); 8] = [
    (r"(?m)^(time|seconds|memory|disk)( +).*$", "$1$2[measured]"),
    (r"(?m)^( +\d+  \w+ +\w+ +\d+) +\d+ +\d+\.\d", "$1 [bytes] [seconds]"),
    (r"rows +bytes +seconds", "rows bytes seconds"),
    (r"\d+(\.\d+)? ± \d+\.\d+", "[mean] ± [deviation]"),
    (r"\d+(\.\d+)? %", "[percent] %"),
    (r"\d\.\d{3} in (features|pixels)", "[spread] in $1"),
    (
        r"\| \d+\.\d+ \| \[mean\] ± \[deviation\] \|(.*)\| cpu \|.*\|",
        "| [last] | [mean] ± [deviation] |$1| cpu | [measured] |",
    ),
    (r"test images; .*; \d{4}-\d\d-\d\d\)", "test images; [machine]; [date])"),
];

#[track_caller]
fn check(name: &str, text: &str) {
    with_settings!({
        snapshot_path => "snapshots", prepend_module_to_snapshot => false, omit_expression => true, filters => FILTERS
    }, { assert_snapshot!(name, text) });
}

/// Returns the subcommands that `ssdkd --help` lists.
fn subcommands(help: &str) -> Vec<&str> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // What a line that is wrapped goes on with stands further to the right.
    let names = lines.filter_map(|line| line.strip_prefix("  ").filter(|rest| !rest.starts_with(' ')));
    names.filter_map(|line| line.split(' ').next()).filter(|name| *name != "help").collect()
}

#[test]
fn help_is_as_it_was_accepted() {
    let scratch = Scratch::new();
    let help = |program: &str, arguments: &[&str]| scratch.succeed(program, arguments).0;
    let all = help("ssdkd", &["--help"]);
    check("help-ssdkd", &all);
    let subcommands = subcommands(&all);
    assert!(subcommands.len() > 10, "{subcommands:?}");
    for name in subcommands {
        check(&format!("help-{name}"), &help("ssdkd", &[name, "--help"]));
    }
    for program in PROGRAMS {
        check(&format!("help-{program}"), &help(program, &["--help"]));
    }
}

#[test]
fn the_reports_of_a_tiny_run_are_as_they_were_accepted() {
    let scratch = Scratch::new();
    let print = |arguments: &[&str]| scratch.succeed("ssdkd", arguments).0;
    check("plan", &print(&["plan", "tiny.toml", "--threads", "1", "--device", "cpu"]));
    scratch.succeed("ssdkd", &["run", "tiny.toml", "--threads", "1", "--device", "cpu"]);
    check("status", &print(&["status", "tiny.toml"]));
    check("status-stale", &print(&["status", "tiny.toml", "--set", "distill.lr=0.05"]));
    check("evaluate", &print(&["evaluate", "tiny.toml", "--device", "cpu"]));
    check("compare", &print(&["compare", "runs/tiny", "--out", "comparison"]));
}
