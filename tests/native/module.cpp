// The torch-free headers as Python functions, for the tests alone.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <utility>
#include <vector>

#include "../../csrc/crop_resize/resample.h"
#include "../../csrc/info_nce/schedule.h"
#include "../../csrc/views/philox.h"

namespace {

std::array<uint32_t, 4> philox4x32_10(std::array<uint32_t, 4> counter,
                                      std::array<uint32_t, 2> key) {
  const stor::PhiloxBlock block =
      stor::philox4x32_10({{counter[0], counter[1], counter[2], counter[3]}}, key[0], key[1]);
  return {block.word[0], block.word[1], block.word[2], block.word[3]};
}

// First source pixel and the weights of output pixel i.
std::pair<int64_t, std::vector<float>> axis_taps(double begin, double end, int64_t extent,
                                                 int64_t size, int64_t i, bool antialias) {
  const stor::ResampleAxis axis({begin, end}, extent, size);
  std::vector<float> weights(stor::max_taps(axis, antialias) + 2);
  const stor::Taps taps = stor::axis_taps(axis, i, antialias, weights.data());
  weights.resize(taps.count);
  return {taps.first, weights};
}

// The tiles of every round of a schedule.
template <typename Schedule>
std::vector<std::vector<std::pair<int64_t, int64_t>>> tiles(const Schedule& schedule) {
  std::vector<std::vector<std::pair<int64_t, int64_t>>> rounds(schedule.rounds());
  for (int64_t round = 0; round < schedule.rounds(); ++round) {
    for (int64_t slot = 0; slot < schedule.slots(round); ++slot) {
      const stor::TileIndex tile = schedule.tile(round, slot);
      rounds[round].emplace_back(tile.query_block, tile.key_block);
    }
  }
  return rounds;
}

}  // namespace

PYBIND11_MODULE(stor_native, module) {
  namespace py = pybind11;
  module.def("philox4x32_10", &philox4x32_10, py::arg("counter"), py::arg("key"));
  module.def("axis_taps", &axis_taps, py::arg("begin"), py::arg("end"), py::arg("extent"),
             py::arg("size"), py::arg("i"), py::arg("antialias"));
  module.def(
      "tournament", [](int64_t blocks) { return tiles(stor::TournamentSchedule(blocks)); },
      py::arg("blocks"));
  module.def(
      "rectangle",
      [](int64_t queries, int64_t keys) { return tiles(stor::RectangleSchedule(queries, keys)); },
      py::arg("queries"), py::arg("keys"));
}
