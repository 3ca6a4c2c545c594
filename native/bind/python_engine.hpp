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
  // and destroyed with the GIL held. Lanes count as `Batch::place` does.
  PythonEngine(nanobind::callable prepared, std::uint32_t places, std::shared_ptr<void> memory);

  // For lanes of a device in which nothing runs yet: asks for every callable and graph at once.
  // What is a graph then runs without Python, and if all are at the first time, the engine does not
  // block.
  void prepare(const Signature& signature, std::uint32_t first, std::uint32_t count);
  // Of lanes in which nothing runs any more.
  void forget(std::uint32_t first, std::uint32_t count);

  bool blocking() const override { return blocking_; }
  Status run(Batch& batch) override;
  // A thread keeps one Python thread state for life, instead of a new one for each batch.
  void enter_thread() override;
  void leave_thread() override;

  std::uint64_t calls() const { return calls_.load(); }

 private:
  struct Place {
    nanobind::object view;
    std::map<std::uint32_t, nanobind::object> calls;  // by bucket; under the GIL
    std::map<std::uint32_t, void*> graphs;            // by bucket; not changed while it serves
  };

  nanobind::object call_of(std::uint32_t place, std::uint32_t bucket);

  nanobind::callable prepared_;
  std::vector<Place> places_;
  bool blocking_ = true;
  bool serves_ = false;  // blocking_ is known to the lanes
  std::atomic<std::uint64_t> calls_{0};
};

}  // namespace gslice
