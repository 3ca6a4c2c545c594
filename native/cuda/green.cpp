#include "cuda/green.hpp"

#include <algorithm>
#include <string>

namespace gslice::cuda {
namespace {

Status invalid(std::string message) {
  return Status::Error(Code::kInvalidArgument, std::move(message));
}

}  // namespace

// ---- the split ---------------------------------------------------------------------------------

Result<std::shared_ptr<SmGroups>> SmGroups::split(int ordinal) {
  auto context = Context::open(ordinal);
  if (!context.ok()) return context.status();
  if (!context.value()->driver().has_green_contexts())
    return Status::Error(Code::kFailedPrecondition,
                         "the NVIDIA driver has no green contexts, which came with CUDA 12.5; "
                         "update it, or set `limiter: mps`");
  std::shared_ptr<SmGroups> groups(new SmGroups(context.take()));
  if (Status status = groups->split_all(); !status.ok()) return status;
  return groups;
}

// What is asked for is rounded up to the smallest group that is legal: drivers before 12.8 do not
// say how large that is. SMs that fill no group belong to nobody.
Status SmGroups::split_all() {
  const Driver& driver = context_->driver();
  CUdevResource whole{};
  if (Status status = context_->check(
          driver.cuDeviceGetDevResource(context_->device(), &whole, CU_DEV_RESOURCE_TYPE_SM),
          "cuDeviceGetDevResource");
      !status.ok())
    return status;
  sms_ = whole.sm.smCount;
  const unsigned least = std::max(1u, whole.sm.minSmPartitionSize);
  const auto ask = [&](CUdevResource* groups, unsigned* count) {
    return context_->check(
        driver.cuDevSmResourceSplitByCount(groups, count, &whole, nullptr, 0, least),
        "cuDevSmResourceSplitByCount");
  };
  unsigned count = 0;
  if (Status status = ask(nullptr, &count); !status.ok()) return status;
  groups_.resize(count);
  if (Status status = ask(groups_.data(), &count); !status.ok()) return status;
  groups_.resize(std::min<std::size_t>(groups_.size(), count));
  const auto alike = [&](const CUdevResource& group) {
    return group.sm.smCount > 0 && group.sm.smCount == groups_.front().sm.smCount;
  };
  if (groups_.empty() || !std::ranges::all_of(groups_, alike))
    return Status::Error(Code::kFailedPrecondition,
                         context_->info().name +
                             " cannot be split into equal groups of SMs; set "
                             "`limiter: mps`");
  return Status::Ok();
}

// ---- a context ---------------------------------------------------------------------------------

Result<std::shared_ptr<GreenContext>> GreenContext::create(std::shared_ptr<SmGroups> groups,
                                                           std::span<const std::uint32_t> chosen) {
  std::shared_ptr<GreenContext> context(new GreenContext(std::move(groups)));
  if (Status status = context->open(chosen); !status.ok()) return status;
  return context;
}

Status GreenContext::open(std::span<const std::uint32_t> chosen) {
  if (chosen.empty()) return invalid("a green context needs a group of SMs");
  std::vector<std::uint32_t> sorted(chosen.begin(), chosen.end());
  std::ranges::sort(sorted);
  if (std::ranges::adjacent_find(sorted) != sorted.end())
    return invalid("a group of SMs is named twice");
  if (sorted.back() >= groups_->count())
    return invalid("there is no group " + std::to_string(sorted.back()) + " of SMs; there are " +
                   std::to_string(groups_->count()));
  std::vector<CUdevResource> resources;
  for (const std::uint32_t group : sorted) resources.push_back(groups_->groups_[group]);

  Context& context = *context_of();
  const Driver& driver = context.driver();
  CUdevResourceDesc description = nullptr;  // stays the driver's: there is no call to free one
  if (Status status =
          context.check(driver.cuDevResourceGenerateDesc(&description, resources.data(),
                                                         static_cast<unsigned>(resources.size())),
                        "cuDevResourceGenerateDesc");
      !status.ok())
    return status;
  if (Status status = context.check(driver.cuGreenCtxCreate(&green_, description, context.device(),
                                                            CU_GREEN_CTX_DEFAULT_STREAM),
                                    "cuGreenCtxCreate");
      !status.ok())
    return status;
  CUdevResource given{};
  Status status =
      context.check(driver.cuGreenCtxGetDevResource(green_, &given, CU_DEV_RESOURCE_TYPE_SM),
                    "cuGreenCtxGetDevResource");
  sms_ = given.sm.smCount;
  return status;
}

GreenContext::~GreenContext() {
  if (green_ == nullptr) return;
  Context& context = *context_of();
  (void)context.check(context.driver().cuGreenCtxDestroy(green_), "cuGreenCtxDestroy");
}

Result<CUstream> GreenContext::create_stream() {
  Context& context = *context_of();
  CUstream stream = nullptr;
  if (Status status = context.check(
          context.driver().cuGreenCtxStreamCreate(&stream, green_, CU_STREAM_NON_BLOCKING, 0),
          "cuGreenCtxStreamCreate");
      !status.ok())
    return status;
  return stream;
}

}  // namespace gslice::cuda
