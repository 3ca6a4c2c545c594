// The parts of gslice._native, each bound by its own file.
#pragma once

#include <nanobind/nanobind.h>

namespace gslice {

void bind_segment(nanobind::module_& module);   // Signature, Segment, histogram_bounds_us
void bind_cuda(nanobind::module_& module);      // CudaDevice, CudaGraph
void bind_weights(nanobind::module_& module);   // WeightBlock
void bind_dlpack(nanobind::module_& module);    // dlpack_capsule
void bind_access(nanobind::module_& module);    // QuotaBoard
void bind_frontend(nanobind::module_& module);  // Frontend, parse_infer_request
#ifdef GSLICE_GRPC_SERVER
void bind_grpc_server(nanobind::module_& module);  // GrpcServer
#endif
void bind_turns(nanobind::module_& module);  // TurnBoard
void bind_pump(nanobind::module_& module);   // Batch, WarmBatch, Instance

}  // namespace gslice
