// What goes wrong in a batch: engines that err or lie, and damaged requests.
#include "pump_bench.hpp"

using namespace gslice;
using namespace gslice::test;

namespace {

using Floats = std::vector<float>;

}  // namespace

TEST(an_engine_error_fails_its_batch_and_no_other) {
  PumpBench bench(signature({-1, 1}, {-1, 1}, 8));
  Instance& instance = bench.serve([](Batch& batch) {
    if (values<const float>(batch.input(0))[0] == 13)
      return Status::Error(Code::kInternal, "ValueError: unlucky");
    return twice(batch);
  });
  const Ticket a = bench.submit({1, 1}, {13});
  const Ticket b = bench.submit({1, 1}, {1});
  CHECK(instance.start().ok());
  for (const Ticket ticket : {a, b}) {
    const Answer failed = bench.answer(ticket);
    CHECK(failed.code == Code::kInternal);
    CHECK_EQ(failed.message, "ValueError: unlucky");
  }
  CHECK(bench.answer(bench.submit({1, 1}, {2})).floats() == Floats{4});
  instance.stop();
  const auto outcome = [&](Outcome of) {
    return bench.stats().outcome[static_cast<std::size_t>(of)].load_relaxed();
  };
  CHECK_EQ(outcome(Outcome::kFailed), 2u);
  CHECK_EQ(outcome(Outcome::kOk), 1u);
  CHECK(bench.idle());
}

TEST(what_an_engine_gives_is_checked_against_the_signature) {
  const Floats data{1, 2, 3, 4, 5, 6};
  const auto bytes = std::as_bytes(std::span(data));
  struct Case {
    std::function<Status(Batch&)> body;
    std::string message;
  };
  const std::vector<Case> cases{
      {[](Batch&) { return Status::Ok(); }, "the engine gave no output 'y'"},
      {[&](Batch& b) { return b.set_output(0, DType::kInt32, Dims{2, 3}, bytes); },
       "output 'y' is INT32, the signature says FP32"},
      {[&](Batch& b) { return b.set_output(0, DType::kFp32, Dims{6}, bytes); },
       "output 'y' has shape [6], the signature says [-1, -1]"},
      {[&](Batch& b) { return b.set_output(0, DType::kFp32, Dims{3, 2}, bytes); },
       "output 'y' has 3 rows, the batch has 2"},
      {[&](Batch& b) { return b.set_output(0, DType::kFp32, Dims{2, 4}, bytes); },
       "output 'y' has 24 bytes, its shape [2, 4] needs 32"},
  };
  for (const Case& c : cases) {
    PumpBench bench(signature({-1, 1}, {-1, -1}, 8));
    Instance& instance = bench.serve(c.body);
    CHECK(instance.start().ok());
    const Answer answer = bench.answer(bench.submit({2, 1}, {1, 2}));
    CHECK(answer.code == Code::kInternal);
    CHECK_EQ(answer.message, c.message);
  }
}

TEST(broken_bytes_outputs_are_named) {
  for (const std::string& data :
       {serialised({"a"}), serialised({"a", "b", "c"}), serialised({"a", "bcd"}).substr(0, 11)}) {
    PumpBench bench(signature({-1}, {-1}, 8, {}, DType::kBytes));
    Instance& instance = bench.serve([&](Batch& batch) {
      return batch.set_output(0, DType::kBytes, Dims{2}, std::as_bytes(std::span(data)));
    });
    CHECK(instance.start().ok());
    const Answer answer = bench.answer(bench.submit_bytes({2}, serialised({"x", "y"})));
    CHECK(answer.code == Code::kInternal);
    CHECK(answer.message.starts_with("output 'y': "));
  }
}

TEST(a_shape_that_no_memory_holds_is_no_output) {
  PumpBench bench(signature({-1}, {-1, -1}, 0, {}, DType::kBytes));
  Instance& instance = bench.serve([](Batch& batch) {
    constexpr std::int64_t kWide = std::int64_t{1} << 32;  // squared, it is 0 in 64 bits
    return batch.set_output(0, DType::kBytes, Dims{kWide, kWide}, {});
  });
  CHECK(instance.start().ok());
  const Answer answer = bench.answer(bench.submit_bytes({1}, serialised({"x"})));
  CHECK(answer.code == Code::kInternal);
  CHECK_EQ(answer.message, "output 'y' has shape [4294967296, 4294967296], whose size overflows");
}

TEST(a_damaged_slot_fails_alone) {
  PumpBench bench(signature({-1, 2}, {-1, 2}, 8));
  const Ticket good = bench.submit({1, 2}, {1, 2});
  const Ticket bad = bench.submit({1, 2}, {3, 4});
  bench.segment->slot(bad.slot).inputs[0].offset = bench.segment->size_bytes() - 4;
  Instance& instance = bench.serve(twice);
  CHECK(instance.start().ok());
  CHECK(bench.answer(good).floats() == Floats{2, 4});
  CHECK(bench.answer(bad).code == Code::kInternal);
  instance.stop();
  CHECK(bench.idle());
}
