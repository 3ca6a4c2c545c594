#pragma once

namespace gslice {

// Asks the scheduler to let the calling thread run soon after it wakes, for short turns. For a
// thread that works for microseconds at a time, while others wait for it: from Linux 6.12 on it
// then interrupts those with longer turns, instead of waiting for the end of theirs. Needs no
// right, and gives no larger part of a core. Without that in the kernel nothing changes.
void ask_for_short_turns();

}  // namespace gslice
