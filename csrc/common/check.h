// Argument checks of the launchers. The text names op, argument, expected and actual value.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace stor {

template <typename... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  return text.str();
}

}  // namespace stor

// std::invalid_argument, not torch's runtime_error: it reaches Python as ValueError.
#define STOR_CHECK(condition, ...)                              \
  do {                                                          \
    if (!(condition)) {                                         \
      throw std::invalid_argument(::stor::concat(__VA_ARGS__)); \
    }                                                           \
  } while (false)
