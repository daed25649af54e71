// What kernels take from CUDA beyond the language itself. tests/emulator has its own version of
// each line here, so that g++ compiles the very same kernels to run on a CPU.
#pragma once

#if defined(STOR_EMULATOR)
#include "cuda_on_cpu.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <type_traits>

// The block's dynamic shared memory, 16-byte aligned, as an array of Type.
#define STOR_DYNAMIC_SHARED(Type, name)                              \
  extern __shared__ __align__(16) unsigned char stor_shared_bytes[]; \
  Type* const name = reinterpret_cast<Type*>(stor_shared_bytes)

#define STOR_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  kernel<<<grid, block, shared_bytes, stream>>>(__VA_ARGS__)

namespace stor {

// Every access to global memory passes through these two, where the emulator counts the sectors
// that a warp touches. Value is what one thread moves at once: up to 16 bytes, aligned to its size.
template <typename Value>
__device__ __forceinline__ Value load_global(const Value* address) {
  return __ldg(address);
}

template <typename Value>
__device__ __forceinline__ void store_global(Value* address, std::type_identity_t<Value> value) {
  if constexpr (sizeof(Value) == 16) {
    // As a plain assignment ptxas may split it into the parts that the value was made of.
    const uint4 word = *reinterpret_cast<const uint4*>(&value);
    asm volatile(
        "st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(address)),
        "r"(word.x), "r"(word.y), "r"(word.z), "r"(word.w)
        : "memory");
  } else {
    *address = value;
  }
}

}  // namespace stor
#endif
