// gslice._native: the whole border between Python and the C++ core (gslice/_native.pyi).
#include "bind/module.hpp"

#include "segment/layout.hpp"

#ifdef GSLICE_TLS
constexpr bool kTls = true;
#else
constexpr bool kTls = false;
#endif

NB_MODULE(_native, module) {
  module.attr("LAYOUT_VERSION") = gslice::kLayoutVersion;
  module.attr("MAX_FRONTENDS") = gslice::kMaxFrontends;
  module.attr("MAX_INSTANCES") = gslice::kMaxInstances;
  gslice::bind_segment(module);
  gslice::bind_access(module);
  gslice::bind_frontend(module);
#ifdef GSLICE_GRPC_SERVER
  gslice::bind_grpc_server(module);
#endif
  gslice::bind_cuda(module);
  gslice::bind_weights(module);
  gslice::bind_dlpack(module);
  gslice::bind_turns(module);
  gslice::bind_pump(module);
  module.attr("GRPC_SERVER") = nanobind::hasattr(module, "GrpcServer");
  module.attr("GRPC_SERVER_TLS") = nanobind::hasattr(module, "GrpcServer") && kTls;
}
