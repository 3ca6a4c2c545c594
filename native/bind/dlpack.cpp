// Device memory as a DLPack tensor, for the libraries of Python to take without a copy.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <string>
#include <vector>

#include "base/dtype.hpp"
#include "bind/errors.hpp"
#include "bind/module.hpp"

namespace nb = nanobind;

namespace gslice {
namespace {

nb::dlpack::dtype_code kind_of(DType dtype) {
  using enum nb::dlpack::dtype_code;
  switch (dtype) {
    case DType::kBool:
      return Bool;
    case DType::kUint8:
    case DType::kUint16:
    case DType::kUint32:
    case DType::kUint64:
      return UInt;
    case DType::kFp16:
    case DType::kFp32:
    case DType::kFp64:
      return Float;
    case DType::kBf16:
      return Bfloat;
    default:
      return Int;
  }
}

nb::object dlpack_capsule(std::uintptr_t pointer, const std::vector<std::size_t>& shape,
                          const std::string& name, int ordinal) {
  const DType dtype = dtype_from_name(name);
  if (dtype == DType::kInvalid || dtype == DType::kBytes)
    raise(Status::Error(Code::kInvalidArgument, "no device memory holds elements of " + name));
  const nb::dlpack::dtype type{static_cast<std::uint8_t>(kind_of(dtype)),
                               static_cast<std::uint8_t>(8 * dtype_info(dtype).element_bytes), 1};
  return nb::cast(nb::ndarray<>(reinterpret_cast<void*>(pointer), shape.size(), shape.data(),
                                nb::handle(), nullptr, type, nb::device::cuda::value, ordinal),
                  nb::rv_policy::reference);
}

}  // namespace

void bind_dlpack(nb::module_& module) {
  module.def("dlpack_capsule", &dlpack_capsule, nb::arg("pointer"), nb::arg("shape"),
             nb::arg("dtype"), nb::arg("ordinal"));
}

}  // namespace gslice
