// Batches from queued requests to their answers: gathering, padding, outputs of every kind.
#include "pump_bench.hpp"

using namespace gslice;
using namespace gslice::test;

namespace {

using Seen = TestEngine::Seen;
using Floats = std::vector<float>;

}  // namespace

TEST(a_single_request_is_bound_where_it_lies) {
  PumpBench bench(signature({-1, 2}, {-1, 2}, 8));
  Instance& instance = bench.serve(twice);
  CHECK(instance.start().ok());
  const Answer answer = bench.answer(bench.submit({2, 2}, {1, 2, 3, 4}));
  CHECK_EQ(answer.message, "");
  CHECK(answer.dims == Dims{2, 2});
  CHECK(answer.floats() == Floats{2, 4, 6, 8});
  instance.stop();
  CHECK_EQ(instance.counters().zero_copy_batches.load(), 1u);
  CHECK_EQ(instance.counters().lane_buffer_allocations.load(), 0u);
  CHECK_EQ(bench.stats().copies.load_relaxed(), 0u);
  CHECK(bench.idle());
}

TEST(requests_of_one_shape_share_a_batch) {
  PumpBench bench(signature({-1, -1}, {-1, -1}, 8));
  Instance& instance = bench.serve(echo);
  const Ticket a = bench.submit({1, 2}, {1, 2});
  const Ticket other = bench.submit({1, 3}, {7, 8, 9});
  const Ticket b = bench.submit({2, 2}, {3, 4, 5, 6});
  CHECK(instance.start().ok());
  CHECK(bench.answer(a).floats() == Floats{1, 2});
  const Answer second = bench.answer(b);
  CHECK(second.dims == Dims{2, 2});
  CHECK(second.floats() == Floats{3, 4, 5, 6});
  CHECK(bench.answer(other).floats() == Floats{7, 8, 9});
  instance.stop();
  CHECK(bench.engine->seen() == std::vector<Seen>{{3, 3, 0}, {1, 1, 0}});
  CHECK_EQ(bench.stats().rows.load_relaxed(), 4u);
  CHECK_EQ(bench.stats().executions.load_relaxed(), 2u);
  CHECK_EQ(bench.stats().batch_rows[3].load_relaxed(), 1u);
  // Two gathered, two scattered, one given by value for the request alone.
  CHECK_EQ(bench.stats().copies.load_relaxed(), 5u);
  CHECK_EQ(bench.stats().copied_bytes.load_relaxed(), (6u + 6u + 3u) * sizeof(float));
  CHECK(bench.idle());
}

TEST(gathered_batches_write_known_outputs_through_the_lane_buffer) {
  PumpBench bench(signature({-1, 2}, {-1, 2}, 8));
  Instance& instance = bench.serve(twice);
  const Ticket a = bench.submit({1, 2}, {1, 2});
  const Ticket b = bench.submit({2, 2}, {3, 4, 5, 6});
  CHECK(instance.start().ok());
  CHECK(bench.answer(a).floats() == Floats{2, 4});
  CHECK(bench.answer(b).floats() == Floats{6, 8, 10, 12});
  instance.stop();
  CHECK_EQ(instance.counters().zero_copy_batches.load(), 0u);
  CHECK_EQ(bench.stats().copies.load_relaxed(), 4u);
  CHECK(bench.idle());
}

TEST(a_batch_is_padded_to_its_bucket_with_zeros) {
  PumpBench bench(signature({-1, 2}, {-1, 2}, 8, {4, 8}));
  Instance& instance = bench.serve([](Batch& batch) {
    const auto x = values<const float>(batch.input(0));
    if (batch.input(0).shape.dims[0] != batch.bucket() || x.size() != batch.bucket() * 2)
      return Status::Error(Code::kInternal, "not padded");
    for (std::size_t i = batch.rows() * 2; i < x.size(); ++i)
      if (x[i] != 0) return Status::Error(Code::kInternal, "padding is not zero");
    return twice(batch);
  });
  CHECK(instance.start().ok());
  for (const std::int64_t rows : {8, 3, 5}) {
    const Floats data(static_cast<std::size_t>(rows) * 2, 3);
    const Answer answer = bench.answer(bench.submit({rows, 2}, data));
    CHECK_EQ(answer.message, "");
    CHECK(answer.dims == Dims{rows, 2});
    CHECK(answer.floats() == Floats(data.size(), 6));
  }
  instance.stop();
  CHECK(bench.engine->seen() == std::vector<Seen>{{8, 8, 0}, {3, 4, 0}, {5, 8, 0}});
}

TEST(steady_state_grows_no_buffer) {
  PumpBench bench(signature({-1, 4}, {-1, 4}, 8, {4, 8}));
  Instance& instance = bench.serve(twice, 2);
  CHECK(instance.start().ok());
  for (const std::int64_t rows : {1, 7, 2, 5, 3})
    CHECK_EQ(
        bench.answer(bench.submit({rows, 4}, Floats(static_cast<std::size_t>(rows) * 4))).message,
        "");
  instance.stop();
  CHECK_EQ(instance.counters().lane_buffer_allocations.load(), 1u);
}

TEST(functions_without_rows_run_one_request_at_a_time) {
  PumpBench bench(signature({2, -1}, {2, -1}, 0));
  Instance& instance = bench.serve(echo);
  const Ticket a = bench.submit({2, 1}, {1, 2});
  const Ticket b = bench.submit({2, 1}, {3, 4});
  CHECK(instance.start().ok());
  CHECK(bench.answer(a).floats() == Floats{1, 2});
  CHECK(bench.answer(b).floats() == Floats{3, 4});
  instance.stop();
  CHECK(bench.engine->seen() == std::vector<Seen>{{1, 1, 0}, {1, 1, 0}});
  CHECK_EQ(bench.stats().rows.load_relaxed(), 2u);
}

// ---- outputs that only the engine knows ------------------------------------------------------

TEST(unknown_outputs_take_an_overflow_block_when_they_outgrow_the_slot) {
  constexpr std::int64_t kWide = 2048;  // 8 KiB a row; a slot's payload has 4
  PumpBench bench(signature({-1, 1}, {-1, -1}, 8));
  Instance& instance = bench.serve([](Batch& batch) {
    Floats y;
    for (const float x : values<const float>(batch.input(0))) y.insert(y.end(), kWide, x);
    const Dims dims{batch.bucket(), kWide};
    return batch.set_output(0, DType::kFp32, dims, std::as_bytes(std::span(y)));
  });
  const Ticket a = bench.submit({1, 1}, {1});
  const Ticket b = bench.submit({1, 1}, {2});
  CHECK(instance.start().ok());
  const Answer first = bench.answer(a);
  CHECK_EQ(first.message, "");
  CHECK(first.dims == Dims{1, kWide});
  CHECK(first.floats() == Floats(kWide, 1));
  CHECK(bench.answer(b).floats() == Floats(kWide, 2));
  instance.stop();
  CHECK_EQ(instance.counters().batches.load(), 1u);
  CHECK(bench.idle());
}

TEST(an_empty_overflow_pool_fails_only_the_request_that_needed_it) {
  constexpr std::int64_t kWide = 2048;
  PumpBench bench(signature({-1, 1}, {-1, -1}, 8), kPageBytes, 1);
  Instance& instance = bench.serve([](Batch& batch) {
    const Floats y(batch.bucket() * kWide, 1);
    return batch.set_output(0, DType::kFp32, Dims{batch.bucket(), kWide},
                            std::as_bytes(std::span(y)));
  });
  const Ticket a = bench.submit({1, 1}, {1});
  const Ticket b = bench.submit({1, 1}, {2});
  CHECK(instance.start().ok());
  CHECK(bench.answer(a).code == Code::kOk);
  const Answer failed = bench.answer(b);
  CHECK(failed.code == Code::kResourceExhausted);
  CHECK(failed.message.starts_with("output 'y' of 8192 bytes: "));
  instance.stop();
  CHECK(bench.idle());
}

TEST(bytes_are_gathered_padded_and_split_by_element) {
  PumpBench bench(signature({-1, 2}, {-1, 2}, 4, {4}, DType::kBytes));
  Instance& instance = bench.serve(echo);
  const Ticket a = bench.submit_bytes({1, 2}, serialised({"", "longer than the others"}));
  const Ticket b = bench.submit_bytes({2, 2}, serialised({"a", "bc", "def", ""}));
  CHECK(instance.start().ok());
  CHECK_EQ(bench.answer(a).bytes, serialised({"", "longer than the others"}));
  const Answer second = bench.answer(b);
  CHECK(second.dims == Dims{2, 2});
  CHECK_EQ(second.bytes, serialised({"a", "bc", "def", ""}));
  instance.stop();
  CHECK(bench.engine->seen() == std::vector<Seen>{{3, 4, 0}});
}
