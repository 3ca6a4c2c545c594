#include "pump/instance.hpp"

#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <system_error>

#include "base/clock.hpp"
#include "base/pause.hpp"
#include "base/scheduling.hpp"
#include "pump/record.hpp"

namespace gslice {
namespace {

Status invalid(std::string message) {
  return Status::Error(Code::kInvalidArgument, std::move(message));
}

}  // namespace

Result<std::unique_ptr<Instance>> Instance::create(std::shared_ptr<Segment> segment,
                                                   std::uint32_t index, Signature signature,
                                                   std::uint32_t lanes,
                                                   std::unique_ptr<Engine> engine,
                                                   std::shared_ptr<DeviceTable> device) {
  if (index >= kMaxInstances)
    return invalid("instance " + std::to_string(index) + " is out of range; there are " +
                   std::to_string(kMaxInstances));
  if (lanes == 0 || lanes > kMaxLanes)
    return invalid(std::to_string(lanes) + " lanes; 1 to " + std::to_string(kMaxLanes) +
                   " are possible");
  std::unique_ptr<Instance> instance(
      new Instance(std::move(segment), static_cast<std::uint16_t>(index), std::move(signature),
                   lanes, std::move(engine), std::move(device)));
  if (!instance->fault_.valid())
    return Status::Error(Code::kResourceExhausted,
                         std::string("no eventfd for an instance: ") + std::strerror(errno));
  return instance;
}

Instance::Instance(std::shared_ptr<Segment> segment, std::uint16_t index, Signature signature,
                   std::uint32_t lanes, std::unique_ptr<Engine> engine,
                   std::shared_ptr<DeviceTable> device)
    : segment_(std::move(segment)),
      index_(index),
      signature_(std::move(signature)),
      engine_(std::move(engine)),
      device_(std::move(device)) {
  for (std::uint32_t i = 0; i < lanes; ++i)
    lanes_.push_back(
        {std::make_unique<Assembly>(*segment_, index_, signature_, i, engine_->in_place())});
}

Instance::~Instance() { stop(); }

// ---- the hot path ------------------------------------------------------------------------------

void Instance::pump_main() {
  prctl(PR_SET_NAME, "gslice-pump");
  // A pump that computes itself, or polls a device, would keep others from the core.
  if (!device_->runs_by_itself() || !run_in_real_time()) ask_for_short_turns();
  prctl(PR_SET_TIMERSLACK, 1);  // ns: what it waits for is tens of microseconds away
  pump_tid_.store(gettid());
  pump_tid_.notify_all();
  turn_.begin();
  while (!ended()) turn();
  turn_.end();
  if (faulted_)
    report_fault();
  else
    report_drained();
}

// One turn: the doorbell is read before anything is looked at, so that whatever changes meanwhile
// ends the wait at once.
void Instance::turn() {
  const std::uint32_t doorbell = segment_->doorbell(index_);
  stamp();
  complete_finished();
  move_idle_lanes();
  report_drained();
  if (ended()) return;
  const std::int64_t wait_until_ns = launch_next();
  if (wait_until_ns != 0) wait(doorbell, wait_until_ns);
}

// Waits for the doorbell, for `until_ns`, or for the end of a batch on a device that has to be
// asked: asleep while that is not near, and by asking again and again where a sleep would overshoot
// it.
void Instance::wait(std::uint32_t doorbell, std::int64_t until_ns) {
  while (true) {
    const std::int64_t now = now_ns();
    const std::int64_t poll_ns = device_->next_poll_ns(now);
    if (poll_ns > now)
      segment_->wait(index_, doorbell, std::min(until_ns, poll_ns));
    else
      pause_cpu();
    if (segment_->doorbell(index_) != doorbell || poll_ns == kNever || until_ns <= now) return;
    stamp();
    if (complete_finished()) return;
  }
}

void Instance::stamp() { entry().pump_stamp_ns.store_relaxed(now_ns()); }

// True: something has changed.
bool Instance::complete_finished() {
  bool any = false;
  LaneReport report;
  for (std::uint32_t i = 0; i < lanes_.size(); ++i) {
    if (!lanes_[i].busy || !device_->poll(i, report)) continue;
    any = true;
    if (!report.status.ok() && !device_->lost().ok()) {
      faulted_ = true;
      break;
    }
    complete(lanes_[i], i, report);
  }
  return any;
}

// Launches one batch if a lane is free. Returns how long to sleep; 0: look again at once.
std::int64_t Instance::launch_next() {
  if (draining_.load()) {
    entry().ready_since_ns.store_relaxed(0);
    if (in_flight_ == 0) turn_.give_back();
    return kNever;
  }
  if (const std::int64_t until_ns = await_turn(); until_ns != 0) return until_ns;
  const auto free = std::ranges::find(lanes_, false, &Lane::busy);
  if (free == lanes_.end()) return kNever;
  segment_->claim(index_, claim_limits(), now_ns(), claim_, wake_);
  frontends_.ring(wake_);  // of requests that expired in the queue
  if (claim_.slots.empty()) {
    turn_.give_back();
    return claim_.wait_until_ns;
  }
  free->waited_ns = turn_.use();
  launch(*free, static_cast<std::uint32_t>(free - lanes_.begin()));
  return 0;
}

// What would only wait for its turn does so in the queue, and can grow; a full batch copies in.
ClaimLimits Instance::claim_limits() const {
  return {.rows_max = signature_.rows_max,
          .in_flight = in_flight_,
          .full_only = in_flight_ > 0 && device_->computes_in_turn(),
          .last = in_flight_ + 1 >= batches_at_once()};
}

// Where shares over-commit the device, a batch needs its turn there: one at a time, for what is due
// first. 0: it may be claimed. Else until when to sleep; the doorbell tells of the turn.
std::int64_t Instance::await_turn() {
  if (!turn_.needed()) {
    turn_.give_back();
    return 0;
  }
  if (in_flight_ > 0) {
    turn_.run_anyway();
    return kNever;
  }
  if (turn_.is_ours()) return 0;
  const std::int64_t now = now_ns();
  const bool found = segment_->peek(index_, claim_limits(), now, claim_, wake_);
  frontends_.ring(wake_);
  if (!found) {
    turn_.give_back();
    return claim_.wait_until_ns;
  }
  if (const std::int64_t until_ns = turn_.ask(claim_.due_ns, now); until_ns != 0) {
    entry().ready_since_ns.store_relaxed(0);  // for nothing can be claimed
    return until_ns;
  }
  histogram_add(segment_->header().stats.stage[static_cast<std::size_t>(Stage::kTurn)],
                turn_.waited_ns());
  note_ready(turn_.granted_ns());
  return 0;
}

// The turn of a batch that is done goes to what is due first, perhaps of ours again. Before its
// answers: they take nothing of the device.
void Instance::pass_turn_on() {
  if (in_flight_ > 0) return;
  if (draining_.load())
    turn_.give_back();
  else
    await_turn();
}

void Instance::launch(Lane& lane, std::uint32_t index) {
  Assembly& assembly = *lane.assembly;
  assembly.take(claim_.slots);
  for (const Member& member : assembly.rejected()) answer(member, member.status, {});
  if (!assembly.members().empty()) {
    if (const Status status = assembly.lay_out(*device_); status.ok()) {
      lane.busy = true;
      ++in_flight_;
      entry().lane_started_ns[index].store_relaxed(now_ns());
      device_->copy_in(index, assembly.gather());
      device_->compute(index, assembly.batch());
      device_->copy_out(index, assembly.scatter());
      device_->record(index);
    } else if (!device_->lost().ok()) {
      faulted_ = true;
    } else {
      for (const Member& member : assembly.members()) answer(member, status, {});
    }
    counters_.lane_buffer_allocations += assembly.buffer_grown();
  }
  if (!lane.busy) note_ready(now_ns());
  frontends_.ring(wake_);
}

// Of those that ran well: what fails is no sample. They lie in their slots until they are answered.
void Instance::record_inputs(const Assembly& assembly) {
  const std::int64_t now = now_ns();
  for (std::size_t i = 0; i < assembly.members().size(); ++i)
    if (assembly.members()[i].status.ok()) recorder_.take(assembly.inputs_of(i), now);
}

void Instance::complete(Lane& lane, std::uint32_t index, const LaneReport& report) {
  --in_flight_;
  pass_turn_on();
  Assembly& assembly = *lane.assembly;
  if (report.status.ok()) {
    record_batch(segment_->header(), assembly, report, lane.waited_ns);
    ++counters_.batches;
    counters_.zero_copy_batches += assembly.traffic().copies == 0;
  }
  if (recorder_.left() != 0 && report.status.ok()) record_inputs(assembly);
  for (const Member& member : assembly.members())
    answer(member, report.status.ok() ? member.status : report.status, report);
  lane.busy = false;
  note_ready(now_ns());
  restart_waiting();
  entry().lane_started_ns[index].store_relaxed(0);
  frontends_.ring(wake_);
}

// A batch that waited for its turn to compute did not hang: its time counts from the end of the one
// before it.
void Instance::restart_waiting() {
  if (in_flight_ == 0 || !device_->computes_in_turn()) return;
  const std::int64_t now = now_ns();
  for (std::size_t i = 0; i < lanes_.size(); ++i)
    if (lanes_[i].busy) entry().lane_started_ns[i].store_relaxed(now);
}

// Where lanes compute in turn, what is launched beside a running batch only copies in early.
std::size_t Instance::batches_at_once() const {
  return device_->computes_in_turn() || turn_.needed() ? 1 : lanes_.size();
}

// From now on requests wait for nobody but us, if they did not before. The claim ends that; a flip
// at this very moment may leave a stamp on an instance that it retired, which drain() clears.
void Instance::note_ready(std::int64_t now) {
  auto& since_ns = entry().ready_since_ns;
  if (since_ns.load_relaxed() != 0 || in_flight_ >= batches_at_once() || turn_.waits()) return;
  if (entry().may_pull.load_relaxed() == 1 && !draining_.load()) since_ns.store_relaxed(now);
}

void Instance::answer(const Member& member, const Status& status, const LaneReport& report) {
  std::uint16_t frontend = kNobody;
  const RunStamps stamps{report.compute_ns, report.computed_ns, now_ns()};
  if (segment_->complete(member.ticket, index_, status.code, status.message, &frontend, stamps))
    wake_.push_back(frontend);
  if (frontend != kNobody)
    record_request(segment_->header().stats, member, report, status.ok(), stamps.done_ns);
}

// ---- life --------------------------------------------------------------------------------------

Status Instance::open_lanes() {
  if (open_) return Status::Ok();
  if (Status status = device_->attach(segment_->payloads()); !status.ok()) return status;
  open_ = true;
  for (std::uint32_t i = 0; i < lanes_.size(); ++i) {
    Status status = device_->open_lane(i, *engine_, [this] { segment_->ring(index_); });
    if (status.ok()) continue;
    close_lanes(i);
    return status;
  }
  return Status::Ok();
}

void Instance::close_lanes(std::uint32_t count) {
  if (!open_) return;
  for (std::uint32_t i = 0; i < count; ++i) device_->close_lane(i);
  device_->detach();
  open_ = false;
}

Status Instance::start() {
  if (pump_.joinable() || stopping_.load())
    return Status::Error(Code::kFailedPrecondition, "the pump can be started once only");
  if (Status status = open_lanes(); !status.ok()) return status;
  if (Status status = turn_.listen([this] { segment_->ring(index_); }, device_->runs_by_itself());
      !status.ok())
    return status;
  try {
    pump_ = std::thread([this] { pump_main(); });
  } catch (const std::system_error& error) {
    return Status::Error(Code::kResourceExhausted,
                         std::string("no thread for the pump: ") + error.what());
  }
  pump_tid_.wait(0);
  return Status::Ok();
}

bool Instance::drain(std::int64_t timeout_ns) {
  draining_.store(true);
  if (pump_tid_.load() == 0) return true;  // never started
  segment_->ring(index_);
  std::unique_lock lock(drained_mutex_);
  drained_changed_.wait_for(lock, std::chrono::nanoseconds(timeout_ns),
                            [&] { return drained_ || gave_up_; });
  return drained_;
}

Status Instance::move() {
  if (pump_tid_.load() == 0 || stopping_.load())
    return Status::Error(Code::kFailedPrecondition, "the pump does not run");
  if (Status status = device_->begin_move(); !status.ok()) return status;
  moving_.store(true);
  segment_->ring(index_);
  {
    std::unique_lock lock(drained_mutex_);
    drained_changed_.wait(lock, [&] { return moved_ || gave_up_; });
    if (!moved_) return Status::Error(Code::kUnavailable, "the device is lost");
    moved_ = false;
  }
  device_->end_move();
  return Status::Ok();
}

// A lane that is busy moves when its batch has ended; the others claim on meanwhile.
void Instance::move_idle_lanes() {
  if (moving_.load()) {
    moving_.store(false);
    lanes_move_ = true;
    for (Lane& lane : lanes_) lane.moves = true;
  }
  if (!lanes_move_ || faulted_) return;
  for (std::uint32_t i = 0; i < lanes_.size(); ++i) {
    if (!lanes_[i].moves || lanes_[i].busy) continue;
    device_->move_lane(i);
    lanes_[i].moves = false;
  }
  if (std::ranges::any_of(lanes_, &Lane::moves)) return;
  lanes_move_ = false;
  {
    const std::lock_guard lock(drained_mutex_);
    moved_ = true;
  }
  drained_changed_.notify_all();
}

void Instance::report_drained() {
  if (!draining_.load() || in_flight_ != 0) return;
  {
    const std::lock_guard lock(drained_mutex_);
    drained_ = true;
  }
  drained_changed_.notify_all();
}

void Instance::report_fault() {
  {
    const std::lock_guard lock(drained_mutex_);
    gave_up_ = true;
  }
  drained_changed_.notify_all();
  fault_.raise(device_->lost());
}

void Instance::stop() {
  draining_.store(true);
  stopping_.store(true);
  if (pump_.joinable()) {
    segment_->ring(index_);
    pump_.join();
  }
  turn_.stop_listening();
  close_lanes(static_cast<std::uint32_t>(lanes_.size()));
}

bool Instance::run_once() {
  if (Status status = open_lanes(); !status.ok()) return false;
  stamp();
  if (launch_next() != 0) return false;
  complete_finished();
  return true;
}

}  // namespace gslice
