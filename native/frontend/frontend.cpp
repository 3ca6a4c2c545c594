#include "frontend/frontend.hpp"

#include <algorithm>
#include <utility>

#include "wire/text.hpp"

namespace gslice {
namespace {

using wire::concat;
using wire::quoted;

constexpr std::uint32_t kMaxFunctions = 1u << 15;  // so that a ticket is never negative

TicketId pack(std::uint32_t function, Ticket ticket) {
  return std::int64_t{function} << 48 | std::int64_t{ticket.slot} << 32 |
         std::int64_t{ticket.generation};
}

std::int64_t earlier_deadline(std::int64_t deadline_ns, std::int64_t timeout_us, std::int64_t now) {
  std::int64_t timeout_ns = 0;
  std::int64_t end_ns = 0;
  if (timeout_us == 0 || __builtin_mul_overflow(timeout_us, 1000, &timeout_ns) ||
      __builtin_add_overflow(now, timeout_ns, &end_ns))
    return deadline_ns;
  return std::min(deadline_ns, end_ns);
}

// How a request that never reached the queue is counted: rejected for want of room or time,
// invalid for what it says, failed for neither.
Outcome outcome_of(Code code) {
  switch (code) {
    case Code::kResourceExhausted:
    case Code::kDeadlineExceeded:
      return Outcome::kRejected;
    case Code::kInvalidArgument:
    case Code::kUnimplemented:
    case Code::kNotFound:
    case Code::kPermissionDenied:
      return Outcome::kInvalid;
    default:
      return Outcome::kFailed;
  }
}

Status given_up(bool late) {
  return late ? Status::Error(Code::kDeadlineExceeded, "the deadline passed without an answer")
              : Status::Error(Code::kCancelled, "the request was given up");
}

Status unknown_ticket(TicketId id) {
  return Status::Error(Code::kNotFound,
                       concat("ticket ", id, " is not in flight; it was answered or cancelled"));
}

}  // namespace

Frontend::~Frontend() {
  for (auto& function : functions_) {
    for (std::uint32_t slot = 0; slot < function->segment().slot_count(); ++slot)
      if (const Pending& pending = function->pending(slot); pending.live)
        function->segment().cancel({slot, pending.generation});
  }
}

// ---- functions -------------------------------------------------------------------------------

// Indices go round, so that a stale ticket meets another function as late as can be.
Result<std::uint32_t> Frontend::new_index() {
  for (std::uint32_t tried = 0; tried < kMaxFunctions; ++tried) {
    const std::uint32_t index = next_index_;
    next_index_ = (next_index_ + 1) % kMaxFunctions;
    if (index >= by_index_.size()) by_index_.resize(index + 1);
    if (by_index_[index] == nullptr) return index;
  }
  return Status::Error(Code::kResourceExhausted,
                       concat("a front-end serves at most ", kMaxFunctions, " functions"));
}

Status Frontend::add_function(std::string name, std::string version,
                              std::shared_ptr<Segment> segment, Signature signature,
                              std::int64_t slo_ns) {
  if (name.empty() || !wire::is_utf8(name) || !wire::is_utf8(version))
    return Status::Error(Code::kInvalidArgument, "a function's name and version must be UTF-8");
  remove_function(name);
  // The same segment again, with requests in flight: one function must take all of its answers.
  for (const auto& known : functions_) {
    if (!known->is_same(name, *segment)) continue;
    known->renew(std::move(version), slo_ns);
    known->retired = false;
    by_name_.emplace(known->name(), known.get());
    return Status::Ok();
  }
  Result<std::uint32_t> index = new_index();
  if (!index.ok()) return index.status();
  auto function = std::make_unique<Function>(index.value(), std::move(name), std::move(version),
                                             std::move(segment), std::move(signature), slo_ns);
  by_name_.emplace(function->name(), function.get());
  by_index_[index.value()] = function.get();
  functions_.push_back(std::move(function));
  return Status::Ok();
}

void Frontend::remove_function(std::string_view name) {
  const auto found = by_name_.find(name);
  if (found == by_name_.end()) return;
  Function& function = *found->second;
  by_name_.erase(found);
  function.retired = true;
  retire_if_idle(function);
}

void Frontend::retire_if_idle(Function& function) {
  if (!function.retired || function.in_flight != 0) return;
  by_index_[function.index()] = nullptr;
  std::erase(to_ring_, &function);
  std::erase_if(functions_, [&](const auto& each) { return each.get() == &function; });
}

// ---- clients' memory -------------------------------------------------------------------------

Status Frontend::add_region(std::shared_ptr<Region> region) {
  if (!regions_)
    return Status::Error(Code::kUnimplemented,
                         "clients' memory is not offered; set node.client_memory");
  regions_->add(std::move(region));
  return Status::Ok();
}

void Frontend::remove_region(std::string_view tenant, std::string_view name) {
  if (regions_) regions_->remove(tenant, name);
}

// ---- tenants ---------------------------------------------------------------------------------

void Frontend::set_tenants(std::unique_ptr<Tenants> tenants) {
  if (tenants) tenants->begin_anew();
  for (auto& function : functions_) {
    for (std::uint32_t slot = 0; slot < function->segment().slot_count(); ++slot) {
      Pending& pending = function->pending(slot);
      if (pending.tenant == kNoTenant) continue;
      const std::string_view name = tenants_->name(pending.tenant);
      pending.tenant = tenants ? tenants->find(name) : kNoTenant;
      if (pending.tenant != kNoTenant) tenants->go_on(pending.tenant);
    }
  }
  tenants_ = std::move(tenants);
}

// ---- tickets ---------------------------------------------------------------------------------

Frontend::Place Frontend::place(TicketId id) const {
  const auto bits = static_cast<std::uint64_t>(id);
  const auto index = static_cast<std::size_t>(bits >> 48);
  const Ticket ticket{static_cast<std::uint32_t>(bits >> 32 & 0xffff),
                      static_cast<std::uint32_t>(bits)};
  if (index >= by_index_.size() || by_index_[index] == nullptr) return {};
  Function& function = *by_index_[index];
  if (ticket.slot >= function.segment().slot_count()) return {};
  const Pending& pending = function.pending(ticket.slot);
  if (!pending.live || pending.generation != ticket.generation) return {};
  return {&function, ticket};
}

void Frontend::forget(Place place) {
  Pending& pending = place.function->pending(place.ticket.slot);
  pending.live = false;
  if (std::exchange(pending.reserved, false)) --place.function->reserved;
  pending.places.clear();
  if (pending.tenant != kNoTenant) tenants_->end(std::exchange(pending.tenant, kNoTenant));
  pending.traced = false;
  --place.function->in_flight;
  --in_flight_;
  retire_if_idle(*place.function);
}

Result<std::int64_t> Frontend::deadline_ns(TicketId id) const {
  const Place found = place(id);
  if (!found.function) return unknown_ticket(id);
  return found.function->pending(found.ticket.slot).deadline_ns;
}

Result<std::string_view> Frontend::request_id(TicketId id) const {
  const Place found = place(id);
  if (!found.function) return unknown_ticket(id);
  return std::string_view(found.function->pending(found.ticket.slot).id);
}

Result<std::uint64_t> Frontend::tag(TicketId id) const {
  const Place found = place(id);
  if (!found.function) return unknown_ticket(id);
  return found.function->pending(found.ticket.slot).tag;
}

// ---- the way in ------------------------------------------------------------------------------

Result<TicketId> Frontend::submit(wire::Bytes message, std::int64_t deadline_ns, std::uint64_t tag,
                                  const Origin& origin) {
  const Status parsed = request_.parse(message);
  const auto found = by_name_.find(request_.model_name);
  if (found == by_name_.end()) {
    if (!parsed.ok()) return parsed;
    return Status::Error(Code::kNotFound,
                         concat("function ", quoted(request_.model_name), " is not served here"));
  }
  Function& function = *found->second;
  Ticket ticket;
  Status status =
      parsed.ok() ? admit_and_lease(function, deadline_ns, origin.tenant, ticket) : parsed;
  if (status.ok()) {
    Pending& pending = function.pending(ticket.slot);
    pending.tag = tag;
    if (journal_) begin_record(pending, origin);
    status = queue({&function, ticket});
  }
  if (status.ok()) return pack(function.index(), ticket);
  function.count(outcome_of(status.code));
  if (journal_) record_refused(function, status, origin);
  return function.named(status);
}

Status Frontend::admit_and_lease(Function& function, std::int64_t deadline_ns, TenantId tenant,
                                 Ticket& ticket) {
  if (tenant != kNoTenant)
    if (Status status = tenants_->check_function(tenant, function.name()); !status.ok())
      return status;
  if (Status status = function.check_version(request_.model_version); !status.ok()) return status;
  CallersRegions regions{regions_ ? &*regions_ : nullptr, {}};
  if (tenant != kNoTenant) regions.tenant = tenants_->name(tenant);
  if (Status status = admit(function.signature(), request_, regions, admission_); !status.ok())
    return status;
  if (Status status = function.check_size(admission_); !status.ok()) return status;

  const std::int64_t now = now_ns();
  const std::int64_t end_ns = earlier_deadline(deadline_ns, admission_.timeout_us, now);
  if (Status status = function.check_deadline(admission_.rows, end_ns, now); !status.ok())
    return status;

  Segment& segment = function.segment();
  const Result<Ticket> leased =
      segment.lease(index_, admission_.input_bytes + admission_.output_bytes);
  if (!leased.ok()) return leased.status();
  ticket = leased.value();
  Status status = fill(function, ticket, tenant, end_ns, now);
  if (!status.ok()) segment.cancel(ticket);
  return status;
}

// Quotas come last: what is refused for anything else has taken nothing of them.
Status Frontend::fill(Function& function, Ticket ticket, TenantId tenant, std::int64_t deadline_ns,
                      std::int64_t now) {
  if (tenant != kNoTenant)
    if (Status status = tenants_->begin(tenant, now); !status.ok()) return status;
  if (Status status = function.fill(ticket, request_, admission_, deadline_ns, now); !status.ok()) {
    if (tenant != kNoTenant) tenants_->end(tenant);
    return status;
  }
  Pending& pending = function.pending(ticket.slot);
  pending.live = true;
  pending.generation = ticket.generation;
  pending.deadline_ns = deadline_ns;
  pending.tenant = tenant;
  pending.outputs = admission_.outputs;
  for (const OutputArea& each : std::span(admission_.areas).first(admission_.area_count))
    pending.places.push_back({each, each.area.region->shared_from_this()});
  pending.id.assign(request_.id);
  ++function.in_flight;
  ++in_flight_;
  return Status::Ok();
}

Status Frontend::queue(Place place) {
  if (place.function->segment().queue(place.ticket, rings_)) {
    if (!rings_ && !std::exchange(place.function->to_ring, true))
      to_ring_.push_back(place.function);
    return Status::Ok();
  }
  forget(place);
  return Status::Error(Code::kUnavailable, "the front-end was removed while it wrote the request");
}

void Frontend::ring() {
  for (Function* function : to_ring_) {
    function->to_ring = false;
    function->segment().ring_pullers();
  }
  to_ring_.clear();
}

Result<TicketId> Frontend::reserve(wire::Bytes head, std::int64_t deadline_ns,
                                   std::vector<std::span<std::byte>>& areas, TenantId tenant) {
  if (Status status = request_.parse(head); !status.ok()) return status;
  const auto found = by_name_.find(request_.model_name);
  if (found == by_name_.end() || !found->second->may_reserve())
    return Status::Error(Code::kResourceExhausted, "no slot to receive into");
  Function& function = *found->second;
  if (!expect_raw_inputs(function.signature(), request_))
    return Status::Error(Code::kInvalidArgument, "the sizes of its tensors are not known before");
  Ticket ticket;
  if (Status status = admit_and_lease(function, deadline_ns, tenant, ticket); !status.ok())
    return status;
  function.pending(ticket.slot).reserved = true;
  ++function.reserved;
  Segment& segment = function.segment();
  const std::uint64_t payload = segment.slot(ticket.slot).payload_offset;
  areas.clear();
  for (const wire::InputView& view : request_.inputs)
    for (std::size_t i = 0; i < function.signature().inputs.size(); ++i)
      if (const AdmittedInput& input = admission_.inputs[i]; input.view == &view)
        areas.push_back(segment.payload_at(ticket.slot, payload + input.offset, input.bytes));
  return pack(function.index(), ticket);
}

Status Frontend::commit(TicketId id, std::uint64_t tag, const Origin& origin) {
  const Place found = place(id);
  if (!found.function) return unknown_ticket(id);
  Function& function = *found.function;
  Pending& pending = function.pending(found.ticket.slot);
  pending.tag = tag;
  pending.reserved = false;
  if (journal_) begin_record(pending, origin);
  --function.reserved;
  return queue(found);  // which may end the function, if it was removed
}

// ---- the way out -----------------------------------------------------------------------------

void Frontend::take_done(std::vector<TicketId>& done) {
  done.clear();
  for (auto& function : functions_) {
    taken_.clear();
    function->segment().take_done(index_, taken_);
    for (const Ticket ticket : taken_) {
      const Pending& pending = function->pending(ticket.slot);
      if (pending.live && pending.generation == ticket.generation)
        done.push_back(pack(function->index(), ticket));
      else  // of a front-end that had this index before and died
        function->segment().release(ticket);
    }
  }
}

Result<std::size_t> Frontend::begin_answer(TicketId id, bool stream) {
  const Place found = place(id);
  if (!found.function) return unknown_ticket(id);
  Function& function = *found.function;
  if (!function.segment().is_done(found.ticket))
    return Status::Error(
        Code::kFailedPrecondition,
        concat("ticket ", id, " has no answer yet; wait until take_done returns it"));
  Status status = function.read_answer(found.ticket, stream, answer_);
  if (status.ok()) {
    if (const auto bytes = wire::response_bytes(answer_.response)) {
      answering_ = found;
      return *bytes;
    }
    status = Status::Error(Code::kResourceExhausted, "the answer is larger than 2 GiB - 1");
  }
  if (journal_) end_record(found, status, true);
  status = function.named(status);
  function.segment().release(found.ticket);
  forget(found);
  return status;
}

void Frontend::write_answer(std::span<std::byte> out) {
  Function& function = *answering_.function;
  wire::write_response(answer_.response, out);
  function.count_copies(answer_.response.outputs.size(), answer_.data_bytes);
  if (journal_) end_record(answering_, Status::Ok(), true);
  function.segment().release(answering_.ticket);
  forget(answering_);
  answering_ = {};
}

void Frontend::lend_answer(std::vector<std::byte>& text, std::vector<wire::Bytes>& pieces) {
  wire::lend_response(answer_.response, text, pieces);
  answering_ = {};
}

void Frontend::give_back(TicketId id) {
  const Place found = place(id);
  if (!found.function) return;
  if (journal_) end_record(found, Status::Ok(), true);
  found.function->segment().release(found.ticket);
  forget(found);
}

void Frontend::cancel(TicketId id) {
  const Place found = place(id);
  if (!found.function) return;
  const bool late = found.function->pending(found.ticket.slot).deadline_ns <= now_ns();
  if (journal_) end_record(found, given_up(late), false);
  found.function->segment().cancel(found.ticket, late ? Outcome::kExpired : Outcome::kCancelled);
  forget(found);
}

}  // namespace gslice
