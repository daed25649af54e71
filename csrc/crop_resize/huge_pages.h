// Large pages for large tensors.
//
// malloc takes large blocks from the system anew each time, and touching fresh memory 4 KiB at a
// time costs more than resampling what is written there. As numpy does for its arrays, the whole
// 2 MiB pages inside of a block are asked to be large ones; where the system has none, nothing
// changes.
#pragma once

#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace stor {

inline void prefer_huge_pages(void* data, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPage = uintptr_t{2} << 20;
  const uintptr_t address = reinterpret_cast<uintptr_t>(data);
  const uintptr_t begin = (address + kPage - 1) / kPage * kPage;
  const uintptr_t end = (address + static_cast<uintptr_t>(bytes)) / kPage * kPage;
  // Advice: that it cannot be followed is no error.
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

}  // namespace stor
