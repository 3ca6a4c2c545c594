#include "grpc/desk.hpp"

#include <sys/eventfd.h>

#include <utility>

namespace gslice::grpc {

bool Desk::open() {
  bell_ = Descriptor(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  return static_cast<bool>(bell_);
}

void Desk::put(Note note) {
  const std::scoped_lock lock(mutex_);
  notes_.push_back(std::move(note));
  if (notes_.size() == 1) ::eventfd_write(bell_.get(), 1);
}

std::vector<Note> Desk::take() {
  const std::scoped_lock lock(mutex_);
  eventfd_t ignored = 0;
  ::eventfd_read(bell_.get(), &ignored);
  return std::exchange(notes_, {});
}

}  // namespace gslice::grpc
