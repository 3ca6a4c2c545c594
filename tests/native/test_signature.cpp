// What a signature may say, and the one arithmetic of tensor sizes.
#include <limits>

#include "base/signature.hpp"
#include "check.hpp"
#include "tensor_spec.hpp"

using namespace gslice;
using namespace gslice::test;

namespace {

constexpr std::int64_t kHuge = std::int64_t{1} << 62;

std::string refusal(const Signature& signature) {
  const Status status = check_signature(signature);
  if (!status.ok()) CHECK(status.code == Code::kInvalidArgument);
  return status.message;
}

TensorSpec fp32(Dims dims) { return tensor("x", DType::kFp32, std::move(dims)); }

}  // namespace

TEST(signatures_that_can_be_served) {
  CHECK_EQ(refusal({{fp32({-1, 4})}, {fp32({-1, 4})}, 8, {}}), "");
  CHECK_EQ(refusal({{fp32({-1, 4})}, {fp32({-1})}, 8, {1, 4, 8}}), "");
  CHECK_EQ(refusal({{fp32({})}, {fp32({2, -1})}, 0, {}}), "");
  CHECK_EQ(refusal({{}, {}, 0, {}}), "");
}

TEST(signatures_that_cannot) {
  CHECK_EQ(refusal({{fp32({1, 4})}, {}, 8, {}}),
           "tensor 'x' has shape [1, 4]; a signature that batches rows needs -1 as its first "
           "dimension");
  CHECK(!refusal({{fp32({-1, 4})}, {fp32({4})}, 8, {}}).empty());  // outputs too
  CHECK(!refusal({{fp32({})}, {}, 8, {}}).empty());
  CHECK_EQ(refusal({{}, {}, 8, {}}), "a signature that batches rows needs an input");
  CHECK_EQ(refusal({{tensor("x", DType::kInvalid, {1})}, {}, 0, {}}),
           "input 'x' has no known data type");
  CHECK_EQ(refusal({{}, {fp32({-2})}, 0, {}}), "output 'x' has a dimension below -1");
  CHECK_EQ(refusal({{fp32({1, 1, 1, 1, 1, 1, 1, 1, 1})}, {}, 0, {}}),
           "input 'x' has rank 9; at most 8 is possible");
  CHECK_EQ(refusal({std::vector(kMaxTensors + 1, fp32({1})), {}, 0, {}}),
           "a signature has 33 inputs; at most 32 are possible");
  for (const std::vector<std::uint32_t>& buckets :
       {std::vector<std::uint32_t>{4}, {0, 8}, {4, 4, 8}, {8, 4}, {8, 16}})
    CHECK_EQ(refusal({{fp32({-1})}, {fp32({-1})}, 8, buckets}),
             "buckets must ascend, start above 0 and end at rows_max 8");
}

TEST(sizes_are_exact_or_nothing) {
  const auto bytes = [](const Dims& dims, DType dtype = DType::kFp32) {
    return tensor_bytes(dims, dtype);
  };
  CHECK(bytes({}) == 4u);
  CHECK(bytes({2, 3}) == 24u);
  CHECK(bytes({2, 0, 3}) == 0u);
  CHECK(bytes({2, 3}, DType::kBytes) == 24u);  // their lengths alone
  CHECK(bytes({kHuge}, DType::kUint8) == std::uint64_t{kHuge});
  CHECK(!bytes({-1}));
  CHECK(!bytes({kHuge}));                    // 2^64
  CHECK(!bytes({kHuge, 2}, DType::kUint8));  // 2^63
  CHECK(!bytes({std::int64_t{1} << 32, std::int64_t{1} << 32}, DType::kBytes));
  CHECK(element_count(Dims{kHuge, 2}) == std::uint64_t{1} << 63);
  CHECK(!element_count(Dims{kHuge, 4}));
  CHECK(!element_count(Dims{3, -1}));
}

TEST(shapes_that_rows_decide) {
  const auto shape = declared_shape(fp32({-1, 4}), true, 3);
  CHECK(shape && *shape == Shape{{3, 4}, 2});
  CHECK(declared_shape(fp32({2, 4}), false, 1) == Shape{{2, 4}, 2});
  CHECK(declared_shape(fp32({}), false, 1) == Shape{});
  CHECK(!declared_shape(fp32({-1, -1}), true, 3));
  CHECK(!declared_shape(fp32({-1, 4}), false, 1));
  CHECK(!declared_shape(tensor("s", DType::kBytes, {-1}), true, 3));
}
