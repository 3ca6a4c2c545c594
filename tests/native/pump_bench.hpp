// A pump under test: a segment, one front-end that submits and reads, and engines that do little
// and watch much.
#pragma once

#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "check.hpp"
#include "pump/cpu_device.hpp"
#include "pump/instance.hpp"
#include "segment/segment.hpp"
#include "tensor_spec.hpp"
#include "turns/board.hpp"

namespace gslice::test {

inline Signature signature(Dims input, Dims output, std::uint32_t rows_max,
                           std::vector<std::uint32_t> buckets = {}, DType dtype = DType::kFp32) {
  return {{tensor("x", dtype, std::move(input))},
          {tensor("y", dtype, std::move(output))},
          rows_max,
          std::move(buckets)};
}

inline std::string serialised(const std::vector<std::string>& elements) {
  std::string out;
  for (const std::string& element : elements) {
    const auto length = static_cast<std::uint32_t>(element.size());
    out.append(reinterpret_cast<const char*>(&length), sizeof(length)).append(element);
  }
  return out;
}

// Opens once; whoever passes first waits for that.
class Gate {
 public:
  void open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }
  void pass() {
    std::unique_lock lock(mutex_);
    ++waiting_;
    changed_.notify_all();
    changed_.wait(lock, [&] { return open_; });
  }
  void await_visitor() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return waiting_ > 0; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = false;
  int waiting_ = 0;
};

// Runs a function for each batch, and remembers what it saw.
class TestEngine final : public Engine {
 public:
  struct Seen {
    std::uint32_t rows, bucket, lane;
    bool operator==(const Seen&) const = default;
  };
  explicit TestEngine(std::function<Status(Batch&)> body) : body_(std::move(body)) {}
  bool blocking() const override { return true; }
  Status run(Batch& batch) override {
    if (running_.exchange(true)) return Status::Error(Code::kInternal, "two batches compute");
    {
      const std::lock_guard lock(mutex_);
      seen_.push_back({batch.rows(), batch.bucket(), batch.lane()});
    }
    Status status = body_(batch);
    running_.store(false);
    return status;
  }
  std::vector<Seen> seen() const {
    const std::lock_guard lock(mutex_);
    return seen_;
  }

 private:
  std::function<Status(Batch&)> body_;
  mutable std::mutex mutex_;
  std::vector<Seen> seen_;
  std::atomic<bool> running_{false};
};

template <typename T>
std::span<T> values(const Tensor& tensor) {
  return {reinterpret_cast<T*>(tensor.data), tensor.bytes / sizeof(T)};
}

// y = 2x, written straight to where the output belongs.
inline Status twice(Batch& batch) {
  if (batch.output_target(0) == nullptr)
    return Status::Error(Code::kInternal, "the output's place should be known");
  std::ranges::transform(values<const float>(batch.input(0)),
                         values<float>(batch.output(0)).begin(), [](float x) { return 2 * x; });
  return Status::Ok();
}

// Gives the input back by value.
inline Status echo(Batch& batch) {
  const Tensor& x = batch.input(0);
  return batch.set_output(0, batch.signature().outputs[0].dtype, x.shape.view(), {x.data, x.bytes});
}

struct Answer {
  Code code = Code::kOk;
  std::string message;
  Dims dims;
  std::string bytes;

  std::vector<float> floats() const {
    std::vector<float> out(bytes.size() / sizeof(float));
    std::memcpy(out.data(), bytes.data(), bytes.size());
    return out;
  }
};

class PumpBench {
 public:
  explicit PumpBench(Signature of, std::uint64_t payload_bytes = kPageBytes,
                     std::uint32_t block_count = 4)
      : signature(std::move(of)) {
    auto created = Segment::create({"f", {{payload_bytes, 32}}, 4 * kPageBytes, block_count});
    CHECK(created.ok());
    segment = created.take();
    segment->activate_frontend(0);
  }
  ~PumpBench() {
    instances.clear();
    close(eventfd_);
  }

  // An instance that may pull. `inline_lanes`: for run_once().
  Instance& serve(std::function<Status(Batch&)> body, std::uint32_t lanes = 1,
                  bool inline_lanes = false) {
    Instance& instance = add(std::move(body), lanes, inline_lanes);
    CHECK(segment->flip(kNobody, last_index));
    return instance;
  }
  Instance& add(std::function<Status(Batch&)> body, std::uint32_t lanes = 1,
                bool inline_lanes = false) {
    auto test_engine = std::make_unique<TestEngine>(std::move(body));
    engine = test_engine.get();
    return add_on(std::make_shared<CpuDevice>(lanes, inline_lanes), lanes, std::move(test_engine));
  }
  Instance& add_on(std::shared_ptr<DeviceTable> device, std::uint32_t lanes,
                   std::unique_ptr<Engine> of) {
    auto index = segment->add_instance();
    CHECK(index.ok());
    last_index = index.value();
    auto created =
        Instance::create(segment, last_index, signature, lanes, std::move(of), std::move(device));
    CHECK(created.ok());
    instances.push_back(created.take());
    CHECK(instances.back()->frontends().add(0, eventfd_).ok());
    return *instances.back();
  }

  // Has an instance that is not started yet take turns, on a device that is its alone.
  void take_turns(Instance& instance) {
    auto board = TurnBoard::create("cpu");
    CHECK(board.ok());
    board.value()->set_limit(kWholePpm);
    auto entry = board.value()->add(segment->header().generation, last_index, 0, kWholePpm);
    CHECK(entry.ok());
    CHECK(instance.take_turns(board.take(), entry.value()).ok());
  }

  Ticket submit(const Dims& dims, const std::vector<float>& data,
                std::int64_t deadline_ns = kNever) {
    return submit_bytes(dims,
                        {reinterpret_cast<const char*>(data.data()), data.size() * sizeof(float)},
                        deadline_ns);
  }
  Ticket submit_bytes(const Dims& dims, std::string_view data, std::int64_t deadline_ns = kNever) {
    auto leased = segment->lease(0, data.size());
    CHECK(leased.ok());
    const Ticket ticket = leased.value();
    SlotHeader& slot = segment->slot(ticket.slot);
    slot.rows = signature.rows_max == 0 ? 0 : static_cast<std::uint32_t>(dims[0]);
    slot.shape_key = 1;
    for (std::size_t i = signature.rows_max == 0 ? 0 : 1; i < dims.size(); ++i)
      slot.shape_key = slot.shape_key * 1000 + static_cast<std::uint64_t>(dims[i]);
    slot.due_ns = slot.deadline_ns = deadline_ns;
    slot.input_count = 1;
    TensorRecord& record = slot.inputs[0];
    record.offset = slot.output_offset;
    record.bytes = data.size();
    record.rank = static_cast<std::uint32_t>(dims.size());
    record.dtype = signature.inputs[0].dtype;
    std::ranges::copy(dims, record.dims.begin());
    std::ranges::copy(std::as_bytes(std::span(data)),
                      segment->bytes_at(record.offset, data.size()).data());
    slot.output_offset += align_up(data.size());
    slot.output_bytes -= align_up(data.size());
    CHECK(segment->queue(ticket));
    return ticket;
  }

  // Sleeps until somebody writes the front-end's eventfd.
  void await_bell() {
    pollfd wait{eventfd_, POLLIN, 0};
    CHECK_EQ(poll(&wait, 1, 20'000), 1);
    eventfd_t count = 0;
    eventfd_read(eventfd_, &count);
  }

  // Waits for the answer as a front-end does, reads it, and frees the slot.
  Answer answer(Ticket ticket) {
    while (!segment->is_done(ticket)) {
      std::vector<Ticket> done;
      segment->take_done(0, done);
      if (segment->is_done(ticket)) break;
      await_bell();
    }
    const SlotHeader& slot = segment->slot(ticket.slot);
    Answer out{static_cast<Code>(slot.code), {slot.message.data(), slot.message_bytes}, {}, {}};
    if (out.code == Code::kOk) {
      CHECK_EQ(slot.output_count, 1u);
      const TensorRecord& record = slot.outputs[0];
      out.dims.assign(record.dims.begin(), record.dims.begin() + record.rank);
      const auto bytes = segment->bytes_at(record.offset, record.bytes);
      out.bytes.assign(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    }
    segment->release(ticket);
    return out;
  }

  bool idle() {
    return segment->count_states()[0] == segment->slot_count() && segment->blocks_in_use() == 0;
  }
  std::uint32_t count(SlotState state) {
    return segment->count_states()[static_cast<std::size_t>(state)];
  }
  const Stats& stats() { return segment->header().stats; }

  Signature signature;
  std::shared_ptr<Segment> segment;
  std::vector<std::unique_ptr<Instance>> instances;
  TestEngine* engine = nullptr;  // of the last add()
  std::uint16_t last_index = kNobody;

 private:
  const int eventfd_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
};

}  // namespace gslice::test
