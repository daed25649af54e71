// Large tensors on the host, in memory that is kept for the next one.
//
// malloc fetches large blocks (glibc: those above 32 MiB) from the system anew for every tensor,
// and touching fresh memory takes several times as long as resampling what is written there. So the
// last few large blocks that tensors have given up are kept, as torch does on a GPU. Like numpy's
// arrays they ask for large pages; where the system has none, nothing changes.
//
// A process keeps kSlots blocks of at most kLargest bytes; STOR_OPS_KEEP_MEMORY=0 gives them back
// and leaves all to torch, as does a torch before 2.11. There are no locks, so that a process
// forked at any moment has a cache that works.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <string_view>
#include <type_traits>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "torch_shim.h"

namespace stor {

// Asks for large pages inside of a block.
inline void prefer_large_pages(void* data, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPage = uintptr_t{2} << 20;
  const uintptr_t address = reinterpret_cast<uintptr_t>(data);
  const uintptr_t begin = (address + kPage - 1) / kPage * kPage;
  const uintptr_t end = (address + bytes) / kPage * kPage;
  // Advice: that it cannot be followed is no error.
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

class HostBlocks {
 public:
  static constexpr size_t kSmallest = size_t{4} << 20;  // smaller ones are left to malloc
  static constexpr size_t kLargest = size_t{256} << 20;
  static constexpr int kSlots = 4;  // both views that are in use, and both before

  struct Block {
    void* data;
    size_t capacity;

    explicit Block(size_t bytes)
        : data(::operator new(bytes, std::align_val_t{kAlignment}, std::nothrow)), capacity(bytes) {
      if (data) prefer_large_pages(data, capacity);
    }
    ~Block() { ::operator delete(data, std::align_val_t{kAlignment}); }
    Block(const Block&) = delete;
  };

  // A kept block, of which a quarter at most is wasted, or a new one; null if there is no memory.
  static std::unique_ptr<Block> take(size_t bytes) {
    for (std::atomic<Block*>& slot : kept_) {
      std::unique_ptr<Block> block(slot.exchange(nullptr));
      if (!block) continue;
      const size_t capacity = block->capacity;
      if (capacity >= bytes && capacity - bytes <= capacity / 4) return block;
      Block* empty = nullptr;
      if (slot.compare_exchange_strong(empty, block.get())) (void)block.release();
    }
    const size_t capacity = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    auto block = std::make_unique<Block>(capacity);
    if (!block->data) {
      clear();
      block = std::make_unique<Block>(capacity);
    }
    return block->data ? std::move(block) : nullptr;
  }

  // The block that was kept longest makes room for it.
  static void give_back(Block* block) { delete kept_[next_++ % kSlots].exchange(block); }

  static void clear() {
    for (std::atomic<Block*>& slot : kept_) delete slot.exchange(nullptr);
  }

 private:
  static constexpr size_t kAlignment = size_t{2} << 20;  // of a large page

  // Without destructors, since tensors may outlive the library's other statics.
  static_assert(std::is_trivially_destructible_v<std::atomic<Block*>>);
  static inline constinit std::atomic<Block*> kept_[kSlots] = {};
  static inline constinit std::atomic<unsigned> next_{0};
};

// An uninitialised tensor (N, C, T, H, W) on the host.
inline torch::stable::Tensor new_host_tensor(const std::vector<int64_t>& shape,
                                             torch::headeronly::ScalarType dtype,
                                             int64_t element_bytes, bool channels_last) {
  using torch::headeronly::MemoryFormat;
  const torch::stable::Device cpu(torch::headeronly::DeviceType::CPU);
  double size = static_cast<double>(element_bytes);
  for (const int64_t extent : shape) size *= static_cast<double>(extent);
  const char* const keep = std::getenv("STOR_OPS_KEEP_MEMORY");  // read at every call
  std::unique_ptr<HostBlocks::Block> block;
  if (keep && std::string_view(keep) == "0") {
    HostBlocks::clear();
  } else if (torch_from_blob && size >= HostBlocks::kSmallest && size <= HostBlocks::kLargest) {
    block = HostBlocks::take(static_cast<size_t>(size));
  }
  if (!block) {
    auto tensor = torch::stable::empty(
        shape, dtype, std::nullopt, cpu, std::nullopt,
        channels_last ? MemoryFormat::ChannelsLast3d : MemoryFormat::Contiguous);
    prefer_large_pages(tensor.mutable_data_ptr(), static_cast<size_t>(size));
    return tensor;
  }
  const int64_t c = shape[1], t = shape[2], h = shape[3], w = shape[4];
  const int64_t planar[] = {c * t * h * w, t * h * w, h * w, w, 1};
  const int64_t interleaved[] = {c * t * h * w, 1, h * w * c, w * c, c};
  AtenTensorHandle tensor;
  void* const data = block->data;
  // From here on torch owns the block. Should it fail, it may or may not have given it back: a leak
  // does less harm than a block with two owners.
  STABLE_TORCH_ERROR_CODE_CHECK(torch_from_blob(
      data, 5, shape.data(), channels_last ? interleaved : planar, 0,
      torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype)),
      aoti_torch_device_type_cpu(), -1, &tensor, aoti_torch_layout_strided(), nullptr, 0,
      [](void*, void* given) { HostBlocks::give_back(static_cast<HostBlocks::Block*>(given)); },
      block.release()));
  return torch::stable::Tensor(tensor);
}

}  // namespace stor
