#include "grpc/intake.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "grpc/spare.hpp"

namespace gslice::grpc {
namespace {

constexpr std::size_t kSlotBytes = 32 << 10;  // a smaller request is put together first
constexpr std::size_t kHeadBytes = 64 << 10;  // what comes before tensors is less, or stays there
constexpr std::uint32_t kRawInputs = 7;       // ModelInferRequest.raw_input_contents
constexpr std::byte kRawTag{kRawInputs << 3 | 2};

// Where the first of a request's raw tensors begins: its tag, if its length is there as well.
std::optional<std::size_t> head_bytes(wire::Bytes message) {
  wire::Reader reader(message);
  while (!reader.at_end()) {
    const auto at = static_cast<std::size_t>(reader.position() - message.data());
    std::uint32_t field = 0;
    wire::WireType type{};
    std::uint64_t length = 0;
    if (!reader.tag(field, type)) return std::nullopt;
    if (field == kRawInputs && type == wire::WireType::kLength)
      return reader.varint(length) ? std::optional(at) : std::nullopt;
    if (!reader.skip(type)) return std::nullopt;
  }
  return std::nullopt;
}

}  // namespace

void Intake::forget() {
  bounds_.give(std::exchange(charged_, 0));
  empty(heap_);
  prefix_count_ = taken_ = scanned_ = 0;
  in_body_ = tried_slot_ = false;
  progress_ = {};
  ticket_ = kNoTicket;
}

Intake::Event Intake::take(wire::Bytes& chunk, Frontend* frontend, std::int64_t deadline_ns,
                           TenantId tenant) {
  if (!in_body_) {
    if (prefix_count_ == 0) forget();
    while (prefix_count_ < kPrefixBytes && !chunk.empty()) {
      prefix_[prefix_count_++] = chunk.front();
      chunk = chunk.subspan(1);
    }
    if (prefix_count_ < kPrefixBytes) return Event::kMore;
    if (const Event event = begin_body(); event != Event::kMore) return event;
  }
  return take_body(chunk, frontend, deadline_ns, tenant);
}

Intake::Event Intake::begin_body() {
  const auto at = [&](std::size_t i) { return std::to_integer<std::size_t>(prefix_[i]); };
  compressed_ = at(0) != 0;
  size_ = at(1) << 24 | at(2) << 16 | at(3) << 8 | at(4);
  prefix_count_ = 0;
  in_body_ = true;
  ++begun_;
  return size_ > bounds_.message_max_bytes ? Event::kTooLarge : Event::kMore;
}

Intake::Event Intake::take_body(wire::Bytes& chunk, Frontend* frontend, std::int64_t deadline_ns,
                                TenantId tenant) {
  if (taken_ == 0 && chunk.size() >= size_) {
    message_ = chunk.first(size_);
    chunk = chunk.subspan(size_);
    in_body_ = false;
    return Event::kMessage;
  }
  if (chunk.empty()) return Event::kMore;
  if (frontend != nullptr && !tried_slot_ && size_ >= kSlotBytes && !compressed_)
    try_slot(chunk, *frontend, deadline_ns, tenant);
  const wire::Bytes bytes = chunk.first(std::min(chunk.size(), size_ - taken_));
  if (ticket_ != kNoTicket && !fill(bytes)) {
    if (!leave_slot(*frontend) || !append(bytes)) return Event::kNoMemory;
  } else if (ticket_ == kNoTicket && !append(bytes)) {
    return Event::kNoMemory;
  }
  taken_ += bytes.size();
  chunk = chunk.subspan(bytes.size());
  return taken_ < size_ ? Event::kMore : end_body(frontend);
}

Intake::Event Intake::end_body(Frontend* frontend) {
  in_body_ = false;
  if (ticket_ != kNoTicket) {
    if (progress_.area == areas_.size() && progress_.field_count == 0) return Event::kReserved;
    if (!leave_slot(*frontend)) return Event::kNoMemory;
  }
  message_ = heap_;
  return Event::kMessage;
}

// ---- the heap --------------------------------------------------------------------------------

bool Intake::charge() {
  if (charged_ != 0) return true;
  if (!bounds_.take(size_)) return false;
  charged_ = size_;
  heap_.reserve(size_);
  return true;
}

bool Intake::append(wire::Bytes bytes) {
  if (!charge()) return false;
  heap_.insert(heap_.end(), bytes.begin(), bytes.end());
  return true;
}

// ---- the slot --------------------------------------------------------------------------------

// Looks for the end of the head in what has been taken and what comes now, and if it is there,
// moves on to the slot. Who sends the head in many small pieces has them copied together first.
void Intake::try_slot(wire::Bytes& chunk, Frontend& frontend, std::int64_t deadline_ns,
                      TenantId tenant) {
  if (taken_ != 0) {
    const wire::Bytes more = chunk.first(std::min(chunk.size(), size_ - taken_));
    if (!append(more)) return;
    taken_ += more.size();
    chunk = chunk.subspan(more.size());
  }
  const wire::Bytes seen =
      taken_ != 0 ? wire::Bytes(heap_) : chunk.first(std::min(chunk.size(), size_));
  // Each time from the start: only when there is twice as much, so that pieces of a byte cost
  // little.
  if (seen.size() < 2 * scanned_ && taken_ != size_) return;
  scanned_ = seen.size();
  const auto head = head_bytes(seen);
  tried_slot_ = head.has_value() || seen.size() >= kHeadBytes || taken_ == size_;
  if (!head) return;
  const auto reserved = frontend.reserve(seen.first(*head), deadline_ns, areas_, tenant);
  if (!reserved.ok()) return;
  ticket_ = reserved.value();
  progress_ = {};
  if (taken_ == 0) {
    heap_.assign(seen.begin(), seen.begin() + static_cast<std::ptrdiff_t>(*head));
    taken_ = *head;
    chunk = chunk.subspan(*head);
    return;
  }
  if (fill(seen.subspan(*head))) {
    heap_.resize(*head);
    bounds_.give(std::exchange(charged_, 0));
  } else {  // the heap has all of it still
    frontend.cancel(std::exchange(ticket_, kNoTicket));
  }
}

std::span<std::byte> Intake::room() const {
  if (ticket_ == kNoTicket || !progress_.in_tensor) return {};
  const std::span<std::byte> left = areas_[progress_.area].subspan(progress_.filled);
  // What comes after the message may not lie in its slot, which it may give up.
  return left.first(std::min(left.size(), size_ - taken_));
}

// Writes what follows the head. False: it is not what was reserved for; nothing of `bytes` counts,
// though some may have been written.
bool Intake::fill(wire::Bytes bytes) {
  const Progress before = progress_;
  while (!bytes.empty()) {
    if (!progress_.in_tensor) {
      progress_.field[progress_.field_count++] = bytes.front();
      bytes = bytes.subspan(1);
      if (begin_tensor()) continue;
      progress_ = before;
      return false;
    }
    const std::span<std::byte> room = areas_[progress_.area].subspan(progress_.filled);
    const std::size_t count = std::min(room.size(), bytes.size());
    // It may have been received where it belongs, or beside.
    if (bytes.data() != room.data()) std::memmove(room.data(), bytes.data(), count);
    bytes = bytes.subspan(count);
    progress_.filled += count;
    if (progress_.filled == areas_[progress_.area].size())
      ++progress_.area, progress_.filled = 0, progress_.in_tensor = false;
  }
  return true;
}

// Reads the tag and length of a tensor as far as they are there. False: of another.
bool Intake::begin_tensor() {
  if (progress_.field[0] != kRawTag || progress_.area == areas_.size()) return false;
  if (progress_.field_count == 1) return true;
  wire::Reader reader(std::span(progress_.field).subspan(1, progress_.field_count - 1));
  std::uint64_t length = 0;
  if (!reader.varint(length)) return progress_.field_count < progress_.field.size();
  if (length != areas_[progress_.area].size()) return false;
  progress_.field_count = progress_.filled = 0;
  progress_.in_tensor = length != 0;
  if (length == 0) ++progress_.area;
  return true;
}

// The message is no request that goes into a slot: puts what has been written there behind the head
// again, as it came. False: there is no memory for that.
bool Intake::leave_slot(Frontend& frontend) {
  const TicketId ticket = std::exchange(ticket_, kNoTicket);
  tried_slot_ = true;
  if (!charge()) {
    frontend.cancel(ticket);
    return false;
  }
  const auto append_tensor = [&](wire::Bytes tensor, std::size_t count) {
    heap_.push_back(kRawTag);
    std::uint64_t length = tensor.size();
    for (; length >= 0x80; length >>= 7) heap_.push_back(static_cast<std::byte>(length | 0x80));
    heap_.push_back(static_cast<std::byte>(length));
    heap_.insert(heap_.end(), tensor.begin(), tensor.begin() + static_cast<std::ptrdiff_t>(count));
  };
  for (std::size_t i = 0; i < progress_.area; ++i) append_tensor(areas_[i], areas_[i].size());
  if (progress_.in_tensor) append_tensor(areas_[progress_.area], progress_.filled);
  heap_.insert(heap_.end(), progress_.field.begin(),
               progress_.field.begin() + static_cast<std::ptrdiff_t>(progress_.field_count));
  frontend.cancel(ticket);
  return true;
}

}  // namespace gslice::grpc
