// An engine whose work is a Python callable: the GIL is taken around that one call a batch.
#pragma once

#include <nanobind/nanobind.h>

#include <atomic>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "bind/batch.hpp"
#include "pump/engine.hpp"

namespace gslice {

class PythonEngine final : public Engine {
 public:
  // `prepared(lane, bucket)` gives the callable of each; `memory` outlives all views. Constructed
  // and destroyed with the GIL held.
  PythonEngine(nanobind::callable prepared, std::uint32_t lanes, std::shared_ptr<void> memory);

  bool blocking() const override { return true; }
  Status run(Batch& batch) override;
  // A thread keeps one Python thread state for life, instead of a new one for each batch.
  void enter_thread() override;
  void leave_thread() override;

  std::uint64_t calls() const { return calls_.load(); }

 private:
  nanobind::object call_of(std::uint32_t lane, std::uint32_t bucket);

  nanobind::callable prepared_;
  std::vector<nanobind::object> views_;  // one for each lane
  std::map<std::pair<std::uint32_t, std::uint32_t>, nanobind::object> calls_of_;  // under the GIL
  std::atomic<std::uint64_t> calls_{0};
};

}  // namespace gslice
