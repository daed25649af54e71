// The first half of making a row of a clip on the CPU: the source rows that it is made of, blended
// along y and time into one row of floats. clip_maker_cpu.h makes the other half of it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "pack_row.h"
#include "resampling_tables.h"
#include "row_kernels.h"

namespace stor {

// How the pixels of a source row lie in memory.
enum class Layout { dense, planar, scattered };

inline Layout layout_of(const Video& video, int64_t channels) {
  if (video.stride_x == channels && (channels == 1 || video.stride_c == 1)) return Layout::dense;
  return video.stride_x == 1 ? Layout::planar : Layout::scattered;
}

template <typename Scalar>
void grow(AlignedVector<Scalar>& buffer, int64_t size) {
  if (static_cast<int64_t>(buffer.size()) < size) buffer.resize(size);
}

class RowBlender {
 public:
  RowBlender(const RowKernels& kernels, Element source, int64_t source_bytes, int64_t channels)
      : kernels_(kernels), source_(source), bytes_(source_bytes), channels_(channels) {}

  // For output rows as in `rows`, of the pixels that `columns` and then `filter` read.
  void prepare(const Video& video, const AxisTable& rows, const AxisTable& columns,
               const ColumnFilter& filter) {
    video_ = &video;
    rows_ = &rows;
    layout_ = layout_of(video, channels_);
    first_column_ = columns.first;
    pixels_ = columns.end - columns.first;
    is_parted_ = channels_ > 1 && filter.window > 0;
    // Lanes that have fewer taps than others read on, and so do permutations: see ColumnFilter.
    const int64_t padded = pixels_ + filter.taps;
    plane_stride_ = (padded + kRowPadding) / kMaxLanes * kMaxLanes;
    grow(planes_, channels_ * plane_stride_);
    grow(interleaved_, channels_ * padded + kRowPadding);
    prepare_kept();
  }

  // The row of output row `row`, of which the filter reads planes `stride()` apart: 1 for pixels.
  const float* blend(const Taps& frames, const float* frame_weights, int64_t row) {
    const Taps taps = rows_->taps[row];
    const float* weights = rows_->weights_of(row);
    const int64_t count = frames.count * taps.count;
    const bool is_kept = layout_ == Layout::scattered;
    sources_.resize(count);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t frame = frames.first + i / taps.count, y = taps.first + i % taps.count;
      sources_[i] = is_kept ? kept_row(frame, y) : static_cast<const void*>(address(frame, y));
    }
    if (frames.count > 1) {
      weights_.resize(count);
      for (int64_t i = 0; i < count; ++i) {
        weights_[i] = frame_weights[i / taps.count] * weights[i % taps.count];
      }
      weights = weights_.data();
    }
    const Element element = is_kept ? Element::float32 : source_;
    const auto blend = kernels_.blend[static_cast<int>(element)];
    const RowStack stack{sources_.data(), weights, count};
    if (layout_ == Layout::planar) {
      for (int64_t c = 0; c < channels_; ++c) {
        blend(stack, pixels_, planes_.data() + c * plane_stride_);
        for (const void*& plane : sources_) {
          plane = static_cast<const char*>(plane) + video_->stride_c * bytes_;
        }
      }
      return planes_.data();
    }
    float* const pixels = channels_ == 1 ? planes_.data() : interleaved_.data();
    blend(stack, pixels_ * channels_, pixels);
    if (!is_parted_) return pixels;
    kernels_.split[channels_](pixels, pixels_, planes_.data(), plane_stride_);
    return planes_.data();
  }

  // Pixels are gathered one by one from rows that are not parted into planes.
  int64_t stride() const {
    return layout_ == Layout::planar || is_parted_ || channels_ == 1 ? plane_stride_ : 1;
  }

  // Asks for the source rows that an output row reads: the processor's own prefetching does not see
  // where the crop's next row begins. (Inlined, since GCC drops calls that only prefetch.)
  __attribute__((always_inline)) void prefetch(const Taps& frames, int64_t row) const {
    if (layout_ != Layout::dense || row >= rows_->size()) return;
    const Taps taps = rows_->taps[row];
    const int64_t bytes = pixels_ * channels_ * bytes_;
    for (int64_t frame = frames.first; frame < frames.first + frames.count; ++frame) {
      for (int64_t y = taps.first; y < taps.first + taps.count; ++y) {
        const char* const line = address(frame, y);
        for (int64_t byte = 0; byte < bytes; byte += 64) __builtin_prefetch(line + byte);
      }
    }
  }

 private:
  void prepare_kept() {
    if (layout_ != Layout::scattered) return;
    slots_ = 1;
    for (const Taps& taps : rows_->taps) slots_ = std::max(slots_, taps.count);
    const int64_t count = pixels_ * channels_;
    kept_stride_ = (count + kMaxLanes - 1) / kMaxLanes * kMaxLanes;
    grow(kept_, 2 * slots_ * kept_stride_);
    grow(packed_, count * bytes_);
    keys_.assign(2 * slots_, -1);
  }

  // A row of scattered pixels as dense floats, made once for all output rows that read it. The rows
  // that one of them reads, of two neighbouring frames at most, have places of their own.
  const float* kept_row(int64_t frame, int64_t y) {
    const int64_t slot = frame % 2 * slots_ + y % slots_, key = frame * video_->height + y;
    float* const row = kept_.data() + slot * kept_stride_;
    if (keys_[slot] != key) {
      keys_[slot] = key;
      const void* const from = pack(address(frame, y));
      const float one = 1.0f;
      kernels_.blend[static_cast<int>(source_)]({&from, &one, 1}, pixels_ * channels_, row);
    }
    return row;
  }

  const void* pack(const void* from) {
    switch (bytes_) {
      case 1:
        pack_row<uint8_t>(from, *video_, pixels_, channels_, packed_.data());
        break;
      case 2:
        pack_row<uint16_t>(from, *video_, pixels_, channels_, packed_.data());
        break;
      default:
        pack_row<uint32_t>(from, *video_, pixels_, channels_, packed_.data());
    }
    return packed_.data();
  }

  const char* address(int64_t frame, int64_t y) const {
    const int64_t offset =
        frame * video_->stride_t + y * video_->stride_y + first_column_ * video_->stride_x;
    return static_cast<const char*>(video_->data) + offset * bytes_;
  }

  const RowKernels& kernels_;
  const Element source_;
  const int64_t bytes_, channels_;  // of an element; of a pixel

  // Of the view that is being made.
  const Video* video_ = nullptr;
  const AxisTable* rows_ = nullptr;
  Layout layout_ = Layout::dense;
  bool is_parted_ = false;
  int64_t first_column_ = 0, pixels_ = 0;

  // Scratch. Padding is read, but with weights of 0: it starts as zeros and stays finite.
  AlignedVector<float> interleaved_, planes_, kept_;
  AlignedVector<char> packed_;
  std::vector<const void*> sources_;
  std::vector<float> weights_;
  std::vector<int64_t> keys_;  // of the kept rows
  int64_t plane_stride_ = 0, kept_stride_ = 0, slots_ = 0;
};

}  // namespace stor
