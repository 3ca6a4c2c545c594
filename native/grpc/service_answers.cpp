// What goes back: answers in order, and the ends of calls, in time or not.
#include <utility>

#include "grpc/connection.hpp"
#include "grpc/service.hpp"
#include "wire/text.hpp"

namespace gslice::grpc {
namespace {

using Kind = Call::Kind;

constexpr std::size_t kCopyBytes = 8 << 10;           // a smaller answer leaves its slot at once
constexpr std::int64_t kSlowestBytesPerS = 64 << 10;  // a message that comes slower ends its call

void write_prefix(std::span<std::byte> out, std::size_t message_bytes) {
  out[0] = std::byte{0};
  for (std::size_t i = 1; i < kPrefixBytes; ++i)
    out[i] = static_cast<std::byte>(message_bytes >> 8 * (kPrefixBytes - 1 - i));
}

}  // namespace

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
    if (call.backlog.empty() || !has_room(call) || (draining_ && is_request(call))) break;
    read_on(call);
  }
  if (call.kind == Kind::kStream) end_stream(call);
  if (call.kind == Kind::kDesk && call.half_closed && call.backlog.empty()) end_messages(call);
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
  if (call.backlog.empty()) empty(call.backlog);
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

// All that a client sent to the desk has been read, and no more comes.
void Service::end_messages(Call& call) {
  if (!call.intake.within())
    return desk_.put({.kind = Note::Kind::kHalfClosed, .call = call.id, .text = {}, .bytes = {}});
  give_up(call);
  finish(call, Status::Error(Code::kInternal, "the call ended within a message"));
}

void Service::answer(Call& call, Exchange& exchange) {
  Status status = exchange.state == Exchange::State::kDone ? add_answer(call, exchange)
                                                           : std::move(exchange.status);
  if (call.kind == Kind::kInfer) return finish(call, std::move(status));
  if (!status.ok())
    add_message(call,
                wire::stream_error(exchange.id, static_cast<int>(status.code), status.message));
  call.connection->answer(call);
}

Status Service::add_answer(Call& call, Exchange& exchange) {
  const TicketId ticket = std::exchange(exchange.ticket, kNoTicket);
  const auto bytes = frontend_.begin_answer(ticket, call.kind == Kind::kStream);
  if (!bytes.ok()) return bytes.status();
  auto outgoing = spare_outgoings_.take();
  outgoing->left_bytes = kPrefixBytes + bytes.value();
  if (bytes.value() <= kCopyBytes) {
    outgoing->text.resize(kPrefixBytes + bytes.value());
    frontend_.write_answer(std::span(outgoing->text).subspan(kPrefixBytes));
    outgoing->pieces.emplace_back(outgoing->text);
  } else {
    outgoing->text.resize(kPrefixBytes);
    frontend_.lend_answer(outgoing->text, outgoing->pieces);
    outgoing->lent = ticket;
  }
  write_prefix(outgoing->text, bytes.value());
  add(call, std::move(outgoing));
  return Status::Ok();
}

void Service::add_message(Call& call, wire::Bytes message, std::size_t charged_bytes) {
  auto outgoing = spare_outgoings_.take();
  outgoing->charged_bytes = charged_bytes;
  outgoing->text.resize(kPrefixBytes);
  write_prefix(outgoing->text, message.size());
  outgoing->text.insert(outgoing->text.end(), message.begin(), message.end());
  outgoing->pieces.emplace_back(outgoing->text);
  outgoing->left_bytes = outgoing->text.size();
  add(call, std::move(outgoing));
}

void Service::add(Call& call, std::unique_ptr<Outgoing> outgoing) {
  const std::int64_t now = now_ns();
  if (call.out.empty()) call.sent_ns = now;
  outgoing->since_ns = now;
  due(now + (outgoing->lent != kNoTicket ? lent_ns_ : unread_ns_));
  call.out.push_back(std::move(outgoing));
}

void Service::finish(Call& call, Status status) {
  if (call.finished) return;
  call.finished = true;
  call.status = std::move(status);
  call.connection->answer(call);
}

void Service::sent(std::unique_ptr<Outgoing> outgoing) {
  if (outgoing->lent != kNoTicket) frontend_.give_back(outgoing->lent);
  bounds_.give(outgoing->charged_bytes);
  empty(outgoing->text);
  outgoing->pieces.clear();
  outgoing->piece = outgoing->left_bytes = outgoing->charged_bytes = 0;
  outgoing->lent = kNoTicket;
  spare_outgoings_.put(std::move(outgoing));
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
  exchange->id.clear();
  spare_exchanges_.put(std::move(exchange));
}

// What is left of a call's requests is not answered any more.
void Service::give_up(Call& call) {
  while (!call.exchanges.empty()) drop_first(call);
  forget_intake(call);
  bounds_.give(call.backlog.size());
  empty(call.backlog);
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

// ---- time ------------------------------------------------------------------------------------

void Service::keep_time(std::int64_t now_ns) {
  if (now_ns < next_due_ns_) return;
  next_due_ns_ = kNever;
  for (const auto& call : calls_) {
    due(expire(*call, now_ns));
    due(unsent(*call, now_ns));
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
    const std::int64_t stalls_ns = call.progress_ns + stalled_ns_;
    if (stalls_ns <= now_ns) return end("the rest of the message did not come");
    const std::int64_t ends_ns = call.intake.missing_bytes() == 0
                                     ? kNever
                                     : call.begun_ns + slowest_ns(call.intake.message_bytes());
    if (ends_ns <= now_ns) return end("the message came more slowly than 64 KiB a second");
    next_ns = std::min({next_ns, stalls_ns, ends_ns});
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

// How long a message may take to come.
std::int64_t Service::slowest_ns(std::size_t message_bytes) const {
  return stalled_ns_ + static_cast<std::int64_t>(message_bytes) * 1'000'000'000 / kSlowestBytesPerS;
}

// When to look again at what has not been sent yet.
std::int64_t Service::unsent(Call& call, std::int64_t now_ns) {
  if (call.out.empty()) return kNever;
  std::int64_t next_ns = call.connection->moved_ns(call) + unread_ns_;
  bool stays = next_ns > now_ns;
  for (const auto& outgoing : call.out) {
    if (outgoing->lent == kNoTicket) continue;
    if (outgoing->since_ns + lent_ns_ > now_ns)
      next_ns = std::min(next_ns, outgoing->since_ns + lent_ns_);
    else
      stays = stays && evacuate(*outgoing);
  }
  if (stays) return next_ns;
  abandon(call);
  return kNever;
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

}  // namespace gslice::grpc
