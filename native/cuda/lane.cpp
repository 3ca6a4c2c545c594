#include "cuda/lane.hpp"

#include <cstring>
#include <string>

#include "base/clock.hpp"

namespace gslice::cuda {

// ---- life --------------------------------------------------------------------------------------

CudaLane::CudaLane(std::shared_ptr<Context> context, std::shared_ptr<GreenContext> green,
                   std::uint32_t place, CUstream stream, std::size_t staging_max_bytes)
    : context_(std::move(context)),
      green_(std::move(green)),
      place_(place),
      stream_(stream),
      copies_(context_, stream, staging_max_bytes),
      arena_(context_) {}

Result<std::shared_ptr<CudaLane>> CudaLane::create(std::shared_ptr<Context> context,
                                                   std::shared_ptr<GreenContext> green,
                                                   std::uint32_t place,
                                                   std::size_t staging_max_bytes) {
  if (Status status = context->enter(); !status.ok()) return status;
  auto stream = green ? green->create_stream() : context->create_stream();
  if (!stream.ok()) return stream.status();
  std::shared_ptr<CudaLane> lane(
      new CudaLane(std::move(context), std::move(green), place, stream.value(), staging_max_bytes));
  if (Status status = lane->create_events(); !status.ok()) return status;
  if (Status status = lane->copies_.allocate_staging(); !status.ok()) return status;
  return lane;
}

// In the primary context, of which every green one is a part.
Status CudaLane::create_events() {
  for (CUevent& event : events_) {
    Status status = context_->check(context_->driver().cuEventCreate(&event, CU_EVENT_DEFAULT),
                                    "cuEventCreate");
    if (!status.ok()) return status;
  }
  return Status::Ok();
}

CudaLane::~CudaLane() {
  close();
  if (!context_->enter().ok()) return;
  (void)context_->synchronise(stream_);  // as above
  for (const CUevent event : events_)
    if (event != nullptr) context_->driver().cuEventDestroy(event);
  for (const CUstream side : side_streams_) context_->driver().cuStreamDestroy(side);
  context_->driver().cuStreamDestroy(stream_);
}

Status CudaLane::open(Engine& engine, std::function<void()> done) {
  if (engine_ != nullptr)
    return Status::Error(Code::kFailedPrecondition,
                         "lane " + std::to_string(place_) + " belongs to another instance");
  engine_ = &engine;
  done_ = std::move(done);
  batch = nullptr;
  if (!engine.blocking()) return Status::Ok();
  Status status = thread_.start(place_, engine, [this] {
    if (status_.ok()) status_ = context_->enter();
    enqueue_rest();
    done_();
  });
  if (!status.ok()) engine_ = nullptr;
  return status;
}

// Batches are left when the device was given up: what of them still runs must not outlive the
// registration of its slots.
void CudaLane::close() {
  thread_.stop();
  engine_ = nullptr;
  const bool left = state_.exchange(State::kIdle) != State::kIdle || !context_->lost().ok();
  if (!left || !context_->enter().ok()) return;
  (void)context_->synchronise(stream_);  // on a lost device at once, with the error known already
}

std::shared_ptr<std::byte> CudaLane::buffer(std::size_t bytes, bool* grown) {
  *grown = buffer_ == nullptr || bytes > buffer_->bytes();
  if (*grown) {
    buffer_.reset();
    auto created = DeviceBuffer::create(context_, bytes);
    if (!created.ok()) return nullptr;
    buffer_ = created.take();
  }
  return {buffer_, buffer_->data()};
}

// ---- a batch -----------------------------------------------------------------------------------

void CudaLane::forget() {
  status_ = Status::Ok();
  end_is_marked_ = false;
  kept_.clear();
  arena_.clear();
}

// The inputs are on their way before the lane's thread has woken.
void CudaLane::record() {
  forget();
  batch->lie_on(*this);
  status_ = context_->enter();
  if (status_.ok()) status_ = enqueue_copy_in();
  state_.store(State::kEnqueuing, std::memory_order_relaxed);
  if (thread_.running())
    thread_.run();
  else
    enqueue_rest();
}

Status CudaLane::enqueue_copy_in() {
  if (Status status = mark(kBegun); !status.ok()) return status;
  if (Status status = copies_.gather(buffer_->data(), gather); !status.ok()) return status;
  return mark(kCopiedIn);
}

// Whatever went wrong, the end is marked: what was enqueued before may still reach the slots.
void CudaLane::enqueue_rest() {
  if (status_.ok()) status_ = enqueue_compute();
  const Status marked = mark(kEnded);
  end_is_marked_ = marked.ok();
  if (status_.ok()) status_ = marked;
  schedule_.began(batch->bucket(), now_ns());
  state_.store(State::kEnqueued, std::memory_order_release);
}

Status CudaLane::enqueue_compute() {
  if (Status status = run_checked(*engine_, *batch); !status.ok()) return status;
  if (Status status = mark(kComputed); !status.ok()) return status;
  return copies_.scatter(buffer_->data(), scatter);
}

Status CudaLane::mark(Mark mark) {
  return context_->check(context_->driver().cuEventRecord(events_[mark], stream_), "cuEventRecord");
}

bool CudaLane::poll(LaneReport& report) {
  if (state_.load(std::memory_order_acquire) != State::kEnqueued) return false;
  bool ended = false;
  Status status = ask_stream(&ended);
  if (!ended) return false;
  const std::int64_t ended_ns = now_ns();
  schedule_.ended(ended_ns);
  if (status_.ok()) status_ = std::move(status);
  report = {};
  if (status_.ok()) {
    copies_.finish_scatter();
    status_ = store_kept();
  }
  if (status_.ok()) status_ = measure(ended_ns, report);
  report.status = std::move(status_);
  state_.store(State::kIdle, std::memory_order_relaxed);
  return true;
}

// A batch has ended when nothing of it can reach its slots any more. Its own event tells so, then
// the stream; when neither does, nobody knows, and so the device is lost.
Status CudaLane::ask_stream(bool* ended) {
  const Driver& driver = context_->driver();
  if (end_is_marked_) {
    const CUresult result = driver.cuEventQuery(events_[kEnded]);
    *ended = result == CUDA_SUCCESS;
    if (*ended || result == CUDA_ERROR_NOT_READY) return Status::Ok();
    end_is_marked_ = false;
    Status status = context_->check(result, "cuEventQuery");
    if (status_.ok()) status_ = status;
    *ended = !context_->lost().ok();
    if (*ended) return status;
  }
  const CUresult result = driver.cuStreamQuery(stream_);
  *ended = result != CUDA_ERROR_NOT_READY;
  if (!*ended) return Status::Ok();
  Status status = context_->check(result, "cuStreamQuery");
  if (!status.ok()) context_->lose(status);
  return status;
}

Status CudaLane::store_kept() {
  for (const Kept& kept : kept_)
    if (Status status = batch->store(kept.output, kept.shape, kept.data); !status.ok())
      return status;
  return Status::Ok();
}

Status CudaLane::measure(std::int64_t ended_ns, LaneReport& report) const {
  std::int64_t compute_ns = 0;
  for (const auto& [from, to, duration_ns] : {std::tuple{kBegun, kCopiedIn, &report.copy_in_ns},
                                              std::tuple{kCopiedIn, kComputed, &compute_ns},
                                              std::tuple{kComputed, kEnded, &report.copy_out_ns}})
    if (Status status = between(from, to, duration_ns); !status.ok()) return status;
  report.computed_ns = ended_ns - report.copy_out_ns;
  report.compute_ns = report.computed_ns - compute_ns;
  return Status::Ok();
}

Status CudaLane::between(Mark from, Mark to, std::int64_t* duration_ns) const {
  float ms = 0;
  Status status = context_->check(
      context_->driver().cuEventElapsedTime(&ms, events_[from], events_[to]), "cuEventElapsedTime");
  *duration_ns = static_cast<std::int64_t>(static_cast<double>(ms) * 1e6);
  return status;
}

std::int64_t CudaLane::next_poll_ns(std::int64_t now_ns) const {
  return state_.load(std::memory_order_acquire) == State::kEnqueued ? schedule_.next_ns(now_ns)
                                                                    : kNever;
}

// ---- on the stream -----------------------------------------------------------------------------

Status CudaLane::copy_from_host(std::byte* to, std::span<const std::byte> data) {
  if (data.empty()) return Status::Ok();
  const auto pinned = arena_.take(data.size());
  if (!pinned.ok()) return pinned.status();
  std::memcpy(pinned.value(), data.data(), data.size());
  return copies_.copy(to, pinned.value(), data.size());
}

Status CudaLane::copy_from_device(std::byte* to, std::span<const std::byte> data) {
  return copies_.copy(to, data.data(), data.size());
}

Status CudaLane::keep(std::uint32_t output, const Shape& shape, std::span<const std::byte> data) {
  const auto pinned = arena_.take(data.size());
  if (!pinned.ok()) return pinned.status();
  kept_.push_back({output, shape, {pinned.value(), data.size()}});
  return copies_.copy(pinned.value(), data.data(), data.size());
}

Status CudaLane::launch(void* graph) {
  ++context_->counters().graph_launches;
  return context_->check(context_->driver().cuGraphLaunch(static_cast<CUgraphExec>(graph), stream_),
                         "cuGraphLaunch");
}

// ---- outside the hot path ----------------------------------------------------------------------

Status CudaLane::begin(Batch& of) {
  if (open())
    return Status::Error(Code::kFailedPrecondition,
                         "lane " + std::to_string(place_) + " serves; warm up before the start");
  if (Status status = context_->enter(); !status.ok()) return status;
  if (Status status = context_->synchronise(stream_); !status.ok()) return status;
  forget();
  batch = &of;
  batch->lie_on(*this);
  return Status::Ok();
}

Status CudaLane::finish(Batch& of) {
  if (batch != &of) return Status::Ok();  // another has begun since, which waited for it
  if (Status status = context_->enter(); !status.ok()) return status;
  if (Status status = context_->synchronise(stream_); !status.ok()) return status;
  Status status = store_kept();
  kept_.clear();
  return status;
}

void CudaLane::end(Batch& of) {
  if (batch != &of) return;
  batch = nullptr;
  kept_.clear();
  arena_.drop();  // what serving needs of it is less, and comes with the first batch
}

Result<std::span<const CUstream>> CudaLane::side_streams(std::size_t count) {
  if (green_ == nullptr) return std::span<const CUstream>();
  if (Status status = context_->enter(); !status.ok()) return status;
  while (side_streams_.size() < count) {
    const auto stream = green_->create_stream();
    if (!stream.ok()) return stream.status();
    side_streams_.push_back(stream.value());
  }
  return std::span<const CUstream>(side_streams_).first(count);
}

}  // namespace gslice::cuda
