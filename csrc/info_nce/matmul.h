// torch's matrix product on blocks of memory, from any thread of its pool.
//
// Through the C functions that torch keeps stable for compiled models: they call the CPU kernels
// themselves, so neither autograd nor autocast gets between.
#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <array>
#include <type_traits>

#include "../common/torch_shim.h"

namespace stor {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <typename Scalar>
constexpr ScalarType kScalarType =
    std::is_same_v<Scalar, double> ? ScalarType::Double : ScalarType::Float;

// A matrix that lies in memory owned by someone else.
template <typename Scalar>
Tensor matrix(const Scalar* data, int64_t rows, int64_t columns, int64_t row_stride,
              int64_t column_stride = 1) {
  const std::array<int64_t, 2> sizes{rows, columns}, strides{row_stride, column_stride};
  return torch::stable::from_blob(const_cast<Scalar*>(data), sizes, strides,
                                  torch::stable::Device(torch::headeronly::DeviceType::CPU),
                                  kScalarType<Scalar>);
}

// out = a b
inline void multiply(const Tensor& a, const Tensor& b, const Tensor& out) {
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_mm_out(out.get(), a.get(), b.get()));
}

// out += a b
inline void multiply_into(const Tensor& a, const Tensor& b, const Tensor& out) {
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_cpu_addmm_out(out.get(), out.get(), a.get(), b.get(), 1.0, 1.0));
}

}  // namespace stor
