//! From an operation's public function to the device that its tensors are on.

/// Returns what `$call` returns where the tensor is on a GPU; nothing at all in a program built for the CPU alone.
macro_rules! on_gpu {
    ($tensor:expr => $call:expr) => {
        #[cfg(feature = "cuda")]
        {
            if $tensor.device().is_cuda() {
                return $call;
            }
        }
    };
}
