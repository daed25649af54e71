// Large tensors on the host, in memory that is kept for the next one.
//
// malloc fetches large blocks (glibc: those above 32 MiB) from the system anew for every tensor,
// and touching fresh memory takes several times as long as resampling what is written there. So the
// last few large blocks that tensors have given up are kept, as torch does on a GPU. Like numpy's
// arrays they ask for large pages; where the system has none, nothing changes.
//
// There are no locks, so that a process forked at any moment has a cache that works.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <atomic>
#include <cstdint>
#include <new>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#if TORCH_FEATURE_VERSION < TORCH_VERSION_2_11_0
// In torch from 2.11 on; null in an older one, where blocks are not kept.
extern "C" __attribute__((weak, visibility("default"))) AOTITorchError torch_from_blob(
    void* data, int64_t ndim, const int64_t* sizes, const int64_t* strides, int64_t storage_offset,
    int32_t dtype, int32_t device_type, int32_t device_index, AtenTensorHandle* tensor,
    int32_t layout, const uint8_t* opaque_metadata, int64_t opaque_metadata_size,
    void (*deleter)(void* data, void* block), void* block);
#endif

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
  static constexpr size_t kSmallest = size_t{4} << 20;  // malloc itself keeps smaller ones
  static constexpr size_t kLargest = size_t{256} << 20;
  static constexpr int kSlots = 4;  // both views that are in use, and both before

  struct Block {
    void* data;
    size_t capacity;
  };

  // A kept block, of which a quarter at most is wasted, or a new one; null if there is no memory.
  static Block* take(size_t bytes) {
    for (std::atomic<Block*>& slot : kept_) {
      Block* const block = slot.exchange(nullptr);
      if (!block) continue;
      if (block->capacity >= bytes && block->capacity - bytes <= block->capacity / 4) return block;
      Block* empty = nullptr;
      if (!slot.compare_exchange_strong(empty, block)) destroy(block);
    }
    const size_t capacity = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    void* const data = ::operator new(capacity, std::align_val_t{kAlignment}, std::nothrow);
    if (!data) return nullptr;
    prefer_large_pages(data, capacity);
    return new Block{data, capacity};
  }

  // The block that was kept longest makes room for it.
  static void give_back(Block* block) {
    if (Block* const oldest = kept_[next_++ % kSlots].exchange(block)) destroy(oldest);
  }

 private:
  static constexpr size_t kAlignment = size_t{2} << 20;  // of a large page

  static void destroy(Block* block) {
    ::operator delete(block->data, std::align_val_t{kAlignment});
    delete block;
  }

  // Without destructors, since tensors may outlive them.
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
  HostBlocks::Block* block = nullptr;
  if (torch_from_blob && size >= HostBlocks::kSmallest && size <= HostBlocks::kLargest) {
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
  const AOTITorchError error = torch_from_blob(
      block->data, 5, shape.data(), channels_last ? interleaved : planar, 0,
      torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype)),
      aoti_torch_device_type_cpu(), -1, &tensor, aoti_torch_layout_strided(), nullptr, 0,
      [](void*, void* given) { HostBlocks::give_back(static_cast<HostBlocks::Block*>(given)); },
      block);
  if (error) HostBlocks::give_back(block);
  STABLE_TORCH_ERROR_CODE_CHECK(error);
  return torch::stable::Tensor(tensor);
}

}  // namespace stor
