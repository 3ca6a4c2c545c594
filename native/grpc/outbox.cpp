#include "grpc/outbox.hpp"

#include <algorithm>

#include "grpc/spare.hpp"

namespace gslice::grpc {
namespace {

constexpr std::size_t kVectors = 256;  // a call of sendmsg

}  // namespace

void Outbox::copy(wire::Bytes bytes) {
  if (bytes.empty()) return;
  if (!pieces_.empty() && pieces_.back().lent == nullptr)
    pieces_.back().bytes += bytes.size();
  else
    pieces_.push_back({nullptr, own_.size(), bytes.size()});
  own_.insert(own_.end(), bytes.begin(), bytes.end());
  gathered_bytes_ += bytes.size();
}

void Outbox::lend(wire::Bytes bytes) {
  if (bytes.empty()) return;
  pieces_.push_back({bytes.data(), 0, bytes.size()});
  gathered_bytes_ += bytes.size();
}

Io Outbox::send(Transport& transport, std::size_t& first) {
  while (first < pieces_.size()) {
    vectors_.clear();
    const std::size_t last = std::min(pieces_.size(), first + kVectors);
    for (std::size_t i = first; i < last; ++i) {
      const Piece& piece = pieces_[i];
      const std::byte* start = piece.lent != nullptr ? piece.lent : own_.data() + piece.at;
      vectors_.push_back({const_cast<std::byte*>(start), piece.bytes});
    }
    std::size_t sent = 0;
    if (const Io io = transport.write(vectors_, sent); io != Io::kDone) return io;
    for (; first < last && sent >= pieces_[first].bytes; ++first) sent -= pieces_[first].bytes;
    if (sent > 0) {
      Piece& piece = pieces_[first];
      if (piece.lent != nullptr)
        piece.lent += sent;
      else
        piece.at += sent;
      piece.bytes -= sent;
    }
  }
  return Io::kDone;
}

void Outbox::keep(std::size_t first) {
  std::vector<std::byte> rest;
  for (std::size_t i = first; i < pieces_.size(); ++i) {
    const Piece& piece = pieces_[i];
    const std::byte* start = piece.lent != nullptr ? piece.lent : own_.data() + piece.at;
    rest.insert(rest.end(), start, start + piece.bytes);
  }
  own_ = std::move(rest);
  pieces_.assign(1, {nullptr, 0, own_.size()});
}

Io Outbox::flush(Transport& transport) {
  std::size_t first = 0;
  const Io io = send(transport, first);
  gathered_bytes_ = 0;
  if (io == Io::kAgain) {
    keep(first);
    kept_bytes_ = own_.size();
    return io;
  }
  grpc::empty(own_);
  pieces_.clear();
  kept_bytes_ = 0;
  return io;
}

}  // namespace gslice::grpc
