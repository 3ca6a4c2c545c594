// Records of single requests as Python sees them.
#include <nanobind/nanobind.h>

#include "bind/arguments.hpp"

namespace nb = nanobind;

namespace gslice {
namespace {

nb::object text(const std::string& bytes) {  // what clients sent need not be UTF-8
  return nb::steal(PyUnicode_DecodeUTF8(bytes.data(), static_cast<Py_ssize_t>(bytes.size()),
                                        "backslashreplace"));
}

template <std::size_t kBytes>
nb::bytes id(const std::array<std::uint8_t, kBytes>& bytes) {
  return nb::bytes(bytes.data(), bytes.size());
}

nb::tuple record_tuple(const RequestRecord& record) {
  const RequestStamps& s = record.stamps;
  return nb::make_tuple(record.traced, id(record.context.trace), id(record.context.parent),
                        text(record.function), text(record.version), text(record.id), record.rows,
                        static_cast<int>(record.status.code), text(record.status.message),
                        nb::make_tuple(s.received_ns, s.queued_ns, s.claimed_ns, s.compute_ns,
                                       s.computed_ns, s.done_ns, s.answered_ns));
}

}  // namespace

nb::tuple page_tuple(const Journal::Page& page) {
  nb::list records;
  for (const RequestRecord& record : page.records) records.append(record_tuple(record));
  return nb::make_tuple(records, page.lost);
}

}  // namespace gslice
