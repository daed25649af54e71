// Body of row_kernels.cpp, compiled once per instruction set. Every element of a row is summed in
// the same order whatever its place in a vector, so that layouts, bands and threads make no
// difference to a clip's bits.
#include "row_lanes.inl"

namespace stor::STOR_ISA {
namespace {

// --- rows into one row ---------------------------------------------------------------------------

template <int kVectors, typename Source>
STOR_INLINE void blend_vectors(const RowStack& stack, int64_t column, float* row) {
  Floats sum[kVectors] = {};
  for (int64_t i = 0; i < stack.count; ++i) {
    const Source* const source = static_cast<const Source*>(stack.rows[i]) + column;
    const Floats weight = broadcast(stack.weights[i]);
    for (int v = 0; v < kVectors; ++v) {
      sum[v] = multiply_add(weight, as_floats(source + v * kStep), sum[v]);
    }
  }
  for (int v = 0; v < kVectors; ++v) store(row + column + v * kStep, sum[v]);
}

// Fewer elements than a vector has: they are copied, since what follows them may not be readable.
template <typename Source>
void blend_few(const RowStack& stack, int64_t count, float* row) {
  Floats sum{};
  for (int64_t i = 0; i < stack.count; ++i) {
    Source few[kStep] = {};
    std::memcpy(few, stack.rows[i], count * sizeof(Source));
    sum = multiply_add(broadcast(stack.weights[i]), as_floats(few), sum);
  }
  store(row, sum);
}

template <typename Source>
void blend(const RowStack& stack, int64_t count, float* row) {
  constexpr int kVectors = 8;  // independent sums hide the latency of an addition
  if (count < kStep) return blend_few<Source>(stack, count, row);
  int64_t column = 0;
  for (; column + kVectors * kStep <= count; column += kVectors * kStep) {
    blend_vectors<kVectors, Source>(stack, column, row);
  }
  for (; column + kStep <= count; column += kStep) blend_vectors<1, Source>(stack, column, row);
  if (column < count) blend_vectors<1, Source>(stack, count - kStep, row);
}

// --- along the row -------------------------------------------------------------------------------

// Lane numbers that part kChannels interleaved vectors into planes, and that join them again.
template <int kChannels>
struct Interleave {
  int32_t split[kChannels][kStep] = {}, join[kChannels][kStep] = {};
  constexpr Interleave() {
    for (int i = 0; i < kChannels * kStep; ++i) {
      split[i % kChannels][i / kChannels] = i;
      join[i / kStep][i % kStep] = i % kChannels * kStep + i / kChannels;
    }
  }
};
template <int kChannels>
constexpr Interleave<kChannels> kInterleave;

template <int kChannels>
void split(const float* row, int64_t count, float* planes, int64_t plane_stride) {
  for (int64_t x = 0; x < count; x += kStep) {
    const auto pixels = Window<kChannels>::at(row + x * kChannels);
    Floats parts[kChannels];  // all before the first store, after which the row is loaded anew
    for (int c = 0; c < kChannels; ++c) {
      parts[c] = pixels.pick(load_as<Ints>(kInterleave<kChannels>.split[c]));
    }
    for (int c = 0; c < kChannels; ++c) store(planes + c * plane_stride + x, parts[c]);
  }
}

// pixel[c] as the clip has it.
template <int kChannels>
STOR_INLINE Floats transformed(const PixelTransform& transform, const Floats* pixel, int c) {
  const Floats offset = broadcast(transform.offset[c]);
  if (kChannels < 3 || !transform.mixes) {
    return multiply_add(broadcast(transform.matrix[c][c]), pixel[c], offset);
  }
  Floats value = offset;
  for (int in = 0; in < kChannels; ++in) {
    value = multiply_add(broadcast(transform.matrix[c][in]), pixel[in], value);
  }
  return value;
}

template <typename Output, int kWindow, bool kFinite, int kChannels>
void filter_channels(const ColumnFilter& table, const float* row, int64_t stride,
                     const PixelTransform& transform, Output* out, int64_t out_stride) {
  const int32_t* index = table.indices;
  const float* weights = table.weights;
  const int64_t last = table.size > kStep ? table.size - kStep : 0;
  for (int64_t block = 0, x = 0; x < table.size; ++block, x += kStep, index += kStep) {
    Window<kWindow> windows[kChannels];
    for (int c = 0; c < kChannels; ++c) {
      windows[c] = Window<kWindow>::at(row + table.bases[block] + c * stride);
    }
    const Ints lanes = load_as<Ints>(index);
    Floats pixel[kChannels] = {};
    for (int64_t tap = 0; tap < table.taps; ++tap, weights += kStep) {
      const Floats weight = load(weights);
      for (int c = 0; c < kChannels; ++c) {
        Floats value = windows[c].pick(lanes, tap * table.step);
        if (!kFinite) value = weight != 0.0f ? value : Floats{};
        pixel[c] = multiply_add(weight, value, pixel[c]);
      }
    }
    Output* const to = out + (x < last ? x : last);
    for (int c = 0; c < kChannels; ++c) {
      const auto elements = convert(transformed<kChannels>(transform, pixel, c), to);
      std::memcpy(to + c * out_stride, &elements, sizeof(elements));
    }
  }
}

template <typename Output, int kWindow, bool kFinite>
void filter(const ColumnFilter& table, const float* row, int64_t stride, int64_t channels,
            const PixelTransform& transform, void* out, int64_t out_stride) {
  constexpr decltype(&filter_channels<Output, kWindow, kFinite, 1>) kByChannels[] = {
      &filter_channels<Output, kWindow, kFinite, 1>, &filter_channels<Output, kWindow, kFinite, 2>,
      &filter_channels<Output, kWindow, kFinite, 3>, &filter_channels<Output, kWindow, kFinite, 4>};
  kByChannels[channels - 1](table, row, stride, transform, static_cast<Output*>(out), out_stride);
}

constexpr int usable(int window) { return window <= kPicked ? window : 0; }
template <typename Output, bool kFinite>
constexpr Filters kFilters = {
    {&filter<Output, 0, kFinite>, &filter<Output, 1, kFinite>, &filter<Output, 2, kFinite>,
     &filter<Output, 3, kFinite>, &filter<Output, 4, kFinite>, &filter<Output, usable(5), kFinite>,
     &filter<Output, usable(6), kFinite>, &filter<Output, usable(7), kFinite>,
     &filter<Output, usable(8), kFinite>}};

// --- into the clip -------------------------------------------------------------------------------

void turn(const float* from, int64_t from_stride, float* to) {
  for (int64_t y = 0; y < kBandRows; y += kStep) {
    for (int64_t x = 0; x < kBandRows; x += kStep) {
      transpose(from + y * from_stride + x, from_stride, to + x * kBandRows + y, kBandRows);
    }
  }
}

// The first `count` lanes.
template <typename Output>
STOR_INLINE void put_lanes(Floats value, int64_t count, Output* out) {
  const auto elements = convert(value, out);
  if (count >= kStep) {
    std::memcpy(out, &elements, sizeof(elements));
  } else if (count > 0) {
    std::memcpy(out, &elements, count * sizeof(Output));
  }
}

template <typename Output>
void put_plane(const float* plane, int64_t count, Output* out) {
  for (int64_t x = 0; x < count; x += kStep) put_lanes(load(plane + x), count - x, out + x);
}

template <int kChannels, typename Output>
void put_pixels(const float* planes, int64_t plane_stride, int64_t count, Output* out) {
  for (int64_t x = 0; x < count; x += kStep) {
    float pixels[kChannels * kStep];
    for (int c = 0; c < kChannels; ++c) {
      store(pixels + c * kStep, load(planes + c * plane_stride + x));
    }
    for (int part = 0; part < kChannels; ++part) {
      const int64_t first = x * kChannels + part * kStep;
      put_lanes(
          Window<kChannels>::at(pixels).pick(load_as<Ints>(kInterleave<kChannels>.join[part])),
          count * kChannels - first, out + first);
    }
  }
}

template <typename Output>
void put(const Runs& runs, void* out, int64_t out_run_stride, int64_t stride_c, bool interleaved) {
  const float* planes = runs.planes;
  Output* to = static_cast<Output*>(out);
  for (int64_t run = 0; run < runs.runs; ++run, planes += runs.run_stride, to += out_run_stride) {
    switch (interleaved ? runs.channels : 0) {
      case 2:
        put_pixels<2>(planes, runs.plane_stride, runs.count, to);
        break;
      case 3:
        put_pixels<3>(planes, runs.plane_stride, runs.count, to);
        break;
      case 4:
        put_pixels<4>(planes, runs.plane_stride, runs.count, to);
        break;
      default:
        for (int64_t c = 0; c < runs.channels; ++c) {
          put_plane(planes + c * runs.plane_stride, runs.count, to + c * stride_c);
        }
    }
  }
}

constexpr RowKernels kRowKernels = {
    kStep,
    kPicked,
    kHoldsTaps,
    {&blend<uint8_t>, &blend<float>, &blend<Float16>, &blend<BFloat16>},
    {nullptr, nullptr, &split<2>, &split<3>, &split<4>},
    {{kFilters<uint8_t, false>, kFilters<uint8_t, true>},
     {kFilters<float, false>, kFilters<float, true>},
     {kFilters<Float16, false>, kFilters<Float16, true>},
     {kFilters<BFloat16, false>, kFilters<BFloat16, true>}},
    &turn,
    {&put<uint8_t>, &put<float>, &put<Float16>, &put<BFloat16>},
};

#undef STOR_INLINE

}  // namespace
}  // namespace stor::STOR_ISA
