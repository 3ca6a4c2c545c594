// Green contexts: streams whose kernels run on a part of a device's SMs. The SMs are split once,
// into the smallest groups that the device allows, and a green context has several of them.
//
// A green context never becomes current in a thread: engines stay in the primary context, and what
// they enqueue on its streams is limited.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/status.hpp"
#include "cuda/context.hpp"

namespace gslice::cuda {

// A device's SMs in groups of equal size. Only groups of one split go together, so a process has
// one of these for a device.
class SmGroups {
 public:
  // kFailedPrecondition: no such device, or its driver has no green contexts; kUnavailable: MPS
  // refuses.
  static Result<std::shared_ptr<SmGroups>> split(int ordinal);
  SmGroups(const SmGroups&) = delete;
  SmGroups& operator=(const SmGroups&) = delete;

  std::uint32_t count() const { return static_cast<std::uint32_t>(groups_.size()); }
  std::uint32_t group_sms() const { return groups_.front().sm.smCount; }
  std::uint32_t sms() const { return sms_; }  // of the device, those in no group included
  const std::shared_ptr<Context>& context_of() const { return context_; }

 private:
  friend class GreenContext;

  explicit SmGroups(std::shared_ptr<Context> context) : context_(std::move(context)) {}
  Status split_all();

  const std::shared_ptr<Context> context_;
  std::uint32_t sms_ = 0;
  std::vector<CUdevResource> groups_;
};

class GreenContext {
 public:
  // kInvalidArgument: no groups, one twice, or one that there is not.
  static Result<std::shared_ptr<GreenContext>> create(std::shared_ptr<SmGroups> groups,
                                                      std::span<const std::uint32_t> chosen);
  // Whoever has a stream of it holds it: a stream cannot be destroyed after its context.
  ~GreenContext();
  GreenContext(const GreenContext&) = delete;
  GreenContext& operator=(const GreenContext&) = delete;

  std::uint32_t sms() const { return sms_; }  // read back
  const std::shared_ptr<Context>& context_of() const { return groups_->context_; }
  Result<CUstream> create_stream();  // the caller's, to destroy

 private:
  explicit GreenContext(std::shared_ptr<SmGroups> groups) : groups_(std::move(groups)) {}
  Status open(std::span<const std::uint32_t> chosen);

  const std::shared_ptr<SmGroups> groups_;
  CUgreenCtx green_ = nullptr;
  std::uint32_t sms_ = 0;
};

}  // namespace gslice::cuda
