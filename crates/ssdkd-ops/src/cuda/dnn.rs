//! cuDNN's convolutions on channels-last images, each with the algorithm that is best for its sizes.
//!
//! Weights are laid out (O, kh, kw, C/groups) here. Which algorithm is asked for once for each shape and kept.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Arc;

use candle_core::{Result, bail};
use cudarc::cudnn::{result, sys};
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr};

use super::error::{no_room, or_error};
use super::memory;
use super::settings::{CudaSettings, Stored, cuda_settings};
use crate::conv::ConvShape;

/// Bytes that an algorithm may use besides its arguments.
const WORKSPACE: usize = 512 << 20;

/// Algorithms to ask for at once; cuDNN has fewer.
const CANDIDATES: usize = 12;

/// Which of the three convolutions of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Direction {
    /// Input and weight to output.
    Forward,
    /// Output's gradient and weight to the input's.
    Input,
    /// Input and output's gradient to the weight's.
    Weight,
}

/// The addresses of a convolution's three tensors; one of them is written.
#[derive(Clone, Copy)]
pub(super) struct Operands {
    pub(super) x: u64,
    pub(super) weight: u64,
    pub(super) y: u64,
}

/// A handle, and what was found out.
pub(super) struct Dnn {
    handle: sys::cudnnHandle_t,
    stream: Arc<CudaStream>,
    plans: HashMap<(ConvShape, Stored, Direction, bool, bool), Option<Plan>>,
    /// Shared with the recordings that it was used in.
    workspace: Option<Arc<CudaSlice<u8>>>,
}

/// How a convolution is computed.
#[derive(Clone, Copy)]
struct Plan {
    descriptors: Descriptors,
    /// An algorithm's number in its direction.
    algorithm: u32,
    workspace: usize,
}

/// The sizes as cuDNN has them. They live as long as the program: there is one set for each plan.
#[derive(Clone, Copy)]
struct Descriptors {
    x: sys::cudnnTensorDescriptor_t,
    y: sys::cudnnTensorDescriptor_t,
    weight: sys::cudnnFilterDescriptor_t,
    convolution: sys::cudnnConvolutionDescriptor_t,
}

/// One algorithm, as asked for in any direction.
struct Candidate {
    algorithm: u32,
    works: bool,
    memory: usize,
    deterministic: bool,
    math: sys::cudnnMathType_t,
}

/// One type for the three that cuDNN answers with.
macro_rules! candidates {
    ($answers:expr, $found:expr) => {
        $answers[..($found.max(0) as usize).min(CANDIDATES)]
            .iter()
            .map(|answer| Candidate {
                algorithm: answer.algo as u32,
                works: answer.status == sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS,
                memory: answer.memory,
                deterministic: answer.determinism == sys::cudnnDeterminism_t::CUDNN_DETERMINISTIC,
                math: answer.mathType,
            })
            .collect()
    };
}

/// Whether cuDNN says that an algorithm is not for these sizes, in contrast to memory it could not have, or worse.
fn is_refusal(error: result::CudnnError) -> bool {
    // Versions differ in how many kinds of the two they tell apart.
    let status = format!("{:?}", error.0);
    ["CUDNN_STATUS_NOT_SUPPORTED", "CUDNN_STATUS_BAD_PARAM"].iter().any(|kind| status.starts_with(kind))
}

impl Dnn {
    pub(super) fn new(stream: &Arc<CudaStream>) -> Result<Self> {
        let handle = or_error("cuDNN", result::create_handle())?;
        // SAFETY: handle and stream are alive.
        or_error("cuDNN", unsafe { result::set_stream(handle, stream.cu_stream().cast()) })?;
        Ok(Self { handle, stream: stream.clone(), plans: HashMap::new(), workspace: None })
    }

    /// Computes one convolution of tensors that are all stored in one way. `false`: cuDNN has no algorithm for it, nothing was
    /// done.
    pub(super) fn run(
        &mut self,
        shape: &ConvShape,
        stored: Stored,
        direction: Direction,
        operands: Operands,
    ) -> Result<bool> {
        let settings = cuda_settings();
        let key = (*shape, stored, direction, settings.tf32, settings.deterministic);
        let plan = if let Some(plan) = self.plans.get(&key) {
            *plan
        } else {
            if memory::records() {
                bail!("a convolution of sizes that were not computed before cannot be recorded: {shape:?}");
            }
            let (plan, sure) = self.plan(shape, stored, direction, operands, settings)?;
            // That there is none, for lack of room say, may be otherwise next time.
            if plan.is_some() || sure {
                self.plans.insert(key, plan);
            }
            plan
        };
        let Some(plan) = plan else { return Ok(false) };
        let workspace = self.workspace(plan.workspace)?;
        or_error("a convolution by cuDNN", self.execute(direction, &plan, operands, workspace))?;
        Ok(true)
    }

    fn workspace(&mut self, bytes: usize) -> Result<*mut c_void> {
        if self.workspace.as_ref().is_none_or(|workspace| workspace.len() < bytes) {
            self.workspace = None; // before the new one, for which there may be no room beside it
            // SAFETY: a workspace is written before it is read. The old one is freed after its last use on the stream.
            let made = or_error("cuDNN's workspace", unsafe { self.stream.alloc::<u8>(bytes.max(1 << 20)) });
            self.workspace = Some(Arc::new(made.map_err(|error| no_room(error, bytes))?));
        }
        Ok(self.workspace.as_ref().map_or(0, |workspace| workspace.device_ptr(&self.stream).0) as *mut c_void)
    }

    /// Returns the workspace that convolutions use now. A recording has to keep it.
    pub(super) fn current_workspace(&self) -> Option<Arc<CudaSlice<u8>>> {
        self.workspace.clone()
    }

    /// The best that works; and whether all that looked as good were tried, and are not for these sizes.
    fn plan(
        &mut self,
        shape: &ConvShape,
        stored: Stored,
        direction: Direction,
        operands: Operands,
        settings: CudaSettings,
    ) -> Result<(Option<Plan>, bool)> {
        let descriptors = descriptors(shape, stored)?;
        // Numbers in bf16 lose nothing on tensor cores. Asked for those, cuDNN may still answer with an algorithm that does
        // without.
        let tensor_cores = settings.tf32 || stored == Stored::Bf16;
        let wanted = math(tensor_cores);
        or_error("cuDNN", unsafe { result::set_convolution_math_type(descriptors.convolution, wanted) })?;
        let mut candidates = if settings.deterministic {
            self.ask(direction, &descriptors)
        } else {
            // Where there is no room to try in, cuDNN's recommendation has to do.
            let room = self.workspace(WORKSPACE).ok();
            let mut tried = room.map_or_else(Vec::new, |room| self.try_all(direction, &descriptors, operands, room));
            self.workspace = None;
            if !tried.iter().any(|candidate| candidate.works) {
                tried = self.ask(direction, &descriptors);
            }
            tried
        };
        candidates.retain(|candidate| {
            candidate.works
                && candidate.memory <= WORKSPACE
                && (candidate.deterministic || !settings.deterministic)
                && (tensor_cores || candidate.math == sys::cudnnMathType_t::CUDNN_FMA_MATH)
        });
        let mut sure = true;
        for candidate in candidates {
            // SAFETY: the descriptor is alive.
            or_error("cuDNN", unsafe { result::set_convolution_math_type(descriptors.convolution, candidate.math) })?;
            let plan = Plan { descriptors, algorithm: candidate.algorithm, workspace: candidate.memory };
            // What was asked for without a trial may still be refused.
            let workspace = match self.workspace(plan.workspace) {
                Ok(workspace) => workspace,
                // Another algorithm has another order of sums.
                Err(error) if settings.deterministic => return Err(error),
                Err(_) => {
                    sure = false;
                    continue;
                }
            };
            match self.execute(direction, &plan, operands, workspace) {
                Ok(()) => return Ok((Some(plan), sure)),
                Err(error) => sure &= is_refusal(error),
            }
        }
        Ok((None, sure))
    }

    /// The algorithms that cuDNN recommends for the sizes, best first.
    fn ask(&self, direction: Direction, d: &Descriptors) -> Vec<Candidate> {
        let asked = CANDIDATES as i32;
        let mut found = 0;
        // SAFETY: descriptors are alive; at most `CANDIDATES` answers are written to arrays of that many.
        unsafe {
            match direction {
                Direction::Forward => {
                    let mut answers: [sys::cudnnConvolutionFwdAlgoPerf_t; CANDIDATES] = std::mem::zeroed();
                    let _ = sys::cudnnGetConvolutionForwardAlgorithm_v7(
                        self.handle,
                        d.x,
                        d.weight,
                        d.convolution,
                        d.y,
                        asked,
                        &raw mut found,
                        answers.as_mut_ptr(),
                    );
                    candidates!(answers, found)
                }
                Direction::Input => {
                    let mut answers: [sys::cudnnConvolutionBwdDataAlgoPerf_t; CANDIDATES] = std::mem::zeroed();
                    let _ = sys::cudnnGetConvolutionBackwardDataAlgorithm_v7(
                        self.handle,
                        d.weight,
                        d.y,
                        d.convolution,
                        d.x,
                        asked,
                        &raw mut found,
                        answers.as_mut_ptr(),
                    );
                    candidates!(answers, found)
                }
                Direction::Weight => {
                    let mut answers: [sys::cudnnConvolutionBwdFilterAlgoPerf_t; CANDIDATES] = std::mem::zeroed();
                    let _ = sys::cudnnGetConvolutionBackwardFilterAlgorithm_v7(
                        self.handle,
                        d.x,
                        d.y,
                        d.convolution,
                        d.weight,
                        asked,
                        &raw mut found,
                        answers.as_mut_ptr(),
                    );
                    candidates!(answers, found)
                }
            }
        }
    }

    /// All algorithms, tried and timed, fastest first. Overwrites the output.
    fn try_all(&self, direction: Direction, d: &Descriptors, at: Operands, workspace: *mut c_void) -> Vec<Candidate> {
        let (x, weight, y) = (at.x as *mut c_void, at.weight as *mut c_void, at.y as *mut c_void);
        let asked = CANDIDATES as i32;
        let mut found = 0;
        // SAFETY: as in `ask`, and the addresses are those of tensors of the descriptors' sizes.
        unsafe {
            match direction {
                Direction::Forward => {
                    let mut answers: [sys::cudnnConvolutionFwdAlgoPerf_t; CANDIDATES] = std::mem::zeroed();
                    let _ = sys::cudnnFindConvolutionForwardAlgorithmEx(
                        self.handle,
                        d.x,
                        x,
                        d.weight,
                        weight,
                        d.convolution,
                        d.y,
                        y,
                        asked,
                        &raw mut found,
                        answers.as_mut_ptr(),
                        workspace,
                        WORKSPACE,
                    );
                    candidates!(answers, found)
                }
                Direction::Input => {
                    let mut answers: [sys::cudnnConvolutionBwdDataAlgoPerf_t; CANDIDATES] = std::mem::zeroed();
                    let _ = sys::cudnnFindConvolutionBackwardDataAlgorithmEx(
                        self.handle,
                        d.weight,
                        weight,
                        d.y,
                        y,
                        d.convolution,
                        d.x,
                        x,
                        asked,
                        &raw mut found,
                        answers.as_mut_ptr(),
                        workspace,
                        WORKSPACE,
                    );
                    candidates!(answers, found)
                }
                Direction::Weight => {
                    let mut answers: [sys::cudnnConvolutionBwdFilterAlgoPerf_t; CANDIDATES] = std::mem::zeroed();
                    let _ = sys::cudnnFindConvolutionBackwardFilterAlgorithmEx(
                        self.handle,
                        d.x,
                        x,
                        d.y,
                        y,
                        d.convolution,
                        d.weight,
                        weight,
                        asked,
                        &raw mut found,
                        answers.as_mut_ptr(),
                        workspace,
                        WORKSPACE,
                    );
                    candidates!(answers, found)
                }
            }
        }
    }

    fn execute(
        &self,
        direction: Direction,
        plan: &Plan,
        at: Operands,
        workspace: *mut c_void,
    ) -> std::result::Result<(), result::CudnnError> {
        let d = &plan.descriptors;
        let (x, weight, y) = (at.x as *mut c_void, at.weight as *mut c_void, at.y as *mut c_void);
        let (one, zero) = (1.0_f32, 0.0_f32);
        let (one, zero) = ((&raw const one).cast(), (&raw const zero).cast());
        let bytes = plan.workspace;
        // SAFETY: descriptors are alive, addresses are those of tensors of their sizes, and an algorithm's number came
        // from the enumeration of its direction.
        unsafe {
            match direction {
                Direction::Forward => {
                    let algorithm = std::mem::transmute::<u32, sys::cudnnConvolutionFwdAlgo_t>(plan.algorithm);
                    result::convolution_forward(
                        self.handle,
                        one,
                        d.x,
                        x,
                        d.weight,
                        weight,
                        d.convolution,
                        algorithm,
                        workspace,
                        bytes,
                        zero,
                        d.y,
                        y,
                    )
                }
                Direction::Input => {
                    let algorithm = std::mem::transmute::<u32, sys::cudnnConvolutionBwdDataAlgo_t>(plan.algorithm);
                    result::convolution_backward_data(
                        self.handle,
                        one,
                        d.weight,
                        weight,
                        d.y,
                        y,
                        d.convolution,
                        algorithm,
                        workspace,
                        bytes,
                        zero,
                        d.x,
                        x,
                    )
                }
                Direction::Weight => {
                    let algorithm = std::mem::transmute::<u32, sys::cudnnConvolutionBwdFilterAlgo_t>(plan.algorithm);
                    result::convolution_backward_filter(
                        self.handle,
                        one,
                        d.x,
                        x,
                        d.y,
                        y,
                        d.convolution,
                        algorithm,
                        workspace,
                        bytes,
                        zero,
                        d.weight,
                        weight,
                    )
                }
            }
        }
    }
}

fn math(tensor_cores: bool) -> sys::cudnnMathType_t {
    if tensor_cores { sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH } else { sys::cudnnMathType_t::CUDNN_FMA_MATH }
}

fn descriptors(shape: &ConvShape, stored: Stored) -> Result<Descriptors> {
    let number = |size: usize| match i32::try_from(size) {
        Ok(size) => Ok(size),
        Err(_) => bail!("conv2d: {size} is too large for a GPU"),
    };
    let channels_last = sys::cudnnTensorFormat_t::CUDNN_TENSOR_NHWC;
    let float = sys::cudnnDataType_t::CUDNN_DATA_FLOAT;
    let numbers = match stored {
        Stored::F32 => float,
        Stored::Bf16 => sys::cudnnDataType_t::CUDNN_DATA_BFLOAT16,
    };
    let tensor = |[height, width, channels]: [usize; 3]| -> Result<_> {
        let descriptor = or_error("cuDNN", result::create_tensor_descriptor())?;
        let sizes = [number(shape.batch)?, number(channels)?, number(height)?, number(width)?];
        // SAFETY: the descriptor was just made.
        or_error("cuDNN", unsafe { result::set_tensor4d_descriptor(descriptor, channels_last, numbers, sizes) })?;
        Ok(descriptor)
    };
    let (x, y) = (tensor(shape.input)?, tensor(shape.output)?);
    let weight = or_error("cuDNN", result::create_filter_descriptor())?;
    let convolution = or_error("cuDNN", result::create_convolution_descriptor())?;
    let spec = shape.spec;
    let sizes =
        [number(shape.output[2])?, number(shape.in_per_group())?, number(shape.kernel[0])?, number(shape.kernel[1])?];
    debug_assert_eq!(spec.before(), spec.after(), "cuDNN pads both sides alike");
    let both = |[down, across]: [usize; 2]| -> Result<_> { Ok([number(down)?, number(across)?]) };
    let (padding, stride, dilation) = (both(spec.before())?, both(spec.stride)?, both(spec.dilation)?);
    let mode = sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;
    // SAFETY: the descriptors were just made.
    unsafe {
        or_error("cuDNN", result::set_filter4d_descriptor(weight, numbers, channels_last, sizes))?;
        or_error(
            "cuDNN",
            result::set_convolution2d_descriptor(
                convolution,
                padding[0],
                padding[1],
                stride[0],
                stride[1],
                dilation[0],
                dilation[1],
                mode,
                float,
            ),
        )?;
        or_error("cuDNN", result::set_convolution_group_count(convolution, number(spec.groups)?))?;
    }
    Ok(Descriptors { x, y, weight, convolution })
}
