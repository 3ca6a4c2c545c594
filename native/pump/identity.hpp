// The native identity engine: output i is a copy of input i. It does not block, so it runs in the
// pump's thread: what is left of a request's time is gslice itself.
#pragma once

#include "pump/engine.hpp"

namespace gslice {

// kInvalidArgument: inputs and outputs differ in number, data type or dims.
Status check_identity(const Signature& signature);

class IdentityEngine final : public Engine {
 public:
  bool blocking() const override { return false; }
  Status run(Batch& batch) override;
};

}  // namespace gslice
