#include "pump/identity.hpp"

namespace gslice {

Status check_identity(const Signature& signature) {
  bool fits = signature.inputs.size() == signature.outputs.size();
  for (std::size_t i = 0; fits && i < signature.inputs.size(); ++i)
    fits = signature.inputs[i].dtype == signature.outputs[i].dtype &&
           signature.inputs[i].dims == signature.outputs[i].dims;
  return fits ? Status::Ok()
              : Status::Error(Code::kInvalidArgument,
                              "an identity function needs as many outputs as inputs, each of its "
                              "input's data type and dims");
}

Status IdentityEngine::run(Batch& batch) {
  if (in_place_) return Status::Ok();
  for (std::uint32_t i = 0; i < batch.signature().inputs.size(); ++i) {
    const Tensor& input = batch.input(i);
    const DType dtype = batch.signature().inputs[i].dtype;
    const std::span<const std::byte> data(input.data, input.bytes);
    Status status = batch.stream() == nullptr
                        ? batch.set_output(i, dtype, input.shape.view(), data)
                        : batch.set_device_output(i, dtype, input.shape.view(), data);
    if (!status.ok()) return status;
  }
  return Status::Ok();
}

}  // namespace gslice
