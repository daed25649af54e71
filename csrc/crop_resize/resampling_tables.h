// The taps of one view along its two axes, worked out once for all of its frames: CPU only.
#pragma once

#include <algorithm>
#include <cstdint>
#include <new>
#include <utility>
#include <vector>

#include "resample.h"
#include "row_kernels.h"

namespace stor {

// A vector that begins with a line of the cache, so that no vector of its elements lies in two.
template <typename Scalar>
struct LineAllocator {
  using value_type = Scalar;
  static constexpr std::align_val_t kLine{64};

  LineAllocator() = default;
  template <typename Other>
  LineAllocator(const LineAllocator<Other>&) {}
  Scalar* allocate(size_t count) {
    return static_cast<Scalar*>(::operator new(count * sizeof(Scalar), kLine));
  }
  void deallocate(Scalar* data, size_t) { ::operator delete(data, kLine); }
  bool operator==(const LineAllocator&) const = default;
};
template <typename Scalar>
using AlignedVector = std::vector<Scalar, LineAllocator<Scalar>>;

// The taps of every output along one axis, from the far end on if `mirror` is set.
struct AxisTable {
  std::vector<Taps> taps;
  std::vector<float> weights;
  int64_t weights_per_output = 0;
  int64_t first = 0, end = 0;  // all source pixels that any output reads

  void build(const ResampleAxis& axis, bool antialias, bool mirror) {
    weights_per_output = std::max<int64_t>(max_taps(axis, antialias), 1);
    taps.resize(axis.size);
    weights.resize(axis.size * weights_per_output);
    first = axis.extent, end = 0;
    for (int64_t i = 0; i < axis.size; ++i) {
      const int64_t output = mirror ? axis.size - 1 - i : i;
      taps[i] = axis_taps(axis, output, antialias, weights.data() + i * weights_per_output);
      first = std::min(first, taps[i].first);
      end = std::max(end, taps[i].first + taps[i].count);
    }
  }
  int64_t size() const { return static_cast<int64_t>(taps.size()); }
  const float* weights_of(int64_t output) const {
    return weights.data() + output * weights_per_output;
  }
};

// An AxisTable in the order in which vectors read it. The row starts at the axis' first pixel.
class ColumnTable {
 public:
  // channels: floats from one pixel to the next in a row that is not parted into planes.
  void build(const AxisTable& axis, const RowKernels& kernels, int64_t channels) {
    const int64_t lanes = kernels.lanes;
    filter_.size = axis.size();
    filter_.taps = 0;
    for (const Taps& taps : axis.taps) filter_.taps = std::max(filter_.taps, taps.count);
    const int64_t blocks = (filter_.size + lanes - 1) / lanes;
    bases_.resize(blocks);
    int64_t reach = 0;
    for (int64_t block = 0; block < blocks; ++block) {
      const auto [lowest, highest] = reach_of(axis, block, lanes);
      bases_[block] = lowest;
      const int64_t taps = kernels.windows_hold_taps ? filter_.taps : 1;
      reach = std::max(reach, highest - lowest + taps);
    }
    filter_.window = reach <= kernels.max_window * lanes ? (reach + lanes - 1) / lanes : 0;
    filter_.step = filter_.window == 0 ? channels : 1;
    fill(axis, lanes);
  }

  const ColumnFilter& filter() const { return filter_; }

 private:
  // The last block ends with the last output.
  static int64_t first_output(const AxisTable& axis, int64_t block, int64_t lanes) {
    return std::max<int64_t>(std::min(block * lanes, axis.size() - lanes), 0);
  }

  static std::pair<int64_t, int64_t> reach_of(const AxisTable& axis, int64_t block, int64_t lanes) {
    const int64_t output = first_output(axis, block, lanes);
    const int64_t end = std::min(output + lanes, axis.size());
    int64_t lowest = axis.end, highest = axis.first;
    for (int64_t i = output; i < end; ++i) {
      lowest = std::min(lowest, axis.taps[i].first);
      highest = std::max(highest, axis.taps[i].first);
    }
    return {lowest, highest};
  }

  void fill(const AxisTable& axis, int64_t lanes) {
    const int64_t blocks = static_cast<int64_t>(bases_.size());
    indices_.assign(blocks * lanes, 0);
    weights_.assign(blocks * filter_.taps * lanes, 0.0f);
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t output = first_output(axis, block, lanes);
      float* const weights = weights_.data() + block * filter_.taps * lanes;
      for (int64_t lane = 0; lane < lanes && output + lane < axis.size(); ++lane) {
        const Taps taps = axis.taps[output + lane];
        const float* const source = axis.weights_of(output + lane);
        indices_[block * lanes + lane] =
            static_cast<int32_t>((taps.first - bases_[block]) * filter_.step);
        for (int64_t tap = 0; tap < taps.count; ++tap) weights[tap * lanes + lane] = source[tap];
      }
      bases_[block] = (bases_[block] - axis.first) * filter_.step;
    }
    filter_.bases = bases_.data();
    filter_.indices = indices_.data();
    filter_.weights = weights_.data();
  }

  std::vector<int64_t> bases_;
  AlignedVector<int32_t> indices_;
  AlignedVector<float> weights_;
  ColumnFilter filter_{};
};

}  // namespace stor
