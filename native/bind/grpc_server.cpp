// GrpcServer as Python sees it. Every call waits for the loop's next turn, without the GIL.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>

#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include "bind/access.hpp"
#include "bind/arguments.hpp"
#include "bind/errors.hpp"
#include "bind/module.hpp"
#include "grpc/server.hpp"

namespace nb = nanobind;

namespace gslice {
namespace {

using grpc::Note;
using grpc::Service;

struct PyServer {
  PyServer(std::uint16_t place, std::unique_ptr<grpc::Server> opened)
      : index(place), core(std::move(opened)) {}
  // The loop's thread may need the GIL to end: it lets segments go that Python made.
  ~PyServer() {
    const nb::gil_scoped_release released;
    core.reset();
  }
  PyServer(const PyServer&) = delete;
  PyServer& operator=(const PyServer&) = delete;

  const std::uint16_t index;
  std::unique_ptr<grpc::Server> core;
};

std::string as_text(const nb::bytes& bytes) { return {bytes.c_str(), bytes.size()}; }

template <typename Work>
auto in_loop(PyServer& self, Work&& work) {
  const nb::gil_scoped_release released;
  return self.core->run(std::forward<Work>(work));
}

void make_server(PyServer* self, std::uint32_t index, std::size_t message_max_bytes,
                 std::size_t memory_max_bytes, std::int64_t connection_age_ns,
                 const nb::bytes& certificate, const nb::bytes& key,
                 const nb::bytes& client_authority) {
  const std::uint16_t checked = frontend_index(index);
  std::unique_ptr<grpc::Transports> transports = std::make_unique<grpc::Transports>();
  if (certificate.size() != 0)
    transports = take_or_raise(
        grpc::tls_transports({as_text(certificate), as_text(key), as_text(client_authority)}));
  new (self) PyServer(
      checked, take_or_raise(grpc::Server::open(checked, {message_max_bytes, memory_max_bytes},
                                                connection_age_ns, std::move(transports))));
}

// A path, an encoding or another header is whatever the client sent.
nb::object header_text(const std::string& text) {
  return nb::steal(
      PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "backslashreplace"));
}

// (kind, call, number, deadline_ns or None, text, authorization, api_key, bytes, compressed)
nb::tuple note_tuple(const Note& note) {
  return nb::make_tuple(static_cast<int>(note.kind), note.call, note.number,
                        deadline_or_none(note.deadline_ns), header_text(note.text),
                        header_text(note.authorization), header_text(note.api_key),
                        nb::bytes(note.bytes.data(), note.bytes.size()), note.compressed);
}

// Each key: (name, SHA-256, whether its holder may send requests, its tenant's place or -1).
std::vector<grpc::KnownKey> known_keys(const nb::list& given) {
  std::vector<grpc::KnownKey> keys;
  for (const nb::handle each : given) {
    const auto entry = nb::cast<nb::tuple>(each);
    const auto digest = nb::cast<nb::bytes>(entry[1]);
    grpc::KnownKey& key = keys.emplace_back();
    if (digest.size() != key.digest.size())
      raise(Status::Error(Code::kInvalidArgument, "a key's SHA-256 has 32 bytes"));
    key.name = nb::cast<std::string>(entry[0]);
    std::memcpy(key.digest.data(), digest.data(), digest.size());
    key.infers = nb::cast<bool>(entry[2]);
    key.tenant = nb::cast<TenantId>(entry[3]);
  }
  return keys;
}

void set_access(PyServer& self, const nb::list& keys, bool anonymous_infers,
                const nb::list& tenants, int board_fd) {
  std::optional<grpc::Callers> callers;
  if (keys.size() != 0 || !anonymous_infers)
    callers = take_or_raise(grpc::Callers::open(known_keys(keys), anonymous_infers));
  auto opened = open_tenants(self.index, tenants, board_fd);
  in_loop(self,
          [&](Service& service) { service.set_access(std::move(callers), std::move(opened)); });
}

nb::list take_notes(PyServer& self) {
  nb::list out;
  for (const Note& note : self.core->desk().take()) out.append(note_tuple(note));
  return out;
}

}  // namespace

void bind_grpc_server(nb::module_& module) {
  nb::class_<PyServer>(module, "GrpcServer")
      .def("__init__", &make_server, nb::arg("index"), nb::arg("message_max_bytes"),
           nb::arg("memory_max_bytes"), nb::arg("connection_age_ns"),
           nb::arg("certificate") = nb::bytes("", 0), nb::arg("key") = nb::bytes("", 0),
           nb::arg("client_authority") = nb::bytes("", 0))
      .def_prop_ro("doorbell", [](PyServer& self) { return self.core->doorbell(); })
      .def_prop_ro("desk_fd", [](PyServer& self) { return self.core->desk().fd(); })
      .def_prop_ro("in_flight",
                   [](PyServer& self) {
                     return in_loop(
                         self, [](Service& service) { return service.frontend().in_flight(); });
                   })
      .def(
          "add_function",
          [](PyServer& self, std::string name, std::string version,
             std::shared_ptr<Segment> segment, const Signature& signature, std::int64_t slo_ns) {
            raise_if(in_loop(self, [&](Service& service) {
              return service.frontend().add_function(std::move(name), std::move(version),
                                                     std::move(segment), signature, slo_ns);
            }));
          },
          nb::arg("name"), nb::arg("version"), nb::arg("segment"), nb::arg("signature"),
          nb::arg("slo_ns"))
      .def(
          "remove_function",
          [](PyServer& self, std::string_view name) {
            in_loop(self, [&](Service& service) { service.frontend().remove_function(name); });
          },
          nb::arg("name"))
      .def("set_access", &set_access, nb::arg("keys"), nb::arg("anonymous_infers"),
           nb::arg("tenants"), nb::arg("board_fd"))
      .def("offer_client_memory",
           [](PyServer& self) {
             in_loop(self, [](Service& service) { service.frontend().offer_client_memory(); });
           })
      .def(
          "add_region",
          [](PyServer& self, std::string name, int fd, std::uint64_t offset_bytes,
             std::uint64_t size_bytes, std::string tenant) {
            const auto add = [&](auto region) {
              return in_loop(self, [&](Service& service) {
                return service.frontend().add_region(std::move(region));
              });
            };
            return add_region(std::move(name), fd, offset_bytes, size_bytes, std::move(tenant),
                              add);
          },
          nb::arg("name"), nb::arg("fd"), nb::arg("offset_bytes"), nb::arg("size_bytes"),
          nb::arg("tenant") = "")
      .def(
          "remove_region",
          [](PyServer& self, std::string_view name, std::string_view tenant) {
            in_loop(self,
                    [&](Service& service) { service.frontend().remove_region(tenant, name); });
          },
          nb::arg("name"), nb::arg("tenant") = "")
      .def(
          "keep_journal",
          [](PyServer& self, double sample, bool failures) {
            in_loop(self,
                    [&](Service& service) { service.frontend().keep_journal(sample, failures); });
          },
          nb::arg("sample"), nb::arg("failures"))
      .def("take_records",
           [](PyServer& self) {
             return page_tuple(
                 in_loop(self, [](Service& service) { return service.frontend().take_records(); }));
           })
      .def(
          "listen",
          [](PyServer& self, int fd) {
            raise_if([&] {
              const nb::gil_scoped_release released;
              return self.core->listen(grpc::Descriptor(fd));
            }());
          },
          nb::arg("fd"))
      .def(
          "leave", [](PyServer& self) { self.core->leave(); },
          nb::call_guard<nb::gil_scoped_release>())
      .def(
          "drain", [](PyServer& self) { self.core->drain(); },
          nb::call_guard<nb::gil_scoped_release>())
      .def(
          "close", [](PyServer& self, std::int64_t timeout_ns) { self.core->close(timeout_ns); },
          nb::call_guard<nb::gil_scoped_release>(), nb::arg("timeout_ns"))
      .def("take_notes", &take_notes)
      .def(
          "send",
          [](PyServer& self, std::uint64_t call, const nb::bytes& message) {
            const wire::Bytes bytes = bytes_of(message);
            in_loop(self, [&](Service& service) { service.send(call, bytes); });
          },
          nb::arg("call"), nb::arg("message"))
      .def(
          "finish",
          [](PyServer& self, std::uint64_t call, int code, std::string text,
             std::int64_t retry_after_ms) {
            in_loop(self, [&](Service& service) {
              service.finish(call, {static_cast<Code>(code), std::move(text), retry_after_ms});
            });
          },
          nb::arg("call"), nb::arg("code"), nb::arg("text"), nb::arg("retry_after_ms") = -1)
      .def(
          "admit",
          [](PyServer& self, std::uint64_t call, std::uint32_t number, const nb::bytes& message) {
            const wire::Bytes bytes = bytes_of(message);
            return deadline_or_none(take_or_raise(in_loop(
                self, [&](Service& service) { return service.admit(call, number, bytes); })));
          },
          nb::arg("call"), nb::arg("number"), nb::arg("message"))
      .def(
          "admit_cold",
          [](PyServer& self, std::uint64_t call, std::uint32_t number, const nb::bytes& message,
             std::string name, std::string version, std::shared_ptr<Segment> segment,
             const Signature& signature, std::int64_t slo_ns) {
            const wire::Bytes bytes = bytes_of(message);
            // In one task: no other request may reach the function meanwhile.
            const auto admitted = [&](Service& service) -> Result<std::int64_t> {
              Frontend& frontend = service.frontend();
              const std::string known = name;
              if (Status status = frontend.add_function(std::move(name), std::move(version),
                                                        std::move(segment), signature, slo_ns);
                  !status.ok())
                return status;
              auto deadline = service.admit(call, number, bytes);
              frontend.remove_function(known);
              return deadline;
            };
            return deadline_or_none(take_or_raise(in_loop(self, admitted)));
          },
          nb::arg("call"), nb::arg("number"), nb::arg("message"), nb::arg("name"),
          nb::arg("version"), nb::arg("segment"), nb::arg("signature"), nb::arg("slo_ns"))
      .def(
          "withdraw",
          [](PyServer& self, std::uint64_t call, std::uint32_t number) {
            in_loop(self, [&](Service& service) { service.withdraw(call, number); });
          },
          nb::arg("call"), nb::arg("number"))
      .def(
          "refuse",
          [](PyServer& self, std::uint64_t call, std::uint32_t number, int code, std::string text,
             std::int64_t retry_after_ms) {
            in_loop(self, [&](Service& service) {
              service.refuse(call, number,
                             {static_cast<Code>(code), std::move(text), retry_after_ms});
            });
          },
          nb::arg("call"), nb::arg("number"), nb::arg("code"), nb::arg("text"),
          nb::arg("retry_after_ms") = -1);
}

}  // namespace gslice
