// The nouns that tests of the front-end and of the pump share.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/signature.hpp"

namespace gslice::test {

using Dims = std::vector<std::int64_t>;

inline TensorSpec tensor(std::string name, DType dtype, Dims dims) {
  return {std::move(name), dtype, std::move(dims)};
}

}  // namespace gslice::test
