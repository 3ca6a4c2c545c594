// A call's DATA, cut into gRPC messages. A small one that lies whole in what was read stays there;
// a large request's tensors go straight into their slot; anything else is put together on the heap.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "frontend/frontend.hpp"
#include "grpc/protocol.hpp"
#include "wire/reader.hpp"

namespace gslice::grpc {

inline constexpr TicketId kNoTicket = -1;

class Intake {
 public:
  enum class Event {
    kMore,      // all bytes were taken, and no message is whole yet
    kMessage,   // `message()` is whole, until the next `take`
    kReserved,  // a request is whole in the slot of `take_ticket()`
    kTooLarge,  // `message_bytes()` is more than may be
    kNoMemory,  // there is no memory for so many
  };

  // What all calls of a front-end share.
  struct Bounds {
    std::size_t message_max_bytes = 0;
    std::size_t memory_max_bytes = 0;
    std::size_t memory_bytes = 0;  // taken of it

    // False: there is not so much left.
    bool take(std::size_t bytes) {
      if (bytes > memory_max_bytes - std::min(memory_bytes, memory_max_bytes)) return false;
      memory_bytes += bytes;
      return true;
    }
    void give(std::size_t bytes) { memory_bytes -= bytes; }
  };

  explicit Intake(Bounds& bounds) : bounds_(bounds) {}
  ~Intake() { forget(); }
  Intake(const Intake&) = delete;
  Intake& operator=(const Intake&) = delete;

  // Takes bytes off the front of `chunk` until something is whole, or none is left.
  // `frontend`: whose slots large requests may go to; null: no message is a request. `tenant`:
  // whose quotas hold there.
  Event take(wire::Bytes& chunk, Frontend* frontend, std::int64_t deadline_ns,
             TenantId tenant = kNoTenant);
  wire::Bytes message() const { return message_; }
  bool compressed() const { return compressed_; }
  std::size_t message_bytes() const { return size_; }
  TicketId take_ticket() { return std::exchange(ticket_, kNoTicket); }
  // The slot that is being received into; kNoTicket: none.
  TicketId ticket() const { return ticket_; }
  // What is missing of a message that has begun.
  std::size_t missing_bytes() const { return in_body_ ? size_ - taken_ : 0; }
  // Where the next bytes belong in the slot; empty: nowhere there.
  std::span<std::byte> room() const;
  // Whether a message has begun and is not whole.
  bool within() const { return in_body_ || prefix_count_ != 0; }
  std::uint64_t begun() const { return begun_; }  // how many have begun, ever
  // Ready for another call. Whoever had a `ticket()` has given it up.
  void forget();

 private:
  Event begin_body();
  Event take_body(wire::Bytes& chunk, Frontend* frontend, std::int64_t deadline_ns,
                  TenantId tenant);
  Event end_body(Frontend* frontend);
  bool append(wire::Bytes bytes);
  bool charge();
  void try_slot(wire::Bytes& chunk, Frontend& frontend, std::int64_t deadline_ns, TenantId tenant);
  bool fill(wire::Bytes bytes);
  bool begin_tensor();
  bool leave_slot(Frontend& frontend);

  Bounds& bounds_;
  std::array<std::byte, kPrefixBytes> prefix_{};
  std::size_t prefix_count_ = 0;
  bool in_body_ = false;
  bool compressed_ = false;
  bool tried_slot_ = false;
  std::uint64_t begun_ = 0;
  std::size_t scanned_ = 0;      // of the message, for the end of its head
  std::size_t size_ = 0;         // of the message
  std::size_t taken_ = 0;        // of it
  std::size_t charged_ = 0;      // of Bounds::memory_bytes
  std::vector<std::byte> heap_;  // the message so far, or what was before its first tensor
  wire::Bytes message_;

  // How far the slot has been written.
  struct Progress {
    std::size_t area = 0;                                      // the tensor that is being written
    std::size_t filled = 0;                                    // of it
    bool in_tensor = false;                                    // its tag and length have been read
    std::array<std::byte, 1 + wire::kMaxVarintBytes> field{};  // a tag and length so far
    std::size_t field_count = 0;
  };
  TicketId ticket_ = kNoTicket;
  std::vector<std::span<std::byte>> areas_;  // of the slot, for each tensor
  Progress progress_;
};

}  // namespace gslice::grpc
