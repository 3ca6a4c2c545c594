// One gRPC call: an HTTP/2 stream, the requests in it, and what goes back.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.hpp"
#include "base/status.hpp"
#include "frontend/frontend.hpp"
#include "grpc/intake.hpp"

namespace gslice::grpc {

class Connection;
struct Call;

// One request to a function, from when its message is whole until its answer is on its way. A
// unary call has one.
struct Exchange {
  enum class State { kAtDesk, kQueued, kDone, kFailed };

  Call* call = nullptr;
  State state = State::kQueued;
  std::uint32_t number = 0;  // in the call
  TicketId ticket = kNoTicket;
  std::int64_t deadline_ns = kNever;
  Status status;                  // kFailed: why
  std::string id;                 // the client's
  std::size_t charged_bytes = 0;  // of Intake::Bounds::memory_bytes, while it is at the desk
};

// A message on its way out: its prefix and text are here, its tensors may be lent by a slot.
struct Outgoing {
  std::vector<std::byte> text;
  std::vector<wire::Bytes> pieces;  // all of it, in order
  std::size_t piece = 0;            // the first that is not sent whole
  std::size_t left_bytes = 0;
  TicketId lent = kNoTicket;      // whose slot holds some of it
  std::int64_t since_ns = 0;      // it is here
  std::size_t charged_bytes = 0;  // of Intake::Bounds::memory_bytes
};

struct Call {
  enum class Kind {
    kRefused,  // whatever else comes is ignored
    kInfer,
    kStream,
    kDesk,  // served by Python
  };

  explicit Call(Intake::Bounds& bounds) : intake(bounds) {}

  Connection* connection = nullptr;
  std::int32_t stream = 0;
  std::uint64_t id = 0;   // never used again
  std::size_t place = 0;  // among the service's calls
  Kind kind = Kind::kRefused;
  std::int64_t deadline_ns = kNever;
  std::int64_t begun_ns = 0;     // when the message that is coming began
  std::int64_t progress_ns = 0;  // when bytes of it came last
  std::int64_t sent_ns = 0;      // when bytes of an answer went last, or might have first
  std::uint32_t next_number = 0;
  std::string path;
  std::string encoding;
  std::string content_type;
  std::string timeout;           // as the client said it
  std::string authorization;     // likewise
  std::string api_key;           // likewise
  std::string traceparent;       // likewise, if there is a journal
  TenantId tenant = kNoTenant;   // whose quotas hold for its requests
  std::uint64_t identified = 0;  // by which callers: see Service::identify
  std::int64_t opened_ns = 0;    // if there is a journal
  std::size_t header_bytes = 0;
  Intake intake;
  std::vector<std::byte> backlog;  // of a stream with too many requests or answers under way
  std::size_t backlog_taken = 0;   // of it

  std::size_t charged_bytes = 0;  // of Intake::Bounds::memory_bytes, for what the desk answers
  bool at_desk = false;           // a message is, and has not been answered

  std::vector<std::unique_ptr<Exchange>> exchanges;  // oldest first
  std::vector<std::unique_ptr<Outgoing>> out;
  bool half_closed = false;  // by the client
  bool headers_sent = false;
  bool finished = false;  // nothing is added to `out` any more
  Status status;
};

inline bool is_request(const Call& call) {
  return call.kind == Call::Kind::kInfer || call.kind == Call::Kind::kStream;
}

// Whether more of it is read: of a stream's requests and answers under way there are not too many,
// and the desk has one message of a call at a time.
inline bool has_room(const Call& call) {
  constexpr std::size_t kInFlight = 64;
  if (call.kind == Call::Kind::kDesk) return !call.at_desk && call.out.empty();
  return call.kind != Call::Kind::kStream || call.exchanges.size() + call.out.size() < kInFlight;
}

// Whether it can be answered.
inline bool is_ready(const Exchange& exchange) {
  return exchange.state == Exchange::State::kDone || exchange.state == Exchange::State::kFailed;
}

}  // namespace gslice::grpc
