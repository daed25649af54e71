// Run-time choice of the instruction set of the vectorised CPU kernels.
//
// A kernel's body is one file, compiled once per instruction set by for_each_isa.h into a namespace
// of that name; choose_isa() picks among them.
#pragma once

#include <cstdlib>
#include <string>

#include "check.h"

namespace stor {

// baseline is whatever the compiler targets: SSE2 on x86-64, NEON on aarch64.
enum class Isa { baseline, avx2, avx512 };

inline bool is_supported(Isa isa) {
  switch (isa) {
    case Isa::baseline:
      return true;
#if defined(__x86_64__)
    case Isa::avx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
             __builtin_cpu_supports("f16c");
    case Isa::avx512:
      return is_supported(Isa::avx2) && __builtin_cpu_supports("avx512f") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512vl");
#endif
    default:
      return false;
  }
}

// The best instruction set of this processor, or the one that STOR_OPS_ISA names. The variable is
// read at every call, so that one process can compare them.
inline Isa choose_isa(const char* op) {
  const char* const wish = std::getenv("STOR_OPS_ISA");
  if (wish == nullptr || *wish == '\0') {
    static const Isa best = is_supported(Isa::avx512) ? Isa::avx512
                            : is_supported(Isa::avx2) ? Isa::avx2
                                                      : Isa::baseline;
    return best;
  }
  const std::string name(wish);
  STOR_CHECK(name == "baseline" || name == "avx2" || name == "avx512", op,
             ": STOR_OPS_ISA: expected baseline, avx2 or avx512, got ", name);
  const Isa isa = name == "baseline" ? Isa::baseline : name == "avx2" ? Isa::avx2 : Isa::avx512;
  STOR_CHECK(is_supported(isa), op, ": STOR_OPS_ISA: this processor has no ", name);
  return isa;
}

}  // namespace stor
