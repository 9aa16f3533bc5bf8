//! What the operating system refuses while a run is at work: one clear error, and once the cause is gone the run goes on to the
//! same bytes.
//!
//! Small file systems are mounted in a namespace of their own, which ends with the test. Where that is not allowed, the tests
//! say so and are skipped.

use std::process::{Command, Output};

use crate::support::{Scratch, binary};

/// Runs a script whose mounts nobody else sees; `None`, with a message, if this machine does not allow that.
fn in_namespace(scratch: &Scratch, script: &str) -> Option<Output> {
    // As root the first; as anybody else the second, where user namespaces are allowed.
    let ways: [&[&str]; 2] = [&["--mount"], &["--user", "--map-root-user", "--mount"]];
    let probe = "mkdir -p probe && mount -t tmpfs -o size=64k,nr_inodes=16 tmpfs probe";
    let unshare = |way: &[&str], script: &str| {
        let mut command = Command::new("unshare");
        command.args(way).args(["sh", "-uc", script]).current_dir(scratch.folder.path());
        command
            .env_remove("SSDKD_DATA")
            .env_remove("SSDKD_RUNS")
            .env("BIN", binary("ssdkd").parent().expect("a folder"));
        command.output()
    };
    let Some(way) = ways.iter().find(|way| unshare(way, probe).is_ok_and(|output| output.status.success())) else {
        println!("skipped: file systems cannot be mounted here, not even in a namespace (unshare --mount)");
        return None;
    };
    Some(unshare(way, script).expect("it ran before"))
}

/// Runs `script`, which must leave the finished run in `kept/`, and compares that with an undisturbed run. Returns what it said.
#[track_caller]
fn check(scratch: &Scratch, script: &str) -> Option<String> {
    let output = in_namespace(scratch, script)?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    let undisturbed = Scratch::new();
    undisturbed.succeed("ssdkd", &["run", "tiny.toml"]);
    assert_eq!(scratch.artefacts("kept"), undisturbed.artefacts("runs/tiny"), "{said}");
    Some(said)
}

/// Runs again and again in a file system that grows through `sizes` with `option`, until it is large enough.
#[track_caller]
fn check_growing(option: &str, sizes: &[&str]) {
    let scratch = Scratch::new();
    let script = format!(
        "mkdir runs && mount -t tmpfs -o {option}={first} tmpfs runs
         for size in {sizes} end; do
             $BIN/ssdkd run tiny.toml >said 2>&1; code=$?
             echo \"=== {option} $size: $code\"; cat said
             test $code = 0 && cp -a runs/tiny kept && $BIN/ssdkd verify runs/tiny && exit 0
             test $code = 1 || exit 9
             grep -q '^error: .*No space left on device' said && grep -q '^hint: free some space' said || exit 8
             mount -o remount,{option}=$size runs || exit 7
         done; exit 6",
        first = sizes[0],
        sizes = sizes[1..].join(" ")
    );
    let Some(said) = check(&scratch, &script) else { return };
    let refusals = said.matches(": 1\n").count();
    assert!(refusals >= 4, "only {refusals} runs were refused:\n{said}");
}

#[test]
fn a_full_disk() {
    check_growing("size", &["4k", "1000k", "1200k", "1500k", "2m", "2500k", "3m", "64m", "65m"]);
}

#[test]
fn no_more_files() {
    check_growing("nr_inodes", &["2", "7", "20", "40", "70", "85", "95", "1000", "1001"]);
}

#[test]
fn a_folder_that_turns_read_only() {
    let scratch = Scratch::new();
    let script = "
        mkdir runs && mount -t tmpfs -o size=64m tmpfs runs
        $BIN/ssdkd run tiny.toml --round 0 || exit 9
        mount -o remount,ro runs || exit 8
        $BIN/ssdkd run tiny.toml >said 2>&1; code=$?; cat said
        test $code = 1 && grep -q '^error: .*Read-only file system' said && grep -q '^hint: the file system is read-only' said || exit 7
        # To look needs no right to write.
        $BIN/ssdkd status tiny.toml && $BIN/ssdkd verify runs/tiny && $BIN/ssdkd run tiny.toml --dry-run || exit 6
        mount -o remount,rw runs || exit 5
        $BIN/ssdkd run tiny.toml && cp -a runs/tiny kept";
    check(&scratch, script);
}

/// Root may do everything, so it is not root's right that is taken away but its power to overrule.
#[test]
fn a_folder_of_somebody_else() {
    let scratch = Scratch::new();
    let script = "
        mkdir runs && mount -t tmpfs -o size=64m tmpfs runs
        powerless='setpriv --bounding-set=-dac_override,-dac_read_search --inh-caps=-dac_override,-dac_read_search'
        $powerless $BIN/ssdkd run tiny.toml --round 0 || exit 9
        for folder in runs/tiny runs/tiny/balance runs/tiny/invert/0000; do
            chmod 555 $folder
            $powerless $BIN/ssdkd run tiny.toml --force >said 2>&1; code=$?; cat said
            test $code = 1 && grep -q '^error: .*Permission denied' said && grep -q '^hint: check who owns' said || exit 8
            chmod -R u+w runs/tiny # also what was moved aside before the refusal
        done
        chmod 000 runs/tiny/invert/0000/samples/part-00000.parquet
        $powerless $BIN/ssdkd verify runs/tiny >said 2>&1; code=$?; cat said
        test $code = 1 && grep -q '^error: cannot read .*Permission denied' said || exit 7
        chmod 644 runs/tiny/invert/0000/samples/part-00000.parquet
        $powerless $BIN/ssdkd run tiny.toml && cp -a runs/tiny kept";
    match in_namespace(&Scratch::new(), "setpriv --bounding-set=-dac_override --inh-caps=-dac_override true") {
        Some(output) if output.status.success() => drop(check(&scratch, script)),
        Some(_) => println!("skipped: setpriv cannot take a capability away here"),
        None => {}
    }
}
