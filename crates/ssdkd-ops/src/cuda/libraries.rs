//! The CUDA libraries, opened with the first GPU: programs built for a GPU start on machines that have none.
//!
//! Programs are linked to stand-ins (`cuda-toolkit.sh` says how), so a call of CUDA is bound when it is first made, by its
//! name, to what is open with global scope by then. [`load`] must come before any of them: a name that nothing open has
//! ends the process.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libloading::Error;
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

use super::memory;

/// File names of the driver, which comes with the kernel's module and from nowhere else.
const DRIVER: &[&str] = &["libcuda.so.1"];
/// File names of the rest, the preferred ones first, and what needs another after that. cuDNN and cuBLAS know where their
/// parts are; NVRTC does not (see [`open_companions`]).
const TOOLKIT: [&[&str]; 5] = [
    &["libnvrtc.so.13", "libnvrtc.so.12"],
    &["libcurand.so.10"],
    &["libcublasLt.so.13", "libcublasLt.so.12"],
    &["libcublas.so.13", "libcublas.so.12"],
    &["libcudnn.so.9"],
];

/// Folders to look into before all others, separated by colons: of libraries, or with `*/lib` below, as Python packages
/// have them.
const VARIABLE: &str = "SSDKD_CUDA_LIBS";

/// Opens the driver and the CUDA libraries, once; they stay open until the process ends.
///
/// # Errors
/// If one of them is missing or does not load: which, where it was looked for, and what helps.
pub(crate) fn load() -> Result<(), String> {
    static OPEN: OnceLock<Result<Vec<Library>, String>> = OnceLock::new();
    let open = || {
        let libraries = open_all(&places(|name| std::env::var_os(name)))?;
        memory::install(driver(&libraries[0])?)?;
        Ok(libraries)
    };
    OPEN.get_or_init(open).as_ref().map(drop).map_err(Clone::clone)
}

/// The functions of the driver that `memory` stands before.
fn driver(library: &Library) -> Result<memory::Driver, String> {
    let missing = |error: Error| format!("NVIDIA's driver is too old: {error}");
    // SAFETY: functions of these names have these types in every version of the driver, and it stays open.
    unsafe {
        Ok(memory::Driver {
            alloc: *library.get(b"cuMemAllocAsync\0").map_err(missing)?,
            free: *library.get(b"cuMemFreeAsync\0").map_err(missing)?,
            send: *library.get(b"cuMemcpyHtoDAsync_v2\0").map_err(missing)?,
            read: *library.get(b"cuMemcpyDtoHAsync_v2\0").map_err(missing)?,
        })
    }
}

fn open_all(places: &[PathBuf]) -> Result<Vec<Library>, String> {
    let (driver, _) =
        open(DRIVER, places)?.ok_or_else(|| format!("there is no NVIDIA driver ({} is missing)", DRIVER[0]))?;
    let mut libraries = vec![driver];
    for names in TOOLKIT {
        let (library, path) = open(names, places)?.ok_or_else(|| missing(names[0], places))?;
        libraries.push(library);
        libraries.extend(open_companions(&path));
    }
    Ok(libraries)
}

/// Opens the first of `names` that is in one of `places`, and says where it is; `None` if there is none of them.
///
/// # Errors
/// If what is there does not load, and no other does.
fn open(names: &[&str], places: &[PathBuf]) -> Result<Option<(Library, PathBuf)>, String> {
    let mut broken = None;
    for name in names {
        for place in places {
            let path = place.join(name);
            if !is_library_path(place) && !path.exists() {
                continue;
            }
            match open_file(&path) {
                Ok(library) => return Ok(Some((library, path))),
                // The loader's words for a file that it found nowhere; other words are about a file that is there.
                Err(reason) if reason.starts_with(&format!("{name}: cannot open shared object file")) => {}
                Err(reason) => broken = broken.or(Some(format!("{name} does not load: {reason}"))),
            }
        }
    }
    broken.map_or(Ok(None), Err)
}

fn open_file(path: &Path) -> Result<Library, String> {
    // SAFETY: opening a library runs its initialisers. These are NVIDIA's, which any program that uses a GPU runs; where
    // they are taken from, the user of this process alone decides.
    unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) }.map_err(|error| match error {
        Error::DlOpen { source } => source.to_string(),
        error => error.to_string(),
    })
}

/// Opens the tables of NVRTC beside it: it asks the loader for them by name, in the moment that it compiles something,
/// and the loader does not know the folder, but does know what is open.
fn open_companions(library: &Path) -> Vec<Library> {
    let is_nvrtc = library.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"libnvrtc."));
    let Some(folder) = library.parent().filter(|folder| is_nvrtc && !is_library_path(folder)) else {
        return Vec::new();
    };
    let tables = entries(folder).into_iter().filter(|path| {
        path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"libnvrtc-builtins.so."))
    });
    // One that does not load may be of another version than the one that is needed: NVRTC will say.
    tables.filter_map(|path| open_file(&path).ok()).collect()
}

/// Where libraries are looked for, in this order. The empty path stands for what the system's loader searches itself.
fn places(variable: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let folder = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let mut places = Vec::new();
    for folder in std::env::split_paths(&variable(VARIABLE).unwrap_or_default()) {
        if !is_library_path(&folder) {
            places.extend(folders_of_packages(&folder));
            places.push(folder);
        }
    }
    places.push(PathBuf::new());
    if let Some(toolkit) = folder("CUDA_HOME") {
        places.extend([toolkit.join("lib64"), toolkit.join("lib")]);
    }
    for environment in ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(folder) {
        let libraries = environment.join("lib");
        for python in entries(&libraries) {
            places.extend(folders_of_packages(&python.join("site-packages").join("nvidia")));
        }
        places.push(libraries);
    }
    places.push("/usr/local/cuda/lib64".into());
    places.retain(|place| is_library_path(place) || place.is_dir());
    places
}

/// `*/lib` below a folder, which is where NVIDIA's Python packages have their libraries.
fn folders_of_packages(folder: &Path) -> Vec<PathBuf> {
    entries(folder).into_iter().map(|package| package.join("lib")).filter(|libraries| libraries.is_dir()).collect()
}

fn is_library_path(place: &Path) -> bool {
    place.as_os_str().is_empty()
}

/// What is in a folder, in an order that does not change; nothing, if it cannot be read.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut entries = entries.map(|entry| entry.path()).collect::<Vec<_>>();
    entries.sort();
    entries
}

fn missing(name: &str, places: &[PathBuf]) -> String {
    let folders = places.iter().filter(|place| !is_library_path(place));
    let folders = folders.map(|place| place.display().to_string()).collect::<Vec<_>>();
    let folders = if folders.is_empty() { String::new() } else { format!(" nor in {}", folders.join(", ")) };
    format!(
        "{name} is missing: it is not on the library path{folders}\nhint: install CUDA 13 and cuDNN 9, activate a Python \
         environment with PyTorch for CUDA 13, or name the folders of both in {VARIABLE}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn library_path() -> Vec<PathBuf> {
        vec![PathBuf::new()]
    }

    #[test]
    fn folders_are_searched_in_order_and_packages_are_found() {
        let root = tempfile::tempdir().unwrap();
        let make = |folder: &str| {
            let folder = root.path().join(folder);
            std::fs::create_dir_all(&folder).unwrap();
            folder
        };
        let (own, packages) = (make("own"), make("packages/cudnn/lib"));
        let (toolkit, python) = (make("toolkit/lib64"), make("venv/lib/python3.11/site-packages/nvidia/cu13/lib"));
        let environment = |name: &str| match name {
            VARIABLE => std::env::join_paths([&own, &root.path().join("packages"), &root.path().join("absent")]).ok(),
            "CUDA_HOME" => Some(root.path().join("toolkit").into()),
            "VIRTUAL_ENV" => Some(root.path().join("venv").into()),
            _ => None,
        };
        let mut found = places(environment);
        found.retain(|place| place.starts_with(root.path()) || is_library_path(place));
        let parent = root.path().join("packages");
        assert_eq!(found, [own, packages, parent, "".into(), toolkit, python, root.path().join("venv/lib")]);
    }

    #[test]
    fn without_variables_the_library_path_comes_first() {
        assert_eq!(places(|_| Some(OsString::new())), places(|_| None));
        assert!(is_library_path(&places(|_| None)[0]));
    }

    #[test]
    fn what_is_on_the_library_path_opens() {
        let (_, path) =
            open(&["libabsent.so.7", "libc.so.6"], &library_path()).unwrap().expect("Linux has a C library");
        assert_eq!(path, Path::new("libc.so.6"));
        assert!(open(&["libabsent.so.7"], &library_path()).unwrap().is_none());
    }

    #[test]
    fn what_is_there_and_broken_is_said_to_be() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("libbroken.so.1"), "no library").unwrap();
        let places = [folder.path().to_path_buf()];
        let error = open(&["libbroken.so.1"], &places).unwrap_err();
        assert!(error.starts_with("libbroken.so.1 does not load: ") && error.contains("file too short"), "{error}");
        // Another one that loads makes up for it.
        assert!(open(&["libbroken.so.1", "libc.so.6"], &[places[0].clone(), PathBuf::new()]).unwrap().is_some());
    }

    #[test]
    fn what_is_missing_is_named_with_a_remedy() {
        let text = missing("libcudnn.so.9", &[PathBuf::new(), "/opt/a".into(), "/opt/b".into()]);
        assert!(
            text.starts_with("libcudnn.so.9 is missing: it is not on the library path nor in /opt/a, /opt/b\nhint: ")
        );
        assert!(text.contains(VARIABLE));
        assert!(missing("x", &library_path()).starts_with("x is missing: it is not on the library path\n"));
    }
}
