// CUDA's built-in functions, as far as kernels here may want them. One that is missing does not
// compile: add it.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <source_location>
#include <type_traits>

#include "block.h"

// ---- Barriers. The default argument is the place of the call, by which divergence is found and
// named.

using StorSite = std::source_location;

inline void __syncthreads(const StorSite& site = StorSite::current()) {
  stor::emulator::block.meet_block(0, "__syncthreads()", site);
}
inline int __syncthreads_count(int predicate, const StorSite& site = StorSite::current()) {
  return stor::emulator::block.meet_block(predicate != 0, "__syncthreads_count()", site);
}
inline int __syncthreads_or(int predicate, const StorSite& site = StorSite::current()) {
  return stor::emulator::block.meet_block(predicate != 0, "__syncthreads_or()", site) != 0;
}
inline int __syncthreads_and(int predicate, const StorSite& site = StorSite::current()) {
  return stor::emulator::block.meet_block(predicate == 0, "__syncthreads_and()", site) == 0;
}
inline void __syncwarp(unsigned mask = ~0u, const StorSite& site = StorSite::current()) {
  stor::emulator::block.meet_warp(stor::emulator::WarpOperation::kSync, mask, {}, 0, site);
}

// Fences order a thread's own accesses as others see them; here, all that came before an earlier
// fence.
inline char stor_emulator_fence;
inline void __threadfence() {
  stor::emulator::tsan_acquire(&stor_emulator_fence);
  stor::emulator::tsan_release(&stor_emulator_fence);
}
inline void __threadfence_block() { __threadfence(); }

// ---- Warp votes and shuffles

inline unsigned __ballot_sync(unsigned mask, int predicate,
                              const StorSite& site = StorSite::current()) {
  stor::emulator::Payload value = {};
  value.bytes[0] = predicate != 0;
  value =
      stor::emulator::block.meet_warp(stor::emulator::WarpOperation::kVote, mask, value, 0, site);
  unsigned ballot;
  std::memcpy(&ballot, value.bytes, sizeof ballot);
  return ballot;
}
inline int __any_sync(unsigned mask, int predicate, const StorSite& site = StorSite::current()) {
  return __ballot_sync(mask, predicate, site) != 0;
}
inline int __all_sync(unsigned mask, int predicate, const StorSite& site = StorSite::current()) {
  return __ballot_sync(mask, !predicate, site) == 0;
}

namespace stor::emulator {

inline int lane() { return block.running().lane; }

// The first lane of the caller's group of `width`.
inline int group_begin(int width) { return lane() & ~(width - 1); }

template <typename T>
T shuffle(unsigned mask, const T& value, int source_lane, const std::source_location& site) {
  static_assert(sizeof(T) <= sizeof(Payload) && std::is_trivially_copyable_v<T>);
  Payload payload = {};
  std::memcpy(payload.bytes, &value, sizeof(T));
  payload = block.meet_warp(WarpOperation::kShuffle, mask, payload, source_lane, site);
  T result;
  std::memcpy(static_cast<void*>(&result), payload.bytes, sizeof(T));
  return result;
}

// What lies outside the group gives the caller's own value.
template <typename T>
T shuffle_within(unsigned mask, const T& value, int source_lane, int width,
                 const std::source_location& site) {
  const int begin = group_begin(width);
  const bool inside = source_lane >= begin && source_lane < begin + width;
  return shuffle(mask, value, inside ? source_lane : lane(), site);
}

}  // namespace stor::emulator

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32,
              const StorSite& site = StorSite::current()) {
  using namespace stor::emulator;
  return shuffle(mask, value, group_begin(width) | (source & (width - 1)), site);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                 const StorSite& site = StorSite::current()) {
  using namespace stor::emulator;
  return shuffle_within(mask, value, lane() - static_cast<int>(delta), width, site);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                   const StorSite& site = StorSite::current()) {
  using namespace stor::emulator;
  return shuffle_within(mask, value, lane() + static_cast<int>(delta), width, site);
}
// Alone of the four may it read groups below its own.
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32,
                  const StorSite& site = StorSite::current()) {
  using namespace stor::emulator;
  const int source = lane() ^ lanes;
  return shuffle(mask, value, source < group_begin(width) + width ? source : lane(), site);
}

// ---- Atomics: relaxed, as CUDA's are, so that ThreadSanitizer takes none of them for a barrier.

template <typename T, typename Update>
T stor_emulator_update(T* address, const Update& update) {
  std::atomic_ref<T> target(*address);
  T old = target.load(std::memory_order_relaxed);
  while (!target.compare_exchange_weak(old, update(old), std::memory_order_relaxed)) {
  }
  return old;
}
template <typename T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  return stor_emulator_update(address, [value](T old) { return static_cast<T>(old + value); });
}
template <typename T>
T atomicSub(T* address, std::type_identity_t<T> value) {
  return stor_emulator_update(address, [value](T old) { return static_cast<T>(old - value); });
}
template <typename T>
T atomicMax(T* address, std::type_identity_t<T> value) {
  return stor_emulator_update(address, [value](T old) { return std::max(old, value); });
}
template <typename T>
T atomicMin(T* address, std::type_identity_t<T> value) {
  return stor_emulator_update(address, [value](T old) { return std::min(old, value); });
}
template <typename T>
T atomicOr(T* address, std::type_identity_t<T> value) {
  return stor_emulator_update(address, [value](T old) { return static_cast<T>(old | value); });
}
template <typename T>
T atomicAnd(T* address, std::type_identity_t<T> value) {
  return stor_emulator_update(address, [value](T old) { return static_cast<T>(old & value); });
}
template <typename T>
T atomicExch(T* address, std::type_identity_t<T> value) {
  return std::atomic_ref<T>(*address).exchange(value, std::memory_order_relaxed);
}
template <typename T>
T atomicCAS(T* address, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  std::atomic_ref<T>(*address).compare_exchange_strong(expected, value, std::memory_order_relaxed);
  return expected;
}

// ---- Cached loads and stores: plain ones here, and not counted. Use stor::load_global.

template <typename T>
T __ldg(const T* address) {
  return *address;
}
template <typename T>
T __ldcs(const T* address) {
  return *address;
}
template <typename T>
void __stcs(T* address, std::type_identity_t<T> value) {
  *address = value;
}

// ---- Arithmetic and bits

using std::max;
using std::min;

inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline float rsqrtf(float a) { return 1.0f / std::sqrt(a); }
inline float __expf(float a) { return std::exp(a); }
inline float __logf(float a) { return std::log(a); }
inline float __saturatef(float a) { return a > 0.0f ? (a < 1.0f ? a : 1.0f) : 0.0f; }  // NaN to 0

// Conversions that saturate and send NaN to 0, as the hardware's do; a C++ cast would be undefined.
inline int stor_emulator_to_int(float rounded) {
  if (rounded != rounded) return 0;
  if (rounded >= 2147483648.0f) return INT32_MAX;
  return rounded <= -2147483648.0f ? INT32_MIN : static_cast<int>(rounded);
}
inline int __float2int_rn(float a) { return stor_emulator_to_int(std::nearbyint(a)); }
inline int __float2int_rd(float a) { return stor_emulator_to_int(std::floor(a)); }
inline int __float2int_ru(float a) { return stor_emulator_to_int(std::ceil(a)); }
inline int __float2int_rz(float a) { return stor_emulator_to_int(std::trunc(a)); }
inline float __int2float_rn(int a) { return static_cast<float>(a); }
inline float __uint2float_rn(unsigned a) { return static_cast<float>(a); }
inline unsigned __float_as_uint(float a) { return std::bit_cast<unsigned>(a); }
inline int __float_as_int(float a) { return std::bit_cast<int>(a); }
inline float __uint_as_float(unsigned a) { return std::bit_cast<float>(a); }
inline float __int_as_float(int a) { return std::bit_cast<float>(a); }

inline int __popc(unsigned a) { return std::popcount(a); }
inline int __clz(int a) { return std::countl_zero(static_cast<unsigned>(a)); }
inline int __ffs(int a) { return a ? std::countr_zero(static_cast<unsigned>(a)) + 1 : 0; }
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(static_cast<uint64_t>(a) * b >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>(((static_cast<uint64_t>(high) << 32) | low) >> (shift & 31));
}
// Byte i of the result is byte number (selector >> 4 * i) & 7 of the eight bytes of b:a, b on top.
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const uint64_t bytes = (static_cast<uint64_t>(b) << 32) | a;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned source = selector >> (4 * i) & 7;
    result |= static_cast<unsigned>(bytes >> (8 * source) & 0xFF) << (8 * i);
  }
  return result;
}
