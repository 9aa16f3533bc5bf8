// Types of 16 and 8 bits by name alone: kernels for them are for newer GPUs than this one pretends to be to candle's.
#pragma once

struct __half {
    unsigned short bits;
    __half() = default;
    __half(double);  // declared, never defined: nothing computes with it
    operator float() const;
};
__half __hmax_nan(__half, __half);
__half __hmin_nan(__half, __half);
__half __ushort_as_half(unsigned short);
unsigned short __half_as_ushort(__half);
