// Kernels that show what the emulator sees: each comes with one planted bug, or without (kBug =
// false). And kernels of known memory traffic. All handle n elements in any grid of one-dimensional
// blocks.
#pragma once

#include <cstdint>

#include "../../csrc/common/device.cuh"

namespace stor::planted {

constexpr int kBlock = 96;  // three warps

__device__ __forceinline__ int64_t global_thread() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

// Doubles each element. Bug: off by one, at the tail.
template <bool kBug>
__global__ void tail(const float* in, float* out, int64_t n) {
  const int64_t i = global_thread();
  if (i >= n + kBug) return;
  store_global(out + i, 2 * load_global(in + i));
}

// Adds each thread's left neighbour in the block, through shared memory. Bug: no __syncthreads().
template <bool kBug>
__global__ void __launch_bounds__(kBlock) neighbours(const float* in, float* out) {
  __shared__ float shared[kBlock];
  const int t = threadIdx.x;
  shared[t] = load_global(in + global_thread());
  if (!kBug) __syncthreads();
  store_global(out + global_thread(), shared[t] + (t > 0 ? shared[t - 1] : 0.0f));
}

// Sums each thread's right neighbours over `tiles` that pass through one buffer. Bug: no barrier
// between reading a tile and writing the next.
template <bool kBug>
__global__ void reused_buffer(const float* in, float* out, int tiles) {
  STOR_DYNAMIC_SHARED(float, shared);
  const int t = threadIdx.x;
  float sum = 0;
  for (int tile = 0; tile < tiles; ++tile) {
    shared[t] = load_global(in + tile * blockDim.x + t);
    __syncthreads();
    sum += shared[(t + 1) % blockDim.x];
    if (!kBug) __syncthreads();
  }
  store_global(out + t, sum);
}

// As neighbours, within each warp. Bug: no __syncwarp(), though a shuffle, which orders no memory.
template <bool kBug>
__global__ void warp_neighbours(const float* in, float* out) {
  __shared__ float shared[kBlock];
  const int t = threadIdx.x, lane = t % 32;
  shared[t] = load_global(in + global_thread());
  const float zero = __shfl_sync(~0u, 0.0f, 0);
  if (!kBug) __syncwarp();
  store_global(out + global_thread(), shared[t] + (lane > 0 ? shared[t - 1] : zero));
}

// Copies float4s through bare pointers. Bug: they start one float late.
template <bool kBug>
__global__ void vectors(const float* in, float* out, int64_t n) {
  const int64_t i = global_thread();
  if (4 * i + 4 + kBug > n) return;
  *reinterpret_cast<float4*>(out + 4 * i) = *reinterpret_cast<const float4*>(in + 4 * i + kBug);
}

// Copies the last two lanes' worth and doubles it. Bug: a barrier for part of the block only.
template <bool kBug>
__global__ void divergent_barrier(const float* in, float* out) {
  const float value = load_global(in + global_thread());
  if (!kBug || threadIdx.x < 37) {
    __syncthreads();
  }
  __syncthreads();
  store_global(out + global_thread(), 2 * value);
}

// Sums each warp. Bug: half of the lanes skip the shuffle that names all.
template <bool kBug>
__global__ void divergent_shuffle(const float* in, float* out) {
  float sum = load_global(in + global_thread());
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    if (kBug && threadIdx.x % 32 < 16) continue;
    sum += __shfl_xor_sync(~0u, sum, lanes);
  }
  __syncthreads();
  store_global(out + global_thread(), sum);
}

// Reverses each block through static shared memory. Bug: one element too far.
template <bool kBug>
__global__ void static_overrun(const float* in, float* out) {
  __shared__ float shared[kBlock];
  shared[threadIdx.x + kBug] = load_global(in + global_thread());
  __syncthreads();
  store_global(out + global_thread(), shared[kBlock - 1 - threadIdx.x + kBug]);
}

// The same through dynamic shared memory, where the bug does not change the answer.
template <bool kBug>
__global__ void dynamic_overrun(const float* in, float* out) {
  STOR_DYNAMIC_SHARED(float, shared);
  shared[threadIdx.x + kBug] = load_global(in + global_thread());
  __syncthreads();
  store_global(out + global_thread(), shared[blockDim.x - 1 - threadIdx.x + kBug]);
}

// Copies through static and dynamic shared memory. Bug: the first thread of each block stores in
// neither, and reads what the block before has left.
template <bool kBug>
__global__ void unwritten_shared(const float* in, float* out_static, float* out_dynamic) {
  __shared__ float fixed[kBlock];
  STOR_DYNAMIC_SHARED(float, dynamic);
  const int t = threadIdx.x;
  if (!kBug || t > 0) fixed[t] = dynamic[t] = load_global(in + global_thread());
  __syncthreads();
  store_global(out_static + global_thread(), fixed[t]);
  store_global(out_dynamic + global_thread(), dynamic[t]);
}

// ---- What is allowed and easily got wrong by an emulator

// Threads beyond n return before the barriers; the others sum the block in thread 0.
static __global__ void early_return(const float* in, float* out, int64_t n) {
  __shared__ float sum;
  const int64_t i = global_thread();
  if (i >= n) return;
  if (threadIdx.x == 0) sum = 0;
  __syncthreads();
  atomicAdd(&sum, load_global(in + i));
  __syncthreads();
  if (threadIdx.x == 0) store_global(out + blockIdx.x, sum);
}

// Every warp primitive once, for comparison with what the CUDA guide says: 8 results per thread.
static __global__ void warp_primitives(int* out) {
  const int lane = threadIdx.x % 32;
  int* mine = out + 8 * global_thread();
  mine[0] = __shfl_sync(~0u, lane, 5, 8);
  mine[1] = __shfl_up_sync(~0u, lane, 3, 8);
  mine[2] = __shfl_down_sync(~0u, lane, 3, 8);
  mine[3] = __shfl_xor_sync(~0u, lane, 9, 8);
  mine[4] = static_cast<int>(__ballot_sync(~0u, lane % 3 == 0));
  mine[5] =
      lane < 8 ? static_cast<int>(__ballot_sync(0xFF, lane > 2)) : __any_sync(~0xFFu, lane > 99);
  mine[6] = __syncthreads_count(lane < 7);
  mine[7] = __syncthreads_or(threadIdx.x == 40) + 2 * __syncthreads_and(threadIdx.x != 40);
}

// ---- Known traffic

// Element i * stride + offset to element i.
template <typename Value>
__global__ void strided_copy(const Value* in, Value* out, int64_t n, int64_t stride,
                             int64_t offset) {
  const int64_t i = global_thread();
  if (i < n) store_global(out + i, load_global(in + i * stride + offset));
}

// Averages each element and the next: neighbours share a read.
static __global__ void averages(const float* in, float* out, int64_t n) {
  const int64_t i = global_thread();
  if (i >= n) return;
  const float left = load_global(in + i);
  const float right = load_global(in + i + 1);
  store_global(out + i, (left + right) / 2);
}

// Lane l of a warp reads l % 4 + 1 values, meets the others, and reads one more.
static __global__ void uneven_loops(const float* in, float* out) {
  const int lane = threadIdx.x % 32;
  float sum = 0;
  for (int part = 0; part < 2; ++part) {
    const int count = part == 0 ? lane % 4 + 1 : 1;
    for (int i = 0; i < count; ++i) sum += load_global(in + 32 * i + lane);
    __syncwarp();
  }
  store_global(out + global_thread(), sum);
}

}  // namespace stor::planted
