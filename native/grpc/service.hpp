// What calls mean: requests to functions go to the data path and come back from it, everything else
// to the desk. Used by the loop's thread alone.
#pragma once

#include <nghttp2/nghttp2.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "frontend/frontend.hpp"
#include "grpc/call.hpp"
#include "grpc/callers.hpp"
#include "grpc/desk.hpp"
#include "grpc/spare.hpp"

namespace gslice::grpc {

class Connection;

class Service {
 public:
  struct Limits {
    std::size_t message_max_bytes = 0;
    std::size_t memory_max_bytes = 0;  // of messages outside slots, in all
    // A message that came so far and no further ends its call,
    std::int64_t stalled_ns = 10'000'000'000;
    // so does an answer of which nothing is read;
    std::int64_t unread_ns = 60'000'000'000;
    // what of it is not read by then leaves its slot.
    std::int64_t lent_ns = 20'000'000;
  };

  Service(std::uint16_t index, Limits limits, nghttp2_mem* memory,
          std::function<void(Connection&)> wants_flush);

  Frontend& frontend() { return frontend_; }
  Desk& desk() { return desk_; }
  nghttp2_mem* memory() { return memory_; }
  std::size_t calls() const { return calls_.size(); }
  std::size_t memory_bytes() const { return bounds_.memory_bytes; }
  void wants_flush(Connection& connection) { wants_flush_(connection); }

  // ---- from connections ----
  Call& begin(Connection& connection, std::int32_t stream);
  void header(Call& call, std::string_view name, std::string_view value);
  void opened(Call& call);
  void received(Call& call, wire::Bytes bytes);
  void half_closed(Call& call);
  void closed(Call& call);
  void lost(Connection& connection);  // with all its calls
  void sent(std::unique_ptr<Outgoing> outgoing);
  void relieved(Call& call) { deliver(call); }  // of some of what waited to be sent

  // ---- from the loop ----
  // Answers what is done. Whatever turns done later rings the doorbell. False: nothing was done.
  bool take_done();
  // Ends what has run out of time, and takes answers out of slots that wait for slow readers.
  void keep_time(std::int64_t now_ns);
  std::int64_t next_due_ns() const { return next_due_ns_; }
  // Requests are refused from now on, streams end when what they took is answered.
  void drain();

  // Who may call from now on, requests of streams that are open included; none: everybody. And the
  // tenants whose places they have: in one step, for a place among others is somebody else's.
  void set_access(std::optional<Callers> callers, std::unique_ptr<Tenants> tenants);

  // ---- from the desk: a call that has ended meanwhile is none ----
  void send(std::uint64_t call, wire::Bytes message);
  void finish(std::uint64_t call, Status status);
  // A request that was handed over is submitted after all. Its deadline; kNotFound: it has ended.
  Result<std::int64_t> admit(std::uint64_t call, std::uint32_t number, wire::Bytes message);
  // Takes that back.
  void withdraw(std::uint64_t call, std::uint32_t number);
  // Or refused, or given up.
  void refuse(std::uint64_t call, std::uint32_t number, Status status);

 private:
  static Status draining() { return Status::Error(Code::kUnavailable, "the server is draining"); }
  Status identify(Call& call);
  static Origin origin(const Call& call);
  Call* find(std::uint64_t id);
  Exchange* find(std::uint64_t id, std::uint32_t number);
  void take_messages(Call& call, wire::Bytes& bytes);
  void take_message(Call& call, wire::Bytes& bytes);
  void take_request(Call& call, wire::Bytes message);
  void take_reserved(Call& call);
  Exchange& new_exchange(Call& call);
  Status too_large(std::size_t bytes) const;
  Status no_memory(std::size_t bytes) const;
  void hand_over(Call& call, wire::Bytes message);
  void hand_over(Exchange& exchange, Note::Kind kind, wire::Bytes message);
  void queued(Exchange& exchange, TicketId ticket);
  void fail(Exchange& exchange, Status status);
  void deliver(Call& call);
  void answer(Call& call, Exchange& exchange);
  Status add_answer(Call& call, Exchange& exchange);
  void add_message(Call& call, wire::Bytes message, std::size_t charged_bytes = 0);
  void finish(Call& call, Status status);
  void give_up(Call& call);
  void abandon(Call& call);
  void forget_intake(Call& call);
  void drop_first(Call& call);
  void read_on(Call& call);
  void end_stream(Call& call);
  void end_messages(Call& call);
  void due(std::int64_t at_ns) { next_due_ns_ = std::min(next_due_ns_, at_ns); }
  std::int64_t slowest_ns(std::size_t message_bytes) const;
  std::int64_t expire(Call& call, std::int64_t now_ns);
  std::int64_t unsent(Call& call, std::int64_t now_ns);
  bool evacuate(Outgoing& outgoing);
  void add(Call& call, std::unique_ptr<Outgoing> outgoing);
  void tell_idle();

  Frontend frontend_;
  Desk desk_;
  Intake::Bounds bounds_;
  std::int64_t stalled_ns_;
  std::int64_t lent_ns_;
  std::int64_t unread_ns_;
  nghttp2_mem* memory_;
  std::function<void(Connection&)> wants_flush_;
  std::optional<Callers> callers_;
  std::uint64_t callers_set_ = 0;  // how often
  bool draining_ = false;
  bool told_idle_ = false;
  std::uint64_t next_id_ = 1;
  std::int64_t next_due_ns_ = kNever;
  std::vector<std::unique_ptr<Call>> calls_;  // in no order

  // Used again, so that the steady state allocates nothing.
  Spare<Call> spare_calls_;
  Spare<Exchange> spare_exchanges_;
  Spare<Outgoing> spare_outgoings_;
  std::vector<TicketId> done_;
};

}  // namespace gslice::grpc
