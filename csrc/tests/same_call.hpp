// Whether a function type of ours is called as a real header's is.
#pragma once

#include <type_traits>

namespace l2c {

template <typename Ours, typename Theirs>
constexpr bool same() {
  if constexpr (std::is_pointer_v<Ours> && std::is_pointer_v<Theirs>) {
    using A = std::remove_pointer_t<Ours>;
    using B = std::remove_pointer_t<Theirs>;
    if constexpr (std::is_const_v<A> != std::is_const_v<B>) return false;
    if constexpr (std::is_class_v<A> || std::is_class_v<B>)
      return std::is_class_v<A> && std::is_class_v<B>;
    else if constexpr (std::is_void_v<A> || std::is_void_v<B>)
      return std::is_void_v<A> && std::is_void_v<B>;
    else
      return same<A, B>();
  } else {
    return std::is_pointer_v<Ours> == std::is_pointer_v<Theirs> && sizeof(Ours) == sizeof(Theirs);
  }
}

template <typename Ours, typename Theirs>
struct SameCall : std::false_type {};

template <typename OurResult, typename... Ours, typename TheirResult, typename... Theirs>
struct SameCall<OurResult (*)(Ours...), TheirResult (*)(Theirs...)> {
  static constexpr bool value = [] {
    if constexpr (sizeof...(Ours) != sizeof...(Theirs))
      return false;
    else
      return same<OurResult, TheirResult>() && (same<Ours, Theirs>() && ...);
  }();
};

}  // namespace l2c
