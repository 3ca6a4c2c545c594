#include "cuda/context.hpp"

#include <array>
#include <string_view>

namespace gslice::cuda {
namespace {

std::string uuid_text(const CUuuid& uuid) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text = "GPU";
  for (std::size_t i = 0; i < sizeof(uuid.bytes); ++i) {
    if (i == 0 || i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += kDigits[uuid.bytes[i] >> 4];
    text += kDigits[uuid.bytes[i] & 0xf];
  }
  return text;
}

}  // namespace

Result<std::shared_ptr<Context>> Context::open(int ordinal) {
  const auto found = Driver::get();
  if (!found.ok()) return found.status();
  const Driver& driver = *found.value();
  CUdevice device = 0;
  if (Status status = driver.check(driver.cuInit(0), "cuInit"); !status.ok()) return status;
  if (Status status = driver.check(driver.cuDeviceGet(&device, ordinal), "cuDeviceGet");
      !status.ok()) {
    status.message = "cuda:" + std::to_string(ordinal) + ": " + status.message;
    return status;
  }
  std::shared_ptr<Context> context(new Context(driver, device));
  if (Status status = driver.check(driver.cuDevicePrimaryCtxRetain(&context->context_, device),
                                   "cuDevicePrimaryCtxRetain");
      !status.ok())
    return status;
  if (Status status = context->enter(); !status.ok()) return status;
  if (Status status = context->describe(ordinal); !status.ok()) return status;
  return context;
}

// In the context: only there are the attributes those of this client of MPS.
Status Context::describe(int ordinal) {
  std::array<char, 256> name{};
  CUuuid uuid{};
  info_.ordinal = ordinal;
  info_.driver_version = driver_.version;
  Status status;
  const auto ask = [&](CUresult result, const char* function) {
    if (status.ok()) status = check(result, function);
  };
  const auto attribute = [&](int* value, int which) {
    ask(driver_.cuDeviceGetAttribute(value, which, device_), "cuDeviceGetAttribute");
  };
  ask(driver_.cuDeviceGetName(name.data(), static_cast<int>(name.size()) - 1, device_),
      "cuDeviceGetName");
  ask(driver_.cuDeviceGetUuid(&uuid, device_), "cuDeviceGetUuid");
  ask(driver_.cuDeviceTotalMem(&info_.memory_bytes, device_), "cuDeviceTotalMem");
  attribute(&info_.sm_count, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
  attribute(&info_.compute_major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
  attribute(&info_.compute_minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
  int maps = 0, exports = 0;
  attribute(&maps, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED);
  attribute(&exports, CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED);
  info_.exports_memory = maps != 0 && exports != 0;
  info_.name = name.data();
  info_.uuid = uuid_text(uuid);
  return status;
}

Context::~Context() {
  if (context_ != nullptr) driver_.cuDevicePrimaryCtxRelease(device_);
}

Status Context::check(CUresult result, const char* function) {
  if (result == CUDA_SUCCESS) return Status::Ok();
  Status status = driver_.check(result, function);
  if (device_lost(result)) lose(status);
  return status;
}

void Context::lose(const Status& status) {
  const std::lock_guard lock(lost_mutex_);
  if (lost_.ok()) lost_ = status;
}

Status Context::lost() const {
  const std::lock_guard lock(lost_mutex_);
  return lost_;
}

Result<CUstream> Context::create_stream() {
  CUstream stream = nullptr;
  if (Status status =
          check(driver_.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), "cuStreamCreate");
      !status.ok())
    return status;
  return stream;
}

Result<std::size_t> Context::memory_free_bytes() {
  std::size_t free_bytes = 0, total_bytes = 0;
  if (Status status = enter(); !status.ok()) return status;
  if (Status status = check(driver_.cuMemGetInfo(&free_bytes, &total_bytes), "cuMemGetInfo");
      !status.ok())
    return status;
  return free_bytes;
}

Status Context::synchronise(CUstream stream) {
  ++counters_->synchronise_calls;
  return check(driver_.cuStreamSynchronize(stream), "cuStreamSynchronize");
}

Status Context::order(CUstream before, CUstream after) {
  CUevent event = nullptr;
  Status status = enter();
  if (status.ok())
    status = check(driver_.cuEventCreate(&event, CU_EVENT_DISABLE_TIMING), "cuEventCreate");
  if (!status.ok()) return status;
  status = check(driver_.cuEventRecord(event, before), "cuEventRecord");
  if (status.ok()) status = check(driver_.cuStreamWaitEvent(after, event, 0), "cuStreamWaitEvent");
  // The driver keeps the event until nobody waits for it any more.
  const Status destroyed = check(driver_.cuEventDestroy(event), "cuEventDestroy");
  return status.ok() ? destroyed : status;
}

}  // namespace gslice::cuda
