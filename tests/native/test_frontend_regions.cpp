// Clients' memory: tensors that requests name instead of sending, ranges, and clients that make
// their files shorter at the worst moments.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <limits>
#include <random>
#include <string>
#include <thread>

#include "check.hpp"
#include "frontend_bench.hpp"

namespace {

using namespace gslice;
using namespace gslice::test;
using namespace std::string_literals;

// A memfd of the test; sealed against shrinking or not.
class File {
 public:
  File(std::uint64_t bytes, bool sealed)
      : fd_(memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING)) {
    CHECK(fd_ >= 0);
    CHECK(ftruncate(fd_, static_cast<off_t>(bytes)) == 0);
    if (sealed) CHECK(fcntl(fd_, F_ADD_SEALS, F_SEAL_SHRINK) == 0);
  }
  ~File() { close(fd_); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  int fd() const { return fd_; }
  void truncate(off_t bytes) const { CHECK(ftruncate(fd_, bytes) == 0); }
  void put(off_t at, std::string_view text) const {
    CHECK(pwrite(fd_, text.data(), text.size(), at) == static_cast<ssize_t>(text.size()));
  }
  std::string get(off_t at, std::size_t bytes) const {
    std::string text(bytes, '\0');
    text.resize(static_cast<std::size_t>(pread(fd_, text.data(), bytes, at)));
    return text;
  }

 private:
  int fd_;
};

std::size_t open_descriptors() {
  std::size_t count = 0;
  for (int fd = 0; fd < 1024; ++fd) count += fcntl(fd, F_GETFD) >= 0 ? 1 : 0;
  return count;
}

Proto in_region(std::string_view name, std::int64_t bytes, std::int64_t offset = 0) {
  Proto out;
  const auto number = [](std::int64_t value) {
    return Proto().varint(2, static_cast<std::uint64_t>(value));
  };
  out.message(4, parameter("shared_memory_region", Proto().text(3, name)))
      .message(4, parameter("shared_memory_byte_size", number(bytes)));
  if (offset != 0) out.message(4, parameter("shared_memory_offset", number(offset)));
  return out;
}

// InferRequestedOutputTensor has its parameters in field 2, inputs in field 4.
Proto out_region(std::string_view name, std::int64_t bytes, std::int64_t offset = 0) {
  const auto number = [](std::int64_t value) {
    return Proto().varint(2, static_cast<std::uint64_t>(value));
  };
  return Proto()
      .text(1, "y")
      .message(2, parameter("shared_memory_region", Proto().text(3, name)))
      .message(2, parameter("shared_memory_byte_size", number(bytes)))
      .message(2, parameter("shared_memory_offset", number(offset)));
}

Proto x_in(const Proto& place) { return input("x", "FP32", {1, 4}).raw(place.str()); }
Proto shared(const Proto& in, const Proto& out) {
  return Proto().text(1, "echo").message(5, x_in(in)).message(6, out);
}

struct RegionBench : FrontendBench {
  explicit RegionBench(Signature signature = echo_signature())
      : FrontendBench(std::move(signature), 0, make_segment(), true) {}
  bool add(std::string name, const File& file, std::uint64_t offset, std::uint64_t bytes) {
    auto region = ok(Region::open(std::move(name), file.fd(), offset, bytes));
    const bool mapped = region->mapped();
    CHECK(frontend.add_region(std::move(region)).ok());
    return mapped;
  }
  // The status of an answer that was served.
  Result<std::string> run(const Proto& message) {
    const auto id = submit(message);
    if (!id.ok()) return id.status();
    CHECK_EQ(serve(), 1u);
    CHECK_EQ(take_done().size(), 1u);
    return answer(id.value());
  }
};

const std::string kX = "abcdefghijklmnop";

}  // namespace

TEST(in_and_out_of_one_region) {
  for (const bool sealed : {true, false}) {
    const File file(3 * kPageBytes, sealed);
    RegionBench bench;
    CHECK_EQ(bench.add("mine", file, 100, kPageBytes), sealed);
    file.put(100 + 32, kX);
    const auto answer = bench.run(shared(in_region("mine", 16, 32), out_region("mine", 64, 2000)));
    CHECK(answer.ok());
    CHECK_EQ(file.get(100 + 2000, 16), kX);
    CHECK_EQ(file.get(100 + 2016, 1), "\0"s);
    // One raw entry, empty; and what was written where.
    const Proto written = Proto().text(1, "y").text(2, "FP32").packed(3, {1, 4}).raw(
        in_region("mine", 16, 2000).str());
    CHECK_EQ(answer.value(),
             Proto().text(1, "echo").text(2, "1").message(5, written).text(6, "").str());
    CHECK(bench.idle());
  }
}

TEST(only_what_cannot_become_shorter_is_mapped) {
  const std::size_t before = open_descriptors();
  {
    const File sealed(kPageBytes, true), plain(kPageBytes, false);
    const auto first = ok(Region::open("a", sealed.fd(), 0, kPageBytes));
    const auto second = ok(Region::open("b", plain.fd(), 0, kPageBytes));
    CHECK(first->mapped());
    CHECK(!second->mapped());
    CHECK_EQ(open_descriptors(), before + 3);  // what is mapped needs none
    const File unwritable(kPageBytes, true);
    CHECK(fcntl(unwritable.fd(), F_ADD_SEALS, F_SEAL_WRITE) == 0);
    const auto third = ok(Region::open("c", unwritable.fd(), 0, kPageBytes));
    CHECK(!third->mapped());
    std::byte one{};
    CHECK(third->read(0, {&one, 1}).ok());
    CHECK(third->write(0, {&one, 1}).code == Code::kInvalidArgument);
  }
  CHECK_EQ(open_descriptors(), before);
}

TEST(each_tenant_has_names_of_its_own) {
  const File file(kPageBytes, true);
  Regions regions;
  for (const char* tenant : {"", "shop"})
    regions.add(ok(Region::open("r", file.fd(), 0, kPageBytes, tenant)));
  const Region* shops = regions.find("shop", "r");
  CHECK(shops != nullptr && shops->tenant() == "shop");
  CHECK(regions.find("", "r") != nullptr && regions.find("", "r") != shops);
  CHECK(regions.find("bank", "r") == nullptr);
  CHECK(regions.find("sho", "pr") == nullptr);
  regions.remove("", "r");
  CHECK(regions.find("", "r") == nullptr);
  CHECK(regions.find("shop", "r") == shops);
}

TEST(what_is_no_region) {
  const File file(kPageBytes, true);
  const auto opened = [&](std::uint64_t offset, std::uint64_t bytes) {
    const auto region = Region::open("r", file.fd(), offset, bytes);
    return region.ok() ? "" : region.status().message;
  };
  constexpr std::uint64_t kMost = std::numeric_limits<std::uint64_t>::max();
  CHECK_EQ(opened(0, kPageBytes), "");
  CHECK_EQ(opened(kPageBytes - 1, 1), "");
  CHECK_EQ(opened(0, 0), "region \"r\" cannot have 0 bytes from byte 0 on");
  CHECK_EQ(opened(1, kPageBytes),
           "region \"r\" has 4096 bytes from byte 1 on, but its file ends at byte 4096");
  CHECK(!opened(kMost, 1).empty());
  CHECK(!opened(1, kMost).empty());
  CHECK(!opened(kMost / 2 + 1, kMost / 2 + 1).empty());
  int ends[2];
  CHECK(pipe(ends) == 0);
  const auto piped = Region::open("r", ends[0], 0, 1);
  CHECK_EQ(piped.status().message, "region \"r\" is not in a regular file");
  close(ends[0]);
  close(ends[1]);
  CHECK(!Region::open("r", -1, 0, 1).ok());
}

TEST(ranges_are_inside_or_refused) {
  const File file(kPageBytes, true);
  const auto region = ok(Region::open("r", file.fd(), 0, 1000));
  std::mt19937_64 random(7);
  const auto draw = [&] {
    const std::uint64_t wide = random();
    return random() % 2 == 0 ? wide >> (random() % 64) : wide % 1100;
  };
  for (int turn = 0; turn < 100'000; ++turn) {
    const std::uint64_t offset = draw(), bytes = draw();
    const bool inside = offset <= 1000 && bytes <= 1000 && offset + bytes <= 1000;
    CHECK_EQ(region->check(offset, bytes).ok(), inside);
  }
}

TEST(what_a_request_may_not_say) {
  const File file(kPageBytes, true);
  RegionBench bench;
  bench.add("mine", file, 0, 100);
  const auto refused = [&](const Proto& in, const Proto& out) {
    const auto result = bench.submit(shared(in, out));
    CHECK(!result.ok());
    CHECK(bench.idle());
    return std::to_string(static_cast<int>(result.status().code)) + " " + result.status().message;
  };
  const Proto good_in = in_region("mine", 16), good_out = out_region("mine", 16);
  const std::string in = "3 function \"echo\": input \"x\"",
                    out = "3 function \"echo\": output \"y\"";
  CHECK_EQ(
      refused(in_region("other", 16), good_out),
      "5 function \"echo\": input \"x\": no region \"other\" is registered; register it first");
  CHECK_EQ(refused(in_region("mine", 16, 85), good_out),
           in + ": 16 bytes from byte 85 on are not in region \"mine\", which has 100");
  CHECK_EQ(refused(in_region("mine", 12), good_out),
           in + " has 12 bytes, expected 16 for FP32 [1, 4]");
  CHECK_EQ(refused(in_region("mine", -1), good_out),
           in + ": parameter \"shared_memory_byte_size\" must be a number of bytes, 0 or more");
  CHECK_EQ(refused(in_region("mine", 16, -1), good_out),
           in + ": parameter \"shared_memory_offset\" must be a number of bytes, 0 or more");
  CHECK_EQ(refused(Proto().message(4, parameter("shared_memory_offset", Proto().varint(2, 1))),
                   good_out),
           in + ": parameter \"shared_memory_region\" must name a region");
  CHECK_EQ(refused(Proto(good_in).message(5, Proto().fixed32(6, 1)), good_out),
           in + " has contents and a region; send one");
  CHECK_EQ(refused(good_in, out_region("mine", 15)),
           out + " takes 16 bytes, its place in region \"mine\" has 15");
  CHECK_EQ(refused(good_in, out_region("mine", 16, 85)),
           out + ": 16 bytes from byte 85 on are not in region \"mine\", which has 100");
  const auto extra = bench.submit(shared(good_in, good_out).text(7, std::string(16, 'x')));
  CHECK_EQ(extra.status().message,
           "function \"echo\": the request has 1 raw_input_contents for its 0 inputs, expected one "
           "each, or none with typed contents");
  CHECK(bench.run(shared(good_in, good_out)).ok());
}

TEST(some_inputs_in_a_region_some_sent) {
  const File file(kPageBytes, true);
  RegionBench bench({{tensor("s", DType::kBytes, {-1}), tensor("x", DType::kFp32, {-1, 4})},
                     {tensor("t", DType::kBytes, {-1}), tensor("y", DType::kFp32, {-1, 4})},
                     8,
                     {}});
  const std::string text = elements({"some text"});
  bench.add("mine", file, 0, kPageBytes);
  file.put(8, text);
  const auto bytes = static_cast<std::int64_t>(text.size());
  const auto request = [&](const Proto& place) {
    return Proto()
        .text(1, "echo")
        .message(5, input("s", "BYTES", {1}).raw(place.str()))
        .message(5, input("x", "FP32", {1, 4}))
        .text(7, kX);
  };
  const auto id = ok(bench.submit(request(in_region("mine", bytes, 8))));
  CHECK_EQ(bench.payload(id, 0), text);
  CHECK_EQ(bench.payload(id, 1), kX);
  bench.frontend.cancel(id);
  // What BYTES hold is checked after the copy: the client can change them before.
  file.put(8, std::string_view("\xff\xff\xff\xff", 4));
  const auto broken = bench.submit(request(in_region("mine", bytes, 8)));
  CHECK(failed(broken, Code::kInvalidArgument, "input \"s\": BYTES element 0 is cut off"));
  CHECK(bench.idle());
}

TEST(an_output_whose_size_is_known_late) {
  const File file(kPageBytes, true);
  RegionBench bench(
      {{tensor("x", DType::kBytes, {-1})}, {tensor("y", DType::kBytes, {-1})}, 8, {}});
  bench.add("mine", file, 0, kPageBytes);
  const std::string text = elements({"some text"});
  const auto request = [&](std::int64_t bytes) {
    return Proto()
        .text(1, "echo")
        .message(5, input("x", "BYTES", {1}))
        .text(7, text)
        .message(6, out_region("mine", bytes, 4));
  };
  const auto bytes = static_cast<std::int64_t>(text.size());
  CHECK(bench.run(request(bytes)).ok());
  CHECK_EQ(file.get(4, text.size()), text);
  const auto result = bench.run(request(bytes - 1));
  CHECK(failed(result, Code::kInvalidArgument,
               "output \"y\" takes 13 bytes, its place in region \"mine\" has 12"));
  CHECK(bench.idle());
}

TEST(a_file_that_becomes_shorter) {
  const File file(2 * kPageBytes, false);
  RegionBench bench;
  CHECK(!bench.add("mine", file, 0, 2 * kPageBytes));
  const Proto request = shared(in_region("mine", 16, kPageBytes), out_region("mine", 16, 0));
  file.truncate(kPageBytes + 8);
  CHECK(failed(bench.run(request), Code::kInvalidArgument,
               "input \"x\": region \"mine\": its file has become shorter"));
  CHECK(bench.idle());
  file.truncate(2 * kPageBytes);
  CHECK(bench.run(request).ok());
  // Between the request and its answer; and nobody makes it longer again.
  const auto id = ok(bench.submit(request));
  CHECK_EQ(bench.serve(), 1u);
  file.truncate(8);
  CHECK_EQ(bench.take_done().size(), 1u);
  CHECK(failed(bench.answer(id), Code::kInvalidArgument,
               "output \"y\": region \"mine\": its file has become shorter"));
  CHECK_EQ(file.get(0, 100).size(), 8u);
  CHECK(bench.idle());
}

TEST(a_file_that_becomes_shorter_and_longer_all_the_time) {
  const File file(4 * kPageBytes, false);
  RegionBench bench;
  bench.add("mine", file, 0, 4 * kPageBytes);
  const Proto request =
      shared(in_region("mine", 16, 3 * kPageBytes), out_region("mine", 16, 2 * kPageBytes));
  std::atomic<bool> stop = false;
  std::thread client([&] {
    while (!stop) {
      file.truncate(0);
      file.truncate(4 * kPageBytes);
    }
  });
  std::size_t good = 0, bad = 0;
  for (int turn = 0; turn < 200'000 && (good < 200 || bad < 200); ++turn) {
    const auto result = bench.run(request);
    CHECK(result.ok() || result.status().code == Code::kInvalidArgument);
    ++(result.ok() ? good : bad);
  }
  stop = true;
  client.join();
  CHECK(good > 0);
  CHECK(bad > 0);
  CHECK(bench.idle());
}

TEST(a_region_that_is_removed_serves_what_was_taken) {
  const File file(kPageBytes, false);
  RegionBench bench;
  const std::size_t before = open_descriptors();
  bench.add("mine", file, 0, kPageBytes);
  file.put(0, kX);
  const auto id = ok(bench.submit(shared(in_region("mine", 16), out_region("mine", 16, 64))));
  bench.frontend.remove_region("", "mine");
  bench.frontend.remove_region("", "mine");
  CHECK_EQ(open_descriptors(), before + 1);
  CHECK(failed(bench.submit(shared(in_region("mine", 16), out_region("mine", 16))), Code::kNotFound,
               "no region \"mine\""));
  CHECK_EQ(bench.serve(), 1u);
  CHECK_EQ(bench.take_done().size(), 1u);
  CHECK(bench.answer(id).ok());
  CHECK_EQ(file.get(64, 16), kX);
  CHECK_EQ(open_descriptors(), before);
}

TEST(a_request_that_is_given_up_lets_its_region_go) {
  const File file(kPageBytes, false), other(kPageBytes, false);
  RegionBench bench;
  const std::size_t before = open_descriptors();
  bench.add("mine", file, 0, kPageBytes);
  const auto id = ok(bench.submit(shared(in_region("mine", 16), out_region("mine", 16, 64))));
  bench.add("mine", other, 0, 32);  // in its place
  CHECK_EQ(open_descriptors(), before + 2);
  bench.frontend.cancel(id);
  CHECK_EQ(open_descriptors(), before + 1);
  CHECK(bench.idle());
}
