#include "grpc/service.hpp"

#include <utility>

#include "grpc/connection.hpp"
#include "wire/text.hpp"

namespace gslice::grpc {
namespace {

using wire::concat;
using Event = Intake::Event;
using Kind = Call::Kind;

constexpr std::size_t kSmallBytes = 4 << 10;  // an answer of the desk that is not counted
constexpr std::string_view kInferPath = "/inference.GRPCInferenceService/ModelInfer";
constexpr std::string_view kStreamPath = "/inference.GRPCInferenceService/ModelStreamInfer";

}  // namespace

Service::Service(std::uint16_t index, Limits limits, nghttp2_mem* memory,
                 std::function<void(Connection&)> wants_flush)
    : frontend_(index, false),
      bounds_{limits.message_max_bytes, limits.memory_max_bytes, 0},
      stalled_ns_(limits.stalled_ns),
      lent_ns_(limits.lent_ns),
      unread_ns_(limits.unread_ns),
      memory_(memory),
      wants_flush_(std::move(wants_flush)) {}

// ---- calls come and go -----------------------------------------------------------------------

Call& Service::begin(Connection& connection, std::int32_t stream) {
  auto call = spare_calls_.take(bounds_);
  call->connection = &connection;
  call->stream = stream;
  call->id = next_id_++;
  call->place = calls_.size();
  return *calls_.emplace_back(std::move(call));
}

void Service::header(Call& call, std::string_view name, std::string_view value) {
  if (name == ":path")
    call.path = value;
  else if (name == "content-type")
    call.content_type = value;
  else if (name == "grpc-encoding")
    call.encoding = value;
  else if (name == "grpc-timeout")
    call.timeout = value;
  else if (name == "traceparent" && frontend_.keeps_journal())
    call.traceparent = value;
  else if (name == "authorization")  // though nobody may be asked yet: a stream may be, later
    call.authorization = value;
  else if (name == "x-api-key")
    call.api_key = value;
}

void Service::opened(Call& call) {
  if (frontend_.keeps_journal()) call.opened_ns = now_ns();
  if (!call.content_type.starts_with("application/grpc"))
    return finish(call, Status::Error(Code::kUnimplemented, "this port speaks gRPC"));
  if (!call.timeout.empty()) {
    const auto timeout = timeout_ns(call.timeout);
    if (!timeout)
      return finish(call, Status::Error(Code::kInternal, concat("grpc-timeout is no time: ",
                                                                wire::quoted(call.timeout))));
    if (__builtin_add_overflow(now_ns(), *timeout, &call.deadline_ns)) call.deadline_ns = kNever;
    due(call.deadline_ns);
  }
  if (call.path == kInferPath || call.path == kStreamPath) {
    call.kind = call.path == kInferPath ? Kind::kInfer : Kind::kStream;
    Status status = draining_ ? draining() : identify(call);
    if (status.ok()) return;
    call.kind = Kind::kRefused;
    finish(call, std::move(status));
  } else {
    call.kind = Kind::kDesk;
    desk_.put({.kind = Note::Kind::kOpened,
               .call = call.id,
               .deadline_ns = call.deadline_ns,
               .text = call.path,
               .authorization = call.authorization,
               .api_key = call.api_key,
               .bytes = {}});
  }
}

// Once a call, and again when callers have been told anew.
Status Service::identify(Call& call) {
  if (call.identified == callers_set_) return Status::Ok();
  call.tenant = kNoTenant;
  if (callers_) {
    const auto tenant = callers_->identify(call.authorization, call.api_key);
    if (!tenant.ok()) return tenant.status();
    call.tenant = tenant.value();
  }
  call.identified = callers_set_;
  return Status::Ok();
}

void Service::set_access(std::optional<Callers> callers, std::unique_ptr<Tenants> tenants) {
  frontend_.set_tenants(std::move(tenants));
  callers_ = std::move(callers);
  ++callers_set_;
}

void Service::closed(Call& call) {
  const bool at_desk =
      call.kind == Kind::kDesk || std::ranges::any_of(call.exchanges, [](const auto& each) {
        return each->state == Exchange::State::kAtDesk;
      });
  if (at_desk) desk_.put({.kind = Note::Kind::kClosed, .call = call.id, .text = {}, .bytes = {}});
  give_up(call);
  bounds_.give(std::exchange(call.charged_bytes, 0));
  for (auto& outgoing : call.out) sent(std::move(outgoing));
  call.out.clear();
  call.kind = Kind::kRefused;
  call.deadline_ns = kNever;
  call.next_number = 0;
  call.path.clear(), call.encoding.clear(), call.content_type.clear(), call.timeout.clear();
  call.authorization.clear(), call.api_key.clear();
  call.tenant = kNoTenant;
  call.identified = 0;
  call.traceparent.clear();
  call.header_bytes = 0;
  call.half_closed = call.headers_sent = call.finished = call.at_desk = false;
  call.status = Status::Ok();

  const std::size_t place = call.place;
  std::unique_ptr<Call> gone = std::exchange(calls_[place], nullptr);
  if (place + 1 != calls_.size()) {
    calls_[place] = std::move(calls_.back());
    calls_[place]->place = place;
  }
  calls_.pop_back();
  spare_calls_.put(std::move(gone));
  tell_idle();
}

void Service::lost(Connection& connection) {
  for (std::size_t i = calls_.size(); i-- > 0;)
    if (calls_[i]->connection == &connection) closed(*calls_[i]);
}

void Service::drain() {
  draining_ = true;
  for (const auto& call : calls_) {
    if (!is_request(*call)) continue;
    forget_intake(*call);
    if (call->kind == Kind::kStream)
      deliver(*call);
    else if (call->next_number == 0)  // its request was still to come
      finish(*call, draining());
  }
  tell_idle();
}

void Service::tell_idle() {
  if (!draining_ || told_idle_) return;
  if (std::ranges::any_of(calls_, [](const auto& call) { return is_request(*call); })) return;
  told_idle_ = true;
  desk_.put({.kind = Note::Kind::kIdle, .text = {}, .bytes = {}});
}

// ---- requests come ---------------------------------------------------------------------------

void Service::received(Call& call, wire::Bytes bytes) {
  if (call.kind == Kind::kRefused || call.finished || (draining_ && call.kind == Kind::kStream))
    return call.connection->consumed(call, bytes.size());
  const std::size_t came = bytes.size();
  if (call.backlog.empty()) {
    take_messages(call, bytes);
    call.connection->consumed(call, came - bytes.size());
  }
  if (!bytes.empty()) {  // the client's window bounds it, and memory in all
    if (!bounds_.take(bytes.size())) return abandon(call);
    call.backlog.insert(call.backlog.end(), bytes.begin(), bytes.end());
  }
  if (is_request(call)) deliver(call);
}

void Service::take_messages(Call& call, wire::Bytes& bytes) {
  const std::uint64_t begun = call.intake.begun();
  while (!bytes.empty() && !call.finished && has_room(call)) take_message(call, bytes);
  if (call.finished) bytes = {};
  if (!call.intake.within()) return;
  call.progress_ns = now_ns();
  if (call.intake.begun() != begun) call.begun_ns = call.progress_ns;
  due(call.progress_ns + stalled_ns_);
}

// What there is of it.
void Service::take_message(Call& call, wire::Bytes& bytes) {
  Frontend* slots = is_request(call) ? &frontend_ : nullptr;
  // Whoever is not known any more is told so when the message is whole; it gets no slot before.
  if (slots != nullptr && call.intake.ticket() == kNoTicket && !identify(call).ok())
    slots = nullptr;
  switch (call.intake.take(bytes, slots, call.deadline_ns, call.tenant)) {
    case Event::kMore:
      return;
    case Event::kMessage:
      is_request(call) ? take_request(call, call.intake.message())
                       : hand_over(call, call.intake.message());
      return call.intake.forget();
    case Event::kReserved:
      return take_reserved(call);
    case Event::kTooLarge:
      return finish(call, too_large(call.intake.message_bytes()));
    case Event::kNoMemory:
      return finish(call, no_memory(call.intake.message_bytes()));
  }
}

Status Service::too_large(std::size_t bytes) const {
  return Status::Error(Code::kResourceExhausted,
                       concat("received message larger than max (", bytes, " vs. ",
                              bounds_.message_max_bytes, " bytes)"));
}

Status Service::no_memory(std::size_t bytes) const {
  return Status::Error(
      Code::kResourceExhausted,
      concat("no memory for a message of ", bytes, " bytes: others on their way have ",
             bounds_.memory_bytes, " of ", bounds_.memory_max_bytes, " bytes; try again later"));
}

// A unary call's request began with the call; of a stream's nothing tells when each did.
Origin Service::origin(const Call& call) {
  return {call.traceparent, call.kind == Kind::kInfer ? call.opened_ns : 0, call.tenant};
}

Exchange& Service::new_exchange(Call& call) {
  auto exchange = spare_exchanges_.take();
  exchange->call = &call;
  exchange->state = Exchange::State::kFailed;
  exchange->number = call.next_number++;
  return *call.exchanges.emplace_back(std::move(exchange));
}

void Service::take_request(Call& call, wire::Bytes message) {
  if (call.kind == Kind::kInfer && call.next_number != 0)
    return finish(call, Status::Error(Code::kInternal, "a unary call has one request"));
  Exchange& exchange = new_exchange(call);
  if (draining_) return fail(exchange, draining());
  if (Status status = identify(call); !status.ok()) return fail(exchange, std::move(status));
  if (call.intake.compressed()) return hand_over(exchange, Note::Kind::kCompressed, message);
  auto submitted = frontend_.submit(message, call.deadline_ns,
                                    reinterpret_cast<std::uintptr_t>(&exchange), origin(call));
  if (call.kind == Kind::kStream) exchange.id = frontend_.last_id();
  if (submitted.ok()) return queued(exchange, submitted.value());
  if (submitted.status().code == Code::kNotFound && !frontend_.knows_last())
    return hand_over(exchange, Note::Kind::kUnknown, message);
  fail(exchange, submitted.status());
}

void Service::take_reserved(Call& call) {
  const TicketId ticket = call.intake.take_ticket();
  if (call.kind == Kind::kInfer && call.next_number != 0) {
    frontend_.cancel(ticket);
    return finish(call, Status::Error(Code::kInternal, "a unary call has one request"));
  }
  Exchange& exchange = new_exchange(call);
  if (Status refused = draining_ ? draining() : identify(call); !refused.ok()) {
    frontend_.cancel(ticket);
    return fail(exchange, std::move(refused));
  }
  if (const auto id = frontend_.request_id(ticket); id.ok() && call.kind == Kind::kStream)
    exchange.id = id.value();
  Status status =
      frontend_.commit(ticket, reinterpret_cast<std::uintptr_t>(&exchange), origin(call));
  status.ok() ? queued(exchange, ticket) : fail(exchange, std::move(status));
}

void Service::queued(Exchange& exchange, TicketId ticket) {
  exchange.state = Exchange::State::kQueued;
  exchange.ticket = ticket;
  const auto deadline = frontend_.deadline_ns(ticket);
  exchange.deadline_ns = deadline.ok() ? deadline.value() : kNever;
  due(exchange.deadline_ns);
}

void Service::fail(Exchange& exchange, Status status) {
  exchange.state = Exchange::State::kFailed;
  exchange.ticket = kNoTicket;
  exchange.status = std::move(status);
}

void Service::hand_over(Call& call, wire::Bytes message) {
  if (!bounds_.take(message.size())) return finish(call, no_memory(message.size()));
  call.charged_bytes += message.size();
  call.at_desk = true;
  desk_.put({.kind = Note::Kind::kMessage,
             .call = call.id,
             .compressed = call.intake.compressed(),
             .text = call.encoding,
             .bytes = {message.begin(), message.end()}});
}

void Service::hand_over(Exchange& exchange, Note::Kind kind, wire::Bytes message) {
  if (!bounds_.take(message.size())) return fail(exchange, no_memory(message.size()));
  exchange.charged_bytes = message.size();
  exchange.state = Exchange::State::kAtDesk;
  desk_.put({.kind = kind,
             .call = exchange.call->id,
             .number = exchange.number,
             .compressed = kind == Note::Kind::kCompressed,
             .deadline_ns = exchange.call->deadline_ns,
             .text = exchange.call->encoding,
             .authorization = exchange.call->authorization,
             .api_key = exchange.call->api_key,
             .bytes = {message.begin(), message.end()}});
}

void Service::half_closed(Call& call) {
  call.half_closed = true;
  if (call.kind == Kind::kRefused || call.finished) return;
  if (call.intake.within() && call.backlog.empty()) {
    give_up(call);
    return finish(call, Status::Error(Code::kInternal, "the call ended within a message"));
  }
  if (call.kind == Kind::kDesk) {
    if (call.backlog.empty()) end_messages(call);
    return;
  }
  if (call.kind == Kind::kInfer && call.next_number == 0)
    return finish(call, Status::Error(Code::kInternal, "the call has no request"));
  deliver(call);
}

// ---- the desk --------------------------------------------------------------------------------

Call* Service::find(std::uint64_t id) {
  const auto found = std::ranges::find_if(calls_, [&](const auto& call) { return call->id == id; });
  return found == calls_.end() || (*found)->finished ? nullptr : found->get();
}

Exchange* Service::find(std::uint64_t id, std::uint32_t number) {
  Call* call = find(id);
  if (call == nullptr) return nullptr;
  const auto found = std::ranges::find_if(
      call->exchanges, [&](const auto& exchange) { return exchange->number == number; });
  return found == call->exchanges.end() ? nullptr : found->get();
}

void Service::send(std::uint64_t id, wire::Bytes message) {
  Call* call = find(id);
  if (call == nullptr) return;
  bounds_.give(std::exchange(call->charged_bytes, 0));
  call->at_desk = false;
  const std::size_t charged = message.size() > kSmallBytes ? message.size() : 0;
  if (!bounds_.take(charged)) return finish(*call, no_memory(message.size()));
  add_message(*call, message, charged);
  call->connection->answer(*call);
}

void Service::finish(std::uint64_t id, Status status) {
  if (Call* call = find(id); call != nullptr) finish(*call, std::move(status));
}

Result<std::int64_t> Service::admit(std::uint64_t id, std::uint32_t number, wire::Bytes message) {
  Exchange* exchange = find(id, number);
  if (exchange == nullptr || exchange->state != Exchange::State::kAtDesk)
    return Status::Error(Code::kFailedPrecondition, "the call has ended");
  if (draining_) return draining();
  if (Status status = identify(*exchange->call); !status.ok()) return status;
  auto submitted =
      frontend_.submit(message, exchange->call->deadline_ns,
                       reinterpret_cast<std::uintptr_t>(exchange), origin(*exchange->call));
  if (exchange->call->kind == Kind::kStream) exchange->id = frontend_.last_id();
  if (!submitted.ok()) return submitted.status();
  bounds_.give(std::exchange(exchange->charged_bytes, 0));
  queued(*exchange, submitted.value());
  return exchange->deadline_ns;
}

void Service::withdraw(std::uint64_t id, std::uint32_t number) {
  Exchange* exchange = find(id, number);
  if (exchange == nullptr || exchange->state != Exchange::State::kQueued) return;
  frontend_.cancel(std::exchange(exchange->ticket, kNoTicket));
  exchange->state = Exchange::State::kAtDesk;
}

void Service::refuse(std::uint64_t id, std::uint32_t number, Status status) {
  Exchange* exchange = find(id, number);
  if (exchange == nullptr || is_ready(*exchange)) return;
  if (exchange->ticket != kNoTicket) frontend_.cancel(exchange->ticket);
  fail(*exchange, std::move(status));
  deliver(*exchange->call);
}

}  // namespace gslice::grpc
