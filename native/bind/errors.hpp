// The one place that turns a Status into a Python exception: the class of gslice.core.errors that
// its code stands for.
#pragma once

#include <nanobind/nanobind.h>

#include "base/status.hpp"

namespace gslice {

[[noreturn]] inline void raise(const Status& status) {
  namespace nb = nanobind;
  nb::object error = nb::module_::import_("gslice.core.errors")
                         .attr("from_code")(static_cast<int>(status.code),
                                            nb::str(status.message.data(), status.message.size()));
  if (status.retry_after_ms >= 0) error.attr("retry_after_ms") = status.retry_after_ms;
  PyErr_SetObject(error.type().ptr(), error.ptr());
  throw nb::python_error();
}

inline void raise_if(const Status& status) {
  if (!status.ok()) raise(status);
}

template <typename T>
T take_or_raise(Result<T> result) {
  if (!result.ok()) raise(result.status());
  return result.take();
}

}  // namespace gslice
