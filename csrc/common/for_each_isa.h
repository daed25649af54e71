// Compiles the file named by STOR_ISA_BODY once per instruction set (see isa.h).
//
// The body finds STOR_ISA, the namespace and name of the instruction set, and the types and
// functions of lanes.h in it. It includes no header itself: what is compiled under one target must
// not be shared with code for another, so all headers come before the first target, here and in the
// including file. No include guard: each kernel includes this once, in its own .cpp.
#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#ifndef STOR_ISA_BODY
#error "define STOR_ISA_BODY"
#endif

#define STOR_ISA baseline
#define STOR_VECTOR_BYTES 16
#include "lanes.h"
#include STOR_ISA_BODY
#undef STOR_ISA
#undef STOR_VECTOR_BYTES

#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif
#define STOR_ISA avx2
#define STOR_VECTOR_BYTES 32
#include "lanes.h"
#include STOR_ISA_BODY
#undef STOR_ISA
#undef STOR_VECTOR_BYTES
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(                                                    \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), \
    apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prefer-vector-width=512")
#endif
#define STOR_ISA avx512
#define STOR_VECTOR_BYTES 64
#include "lanes.h"
#include STOR_ISA_BODY
#undef STOR_ISA
#undef STOR_VECTOR_BYTES
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif
