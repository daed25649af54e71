#include "row_kernels.h"

#include <utility>

#if !defined(__clang__)
// GCC's own intrinsics trip over it (gcc.gnu.org/PR105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#define STOR_ISA_BODY "../crop_resize/row_kernels.inl"
#include "../common/for_each_isa.h"

namespace stor {

const RowKernels& row_kernels(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::avx512) return avx512::kRowKernels;
  if (isa == Isa::avx2) return avx2::kRowKernels;
#endif
  return baseline::kRowKernels;
}

}  // namespace stor
