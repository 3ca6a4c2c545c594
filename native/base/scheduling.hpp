#pragma once

namespace gslice {

// Asks the scheduler to let the calling thread run soon after it wakes, for short turns. For a
// thread that works for microseconds at a time, while others wait for it: from Linux 6.12 on it
// then interrupts those with longer turns, instead of waiting for the end of theirs. Needs no
// right, and gives no larger part of a core. Without that in the kernel nothing changes.
void ask_for_short_turns();

// Has the calling thread run before all that are not of real time, as soon as it wakes. Only for
// one that sleeps most of the time, however much there is to do. Threads that it starts are
// ordinary ones. False: this user may not (CAP_SYS_NICE, RLIMIT_RTPRIO), or its control group.
bool run_in_real_time();

}  // namespace gslice
