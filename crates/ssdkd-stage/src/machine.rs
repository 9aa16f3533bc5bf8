//! How much memory and disk this machine has.

use std::fs;
use std::path::Path;

/// Where Linux says how much memory there is, and how much of it this process's group may take.
const MEMORY: &str = "/proc/meminfo";
const LIMITS: [&str; 2] = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];

/// Returns the bytes of memory that this process may use, or `None` where the system does not say.
pub fn memory() -> Option<u64> {
    let installed = installed(&fs::read_to_string(MEMORY).ok()?)?;
    let limits = LIMITS.iter().filter_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok());
    limits.chain([installed]).min()
}

/// Reads `MemTotal` of a text in the form of /proc/meminfo, in bytes.
fn installed(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?;
    kibibytes.checked_mul(1024)
}

/// Returns the bytes that may still be written at `path`, which need not exist yet, or `None` where the system does not say.
pub fn free_space(path: &Path) -> Option<u64> {
    let path = fs::canonicalize(".").ok()?.join(path);
    let there = path.ancestors().find(|path| path.exists())?;
    available(there)
}

#[cfg(unix)]
fn available(path: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(path).ok()?;
    found.f_bavail.checked_mul(found.f_frsize)
}

#[cfg(not(unix))]
fn available(_: &Path) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_read_in_bytes() {
        assert_eq!(installed("MemTotal:        8040500 kB\nMemFree: 12 kB\n"), Some(8_040_500 * 1024));
        for text in ["", "MemFree: 12 kB", "MemTotal: many kB", "MemTotal: 12", "MemTotal: 99999999999999999 kB"] {
            assert_eq!(installed(text), None, "{text:?}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_folder_that_is_not_there_yet_has_the_space_of_its_file_system() {
        let folder = tempfile::tempdir().unwrap();
        assert!(free_space(&folder.path().join("runs/tiny")).is_some_and(|bytes| bytes > 0));
        assert!(memory().is_some_and(|bytes| bytes > 1 << 20));
    }
}
