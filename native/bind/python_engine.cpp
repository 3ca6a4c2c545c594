#include "bind/python_engine.hpp"

#include <string>

#include "bind/cuda.hpp"
#include "bind/errors.hpp"

namespace nb = nanobind;

namespace gslice {
namespace {

// str(object), whatever it does: a `__str__` that raises, or text that no UTF-8 can hold, comes
// from the user's code, and what escapes here would end the worker.
std::string text_of(nb::handle object) {
  const nb::object text = nb::steal(PyObject_Str(object.ptr()));
  nb::object utf8;
  if (text.is_valid())
    utf8 = nb::steal(PyUnicode_AsEncodedString(text.ptr(), "utf-8", "backslashreplace"));
  if (utf8.is_valid()) return PyBytes_AsString(utf8.ptr());
  PyErr_Clear();
  return "(it cannot be shown as text)";
}

// One line: errors of our own tree speak for themselves, others are named.
std::string error_line(const nb::python_error& error) {
  const nb::object base = nb::module_::import_("gslice.core.errors").attr("GsliceError");
  const std::string text = text_of(error.value());
  std::string line = text;
  if (!nb::isinstance(error.value(), base)) {
    line = text_of(error.type().attr("__name__"));
    if (!text.empty()) line += ": " + text;
  }
  return line.substr(0, line.find('\n'));
}

struct ViewScope {
  ViewScope(BatchView& view, Batch& batch) : view_(view) { view_.batch = &batch; }
  ~ViewScope() { view_.batch = nullptr; }
  BatchView& view_;
};

// The executable of what was prepared, if it is a graph; null: a callable.
void* graph_of(const nb::object& prepared, const Signature& signature) {
  if (!nb::isinstance<CudaGraph>(prepared)) return nullptr;
  for (const auto* tensors : {&signature.inputs, &signature.outputs})
    for (const TensorSpec& tensor : *tensors)
      if (!declared_shape(tensor, signature.rows_max != 0, 1))
        raise(Status::Error(Code::kFailedPrecondition,
                            "a CUDA graph runs one shape only, but '" + tensor.name + "' is " +
                                shape_text(tensor.dims) + "; prepare a callable"));
  return nb::cast<CudaGraph&>(prepared).executable;
}

Status replay(Batch& batch, void* graph) {
  if (batch.stream() == nullptr)
    return Status::Error(Code::kFailedPrecondition, "a CUDA graph needs a CUDA device");
  for (std::uint32_t i = 0; i < batch.signature().outputs.size(); ++i) batch.output_target(i);
  return batch.stream()->launch(graph);
}

thread_local PyGILState_STATE own_state;
thread_local PyThreadState* parked_state = nullptr;

}  // namespace

PythonEngine::PythonEngine(nb::callable prepared, std::uint32_t places,
                           std::shared_ptr<void> memory)
    : prepared_(std::move(prepared)), places_(places) {
  for (Place& place : places_)
    place.view = nb::cast(new BatchView{nullptr, memory}, nb::rv_policy::take_ownership);
}

// A size without a bucket of its own is prepared when it comes, so it may be a call.
void PythonEngine::prepare(const Signature& signature, std::uint32_t first, std::uint32_t count) {
  std::vector<std::uint32_t> buckets = signature.buckets;
  if (signature.rows_max == 0) buckets = {1};
  bool blocks = buckets.empty();
  for (std::uint32_t place = first; place < first + count; ++place)
    for (const std::uint32_t bucket : buckets) {
      if (void* graph = graph_of(call_of(place, bucket), signature); graph != nullptr)
        places_[place].graphs[bucket] = graph;
      else
        blocks = true;
    }
  if (!serves_) blocking_ = blocks;
  serves_ = true;
}

void PythonEngine::forget(std::uint32_t first, std::uint32_t count) {
  for (std::uint32_t place = first; place < first + count; ++place) {
    places_[place].graphs.clear();
    places_[place].calls.clear();
  }
}

Status PythonEngine::run(Batch& batch) {
  Place& place = places_[batch.place()];
  if (const auto found = place.graphs.find(batch.bucket()); found != place.graphs.end())
    return replay(batch, found->second);
  const nb::gil_scoped_acquire gil;
  const ViewScope scope(*nb::inst_ptr<BatchView>(place.view), batch);
  try {
    const nb::object call = call_of(batch.place(), batch.bucket());
    if (void* graph = graph_of(call, batch.signature()); graph != nullptr)
      return replay(batch, graph);
    ++calls_;
    call(place.view);
    return Status::Ok();
  } catch (const nb::python_error& error) {
    return Status::Error(Code::kInternal, error_line(error));
  } catch (const std::exception& error) {
    return Status::Error(Code::kInternal, error.what());
  }
}

nb::object PythonEngine::call_of(std::uint32_t place, std::uint32_t bucket) {
  nb::object& call = places_[place].calls[bucket];
  if (!call.is_valid()) call = prepared_(place, bucket);
  return call;
}

void PythonEngine::enter_thread() {
  own_state = PyGILState_Ensure();
  parked_state = PyEval_SaveThread();
}

void PythonEngine::leave_thread() {
  PyEval_RestoreThread(parked_state);
  PyGILState_Release(own_state);
}

}  // namespace gslice
