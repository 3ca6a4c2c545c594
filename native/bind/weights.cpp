// WeightBlock as Python sees it.
#include <nanobind/ndarray.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/unique_ptr.h>

#include <cstdint>

#include "bind/cuda.hpp"
#include "bind/errors.hpp"
#include "bind/module.hpp"
#include "cuda/weight_block.hpp"

namespace nb = nanobind;

namespace gslice {
namespace {

using cuda::CudaDevice;
using cuda::WeightBlock;
using Bytes = nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// What takes the driver long runs without the GIL.
template <typename Make>
std::unique_ptr<WeightBlock> made(CudaDevice& device, Make make) {
  check_device(device, {}, device.first_place());
  return take_or_raise([&] {
    const nb::gil_scoped_release release;
    return make(device.context_of());
  }());
}

// The driver gives it back when Python says so, not when the last reference goes.
class Weights {
 public:
  explicit Weights(std::unique_ptr<WeightBlock> block) : block_(std::move(block)) {}

  WeightBlock& block() {
    if (block_ == nullptr)
      raise(Status::Error(Code::kFailedPrecondition, "the weights are given back"));
    return *block_;
  }
  void close() { block_.reset(); }

 private:
  std::unique_ptr<WeightBlock> block_;
};

}  // namespace

void bind_weights(nb::module_& module) {
  nb::class_<Weights>(module, "WeightBlock")
      .def_static(
          "create",
          [](CudaDevice& device, std::size_t bytes) {
            return new Weights(made(device, [&](auto context) {
              return WeightBlock::create(std::move(context), bytes);
            }));
          },
          nb::arg("device"), nb::arg("size_bytes"), nb::rv_policy::take_ownership)
      .def_static(
          "create_private",
          [](CudaDevice& device, std::size_t bytes) {
            return new Weights(made(device, [&](auto context) {
              return WeightBlock::create_private(std::move(context), bytes);
            }));
          },
          nb::arg("device"), nb::arg("size_bytes"), nb::rv_policy::take_ownership)
      .def_static(
          "map",
          [](CudaDevice& device, int fd, std::size_t bytes) {
            return new Weights(made(device, [&](auto context) {
              return WeightBlock::import(std::move(context), fd, bytes);
            }));
          },
          nb::arg("device"), nb::arg("fd"), nb::arg("size_bytes"), nb::rv_policy::take_ownership)
      .def_prop_ro("pointer", [](Weights& self) { return self.block().address(); })
      .def_prop_ro("size_bytes", [](Weights& self) { return self.block().bytes(); })
      .def_prop_ro("fd", [](Weights& self) { return self.block().fd(); })
      .def_prop_ro("sealed", [](Weights& self) { return self.block().sealed(); })
      .def(
          "write",
          [](Weights& self, std::size_t offset, const Bytes& data) {
            WeightBlock& block = self.block();
            raise_if([&] {
              const nb::gil_scoped_release release;
              return block.write(
                  offset, std::as_bytes(std::span<const std::uint8_t>(data.data(), data.size())));
            }());
          },
          nb::arg("offset"), nb::arg("data"))
      .def("seal",
           [](Weights& self) {
             WeightBlock& block = self.block();
             raise_if([&] {
               const nb::gil_scoped_release release;
               return block.seal();
             }());
           })
      .def("close", &Weights::close);
}

}  // namespace gslice
