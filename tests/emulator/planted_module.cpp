// The kernels of planted.cuh as Python functions on addresses: array.ctypes.data or
// tensor.data_ptr().
#include <cstdint>

#include "bindings.h"
#include "planted.cuh"

namespace {

namespace planted = stor::planted;
using Address = uintptr_t;

const float* input(Address address) { return reinterpret_cast<const float*>(address); }
float* output(Address address) { return reinterpret_cast<float*>(address); }
int blocks_for(int64_t n) { return static_cast<int>((n + planted::kBlock - 1) / planted::kBlock); }

// Kernels over n elements, and over whole blocks of them.
template <auto kKernel>
void run_over(Address in, Address out, int64_t n) {
  STOR_LAUNCH(kKernel, blocks_for(n), planted::kBlock, 0, nullptr, input(in), output(out), n);
}

template <auto kKernel>
void run_blocks(Address in, Address out, int blocks) {
  const size_t shared_bytes = planted::kBlock * sizeof(float);
  STOR_LAUNCH(kKernel, blocks, planted::kBlock, shared_bytes, nullptr, input(in), output(out));
}

template <bool kBug>
void run_unwritten_shared(Address in, Address out_static, Address out_dynamic, int blocks) {
  STOR_LAUNCH(planted::unwritten_shared<kBug>, blocks, planted::kBlock,
              planted::kBlock * sizeof(float), nullptr, input(in), output(out_static),
              output(out_dynamic));
}

template <bool kBug>
void run_reused_buffer(Address in, Address out, int threads, int tiles) {
  STOR_LAUNCH(planted::reused_buffer<kBug>, 1, threads, threads * sizeof(float), nullptr, input(in),
              output(out), tiles);
}

template <typename Value>
void run_strided_copy(Address in, Address out, int64_t n, int64_t stride, int64_t offset) {
  STOR_LAUNCH(planted::strided_copy<Value>, blocks_for(n), planted::kBlock, 0, nullptr,
              reinterpret_cast<const Value*>(in), reinterpret_cast<Value*>(out), n, stride, offset);
}

}  // namespace

PYBIND11_MODULE(planted_module, module) {
  stor::emulator::bind_emulator(module);
  module.attr("BLOCK") = static_cast<int>(planted::kBlock);

// name and name_bug
#define DEF_PAIR(run, name)                       \
  module.def(#name, &run<&planted::name<false>>); \
  module.def(#name "_bug", &run<&planted::name<true>>)
  DEF_PAIR(run_over, tail);
  DEF_PAIR(run_over, vectors);
  DEF_PAIR(run_blocks, neighbours);
  DEF_PAIR(run_blocks, warp_neighbours);
  DEF_PAIR(run_blocks, divergent_barrier);
  DEF_PAIR(run_blocks, divergent_shuffle);
  DEF_PAIR(run_blocks, static_overrun);
  DEF_PAIR(run_blocks, dynamic_overrun);
  module.def("unwritten_shared", &run_unwritten_shared<false>);
  module.def("unwritten_shared_bug", &run_unwritten_shared<true>);
  module.def("reused_buffer", &run_reused_buffer<false>);
  module.def("reused_buffer_bug", &run_reused_buffer<true>);

  module.def("early_return", &run_over<&planted::early_return>);
  module.def("warp_primitives", [](Address out, int blocks, int threads) {
    STOR_LAUNCH(planted::warp_primitives, blocks, threads, 0, nullptr, reinterpret_cast<int*>(out));
  });
  module.def("copy_bytes", &run_strided_copy<uint8_t>);
  module.def("copy_floats", &run_strided_copy<float>);
  module.def("copy_vectors", &run_strided_copy<float4>);
  module.def("averages", &run_over<&planted::averages>);
  module.def("uneven_loops", &run_blocks<&planted::uneven_loops>);
}
