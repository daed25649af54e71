// Runs CUDA kernels on a CPU, as they stand: compiled by g++ with -DSTOR_EMULATOR, a kernel finds
// here what nvcc would have given it. The purpose is evidence, not speed: the very source that a
// GPU will run goes through AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer, in
// every order of its threads, and its memory traffic is counted.
//
// How it works
//   fibers.h   Each CUDA thread is a fiber on the one OS thread; ThreadSanitizer is told so.
//   threads.h  What is known of a thread, and the order in which threads run.
//   block.h    The scheduler. Blocks run one after the other. The threads of a block run one at
//              a time, each until its next barrier or warp operation, in the order "forward",
//              "reverse" or "random:SEED" (STOR_EMULATOR_ORDER, or set_order in Python): a missing
//              barrier may give the right answer in one order, hardly in all.
//   shared_memory.h, intrinsics.h  Shared memory; CUDA's built-in functions.
//   traffic.h  Sectors of global memory that each warp asks for, off until it is started.
//   build.py   Compiles a binding and runs Python code on it, plain or under sanitizers.
//
// What it catches
//   by an Error (in Python a RuntimeError) that names kernel, block, thread and line: threads that
//   meet in different barriers or never meet, warp operations with wrong masks, shuffles from
//   absent lanes, misaligned global accesses, impossible launches; by AddressSanitizer: overruns of
//   global buffers (allocate them exactly), of dynamic shared memory, of static shared memory
//   through a pointer; by UndefinedBehaviorSanitizer: overruns of static shared arrays, misaligned
//   vectors, overflow; by ThreadSanitizer: a missing __syncthreads() or __syncwarp(), whatever the
//   order; by NaN: reads of shared memory that this block has not written (each block starts with
//   0xFF bytes).
//
// What it does not emulate: inline PTX, cp.async and TMA, clusters and cooperative groups, tensor
// cores, textures, warps in lockstep, fused multiply-adds that nvcc contracts on its own,
// approximate arithmetic (__expf and its like are exact here), the limit of static shared memory,
// races between blocks, time. Streams are ignored: a launch returns when the kernel has run.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <vector_functions.h>
#include <vector_types.h>

#include <functional>
#include <source_location>
#include <type_traits>

#include "block.h"
#include "intrinsics.h"

#undef __global__
#undef __device__
#undef __host__
#undef __constant__
#undef __forceinline__
#undef __noinline__
#undef __launch_bounds__
#undef __grid_constant__
#undef __shared__
#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline  // not always_inline, which cannot cross into unsanitized functions
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
// One block runs at a time, so what is static belongs to the block.
#define __shared__ static

using cudaStream_t = struct CUstream_st*;

#define STOR_DYNAMIC_SHARED(Type, name) \
  Type* const name = reinterpret_cast<Type*>(stor::emulator::block.dynamic_shared())

#define STOR_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  (static_cast<void>(stream),                                       \
   stor::emulator::launch(#kernel, grid, block, shared_bytes, kernel __VA_OPT__(, ) __VA_ARGS__))

namespace stor {
namespace emulator {

// Arguments are converted to the kernel's parameters once; every thread gets its own copies.
template <typename... Parameters>
void launch(const char* name, dim3 grid, dim3 block_size, size_t shared_bytes,
            void (*kernel)(Parameters...), std::type_identity_t<Parameters>... arguments) {
  block.launch(name, grid, block_size, shared_bytes, [&] { kernel(arguments...); });
}

template <typename Value>
void note_access(const Value* address, Direction direction, const std::source_location& site) {
  static_assert(sizeof(Value) <= 16 && std::has_single_bit(sizeof(Value)),
                "a thread moves 1, 2, 4, 8 or 16 bytes at once");
  const Unseen unseen;
  if (reinterpret_cast<uintptr_t>(address) % sizeof(Value) != 0) {
    block.fail("misaligned access of " + std::to_string(sizeof(Value)) + " bytes", site);
  }
  if (!traffic.counting()) return;
  const CudaThread& thread = block.running();
  traffic.record(thread.number, thread.epoch, direction, address, sizeof(Value), site);
}

}  // namespace emulator

template <typename Value>
Value load_global(const Value* address,
                  const std::source_location& site = std::source_location::current()) {
  emulator::note_access(address, emulator::Direction::kRead, site);
  return *address;
}

template <typename Value>
void store_global(Value* address, std::type_identity_t<Value> value,
                  const std::source_location& site = std::source_location::current()) {
  emulator::note_access(address, emulator::Direction::kWrite, site);
  *address = value;
}

}  // namespace stor
