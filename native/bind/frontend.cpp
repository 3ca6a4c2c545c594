// Frontend and parse_infer_request as Python sees them.
#include "frontend/frontend.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include <optional>

#include "bind/access.hpp"
#include "bind/arguments.hpp"
#include "bind/errors.hpp"
#include "bind/module.hpp"
#include "wire/contents.hpp"
#include "wire/text.hpp"

namespace nb = nanobind;

namespace gslice {
namespace {

// From here on copying takes longer than handing the GIL over and back.
constexpr std::size_t kReleaseGilBytes = 64 << 10;

// A Frontend is used by one thread at a time, but a call that has released the GIL lets others
// run: this tells them, instead of letting them corrupt it. Guarded by the GIL itself.
struct PyFrontend {
  explicit PyFrontend(std::uint16_t place) : index(place), core(place) {}
  const std::uint16_t index;
  Frontend core;
  bool in_use = false;
};

class InUse {
 public:
  explicit InUse(PyFrontend& frontend) : frontend_(frontend) {
    if (frontend_.in_use)
      raise(Status::Error(Code::kFailedPrecondition,
                          "this Frontend is in use by another thread; use it from one at a time"));
    frontend_.in_use = true;
  }
  ~InUse() { frontend_.in_use = false; }
  InUse(const InUse&) = delete;
  InUse& operator=(const InUse&) = delete;

 private:
  PyFrontend& frontend_;
};

// Runs `work`, without the GIL if so many bytes are worth it.
template <typename Work>
auto run_sized(std::size_t bytes, Work&& work) {
  std::optional<nb::gil_scoped_release> released;
  if (bytes >= kReleaseGilBytes) released.emplace();
  return work();
}

std::int64_t submit(PyFrontend& self, const nb::bytes& request,
                    std::optional<std::int64_t> deadline_ns, TenantId tenant,
                    std::string_view traceparent, std::int64_t received_ns) {
  const InUse use(self);
  const wire::Bytes message = bytes_of(request);
  const Origin origin{traceparent, received_ns, tenant};
  return take_or_raise(run_sized(message.size(), [&] {
    return self.core.submit(message, deadline_ns.value_or(kNever), 0, origin);
  }));
}

nb::bytes respond(PyFrontend& self, TicketId ticket, bool stream) {
  const InUse use(self);
  const std::size_t bytes = take_or_raise(self.core.begin_answer(ticket, stream));
  PyObject* answer = PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(bytes));
  if (answer == nullptr) {
    self.core.cancel(ticket);
    throw nb::python_error();
  }
  const std::span out(reinterpret_cast<std::byte*>(PyBytes_AsString(answer)), bytes);
  run_sized(bytes, [&] { self.core.write_answer(out); });
  return nb::steal<nb::bytes>(answer);
}

std::vector<TicketId> take_done(PyFrontend& self) {
  const InUse use(self);
  std::vector<TicketId> done;
  self.core.take_done(done);
  return done;
}

void set_tenants(PyFrontend& self, const nb::list& tenants, int board_fd) {
  const InUse use(self);
  self.core.set_tenants(open_tenants(self.index, tenants, board_fd));
}

void remove_region(PyFrontend& self, std::string_view name, std::string_view tenant) {
  const InUse use(self);
  self.core.remove_region(tenant, name);
}

std::optional<std::int64_t> deadline_ns(PyFrontend& self, TicketId ticket) {
  const InUse use(self);
  return deadline_or_none(take_or_raise(self.core.deadline_ns(ticket)));
}

// ---- parse_infer_request -----------------------------------------------------------------------

nb::object parameter_value(const wire::Parameter& parameter) {
  switch (parameter.kind) {
    case wire::Parameter::Kind::kBool:
      return nb::bool_(parameter.integer != 0);
    case wire::Parameter::Kind::kInt64:
      return nb::int_(static_cast<std::int64_t>(parameter.integer));
    case wire::Parameter::Kind::kUint64:
      return nb::int_(parameter.integer);
    case wire::Parameter::Kind::kString:
      return nb::str(parameter.text.data(), parameter.text.size());
    case wire::Parameter::Kind::kDouble:
      return nb::float_(parameter.real);
    case wire::Parameter::Kind::kNone:
      break;
  }
  return nb::none();
}

nb::dict parameter_dict(std::span<const wire::Parameter> parameters) {
  nb::dict out;
  for (const wire::Parameter& parameter : parameters)
    out[nb::str(parameter.key.data(), parameter.key.size())] = parameter_value(parameter);
  return out;
}

nb::bytes to_bytes(wire::Bytes bytes) { return nb::bytes(bytes.data(), bytes.size()); }

template <typename Value, typename ToPython>
nb::list element_list(const wire::Request& request, const wire::InputView& input,
                      wire::ContentsField field, ToPython&& to_python) {
  nb::list out;
  wire::for_each_element<Value>(request, input, field,
                                [&](Value value) { out.append(to_python(value)); });
  return out;
}

nb::object contents_dict(const wire::Request& request, const wire::InputView& input) {
  using Field = wire::ContentsField;
  if (!input.contents.present()) return nb::none();
  const auto varints = [&](Field field, auto&& to_python) {
    return element_list<std::uint64_t>(request, input, field, to_python);
  };
  const auto number = [](auto value) { return value; };
  nb::dict out;
  out["bool_contents"] = varints(Field::kBool, [](std::uint64_t v) { return v != 0; });
  out["int_contents"] =
      varints(Field::kInt, [](std::uint64_t v) { return static_cast<std::int32_t>(v); });
  out["int64_contents"] =
      varints(Field::kInt64, [](std::uint64_t v) { return static_cast<std::int64_t>(v); });
  out["uint_contents"] =
      varints(Field::kUint, [](std::uint64_t v) { return static_cast<std::uint32_t>(v); });
  out["uint64_contents"] = varints(Field::kUint64, number);
  out["fp32_contents"] = element_list<float>(request, input, Field::kFp32, number);
  out["fp64_contents"] = element_list<double>(request, input, Field::kFp64, number);
  out["bytes_contents"] = element_list<wire::Bytes>(request, input, Field::kBytes, to_bytes);
  return out;
}

nb::dict input_dict(const wire::Request& request, const wire::InputView& input) {
  nb::dict out;
  out["name"] = input.name;
  out["datatype"] = input.datatype;
  nb::list shape;
  for (const std::int64_t dim : input.shape()) shape.append(dim);
  out["shape"] = shape;
  out["rank"] = input.rank;
  out["parameters"] = parameter_dict(request.parameters_of(input.parameters));
  out["contents"] = contents_dict(request, input);
  return out;
}

nb::dict parse_infer_request(const nb::bytes& message) {
  wire::Request request;
  raise_if(request.parse(bytes_of(message)));
  nb::list inputs;
  for (const wire::InputView& input : request.inputs) inputs.append(input_dict(request, input));
  nb::list outputs;
  for (const wire::RequestedOutputView& output : request.outputs) {
    nb::dict each;
    each["name"] = output.name;
    each["parameters"] = parameter_dict(request.parameters_of(output.parameters));
    outputs.append(each);
  }
  nb::list raw;
  for (const wire::Bytes bytes : request.raw_inputs) raw.append(to_bytes(bytes));
  nb::dict out;
  out["model_name"] = request.model_name;
  out["model_version"] = request.model_version;
  out["id"] = request.id;
  out["parameters"] = parameter_dict(request.parameters);
  out["inputs"] = inputs;
  out["outputs"] = outputs;
  out["raw_input_contents"] = raw;
  return out;
}

}  // namespace

void bind_frontend(nb::module_& module) {
  nb::class_<PyFrontend>(module, "Frontend")
      .def(
          "__init__",
          [](PyFrontend* self, std::uint32_t index) {
            new (self) PyFrontend(frontend_index(index));
          },
          nb::arg("index"))
      .def(
          "add_function",
          [](PyFrontend& self, std::string name, std::string version,
             std::shared_ptr<Segment> segment, const Signature& signature, std::int64_t slo_ns) {
            const InUse use(self);
            raise_if(self.core.add_function(std::move(name), std::move(version), std::move(segment),
                                            signature, slo_ns));
          },
          nb::arg("name"), nb::arg("version"), nb::arg("segment"), nb::arg("signature"),
          nb::arg("slo_ns"))
      .def(
          "remove_function",
          [](PyFrontend& self, std::string_view name) {
            const InUse use(self);
            self.core.remove_function(name);
          },
          nb::arg("name"))
      .def("offer_client_memory", [](PyFrontend& self) { self.core.offer_client_memory(); })
      .def(
          "add_region",
          [](PyFrontend& self, std::string name, int fd, std::uint64_t offset_bytes,
             std::uint64_t size_bytes, std::string tenant) {
            const InUse use(self);
            return add_region(std::move(name), fd, offset_bytes, size_bytes, std::move(tenant),
                              [&](auto region) { return self.core.add_region(std::move(region)); });
          },
          nb::arg("name"), nb::arg("fd"), nb::arg("offset_bytes"), nb::arg("size_bytes"),
          nb::arg("tenant") = "")
      .def("set_tenants", &set_tenants, nb::arg("tenants"), nb::arg("board_fd"))
      .def("remove_region", &remove_region, nb::arg("name"), nb::arg("tenant") = "")
      .def(
          "keep_journal",
          [](PyFrontend& self, double sample, bool failures) {
            self.core.keep_journal(sample, failures);
          },
          nb::arg("sample"), nb::arg("failures"))
      .def("take_records",
           [](PyFrontend& self) {
             const InUse use(self);
             return page_tuple(self.core.take_records());
           })
      .def("submit", &submit, nb::arg("request"), nb::arg("deadline_ns").none(),
           nb::arg("tenant") = kNoTenant, nb::arg("traceparent") = "", nb::arg("received_ns") = 0)
      .def("deadline_ns", &deadline_ns, nb::arg("ticket"))
      .def(
          "request_id",
          [](PyFrontend& self, TicketId ticket) {
            const InUse use(self);
            return std::string(take_or_raise(self.core.request_id(ticket)));
          },
          nb::arg("ticket"))
      .def("take_done", &take_done)
      .def("respond", &respond, nb::arg("ticket"), nb::arg("stream") = false)
      .def(
          "cancel",
          [](PyFrontend& self, TicketId ticket) {
            const InUse use(self);
            self.core.cancel(ticket);
          },
          nb::arg("ticket"))
      .def_prop_ro("in_flight", [](PyFrontend& self) { return self.core.in_flight(); });

  module.def("parse_infer_request", &parse_infer_request, nb::arg("request"));
}

}  // namespace gslice
