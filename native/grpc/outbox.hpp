// What a connection sends: gathered, then handed to the socket at once. What is lent must stay as
// it is until `flush` returns; what the socket did not take by then has been copied.
#pragma once

#include <cstddef>
#include <vector>

#include "grpc/transport.hpp"
#include "wire/reader.hpp"

namespace gslice::grpc {

class Outbox {
 public:
  void copy(wire::Bytes bytes);
  void lend(wire::Bytes bytes);
  // Enough for one `flush`, or more is kept than a client that does not read is worth.
  bool full() const { return gathered_bytes_ >= kGatherBytes || kept_bytes_ >= kKeptBytes; }
  bool empty() const { return pieces_.empty(); }
  std::size_t kept_bytes() const { return kept_bytes_; }

  // kDone: all has been sent. kAgain: the rest is kept.
  Io flush(Transport& transport);

 private:
  static constexpr std::size_t kGatherBytes = 1 << 20;
  static constexpr std::size_t kKeptBytes = 256 << 10;

  struct Piece {
    const std::byte* lent;  // null: in own_
    std::size_t at;         // there
    std::size_t bytes;
  };

  Io send(Transport& transport, std::size_t& first);
  void keep(std::size_t first);

  std::vector<std::byte> own_;
  std::vector<Piece> pieces_;
  std::vector<iovec> vectors_;
  std::size_t gathered_bytes_ = 0;
  std::size_t kept_bytes_ = 0;
};

}  // namespace gslice::grpc
