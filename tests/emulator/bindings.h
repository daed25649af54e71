// The emulator's controls as Python functions. A binding calls bind_emulator(module) once.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "cuda_on_cpu.h"

namespace stor::emulator {

inline pybind11::dict to_dict(const Tally& tally) {
  pybind11::dict dict;
  dict["requests"] = tally.requests;
  dict["accesses"] = tally.accesses;
  dict["bytes_requested"] = tally.bytes_requested;
  dict["sectors"] = tally.sectors;
  dict["ideal_sectors"] = tally.ideal_sectors;
  dict["block_sectors"] = tally.block_sectors;
  dict["unique_sectors"] = tally.unique_sectors;
  dict["unique_bytes"] = tally.unique_bytes;
  return dict;
}

inline pybind11::dict to_dict(const TrafficReport& report) {
  pybind11::dict calls;
  for (const CallTally& call : report.calls) {
    pybind11::dict tally = to_dict(call.tally);
    tally["direction"] = call.direction == Direction::kRead ? "read" : "write";
    calls[call.call.c_str()] = tally;
  }
  pybind11::dict dict;
  dict["reads"] = to_dict(report.reads);
  dict["writes"] = to_dict(report.writes);
  dict["calls"] = calls;
  return dict;
}

// set_order("forward" | "reverse" | "random:SEED"); start_traffic(); stop_traffic(), which returns
// {"reads": tally, "writes": tally, "calls": {"file:line:column": tally}}: see traffic.h for a
// tally.
inline void bind_emulator(pybind11::module_& module) {
  module.def("set_order", [](const std::string& text) { order.set(text); });
  module.def("start_traffic", [] { traffic.start(); });
  module.def("stop_traffic", [] { return to_dict(traffic.stop()); });
}

}  // namespace stor::emulator
