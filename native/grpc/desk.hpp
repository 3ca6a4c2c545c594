// What the loop hands over to Python, which answers what is not on the hot path: other methods, and
// requests that the data path does not take (functions it does not know, compressed messages).
#pragma once

#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "base/clock.hpp"
#include "grpc/descriptor.hpp"

namespace gslice::grpc {

struct Note {
  enum class Kind : int {
    kOpened = 0,  // a call of a method that Python serves: `text` is its path
    kMessage,     // one of its messages: `bytes`
    kHalfClosed,  // no more of them
    kClosed,      // the call has ended, by whomever
    kUnknown,     // a request to a function that is not known here: `bytes`, `number`
    kCompressed,  // a compressed request: likewise; `text` is its encoding
    kIdle,        // the server drains, and no call is left
  };

  Kind kind = Kind::kIdle;
  std::uint64_t call = 0;
  std::uint32_t number = 0;
  bool compressed = false;  // of a message
  std::int64_t deadline_ns = kNever;
  std::string text;
  std::string authorization{};  // who calls, where that is asked: of kOpened, kUnknown, kCompressed
  std::string api_key{};        // likewise
  std::vector<std::byte> bytes;
};

// Written by the loop, read by any other thread.
class Desk {
 public:
  // False: the kernel has no eventfd, see errno.
  bool open();

  void put(Note note);
  std::vector<Note> take();
  int fd() const { return bell_.get(); }  // an eventfd: rings when something was put

 private:
  Descriptor bell_;
  std::mutex mutex_;
  std::vector<Note> notes_;
};

}  // namespace gslice::grpc
