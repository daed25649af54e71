#include "softmax.h"

#include <algorithm>
#include <limits>

#define STOR_ISA_BODY "../info_nce/softmax.inl"
#include "../common/for_each_isa.h"

namespace stor {

template <typename Scalar>
const TileFunctions<Scalar>& tile_functions(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::avx512) return avx512::kTileFunctions<Scalar>;
  if (isa == Isa::avx2) return avx2::kTileFunctions<Scalar>;
#endif
  return baseline::kTileFunctions<Scalar>;
}

template const TileFunctions<float>& tile_functions(Isa);
template const TileFunctions<double>& tile_functions(Isa);

}  // namespace stor
