// The tests' harness: TEST registers, CHECK and CHECK_EQ print where and what and end the test by
// an exception, check_main.cpp runs them all. A failed CHECK outside the test's own thread ends the
// program, which fails too.
#pragma once

#include <exception>
#include <iostream>
#include <sstream>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace gslice::check {

struct Failure : std::exception {};

struct Test {
  const char* file;
  const char* name;
  void (*body)();
};

inline std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}

struct Registration {
  Registration(const char* file, const char* name, void (*body)()) {
    tests().push_back({file, name, body});
  }
};

// Of a literal, without a string made at each CHECK: they are most of a test's code.
[[noreturn]] inline void fail(const char* file, int line, const char* what) {
  std::cerr << file << ':' << line << ": " << what << std::endl;
  throw Failure{};
}

[[noreturn]] inline void fail(const char* file, int line, const std::string& what) {
  fail(file, line, what.c_str());
}

template <typename T>
std::string shown(const T& value) {
  std::ostringstream out;
  if constexpr (std::is_enum_v<T>)
    out << static_cast<long long>(value);
  else if constexpr (sizeof(T) == 1 && std::is_integral_v<T> && !std::is_same_v<T, char>)
    out << static_cast<int>(value);
  else if constexpr (requires { out << value; })
    out << value;
  else
    out << "(a value)";
  return out.str();
}

template <typename A, typename B>
bool equal(const A& a, const B& b) {
  if constexpr (std::is_integral_v<A> && std::is_integral_v<B> && !std::is_same_v<A, bool> &&
                !std::is_same_v<B, bool> && !std::is_same_v<A, char> && !std::is_same_v<B, char>)
    return std::cmp_equal(a, b);
  else
    return a == b;
}

template <typename A, typename B>
void expect_equal(const A& a, const B& b, const char* file, int line, const char* what) {
  if (!equal(a, b))
    fail(file, line, std::string("failed: ") + what + ": " + shown(a) + " and " + shown(b));
}

}  // namespace gslice::check

#define TEST(name)                                                                          \
  static void test_##name();                                                                \
  static const ::gslice::check::Registration register_##name(__FILE__, #name, test_##name); \
  static void test_##name()

#define CHECK(...)                                                                          \
  do {                                                                                      \
    if (!(__VA_ARGS__)) ::gslice::check::fail(__FILE__, __LINE__, "failed: " #__VA_ARGS__); \
  } while (false)

#define CHECK_EQ(left, right) \
  ::gslice::check::expect_equal((left), (right), __FILE__, __LINE__, #left " == " #right)
