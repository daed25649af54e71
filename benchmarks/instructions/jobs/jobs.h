// The jobs that jobs.cpp runs, a file per op.
#pragma once

#include <functional>
#include <map>
#include <string>

#include "../../../csrc/common/isa.h"

namespace stor::instructions {

// By name. A job may be run once: what it works on is made beforehand, outside of the count.
using Jobs = std::map<std::string, std::function<void()>>;

// isa_name ends the names of the jobs that exist once per instruction set.
void add_crop_resize(Jobs& jobs, const std::string& isa_name, Isa isa);
void add_info_nce(Jobs& jobs, const std::string& isa_name, Isa isa);
void add_views(Jobs& jobs);

}  // namespace stor::instructions
