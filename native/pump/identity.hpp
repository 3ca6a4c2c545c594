// The native identity engine: output i is a copy of input i, or input i itself, in place. It does
// not block, so it runs in the pump's thread: what is left of a request's time is gslice itself.
#pragma once

#include "pump/engine.hpp"

namespace gslice {

// kInvalidArgument: inputs and outputs differ in number, data type or dims.
Status check_identity(const Signature& signature);

class IdentityEngine final : public Engine {
 public:
  explicit IdentityEngine(bool in_place = false) : in_place_(in_place) {}
  bool blocking() const override { return false; }
  bool in_place() const override { return in_place_; }
  Status run(Batch& batch) override;

 private:
  const bool in_place_;
};

}  // namespace gslice
