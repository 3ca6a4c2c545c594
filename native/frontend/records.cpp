// What the data path tells its journal of a request.
#include "frontend/frontend.hpp"

namespace gslice {

void Frontend::keep_journal(double sample, bool failures) { journal_.emplace(sample, failures); }

Journal::Page Frontend::take_records() { return journal_ ? journal_->take() : Journal::Page{}; }

void Frontend::begin_record(Pending& pending, const Origin& origin) {
  const auto context = journal_->traced(origin.traceparent);
  pending.traced = context.has_value();
  pending.context = context.value_or(TraceContext{});
  pending.received_ns = origin.received_ns;
}

// It ends with this; its slot is still its own. Only of one that is DONE may the claimant's stamps
// be read: before, it may be writing them.
void Frontend::end_record(Place place, const Status& status, bool done) {
  const Pending& pending = place.function->pending(place.ticket.slot);
  if (!journal_->keeps(pending.traced, status)) return;
  const SlotHeader& slot = place.function->segment().slot(place.ticket.slot);
  const std::int64_t leased_ns = read_once(slot.leased_ns);
  RequestStamps stamps{.received_ns = pending.received_ns != 0 ? pending.received_ns : leased_ns,
                       .queued_ns = slot.queued_ns,
                       .answered_ns = now_ns()};
  if (done) {
    stamps.claimed_ns = read_once(slot.claimed_ns);
    stamps.compute_ns = read_once(slot.compute_ns);
    stamps.computed_ns = read_once(slot.computed_ns);
    stamps.done_ns = read_once(slot.done_ns);
  }
  journal_->add({.traced = pending.traced,
                 .context = pending.context,
                 .function = std::string(place.function->name()),
                 .version = std::string(place.function->version()),
                 .id = pending.id,
                 .rows = slot.rows,
                 .status = status,
                 .stamps = stamps});
}

// One that was never queued: the request is the one that was parsed last.
void Frontend::record_refused(Function& function, const Status& status, const Origin& origin) {
  const auto context = journal_->traced(origin.traceparent);
  if (!journal_->keeps(context.has_value(), status)) return;
  const std::int64_t now = now_ns();
  const std::int64_t received_ns = origin.received_ns != 0 ? origin.received_ns : now;
  journal_->add({.traced = context.has_value(),
                 .context = context.value_or(TraceContext{}),
                 .function = std::string(function.name()),
                 .version = std::string(function.version()),
                 .id = std::string(last_id()),
                 .status = status,
                 .stamps = {.received_ns = received_ns, .answered_ns = now}});
}

}  // namespace gslice
