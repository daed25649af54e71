// Fixed small jobs for the CPU kernels, run under callgrind by __main__.py.
//
//     jobs            lists the jobs
//     jobs NAME       runs one; only what happens inside measured() is counted
#include <cstdio>
#include <functional>
#include <utility>

#include "jobs/jobs.h"

// callgrind is told to count in here.
extern "C" __attribute__((noinline, visibility("default"))) void measured(
    const std::function<void()>& job) {
  job();
}

int main(int count, char** arguments) {
  using namespace stor;
  instructions::Jobs jobs;
  for (const auto& [name, isa] : {std::pair{"baseline", Isa::baseline}, {"avx2", Isa::avx2}}) {
    if (!is_supported(isa)) continue;
    instructions::add_crop_resize(jobs, name, isa);
    instructions::add_info_nce(jobs, name, isa);
  }
  instructions::add_views(jobs);
  if (count == 1) {
    for (const auto& [name, job] : jobs) std::puts(name.c_str());
    return 0;
  }
  const auto chosen = jobs.find(arguments[1]);
  if (chosen == jobs.end()) {
    std::fprintf(stderr, "no job is called %s\n", arguments[1]);
    return 2;
  }
  measured(chosen->second);
}
