#include "cuda/weight_block.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

namespace gslice::cuda {
namespace {

CUmemLocation place_of(const Context& context) {
  return {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = context.info().ordinal};
}

}  // namespace

Result<std::unique_ptr<WeightBlock>> WeightBlock::create(std::shared_ptr<Context> context,
                                                         std::size_t bytes) {
  std::unique_ptr<WeightBlock> block(new WeightBlock(std::move(context)));
  if (Status status = block->allocate(bytes); !status.ok()) return sized(status, bytes);
  return block;
}

Result<std::unique_ptr<WeightBlock>> WeightBlock::create_private(std::shared_ptr<Context> context,
                                                                 std::size_t bytes) {
  std::unique_ptr<WeightBlock> block(new WeightBlock(context));
  auto own = DeviceBuffer::create(std::move(context), bytes);
  if (!own.ok()) return own.status();
  block->own_ = own.take();
  block->address_ = reinterpret_cast<CUdeviceptr>(block->own_->data());
  block->bytes_ = bytes;
  return block;
}

Result<std::unique_ptr<WeightBlock>> WeightBlock::import(std::shared_ptr<Context> context, int fd,
                                                         std::size_t bytes) {
  std::unique_ptr<WeightBlock> block(new WeightBlock(std::move(context)));
  if (Status status = block->adopt(fd, bytes); !status.ok()) return sized(status, bytes);
  return block;
}

WeightBlock::~WeightBlock() {
  if (fd_ >= 0) close(fd_);
  if (!reserved_ || !context_->enter().ok()) return;
  const Driver& driver = context_->driver();
  if (mapped_) (void)context_->check(driver.cuMemUnmap(address_, bytes_), "cuMemUnmap");
  (void)context_->check(driver.cuMemAddressFree(address_, bytes_), "cuMemAddressFree");
}

Status WeightBlock::write(std::size_t offset, std::span<const std::byte> data) {
  if (sealed_) return Status::Error(Code::kFailedPrecondition, "the weights are sealed");
  if (offset > bytes_ || data.size() > bytes_ - offset)
    return Status::Error(Code::kInvalidArgument, std::to_string(data.size()) + " bytes at " +
                                                     std::to_string(offset) + " leave the " +
                                                     std::to_string(bytes_) + " bytes of weights");
  if (Status status = context_->enter(); !status.ok()) return status;
  return context_->check(
      context_->driver().cuMemcpyHtoD(address_ + offset, data.data(), data.size()), "cuMemcpyHtoD");
}

Status WeightBlock::seal() {
  if (sealed_) return Status::Ok();
  if (Status status = context_->enter(); !status.ok()) return status;
  // A copy of pageable memory may return before it has landed.
  if (Status status = context_->synchronise(nullptr); !status.ok()) return status;
  if (own_ == nullptr)
    if (Status status = allow(CU_MEM_ACCESS_FLAGS_PROT_READ); !status.ok()) return status;
  sealed_ = true;
  return Status::Ok();
}

Status WeightBlock::allocate(std::size_t bytes) {
  if (Status status = context_->enter(); !status.ok()) return status;
  if (!context_->info().exports_memory)
    return Status::Error(Code::kFailedPrecondition,
                         context_->info().name + " exports no memory to other processes");
  const Driver& driver = context_->driver();
  const CUmemAllocationProp wanted{
      .type = CU_MEM_ALLOCATION_TYPE_PINNED,
      .requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
      .location = place_of(*context_),
      .win32HandleMetaData = nullptr,
      .allocFlags = {},
  };
  std::size_t page = 0;
  if (Status status = context_->check(
          driver.cuMemGetAllocationGranularity(&page, &wanted, CU_MEM_ALLOC_GRANULARITY_MINIMUM),
          "cuMemGetAllocationGranularity");
      !status.ok())
    return status;
  const std::size_t whole = (bytes + page - 1) / page * page;
  CUmemGenericAllocationHandle handle = 0;
  ++context_->counters().allocations;
  if (Status status =
          context_->check(driver.cuMemCreate(&handle, whole, &wanted, 0), "cuMemCreate");
      !status.ok())
    return status;
  Status status = context_->check(driver.cuMemExportToShareableHandle(
                                      &fd_, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
                                  "cuMemExportToShareableHandle");
  if (!status.ok()) fd_ = -1;
  // Programs that the user's code starts are not to keep the memory.
  if (status.ok()) (void)fcntl(fd_, F_SETFD, FD_CLOEXEC);
  if (status.ok()) status = map(handle, whole);
  // Mapping and descriptor keep the memory from now on.
  const Status released = context_->check(driver.cuMemRelease(handle), "cuMemRelease");
  if (status.ok()) status = released;
  return status.ok() ? allow(CU_MEM_ACCESS_FLAGS_PROT_READWRITE) : status;
}

Status WeightBlock::adopt(int fd, std::size_t bytes) {
  if (Status status = context_->enter(); !status.ok()) return status;
  fd_ = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (fd_ < 0)
    return Status::Error(Code::kInvalidArgument,
                         std::string("their descriptor: ") + std::strerror(errno));
  const Driver& driver = context_->driver();
  CUmemGenericAllocationHandle handle = 0;
  ++context_->counters().allocations;
  if (Status status =
          context_->check(driver.cuMemImportFromShareableHandle(
                              &handle, reinterpret_cast<void*>(static_cast<std::intptr_t>(fd_)),
                              CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR),
                          "cuMemImportFromShareableHandle");
      !status.ok())
    return status;
  Status status = map(handle, bytes);
  const Status released = context_->check(driver.cuMemRelease(handle), "cuMemRelease");
  if (status.ok()) status = released;
  if (status.ok()) status = allow(CU_MEM_ACCESS_FLAGS_PROT_READ);
  sealed_ = status.ok();
  return status;
}

Status WeightBlock::map(CUmemGenericAllocationHandle handle, std::size_t bytes) {
  const Driver& driver = context_->driver();
  Status status =
      context_->check(driver.cuMemAddressReserve(&address_, bytes, 0, 0, 0), "cuMemAddressReserve");
  if (!status.ok()) return status;
  bytes_ = bytes;
  reserved_ = true;
  status = context_->check(driver.cuMemMap(address_, bytes, 0, handle, 0), "cuMemMap");
  mapped_ = status.ok();
  return status;
}

Status WeightBlock::allow(int access) {
  const CUmemAccessDesc wanted{.location = place_of(*context_), .flags = access};
  return context_->check(context_->driver().cuMemSetAccess(address_, bytes_, &wanted, 1),
                         "cuMemSetAccess");
}

}  // namespace gslice::cuda
