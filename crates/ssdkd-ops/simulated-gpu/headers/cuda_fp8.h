#pragma once
struct __nv_fp8_e4m3;
constexpr int __NV_E4M3 = 0;
template <class T> __half __nv_cvt_fp8_to_halfraw(T, int);
