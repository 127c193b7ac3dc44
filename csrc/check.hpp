// Checks that throw with the values, the condition and the place.
// pybind11 turns them into ValueError, RuntimeError and MemoryError.
#pragma once

#include <new>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

namespace l2c {

class OutOfMemory : public std::bad_alloc {
 public:
  explicit OutOfMemory(std::string what) : what_(std::move(what)) {}
  const char* what() const noexcept override { return what_.c_str(); }

 private:
  std::string what_;
};

template <typename Part>
void append(std::string& text, const Part& part) {
  if constexpr (std::is_arithmetic_v<Part> || std::is_enum_v<Part>)
    text += std::to_string(+part);
  else
    text += std::string_view(part);
}

// Without streams, whose locales break where a process has a second C++ library, as of a module
// that is linked statically beside torch: numbers are left out then, or the process ends.
template <typename... Parts>
std::string join(const Parts&... parts) {
  std::string text;
  (append(text, parts), ...);
  return text;
}

}  // namespace l2c

#define L2C_CHECK(Error, condition, ...)                                                     \
  do {                                                                                       \
    if (!(condition))                                                                        \
      throw Error(                                                                           \
          ::l2c::join(__VA_ARGS__, " [", #condition, " at ", __FILE__, ":", __LINE__, "]")); \
  } while (false)

#define CHECK_ARGUMENT(condition, ...) L2C_CHECK(std::invalid_argument, condition, __VA_ARGS__)
#define CHECK_STATE(condition, ...) L2C_CHECK(std::runtime_error, condition, __VA_ARGS__)
#define CHECK_MEMORY(condition, ...) L2C_CHECK(::l2c::OutOfMemory, condition, __VA_ARGS__)
