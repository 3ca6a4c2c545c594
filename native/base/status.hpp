// A status that travels by value. Nothing in native/ throws across a module border:
// bind/ alone turns a Status into a Python exception.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <variant>

namespace gslice {

// google.rpc.Code numbers, which gRPC and gslice/core/errors.py share.
enum class Code : int {
  kOk = 0,
  kInvalidArgument = 3,
  kDeadlineExceeded = 4,
  kNotFound = 5,
  kPermissionDenied = 7,
  kResourceExhausted = 8,
  kFailedPrecondition = 9,
  kUnimplemented = 12,
  kInternal = 13,
  kUnavailable = 14,
  kUnauthenticated = 16,
};

struct [[nodiscard]] Status {
  Code code = Code::kOk;
  std::string message;
  std::int64_t retry_after_ms = -1;  // when the same is worth another try; below 0: nobody knows

  bool ok() const { return code == Code::kOk; }
  static Status Ok() { return {}; }
  static Status Error(Code code, std::string message) { return {code, std::move(message), -1}; }
};

// Either a T or the Status that says why there is none.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::move(value)) {}         // NOLINT: implicit by design
  Result(Status status) : state_(std::move(status)) {}  // NOLINT: implicit by design

  bool ok() const { return std::holds_alternative<T>(state_); }
  T& value() { return std::get<T>(state_); }
  const T& value() const { return std::get<T>(state_); }
  const Status& status() const { return std::get<Status>(state_); }
  T&& take() { return std::move(std::get<T>(state_)); }

 private:
  std::variant<T, Status> state_;
};

}  // namespace gslice
