#include "grpc/service.hpp"

#include <cstring>
#include <utility>

#include "grpc/connection.hpp"
#include "wire/text.hpp"

namespace gslice::grpc {
namespace {

using wire::concat;
using Event = Intake::Event;
using Kind = Call::Kind;

constexpr std::string_view kInferPath = "/inference.GRPCInferenceService/ModelInfer";
constexpr std::string_view kStreamPath = "/inference.GRPCInferenceService/ModelStreamInfer";
constexpr std::size_t kInFlight = 64;         // requests and answers of a stream; more are not read
constexpr std::size_t kCopyBytes = 8 << 10;   // a smaller answer leaves its slot at once
constexpr std::size_t kRoomBytes = 64 << 10;  // kept allocated
constexpr std::size_t kSpare = 1024;          // of each kind, used again

template <typename T, typename Make>
std::unique_ptr<T> take(std::vector<std::unique_ptr<T>>& free, Make&& make) {
  if (free.empty()) return make();
  std::unique_ptr<T> taken = std::move(free.back());
  free.pop_back();
  return taken;
}

template <typename T>
void put(std::vector<std::unique_ptr<T>>& free, std::unique_ptr<T> spare) {
  if (free.size() < kSpare) free.push_back(std::move(spare));
}

void shrink(std::vector<std::byte>& bytes) {
  bytes.clear();
  if (bytes.capacity() > kRoomBytes) bytes.shrink_to_fit();
}

void write_prefix(std::span<std::byte> out, std::size_t message_bytes) {
  out[0] = std::byte{0};
  for (std::size_t i = 1; i < kPrefixBytes; ++i)
    out[i] = static_cast<std::byte>(message_bytes >> 8 * (kPrefixBytes - 1 - i));
}

bool is_request(const Call& call) {
  return call.kind == Kind::kInfer || call.kind == Kind::kStream;
}

bool is_ready(const Exchange& exchange) {
  return exchange.state == Exchange::State::kDone || exchange.state == Exchange::State::kFailed;
}

bool has_room(const Call& call) { return call.exchanges.size() + call.out.size() < kInFlight; }

Status draining() { return Status::Error(Code::kUnavailable, "the server is draining"); }

}  // namespace

Service::Service(std::uint16_t index, Limits limits, nghttp2_mem* memory,
                 std::function<void(Connection&)> wants_flush)
    : frontend_(index, false),
      bounds_{limits.message_max_bytes, limits.memory_max_bytes, 0},
      stalled_ns_(limits.stalled_ns),
      lent_ns_(limits.lent_ns),
      memory_(memory),
      wants_flush_(std::move(wants_flush)) {}

// ---- calls come and go -----------------------------------------------------------------------

Call& Service::begin(Connection& connection, std::int32_t stream) {
  auto call = take(free_calls_, [&] { return std::make_unique<Call>(bounds_); });
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
}

void Service::opened(Call& call) {
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
  if (call.path == kInferPath) {
    call.kind = Kind::kInfer;
  } else if (call.path == kStreamPath) {
    call.kind = Kind::kStream;
    if (draining_) finish(call, draining());
  } else {
    call.kind = Kind::kDesk;
    desk_.put({.kind = Note::Kind::kOpened,
               .call = call.id,
               .deadline_ns = call.deadline_ns,
               .text = call.path,
               .bytes = {}});
  }
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
  call.header_bytes = 0;
  call.half_closed = call.headers_sent = call.finished = false;
  call.status = Status::Ok();
  call.retry_after_ms = -1;

  const std::size_t place = call.place;
  std::unique_ptr<Call> gone = std::exchange(calls_[place], nullptr);
  if (place + 1 != calls_.size()) {
    calls_[place] = std::move(calls_.back());
    calls_[place]->place = place;
  }
  calls_.pop_back();
  put(free_calls_, std::move(gone));
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
  if (call.intake.within()) {
    call.progress_ns = now_ns();
    due(call.progress_ns + stalled_ns_);
  }
  if (is_request(call)) deliver(call);
}

void Service::take_messages(Call& call, wire::Bytes& bytes) {
  while (!bytes.empty() && !call.finished) {
    if (call.kind == Kind::kStream && !has_room(call)) return;
    Frontend* slots = is_request(call) ? &frontend_ : nullptr;
    switch (call.intake.take(bytes, slots, call.deadline_ns)) {
      case Event::kMore:
        return;
      case Event::kMessage:
        is_request(call) ? take_request(call, call.intake.message())
                         : hand_over(call, call.intake.message());
        call.intake.forget();
        break;
      case Event::kReserved:
        take_reserved(call);
        break;
      case Event::kTooLarge:
        finish(call, Status::Error(
                         Code::kResourceExhausted,
                         concat("received message larger than max (", call.intake.message_bytes(),
                                " vs. ", bounds_.message_max_bytes, " bytes)")));
        break;
      case Event::kNoMemory:
        finish(call, no_memory(call.intake.message_bytes()));
        break;
    }
  }
  bytes = call.finished ? wire::Bytes{} : bytes;
}

Status Service::no_memory(std::size_t bytes) const {
  return Status::Error(
      Code::kResourceExhausted,
      concat("no memory for a message of ", bytes, " bytes: others on their way have ",
             bounds_.memory_bytes, " of ", bounds_.memory_max_bytes, " bytes; try again later"));
}

Exchange& Service::new_exchange(Call& call) {
  auto exchange = take(free_exchanges_, [] { return std::make_unique<Exchange>(); });
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
  if (call.intake.compressed()) return hand_over(exchange, Note::Kind::kCompressed, message);
  auto submitted =
      frontend_.submit(message, call.deadline_ns, reinterpret_cast<std::uintptr_t>(&exchange));
  if (call.kind == Kind::kStream) exchange.id = frontend_.last_id();
  if (submitted.ok()) return queued(exchange, submitted.value());
  if (submitted.status().code == Code::kNotFound)
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
  if (draining_) {
    frontend_.cancel(ticket);
    return fail(exchange, draining());
  }
  if (const auto id = frontend_.request_id(ticket); id.ok() && call.kind == Kind::kStream)
    exchange.id = id.value();
  Status status = frontend_.commit(ticket, reinterpret_cast<std::uintptr_t>(&exchange));
  status.ok() ? queued(exchange, ticket) : fail(exchange, std::move(status));
}

void Service::queued(Exchange& exchange, TicketId ticket) {
  exchange.state = Exchange::State::kQueued;
  exchange.ticket = ticket;
  const auto deadline = frontend_.deadline_ns(ticket);
  exchange.deadline_ns = deadline.ok() ? deadline.value() : kNever;
  due(exchange.deadline_ns);
}

void Service::fail(Exchange& exchange, Status status, std::int64_t retry_after_ms) {
  exchange.state = Exchange::State::kFailed;
  exchange.ticket = kNoTicket;
  exchange.status = std::move(status);
  exchange.retry_after_ms = retry_after_ms;
}

void Service::hand_over(Call& call, wire::Bytes message) {
  if (!bounds_.take(message.size())) return finish(call, no_memory(message.size()));
  call.charged_bytes += message.size();
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
             .bytes = {message.begin(), message.end()}});
}

void Service::half_closed(Call& call) {
  call.half_closed = true;
  if (call.kind == Kind::kRefused || call.finished) return;
  if (call.intake.within() && call.backlog.empty()) {
    give_up(call);
    return finish(call, Status::Error(Code::kInternal, "the call ended within a message"));
  }
  if (call.kind == Kind::kDesk)
    return desk_.put({.kind = Note::Kind::kHalfClosed, .call = call.id, .text = {}, .bytes = {}});
  if (call.kind == Kind::kInfer && call.next_number == 0)
    return finish(call, Status::Error(Code::kInternal, "the call has no request"));
  deliver(call);
}

// ---- answers go ------------------------------------------------------------------------------

bool Service::take_done() {
  frontend_.take_done(done_);
  for (const TicketId ticket : done_) {
    const auto tag = frontend_.tag(ticket);
    if (!tag.ok()) continue;  // given up since, by an answer before it
    auto& exchange = *reinterpret_cast<Exchange*>(static_cast<std::uintptr_t>(tag.value()));
    exchange.state = Exchange::State::kDone;
    deliver(*exchange.call);
  }
  return !done_.empty();
}

// Answers what is ready, in order, and goes on reading a stream as far as there is room.
void Service::deliver(Call& call) {
  for (;;) {
    while (!call.finished && !call.exchanges.empty() && is_ready(*call.exchanges.front())) {
      answer(call, *call.exchanges.front());
      drop_first(call);
    }
    if (call.finished) return give_up(call);
    if (call.kind != Kind::kStream || call.backlog.empty() || draining_ || !has_room(call)) break;
    read_on(call);
  }
  if (call.kind == Kind::kStream) end_stream(call);
}

void Service::read_on(Call& call) {
  wire::Bytes rest = wire::Bytes(call.backlog).subspan(call.backlog_taken);
  const std::size_t before = rest.size();
  take_messages(call, rest);
  const std::size_t taken = before - rest.size();
  call.connection->consumed(call, taken);
  call.backlog_taken += taken;
  if (call.backlog_taken < call.backlog.size() / 2) return;  // what is moved up was taken once
  bounds_.give(call.backlog_taken);
  const auto start = call.backlog.begin();
  call.backlog.erase(start, start + static_cast<std::ptrdiff_t>(call.backlog_taken));
  call.backlog_taken = 0;
  if (call.backlog.empty()) shrink(call.backlog);
}

void Service::end_stream(Call& call) {
  if (!call.exchanges.empty()) return;
  if (draining_)
    finish(call, draining());
  else if (call.half_closed && call.backlog.empty())
    finish(call, call.intake.within()
                     ? Status::Error(Code::kInternal, "the call ended within a message")
                     : Status::Ok());
}

void Service::answer(Call& call, Exchange& exchange) {
  Status status = exchange.state == Exchange::State::kDone ? add_answer(call, exchange)
                                                           : std::move(exchange.status);
  if (call.kind == Kind::kInfer) return finish(call, std::move(status), exchange.retry_after_ms);
  if (!status.ok())
    add_message(call,
                wire::stream_error(exchange.id, static_cast<int>(status.code), status.message));
  call.connection->answer(call);
}

Status Service::add_answer(Call& call, Exchange& exchange) {
  const TicketId ticket = std::exchange(exchange.ticket, kNoTicket);
  const auto bytes = frontend_.begin_answer(ticket, call.kind == Kind::kStream);
  if (!bytes.ok()) return bytes.status();
  auto outgoing = new_outgoing();
  outgoing->left_bytes = kPrefixBytes + bytes.value();
  if (bytes.value() <= kCopyBytes) {
    outgoing->text.resize(kPrefixBytes + bytes.value());
    frontend_.write_answer(std::span(outgoing->text).subspan(kPrefixBytes));
    outgoing->pieces.emplace_back(outgoing->text);
  } else {
    outgoing->text.resize(kPrefixBytes);
    frontend_.lend_answer(outgoing->text, outgoing->pieces);
    outgoing->lent = ticket;
    outgoing->since_ns = now_ns();
    due(outgoing->since_ns + lent_ns_);
  }
  write_prefix(outgoing->text, bytes.value());
  call.out.push_back(std::move(outgoing));
  return Status::Ok();
}

void Service::add_message(Call& call, wire::Bytes message) {
  auto outgoing = new_outgoing();
  outgoing->text.resize(kPrefixBytes);
  write_prefix(outgoing->text, message.size());
  outgoing->text.insert(outgoing->text.end(), message.begin(), message.end());
  outgoing->pieces.emplace_back(outgoing->text);
  outgoing->left_bytes = outgoing->text.size();
  call.out.push_back(std::move(outgoing));
}

void Service::finish(Call& call, Status status, std::int64_t retry_after_ms) {
  if (call.finished) return;
  call.finished = true;
  call.status = std::move(status);
  call.retry_after_ms = retry_after_ms;
  call.connection->answer(call);
}

std::unique_ptr<Outgoing> Service::new_outgoing() {
  return take(free_outgoings_, [] { return std::make_unique<Outgoing>(); });
}

void Service::sent(std::unique_ptr<Outgoing> outgoing) {
  if (outgoing->lent != kNoTicket) frontend_.give_back(outgoing->lent);
  bounds_.give(outgoing->charged_bytes);
  shrink(outgoing->text);
  outgoing->pieces.clear();
  outgoing->piece = outgoing->left_bytes = outgoing->charged_bytes = 0;
  outgoing->lent = kNoTicket;
  put(free_outgoings_, std::move(outgoing));
}

// ---- giving up -------------------------------------------------------------------------------

void Service::drop_first(Call& call) {
  std::unique_ptr<Exchange> exchange = std::move(call.exchanges.front());
  call.exchanges.erase(call.exchanges.begin());
  if (exchange->ticket != kNoTicket) frontend_.cancel(exchange->ticket);
  exchange->ticket = kNoTicket;
  bounds_.give(std::exchange(exchange->charged_bytes, 0));
  exchange->deadline_ns = kNever;
  exchange->status = Status::Ok();
  exchange->retry_after_ms = -1;
  exchange->id.clear();
  put(free_exchanges_, std::move(exchange));
}

// What is left of a call's requests is not answered any more.
void Service::give_up(Call& call) {
  while (!call.exchanges.empty()) drop_first(call);
  forget_intake(call);
  bounds_.give(call.backlog.size());
  shrink(call.backlog);
  call.backlog_taken = 0;
}

void Service::forget_intake(Call& call) {
  if (call.intake.ticket() != kNoTicket) frontend_.cancel(call.intake.take_ticket());
  call.intake.forget();
}

// It ends without a status, and has nothing from now on: its client may be slow to hear of it.
void Service::abandon(Call& call) {
  call.finished = true;
  give_up(call);
  for (auto& outgoing : call.out) sent(std::move(outgoing));
  call.out.clear();
  call.connection->reset(call, NGHTTP2_ENHANCE_YOUR_CALM);
}

void Service::keep_time(std::int64_t now_ns) {
  if (now_ns < next_due_ns_) return;
  next_due_ns_ = kNever;
  for (const auto& call : calls_) {
    due(expire(*call, now_ns));
    due(leave_slots(*call, now_ns));
  }
}

std::int64_t Service::expire(Call& call, std::int64_t now_ns) {
  if (call.finished) return kNever;
  const auto end = [&](const char* why) {
    give_up(call);
    finish(call, Status::Error(Code::kDeadlineExceeded, why));
    return kNever;
  };
  if (call.deadline_ns <= now_ns) return end("the deadline passed without an answer");
  std::int64_t next_ns = call.deadline_ns;
  if (call.intake.within() && call.backlog.empty() && call.kind != Kind::kRefused) {
    if (call.progress_ns + stalled_ns_ <= now_ns)
      return end("the rest of the message did not come");
    next_ns = std::min(next_ns, call.progress_ns + stalled_ns_);
  }
  bool expired = false;
  for (const auto& exchange : call.exchanges) {
    if (exchange->state != Exchange::State::kQueued) continue;
    if (exchange->deadline_ns > now_ns) {
      next_ns = std::min(next_ns, exchange->deadline_ns);
      continue;
    }
    frontend_.cancel(exchange->ticket);
    fail(*exchange,
         Status::Error(Code::kDeadlineExceeded, "the deadline passed without an answer"));
    expired = true;
  }
  if (expired) deliver(call);
  return next_ns;
}

std::int64_t Service::leave_slots(Call& call, std::int64_t now_ns) {
  std::int64_t next_ns = kNever;
  for (const auto& outgoing : call.out) {
    if (outgoing->lent == kNoTicket) continue;
    if (outgoing->since_ns + lent_ns_ > now_ns) {
      next_ns = std::min(next_ns, outgoing->since_ns + lent_ns_);
    } else if (!evacuate(*outgoing)) {
      abandon(call);
      return kNever;
    }
  }
  return next_ns;
}

// Its slot is for others: what was not sent is copied out of it. False: there is no memory for it.
bool Service::evacuate(Outgoing& outgoing) {
  if (!bounds_.take(outgoing.left_bytes)) return false;
  outgoing.charged_bytes = outgoing.left_bytes;
  std::vector<std::byte> rest;
  rest.reserve(outgoing.left_bytes);
  for (std::size_t i = outgoing.piece; i < outgoing.pieces.size(); ++i)
    rest.insert(rest.end(), outgoing.pieces[i].begin(), outgoing.pieces[i].end());
  outgoing.text = std::move(rest);
  outgoing.pieces.assign(1, outgoing.text);
  outgoing.piece = 0;
  frontend_.give_back(std::exchange(outgoing.lent, kNoTicket));
  return true;
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
  add_message(*call, message);
  call->connection->answer(*call);
}

void Service::finish(std::uint64_t id, Status status, std::int64_t retry_after_ms) {
  if (Call* call = find(id); call != nullptr) finish(*call, std::move(status), retry_after_ms);
}

Result<std::int64_t> Service::admit(std::uint64_t id, std::uint32_t number, wire::Bytes message) {
  Exchange* exchange = find(id, number);
  if (exchange == nullptr || exchange->state != Exchange::State::kAtDesk)
    return Status::Error(Code::kFailedPrecondition, "the call has ended");
  if (draining_) return draining();
  auto submitted = frontend_.submit(message, exchange->call->deadline_ns,
                                    reinterpret_cast<std::uintptr_t>(exchange));
  if (!submitted.ok()) return submitted.status();
  bounds_.give(std::exchange(exchange->charged_bytes, 0));
  exchange->id = frontend_.last_id();
  queued(*exchange, submitted.value());
  return exchange->deadline_ns;
}

void Service::refuse(std::uint64_t id, std::uint32_t number, Status status,
                     std::int64_t retry_after_ms) {
  Exchange* exchange = find(id, number);
  if (exchange == nullptr || is_ready(*exchange)) return;
  if (exchange->ticket != kNoTicket) frontend_.cancel(exchange->ticket);
  fail(*exchange, std::move(status), retry_after_ms);
  deliver(*exchange->call);
}

}  // namespace gslice::grpc
