// The front-end's data path over a real segment: round trips, tickets, cancels, deadlines, faults.
#include <memory>
#include <string>
#include <vector>

#include "check.hpp"
#include "frontend_bench.hpp"

namespace {

using namespace gslice;
using namespace gslice::test;
using namespace std::string_literals;
using namespace std::string_view_literals;

int number(Code code) { return static_cast<int>(code); }

Proto echo_response(std::string_view id) {
  Proto message;
  message.text(1, "echo").text(2, "1");
  if (!id.empty()) message.text(3, id);
  return message;
}

}  // namespace

TEST(round_trip) {
  FrontendBench bench;
  CHECK(bench.added.ok());
  const TicketId id = ok(bench.submit(echo_request(2, "request-7")));
  CHECK(id >= 0);
  CHECK_EQ(bench.frontend.in_flight(), 1u);
  CHECK_EQ(ok(bench.frontend.request_id(id)), "request-7"sv);
  CHECK_EQ(ok(bench.frontend.deadline_ns(id)), kNever);
  CHECK_EQ(static_cast<std::uint32_t>(bench.slot(id).rows), 2u);
  CHECK(bench.take_done().empty());
  CHECK_EQ(bench.serve(), 1u);
  CHECK(bench.take_done() == std::vector{id});
  CHECK(bench.take_done().empty());

  const Proto expected = echo_response("request-7")
                             .message(5, input("y", "FP32", {2, 4}))
                             .text(6, std::string(32, 'x'));
  CHECK_EQ(ok(bench.answer(id)), expected.str());
  CHECK(bench.idle());
  CHECK_EQ(bench.segment->header().stats.copies.load(), 2u);
  CHECK_EQ(bench.segment->header().stats.copied_bytes.load(), 64u);
}

TEST(stream_answers_are_wrapped_and_final) {
  FrontendBench bench;
  const TicketId id = ok(bench.submit(echo_request(1)));
  bench.serve();
  const Proto inner = echo_response("")
                          .message(4, parameter("triton_final_response", Proto().varint(1, 1)))
                          .message(5, input("y", "FP32", {1, 4}))
                          .text(6, std::string(16, 'x'));
  CHECK_EQ(ok(bench.answer(id, true)), Proto().message(2, inner).str());
}

TEST(requested_outputs_in_the_order_asked_for) {
  const Signature signature{{tensor("a", DType::kInt32, {}), tensor("b", DType::kBytes, {2})},
                            {tensor("p", DType::kInt32, {}), tensor("q", DType::kBytes, {-1})},
                            0,
                            {}};
  FrontendBench bench(signature);
  const std::string strings = elements({"one", ""});
  const auto request = [&](std::initializer_list<std::string_view> outputs) {
    Proto message;
    message.text(1, "echo")
        .message(5, input("b", "BYTES", {2}))  // not in the signature's order
        .message(5, input("a", "INT32", {}))
        .text(7, strings)
        .text(7, raw_of<std::int32_t>({42}));
    for (const auto name : outputs) message.message(6, Proto().text(1, name));
    return message;
  };
  const Proto p = input("p", "INT32", {});
  const Proto q = input("q", "BYTES", {2});
  const std::string p_raw = raw_of<std::int32_t>({42});
  const std::vector<std::pair<Proto, Proto>> cases{
      {request({}), echo_response("").message(5, p).message(5, q).text(6, p_raw).text(6, strings)},
      {request({"q", "p"}),
       echo_response("").message(5, q).message(5, p).text(6, strings).text(6, p_raw)},
      {request({"q"}), echo_response("").message(5, q).text(6, strings)},
  };
  for (const auto& [message, expected] : cases) {
    const TicketId id = ok(bench.submit(message));
    CHECK_EQ(static_cast<std::uint32_t>(bench.slot(id).rows), 0u);
    CHECK_EQ(bench.payload(id, 0), p_raw);
    CHECK_EQ(bench.payload(id, 1), strings);
    CHECK_EQ(bench.serve(), 1u);
    CHECK_EQ(ok(bench.answer(id)), expected.str());
  }
  CHECK(bench.idle());
}

TEST(typed_contents_arrive_as_raw) {
  FrontendBench bench;
  const std::string raw = raw_of<float>({1, 2, 3, 4});
  const Proto typed = input("x", "FP32", {1, 4}).message(5, Proto().text(6, raw));
  const TicketId id = ok(bench.submit(Proto().text(1, "echo").message(5, typed)));
  CHECK_EQ(bench.payload(id, 0), raw);
}

TEST(lease_layout) {
  const Signature signature{{tensor("a", DType::kUint8, {-1, 3}), tensor("b", DType::kFp64, {-1})},
                            {tensor("p", DType::kUint8, {-1, 3}), tensor("q", DType::kFp64, {-1})},
                            4,
                            {}};
  FrontendBench bench(signature, 0, make_segment(1, 2 * kPageBytes));
  const Proto message = Proto()
                            .text(1, "echo")
                            .message(5, input("a", "UINT8", {2, 3}))
                            .message(5, input("b", "FP64", {2}))
                            .text(7, "abcdef")
                            .text(7, raw_of<double>({1, 2}));
  const TicketId id = ok(bench.submit(message));
  const SlotHeader& slot = bench.slot(id);
  CHECK_EQ(slot.inputs[0].offset, slot.payload_offset);
  CHECK_EQ(slot.inputs[1].offset, slot.payload_offset + 64);
  CHECK_EQ(slot.output_offset, slot.payload_offset + 128);
  CHECK_EQ(slot.output_bytes, 2 * kPageBytes - 128);
  CHECK_EQ(slot.input_count, 2u);
  CHECK(slot.inputs[1].dtype == DType::kFp64);
  CHECK_EQ(bench.payload(id, 1), raw_of<double>({1, 2}));
}

TEST(shape_key_ignores_rows_alone) {
  const Signature signature{
      {tensor("x", DType::kFp32, {-1, -1})}, {tensor("y", DType::kFp32, {-1, -1})}, 8, {}};
  FrontendBench bench(signature);
  const auto key = [&](std::int64_t rows, std::int64_t width) {
    const Proto message =
        Proto()
            .text(1, "echo")
            .message(5, input("x", "FP32", {rows, width}))
            .text(7, std::string(static_cast<std::size_t>(rows * width) * 4, 'x'));
    const TicketId id = ok(bench.submit(message));
    const std::uint64_t value = bench.slot(id).shape_key;
    bench.frontend.cancel(id);
    return value;
  };
  CHECK_EQ(key(1, 4), key(3, 4));
  CHECK(key(1, 4) != key(1, 5));
  CHECK(bench.idle());
}

TEST(a_full_queue_and_a_request_too_large) {
  FrontendBench bench(echo_signature(), 0, make_segment(2));
  const TicketId first = ok(bench.submit(echo_request(1)));
  CHECK(bench.submit(echo_request(1)).ok());
  CHECK(failed(bench.submit(echo_request(1)), Code::kResourceExhausted, "function \"echo\": "));
  bench.frontend.cancel(first);
  CHECK(bench.submit(echo_request(1)).ok());

  const Signature wide{
      {tensor("x", DType::kFp32, {-1, 2000})}, {tensor("y", DType::kFp32, {-1, 2000})}, 8, {}};
  FrontendBench small(wide, 0, make_segment(1, 2 * kPageBytes));
  const Proto message = Proto()
                            .text(1, "echo")
                            .message(5, input("x", "FP32", {1, 2000}))
                            .text(7, std::string(8000, 'x'));
  CHECK(failed(small.submit(message), Code::kResourceExhausted,
               "needs 16000 bytes (8000 in, 8000 out), the largest slot has 8192"));
  CHECK_EQ(small.outcome(Outcome::kRejected), 1u);
  CHECK(small.idle());
}

TEST(cancel_in_every_state) {
  FrontendBench bench;
  const TicketId queued = ok(bench.submit(echo_request(1)));
  bench.frontend.cancel(queued);
  CHECK(bench.idle());
  bench.frontend.cancel(queued);  // stale: ignored
  CHECK_EQ(bench.outcome(Outcome::kCancelled), 1u);

  const TicketId claimed = ok(bench.submit(echo_request(1)));
  const Claim batch = bench.claim();
  CHECK_EQ(batch.slots.size(), 1u);
  bench.frontend.cancel(claimed);
  CHECK_EQ(bench.frontend.in_flight(), 0u);
  CHECK_EQ(free_slots(*bench.segment), bench.segment->slot_count() - 1);
  bench.complete(batch);
  CHECK(bench.idle());
  CHECK(bench.take_done().empty());

  const TicketId done = ok(bench.submit(echo_request(1)));
  bench.serve();
  bench.frontend.cancel(done);
  CHECK(bench.idle());
  CHECK(bench.take_done().empty());

  // The slot's next request is not the stale ticket's.
  const TicketId next = ok(bench.submit(echo_request(1)));
  CHECK(next != done);
  bench.frontend.cancel(done);
  CHECK_EQ(bench.frontend.in_flight(), 1u);
}

TEST(tickets_that_are_not_in_flight) {
  FrontendBench bench;
  const TicketId id = ok(bench.submit(echo_request(1)));
  CHECK(failed(bench.answer(id), Code::kFailedPrecondition, "has no answer yet"));
  CHECK_EQ(bench.frontend.in_flight(), 1u);
  bench.serve();
  CHECK(bench.answer(id).ok());
  const std::int64_t far = std::int64_t{0x7fff} << 48 | 0xffff'ffff'ffff;
  for (const TicketId stale : {id, TicketId{-1}, TicketId{0}, far}) {
    CHECK(failed(bench.answer(stale), Code::kNotFound, "is not in flight"));
    CHECK(failed(bench.frontend.request_id(stale), Code::kNotFound, "is not in flight"));
    CHECK(failed(bench.frontend.deadline_ns(stale), Code::kNotFound, "is not in flight"));
    bench.frontend.cancel(stale);
  }
  CHECK(bench.idle());
}

TEST(an_error_is_the_answer) {
  FrontendBench bench;
  const TicketId id = ok(bench.submit(echo_request(1)));
  bench.complete(bench.claim(), Code::kInternal, "ValueError: no such thing");
  CHECK(bench.take_done() == std::vector{id});
  CHECK(failed(bench.answer(id), Code::kInternal, "function \"echo\": ValueError: no such thing"));
  CHECK(bench.idle());
}

TEST(a_wild_worker_is_an_internal_error) {
  const auto answer_after = [](auto&& damage) {
    FrontendBench bench;
    const TicketId id = ok(bench.submit(echo_request(1)));
    bench.serve();
    damage(bench.slot(id));
    const auto result = bench.answer(id);
    CHECK(bench.idle());
    return result.ok()
               ? "no error"s
               : std::to_string(number(result.status().code)) + " " + result.status().message;
  };
  const auto output = [](std::string_view what) {
    return "13 function \"echo\": output \"y\" came from the worker with " + std::string(what);
  };
  CHECK_EQ(answer_after([](SlotHeader& s) { s.output_count = 0; }),
           "13 function \"echo\": the worker gave 0 outputs, expected 1"s);
  CHECK_EQ(answer_after([](SlotHeader& s) { s.outputs[0].offset = ~std::uint64_t{0}; }),
           output("data outside its segment"));
  CHECK_EQ(answer_after([](SlotHeader& s) { s.outputs[0].offset = 0; }),
           output("data outside its segment"));
  CHECK_EQ(answer_after([](SlotHeader& s) { s.outputs[0].bytes = 1 << 30; }),
           output("a size that is not its shape's"));
  CHECK_EQ(answer_after([](SlotHeader& s) { s.outputs[0].rank = 9; }),
           output("an impossible rank"));
  CHECK_EQ(answer_after([](SlotHeader& s) { s.outputs[0].dims[1] = -4; }),
           output("an impossible shape"));
  CHECK_EQ(answer_after([](SlotHeader& s) { s.outputs[0].dims[1] = std::int64_t{1} << 62; }),
           output("an impossible shape"));
  CHECK_EQ(answer_after([](SlotHeader& s) { s.outputs[0].dtype = DType::kInvalid; }),
           output("another data type than its signature"));
  CHECK_EQ(answer_after([](SlotHeader& s) {
             s.code = number(Code::kInternal);
             s.message_bytes = 3;
             s.message = {'a', '\xff', '\n'};
           }),
           "13 function \"echo\": \"a\\xff\\x0a\""s);
}

TEST(destruction_gives_everything_up) {
  const auto segment = make_segment();
  {
    FrontendBench bench(echo_signature(), 0, segment);
    CHECK(bench.submit(echo_request(1)).ok());
    CHECK(bench.submit(echo_request(1)).ok());
    bench.serve();
    CHECK(bench.submit(echo_request(1)).ok());
    CHECK_EQ(free_slots(*segment), 1u);
  }
  CHECK_EQ(free_slots(*segment), 4u);
}

TEST(answers_of_a_dead_predecessor_are_freed) {
  const auto segment = make_segment();
  FrontendBench bench(echo_signature(), 0, segment);
  const Ticket lost = ok(segment->lease(0, 64));
  SlotHeader& slot = segment->slot(lost.slot);
  const TicketId model = ok(bench.submit(echo_request(1)));
  slot.rows = 1;
  slot.input_count = 1;
  slot.inputs[0] = bench.slot(model).inputs[0];
  slot.inputs[0].offset = slot.payload_offset;
  CHECK(segment->queue(lost));
  while (bench.serve() != 0) {
  }
  CHECK(bench.take_done() == std::vector{model});
  CHECK(bench.answer(model).ok());
  CHECK(bench.idle());
}
