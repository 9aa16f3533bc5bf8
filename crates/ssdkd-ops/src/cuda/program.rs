//! The kernels: compiled for a kind of GPU by CUDA's run-time compiler, once for each way in which activations are stored, and
//! kept in the user's cache folder.

use std::collections::HashMap;
use std::ffi::{CString, c_int, c_void};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use candle_core::{Result, bail};
use cudarc::driver::{result, sys};
use cudarc::nvrtc::{result as compiler, sys as nvrtc};

use super::error::or_error;
use super::settings::Stored;

const SOURCES: [&str; 9] = [
    include_str!("kernels/common.cu"),
    include_str!("kernels/pointwise.cu"),
    include_str!("kernels/reduce.cu"),
    include_str!("kernels/norm.cu"),
    include_str!("kernels/image.cu"),
    include_str!("kernels/loss.cu"),
    include_str!("kernels/optim.cu"),
    include_str!("kernels/direct.cu"),
    include_str!("kernels/arithmetic.cu"),
];

/// The kernels, loaded into a device's context.
pub(super) struct Program {
    module: sys::CUmodule,
    functions: RwLock<HashMap<&'static str, Function>>,
}

#[derive(Clone, Copy)]
struct Function(sys::CUfunction);

// SAFETY: handles of the driver, which may be used from any thread whose current context is the device's.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}
// SAFETY: as above.
unsafe impl Send for Program {}
// SAFETY: as above.
unsafe impl Sync for Program {}

impl Program {
    /// For the device of the current context, of compute capability `major.minor`.
    pub(super) fn load((major, minor): (i32, i32), stored: Stored) -> Result<Self> {
        let architecture = format!("sm_{major}{minor}");
        let real = match stored {
            Stored::F32 => "float",
            Stored::Bf16 => "bf16",
        };
        let source = format!("#define REAL {real}\n{}", SOURCES.concat());
        let kept = cache_file(&architecture, &source);
        let image = kept.as_deref().and_then(|path| std::fs::read(path).ok()).filter(|image| !image.is_empty());
        // SAFETY: the image is a whole one: files are renamed into place. A foreign one is refused by the driver.
        let module = image.and_then(|image| unsafe { result::module::load_data(image.as_ptr().cast()) }.ok());
        if let Some(module) = module {
            return Ok(Self { module, functions: RwLock::default() });
        }
        let image = compile(&source, &architecture)?;
        if let Some(path) = &kept {
            // A cache that cannot be written costs the next start a few seconds, no more.
            let _ = keep(path, &image);
        }
        // SAFETY: the compiler made the image.
        let module = or_error("loading the kernels", unsafe { result::module::load_data(image.as_ptr().cast()) })?;
        Ok(Self { module, functions: RwLock::default() })
    }

    /// The kernel of this name.
    pub(super) fn function(&self, name: &'static str) -> Result<sys::CUfunction> {
        let functions = self.functions.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = functions.get(name) {
            return Ok(function.0);
        }
        drop(functions);
        let symbol = CString::new(name).map_err(candle_core::Error::wrap)?;
        // SAFETY: the module is loaded and stays.
        let function = or_error(name, unsafe { result::module::get_function(self.module, symbol) })?;
        self.functions.write().unwrap_or_else(PoisonError::into_inner).insert(name, Function(function));
        Ok(function)
    }
}

/// What the compiler is told.
fn options(architecture: &str) -> [String; 2] {
    [format!("--gpu-architecture={architecture}"), "--std=c++17".into()]
}

fn compile(source: &str, architecture: &str) -> Result<Vec<u8>> {
    let source = CString::new(source).map_err(candle_core::Error::wrap)?;
    let options = options(architecture);
    let program = or_error("nvrtc", compiler::create_program(&source, Some(c"ssdkd.cu")))?;
    // SAFETY: the program was created above and is destroyed below, after its last use.
    unsafe {
        let compiled = compiler::compile_program(program, &options);
        if compiled.is_err() {
            let log = compiler::get_program_log(program).unwrap_or_default();
            let log = log.iter().map(|&byte| byte as u8 as char).collect::<String>();
            let _ = compiler::destroy_program(program);
            bail!("the kernels do not compile for {architecture}: {compiled:?}\n{}", log.trim_end_matches('\0'));
        }
        let mut size = 0;
        or_error("nvrtc", nvrtc::nvrtcGetCUBINSize(program, &raw mut size).result())?;
        let mut image = vec![0_u8; size];
        or_error("nvrtc", nvrtc::nvrtcGetCUBIN(program, image.as_mut_ptr().cast()).result())?;
        let _ = compiler::destroy_program(program);
        Ok(image)
    }
}

/// Where the compiled kernels of these sources are kept. A relative folder does not count, as the XDG specification has it: what
/// lies in a working directory may be anybody's.
fn cache_file(architecture: &str, source: &str) -> Option<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let folder =
        std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute()).or_else(home)?;
    let (mut major, mut minor): (c_int, c_int) = (0, 0);
    // SAFETY: two numbers are written.
    unsafe { nvrtc::nvrtcVersion(&raw mut major, &raw mut minor) }.result().ok()?;
    let mut hasher = DefaultHasher::new();
    (source, options(architecture), major, minor).hash(&mut hasher);
    Some(folder.join("ssdkd").join(format!("kernels-{architecture}-{:016x}.cubin", hasher.finish())))
}

fn keep(path: &Path, image: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let part = path.with_extension(format!("{}.part", std::process::id()));
    let mut file = std::fs::File::create(&part)?;
    file.write_all(image)?;
    file.sync_all()?; // a power cut must not leave half of it under the name of all
    std::fs::rename(part, path)
}

/// An argument of a kernel: up to eight bytes, or the address of a struct.
#[derive(Clone, Copy)]
pub(super) struct Argument<'a> {
    bits: u64,
    structure: Option<*const c_void>,
    borrowed: std::marker::PhantomData<&'a ()>,
}

impl<'a> Argument<'a> {
    /// A struct, laid out as the kernel's.
    pub(super) fn of<T: Copy>(structure: &'a T) -> Self {
        Self { bits: 0, structure: Some(std::ptr::from_ref(structure).cast()), borrowed: std::marker::PhantomData }
    }

    /// Where the driver finds it; it only reads there.
    pub(super) fn address(&self) -> *mut c_void {
        self.structure.unwrap_or((&raw const self.bits).cast()).cast_mut()
    }
}

macro_rules! from_bits {
    ($($type:ty, |$x:ident| $bits:expr;)*) => {
        $(impl From<$type> for Argument<'_> {
            fn from($x: $type) -> Self {
                Self { bits: $bits, structure: None, borrowed: std::marker::PhantomData }
            }
        })*
    };
}

from_bits! {
    u64, |x| x;
    u32, |x| u64::from(x);
    i32, |x| u64::from(x as u32);
    f32, |x| u64::from(x.to_bits());
    f64, |x| x.to_bits();
}

/// Arguments in order, each of a type that an [`Argument`] can be made of.
macro_rules! arguments {
    ($($argument:expr),* $(,)?) => {
        &[$($crate::cuda::program::Argument::from($argument)),*]
    };
}
pub(super) use arguments;
