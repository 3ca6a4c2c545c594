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

  // For a device: asks for every callable and graph at once. What is a graph then runs without
  // Python, and if all are, the engine does not block.
  void prepare_all(const Signature& signature);

  bool blocking() const override { return blocking_; }
  Status run(Batch& batch) override;
  // A thread keeps one Python thread state for life, instead of a new one for each batch.
  void enter_thread() override;
  void leave_thread() override;

  std::uint64_t calls() const { return calls_.load(); }

 private:
  using Key = std::pair<std::uint32_t, std::uint32_t>;  // lane, bucket

  nanobind::object call_of(std::uint32_t lane, std::uint32_t bucket);

  const std::uint32_t lanes_;
  nanobind::callable prepared_;
  std::vector<nanobind::object> views_;       // one for each lane
  std::map<Key, nanobind::object> calls_of_;  // under the GIL
  std::map<Key, void*> graphs_;               // not changed after prepare_all()
  bool blocking_ = true;
  std::atomic<std::uint64_t> calls_{0};
};

}  // namespace gslice
