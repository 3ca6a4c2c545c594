// A front-end's data path: a serialised request goes in, is admitted, leased, copied into its slot
// and queued; once its slot is DONE, the serialised answer comes out and the slot is freed.
// Used by one thread at a time. Knows neither Python nor gRPC.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/clock.hpp"
#include "base/signature.hpp"
#include "base/status.hpp"
#include "frontend/admission.hpp"
#include "frontend/function.hpp"
#include "frontend/regions.hpp"
#include "segment/segment.hpp"
#include "wire/request.hpp"
#include "wire/response.hpp"

namespace gslice {

// Names a request in flight: {function:15, slot:16, generation:32}, never negative.
using TicketId = std::int64_t;

class Frontend {
 public:
  // `index`: its place in every segment's front-end table.
  // `client_memory`: whether requests may name regions.
  explicit Frontend(std::uint16_t index, bool client_memory = false) : index_(index) {
    if (client_memory) regions_.emplace();
  }
  ~Frontend();  // gives every request in flight up
  Frontend(const Frontend&) = delete;
  Frontend& operator=(const Frontend&) = delete;

  // Replaces a function of the same name; requests in flight finish in the old segment. A function
  // that was removed and comes back with the same segment takes its requests in flight up again.
  Status add_function(std::string name, std::string version, std::shared_ptr<Segment> segment,
                      Signature signature, std::int64_t slo_ns);
  // Unknown to clients from now on. Its segment is let go when its last request is answered.
  void remove_function(std::string_view name);

  // Clients' memory by name; null where it is not offered.
  Regions* regions() { return regions_ ? &*regions_ : nullptr; }

  // `deadline_ns`: the caller's, kNever if none. Every error leaves nothing behind.
  Result<TicketId> submit(wire::Bytes message, std::int64_t deadline_ns);
  // kNotFound for all of these: the ticket is not, or no longer, in flight.
  Result<std::int64_t> deadline_ns(TicketId id) const;
  Result<std::string_view> request_id(TicketId id) const;

  // The tickets that turned DONE since the last call, and arms the wake-up for the next ones.
  void take_done(std::vector<TicketId>& done);

  // The answer in two steps, so that the caller allocates the exact size between them. An error
  // is the request's answer (or kFailedPrecondition: not DONE yet, which keeps the ticket).
  Result<std::size_t> begin_answer(TicketId id, bool stream);
  // Writes the answer that begin_answer has measured; `out` has exactly its size. Frees the slot.
  void write_answer(std::span<std::byte> out);

  // The request is given up, and counted as expired if its deadline has passed; stale tickets are
  // ignored.
  void cancel(TicketId id);
  std::size_t in_flight() const { return in_flight_; }

 private:
  struct Place {
    Function* function = nullptr;
    Ticket ticket;
  };

  Result<std::uint32_t> new_index();
  Place place(TicketId id) const;
  Status admit_and_queue(Function& function, std::int64_t deadline_ns, TicketId& id);
  void forget(Place place);
  void retire_if_idle(Function& function);

  std::uint16_t index_;
  std::optional<Regions> regions_;
  std::vector<std::unique_ptr<Function>> functions_;         // in no order
  std::vector<Function*> by_index_;                          // null: free
  std::unordered_map<std::string_view, Function*> by_name_;  // keys live in their functions
  std::uint32_t next_index_ = 0;
  std::size_t in_flight_ = 0;

  // Reused from call to call, so that the steady state allocates nothing.
  wire::Request request_;
  Admission admission_;
  std::vector<Ticket> taken_;
  Answer answer_;
  Place answering_;
};

}  // namespace gslice
