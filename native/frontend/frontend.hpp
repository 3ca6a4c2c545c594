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

#include "access/tenants.hpp"
#include "base/clock.hpp"
#include "base/signature.hpp"
#include "base/status.hpp"
#include "frontend/admission.hpp"
#include "frontend/function.hpp"
#include "frontend/journal.hpp"
#include "frontend/regions.hpp"
#include "segment/segment.hpp"
#include "wire/request.hpp"
#include "wire/response.hpp"

namespace gslice {

// Names a request in flight: {function:15, slot:16, generation:32}, never negative.
using TicketId = std::int64_t;

class Frontend {
 public:
  // `index`: its place in every segment's front-end table. `rings`: at each request that is queued;
  // otherwise when the caller says `ring`.
  explicit Frontend(std::uint16_t index, bool rings = true) : index_(index), rings_(rings) {}
  ~Frontend();  // gives every request in flight up
  Frontend(const Frontend&) = delete;
  Frontend& operator=(const Frontend&) = delete;

  // Replaces a function of the same name; requests in flight finish in the old segment. A function
  // that was removed and comes back with the same segment takes its requests in flight up again.
  Status add_function(std::string name, std::string version, std::shared_ptr<Segment> segment,
                      Signature signature, std::int64_t slo_ns);
  // Unknown to clients from now on. Its segment is let go when its last request is answered.
  void remove_function(std::string_view name);

  // Requests may name regions from now on.
  void offer_client_memory() {
    if (!regions_) regions_.emplace();
  }
  // Replaces a tenant's region of the same name. kUnimplemented: clients' memory is not offered.
  Status add_region(std::shared_ptr<Region> region);
  // Requests in flight still use it.
  void remove_region(std::string_view tenant, std::string_view name);

  // Requests of tenants are held to their quotas from now on, those in flight counted; null: there
  // are no tenants.
  void set_tenants(std::unique_ptr<Tenants> tenants);

  // Requests are recorded from now on: see Journal.
  void keep_journal(double sample, bool failures);
  bool keeps_journal() const { return journal_.has_value(); }
  Journal::Page take_records();

  // `deadline_ns`: the caller's, kNever if none; `tag`: whatever the caller knows it by. Every
  // error leaves nothing behind.
  Result<TicketId> submit(wire::Bytes message, std::int64_t deadline_ns, std::uint64_t tag = 0,
                          const Origin& origin = {});
  // A request whose tensors are still on their way: `head` is its message up to the first of its
  // raw_input_contents. `areas` are where these belong, in their order: of the ticket's slot, and
  // the caller's to write until `commit` or `cancel`. An error says no more than that this cannot
  // be done so: `submit` the whole message to hear why.
  Result<TicketId> reserve(wire::Bytes head, std::int64_t deadline_ns,
                           std::vector<std::span<std::byte>>& areas, TenantId tenant = kNoTenant);
  // All tensors of a reserved request are there: queues it. An error gives it up.
  Status commit(TicketId id, std::uint64_t tag, const Origin& origin = {});
  // The client's id of the request that was submitted last, as long as its message is there; of one
  // that is longer than may be, what may.
  std::string_view last_id() const { return request_.id.substr(0, kIdBytesMax); }
  // Likewise: whether its function is served here, whatever else was wrong.
  bool knows_last() const { return by_name_.contains(request_.model_name); }
  // Wakes the pumps for what was queued since the last call.
  void ring();
  // kNotFound for all of these: the ticket is not, or no longer, in flight.
  Result<std::int64_t> deadline_ns(TicketId id) const;
  Result<std::string_view> request_id(TicketId id) const;
  Result<std::uint64_t> tag(TicketId id) const;

  // The tickets that turned DONE since the last call, and arms the wake-up for the next ones.
  void take_done(std::vector<TicketId>& done);

  // The answer in two steps, so that the caller allocates the exact size between them. An error
  // is the request's answer (or kFailedPrecondition: not DONE yet, which keeps the ticket).
  Result<std::size_t> begin_answer(TicketId id, bool stream);
  // Writes the answer that begin_answer has measured; `out` has exactly its size. Frees the slot.
  void write_answer(std::span<std::byte> out);
  // Or lends it: `text` gets what is not tensors, `pieces` the whole answer in order, in `text` and
  // in the slot, which stays as it is until `give_back`. `text` must not move meanwhile.
  void lend_answer(std::vector<std::byte>& text, std::vector<wire::Bytes>& pieces);
  void give_back(TicketId id);

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
  Status admit_and_lease(Function& function, std::int64_t deadline_ns, TenantId tenant,
                         Ticket& ticket);
  Status fill(Function& function, Ticket ticket, TenantId tenant, std::int64_t deadline_ns,
              std::int64_t now);
  Status queue(Place place);
  void forget(Place place);
  void begin_record(Pending& pending, const Origin& origin);
  void end_record(Place place, const Status& status, bool done);
  void record_refused(Function& function, const Status& status, const Origin& origin);
  void retire_if_idle(Function& function);

  std::uint16_t index_;
  bool rings_;
  std::optional<Regions> regions_;
  std::unique_ptr<Tenants> tenants_;
  std::optional<Journal> journal_;
  std::vector<std::unique_ptr<Function>> functions_;         // in no order
  std::vector<Function*> by_index_;                          // null: free
  std::unordered_map<std::string_view, Function*> by_name_;  // keys live in their functions
  std::uint32_t next_index_ = 0;
  std::size_t in_flight_ = 0;

  // Reused from call to call, so that the steady state allocates nothing.
  wire::Request request_;
  Admission admission_;
  std::vector<Ticket> taken_;
  std::vector<Function*> to_ring_;
  Answer answer_;
  Place answering_;
};

}  // namespace gslice
