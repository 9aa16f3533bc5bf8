//! A GPU: its memory, its stream, and the launches on it.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use candle_core::cuda::{CudaDType, CudaStorage, DeviceId};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, Device, Result, Shape, Storage, Tensor, WithDType, bail};
use cudarc::cublas;
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DeviceRepr, result, sys};
use half::bf16;

use super::dnn::Dnn;
use super::error::{no_room, or_error};
use super::program::{Argument, Program};
use super::settings::Stored;

/// Threads of a block in every kernel; `BLOCK` of `kernels/common.cu`.
pub(super) const BLOCK: u32 = 256;

/// Bytes of scratch memory, more than any kernel's partial sums need.
const SCRATCH: usize = 32 << 20;

/// Counters of blocks, one for each group of channels of a reduction.
const COUNTERS: usize = 1 << 12;

/// What the operations need of a device beside its tensors.
pub(super) struct Gpu {
    device: CudaDevice,
    stream: Arc<CudaStream>,
    program: Program,
    /// The same kernels for activations in bf16, where there are any.
    program_bf16: OnceLock<Program>,
    scratch: u64,
    counters: u64,
    blocks: u32,
    is_hopper_or_later: bool,
    dnn: Mutex<Dnn>,
    // Owners of the addresses above.
    _memory: (CudaSlice<u8>, CudaSlice<u32>),
}

// SAFETY: handles of libraries that may be used from any thread, one at a time where a mutex says so.
unsafe impl Send for Gpu {}
// SAFETY: as above.
unsafe impl Sync for Gpu {}

static GPUS: Mutex<Vec<(DeviceId, Arc<Gpu>)>> = Mutex::new(Vec::new());

/// The GPUs that are open, and stay so: one stream each, which memory that is kept belongs to.
static OPEN: Mutex<Vec<(usize, CudaDevice)>> = Mutex::new(Vec::new());

/// Opens the GPU of an index: every tensor made on the result shares one stream.
///
/// # Errors
/// If NVIDIA's driver or a library is missing, or there is no such GPU; one line that says which.
pub fn open(index: usize) -> Result<Device> {
    if let Err(error) = super::libraries::load() {
        bail!("{error}");
    }
    let count = or_error("the driver", result::init().and_then(|()| result::device::get_count()))?;
    if index >= count as usize {
        bail!("there is no GPU {index}: this machine has {count}");
    }
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, device)) = open.iter().find(|(of, _)| *of == index) {
        return Ok(Device::Cuda(device.clone()));
    }
    let device = CudaDevice::new_with_stream(index)?;
    // SAFETY: there is one stream, so that nothing has to be tracked between streams.
    unsafe { device.disable_event_tracking() };
    // Shared GPUs may have no pool: memory is then had from the driver, and given back, each time.
    if device.cuda_stream().context().has_async_alloc() {
        keep_freed_memory(index)?;
    }
    open.push((index, device.clone()));
    Ok(Device::Cuda(device))
}

/// What a GPU is sold as; "a GPU" where the driver does not say.
pub fn name(device: &CudaDevice) -> String {
    device.cuda_stream().context().name().unwrap_or_else(|_| "a GPU".into())
}

/// Freed memory stays with the program for the next step, which will ask for the same sizes.
fn keep_freed_memory(index: usize) -> Result<()> {
    let mut all = u64::MAX;
    // SAFETY: the attribute is a number of eight bytes.
    let set = unsafe {
        result::device::get(index as i32).and_then(|device| result::device::get_default_mem_pool(device)).and_then(
            |pool| {
                let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
                sys::cuMemPoolSetAttribute(pool, attribute, (&raw mut all).cast()).result()
            },
        )
    };
    or_error("the memory pool", set)
}

impl Gpu {
    /// That of a tensor, for `operation`.
    pub(super) fn of(tensor: &Tensor, operation: &str) -> Result<Arc<Self>> {
        let Device::Cuda(device) = tensor.device() else {
            bail!("{operation}: tensors of one operation have to be on one device, this one is on the CPU");
        };
        Self::of_device(device)
    }

    /// That of an open device.
    pub(super) fn of_device(device: &CudaDevice) -> Result<Arc<Self>> {
        let mut gpus = GPUS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, gpu)) = gpus.iter().find(|(id, _)| *id == device.id()) {
            return Ok(gpu.clone());
        }
        let gpu = Arc::new(Self::new(device)?);
        gpus.push((device.id(), gpu.clone()));
        Ok(gpu)
    }

    fn new(device: &CudaDevice) -> Result<Self> {
        let stream = device.cuda_stream();
        let context = stream.context().clone();
        or_error("the context", context.bind_to_thread())?;
        let capability = or_error("the GPU", context.compute_capability())?;
        let program = Program::load(capability, Stored::F32)?;
        let multiprocessors =
            or_error("the GPU", context.attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT))?;
        // SAFETY: scratch memory is written before it is read.
        let scratch = unsafe { device.alloc::<u8>(SCRATCH) }.map_err(|error| no_room(error, SCRATCH))?;
        let memory = (scratch, device.alloc_zeros::<u32>(COUNTERS)?);
        let (scratch, counters) = (memory.0.device_ptr(&stream).0, memory.1.device_ptr(&stream).0);
        Ok(Self {
            scratch,
            counters,
            blocks: multiprocessors as u32,
            is_hopper_or_later: capability >= (9, 0),
            dnn: Mutex::new(Dnn::new(&stream)?),
            _memory: memory,
            device: device.clone(),
            stream,
            program,
            program_bf16: OnceLock::new(),
        })
    }

    /// cuDNN, one thread at a time.
    pub(super) fn dnn(&self) -> MutexGuard<'_, Dnn> {
        self.dnn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// cuBLAS, on this device's stream.
    pub(super) fn blas(&self) -> cublas::sys::cublasHandle_t {
        *self.device.cublas_handle().handle()
    }

    /// Bytes of scratch memory for cuBLAS: as many as it would take by itself, so that it takes the same algorithms.
    pub(super) fn blas_workspace(&self) -> usize {
        if self.is_hopper_or_later { SCRATCH } else { 4 << 20 }
    }

    /// Where partial sums go. Every kernel may use all of it: launches are in order.
    pub(super) fn scratch(&self) -> u64 {
        self.scratch
    }

    /// Where blocks are counted: zeros before and after every launch.
    pub(super) fn counters(&self) -> u64 {
        self.counters
    }

    /// Blocks that the GPU computes at once, about.
    pub(super) fn blocks(&self) -> u32 {
        self.blocks
    }

    /// The address of a contiguous `f32` tensor's numbers. Valid while the tensor lives; later launches on the stream
    /// may outlive it, as freeing is in order, too.
    ///
    /// # Errors
    /// If it is on another device, strided, of another type, or has more numbers than kernels count.
    pub(super) fn at(&self, tensor: &Tensor, operation: &str) -> Result<u64> {
        self.address::<f32>(tensor, operation)
    }

    /// As [`at`](Self::at), of a tensor of type `T`.
    pub(super) fn address<T: CudaDType + DeviceRepr + WithDType>(
        &self,
        tensor: &Tensor,
        operation: &str,
    ) -> Result<u64> {
        let (storage, layout) = tensor.storage_and_layout();
        let Storage::Cuda(storage) = &*storage else {
            bail!("{operation}: tensors of one operation have to be on one device, this one is on the CPU");
        };
        if storage.device.id() != self.device.id() {
            bail!("{operation}: tensors of one operation have to be on one device");
        }
        if tensor.dtype() != T::DTYPE {
            bail!(
                "{operation}: takes {} tensors, this one is {:?}\nhint: convert it with to_dtype(DType::{:?})",
                T::DTYPE.as_str(),
                tensor.dtype(),
                T::DTYPE
            );
        }
        let Some((start, end)) = layout.contiguous_offsets() else {
            bail!(
                "{operation}: takes contiguous tensors, this one has shape {:?} and strides {:?}\nhint: call contiguous() first",
                layout.dims(),
                layout.stride()
            );
        };
        if i32::try_from(end).is_err() {
            bail!(
                "{operation}: a tensor of {end} numbers is too large for one operation on a GPU\nhint: use smaller batches"
            );
        }
        let slice = storage.as_cuda_slice::<T>()?;
        Ok(slice.device_ptr(&self.stream).0 + (start * size_of::<T>()) as u64)
    }

    /// As [`at`](Self::at), of activations that are stored in this way.
    pub(super) fn activations(&self, tensor: &Tensor, stored: Stored, operation: &str) -> Result<u64> {
        match stored {
            Stored::F32 => self.address::<f32>(tensor, operation),
            Stored::Bf16 => self.address::<bf16>(tensor, operation),
        }
    }

    /// The address of an optional tensor of activations, 0 for none.
    pub(super) fn optional_activations(&self, tensor: Option<&Tensor>, stored: Stored, operation: &str) -> Result<u64> {
        tensor.map_or(Ok(0), |tensor| self.activations(tensor, stored, operation))
    }

    /// The address of an optional tensor, 0 for none.
    pub(super) fn at_optional(&self, tensor: Option<&Tensor>, operation: &str) -> Result<u64> {
        tensor.map_or(Ok(0), |tensor| self.at(tensor, operation))
    }

    /// A tensor of unspecified `f32`, and its address.
    pub(super) fn tensor(&self, shape: impl Into<Shape>) -> Result<(Tensor, u64)> {
        self.tensor_of::<f32>(shape)
    }

    /// A tensor of unspecified activations, and its address.
    pub(super) fn new_activations(&self, stored: Stored, shape: impl Into<Shape>) -> Result<(Tensor, u64)> {
        match stored {
            Stored::F32 => self.tensor_of::<f32>(shape),
            Stored::Bf16 => self.tensor_of::<bf16>(shape),
        }
    }

    /// A tensor of unspecified numbers of type `T`, and its address.
    pub(super) fn tensor_of<T: CudaDType + DeviceRepr + WithDType>(
        &self,
        shape: impl Into<Shape>,
    ) -> Result<(Tensor, u64)> {
        let shape = shape.into();
        if i32::try_from(shape.elem_count()).is_err() {
            bail!("a result of shape {shape:?} has more numbers than the kernels count: take smaller batches");
        }
        // SAFETY: whoever asks for it writes every number before any is read. No numbers still need an address.
        let slice = unsafe { self.device.alloc::<T>(shape.elem_count().max(1)) };
        let slice = slice.map_err(|error| no_room(error, shape.elem_count() * size_of::<T>()))?;
        let address = slice.device_ptr(&self.stream).0;
        Ok((self.wrap(slice, shape), address))
    }

    /// Numbers of the program's, copied to the device.
    pub(super) fn upload<T: CudaDType + DeviceRepr + WithDType + Default>(
        &self,
        numbers: &[T],
    ) -> Result<(Tensor, u64)> {
        let count = numbers.len();
        let slice = if count == 0 { self.device.clone_htod(&[T::default()]) } else { self.device.clone_htod(numbers) };
        let slice = slice.map_err(|error| no_room(error, size_of_val(numbers)))?;
        let address = slice.device_ptr(&self.stream).0;
        Ok((self.wrap(slice, Shape::from(count)), address))
    }

    fn wrap<T: CudaDType>(&self, slice: CudaSlice<T>, shape: Shape) -> Tensor {
        let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(slice, self.device.clone()));
        Tensor::from_storage(storage, shape, BackpropOp::none(), false)
    }

    /// Starts `kernel` on a grid of blocks; its arguments are those of its definition in `kernels/`.
    pub(super) fn launch(&self, kernel: &'static str, grid: (u32, u32), arguments: &[Argument]) -> Result<()> {
        self.launch_for(Stored::F32, kernel, grid, arguments)
    }

    /// As [`launch`](Self::launch), where `real` of `kernels/` is how activations are stored.
    pub(super) fn launch_for(
        &self,
        stored: Stored,
        kernel: &'static str,
        grid: (u32, u32),
        arguments: &[Argument],
    ) -> Result<()> {
        if grid.0 == 0 || grid.1 == 0 {
            return Ok(());
        }
        let function = self.program(stored)?.function(kernel)?;
        let mut addresses = [std::ptr::null_mut(); 24];
        for (address, argument) in addresses.iter_mut().zip(arguments) {
            *address = argument.address();
        }
        or_error(kernel, self.stream.context().bind_to_thread())?;
        // SAFETY: the arguments have the types of the kernel's parameters, and addresses of tensors that are alive: the
        // callers of this module see to it, each next to the name of its kernel.
        let launched = unsafe {
            let (grid, block) = ((grid.0, grid.1, 1), (BLOCK, 1, 1));
            result::launch_kernel(function, grid, block, 0, self.stream.cu_stream(), &mut addresses[..arguments.len()])
        };
        or_error(kernel, launched)
    }

    /// Starts `kernel` with a thread for each of `threads`.
    pub(super) fn launch_each(&self, kernel: &'static str, threads: usize, arguments: &[Argument]) -> Result<()> {
        self.launch_each_for(Stored::F32, kernel, threads, arguments)
    }

    /// As [`launch_each`](Self::launch_each) and [`launch_for`](Self::launch_for).
    pub(super) fn launch_each_for(
        &self,
        stored: Stored,
        kernel: &'static str,
        threads: usize,
        arguments: &[Argument],
    ) -> Result<()> {
        self.launch_for(stored, kernel, (threads.div_ceil(BLOCK as usize) as u32, 1), arguments)
    }

    fn program(&self, stored: Stored) -> Result<&Program> {
        if stored == Stored::F32 {
            return Ok(&self.program);
        }
        if let Some(program) = self.program_bf16.get() {
            return Ok(program);
        }
        let context = self.stream.context();
        or_error("the context", context.bind_to_thread())?;
        let program = Program::load(or_error("the GPU", context.compute_capability())?, stored)?;
        Ok(self.program_bf16.get_or_init(|| program))
    }
}

/// `len` as the kernels count it; [`Gpu::at`] and [`Gpu::tensor`] have refused larger ones.
pub(super) fn count(len: usize) -> u32 {
    len as u32
}
