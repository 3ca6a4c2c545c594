// gslice._native: the whole border between Python and the C++ core (gslice/_native.pyi).
#include "bind/module.hpp"

#include "segment/layout.hpp"

NB_MODULE(_native, module) {
  module.attr("LAYOUT_VERSION") = gslice::kLayoutVersion;
  module.attr("MAX_FRONTENDS") = gslice::kMaxFrontends;
  module.attr("MAX_INSTANCES") = gslice::kMaxInstances;
  gslice::bind_segment(module);
  gslice::bind_frontend(module);
  gslice::bind_cuda(module);
  gslice::bind_weights(module);
  gslice::bind_dlpack(module);
  gslice::bind_turns(module);
  gslice::bind_pump(module);
}
