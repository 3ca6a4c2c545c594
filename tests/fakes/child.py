"""A child process for tests of `gslice.supervise.child`: says Hello, then does what it was told.

Modes: `good`, `silent` (never says Hello), `dies` (ends at once, with a last line), `old` (speaks
another protocol), `liar` (says it is another process), `deaf` (ignores Exit), `rude` (answers an
order by closing its channel, and lives on), `parent` (starts a process, whose id it logs).
"""

import os
import subprocess
import sys
import time

from gslice.ipc import messages
from gslice.ipc.channel import Channel, ChannelClosed
from gslice.ipc.process import adopt_listener, start_ticks

mode = sys.argv[1]
if mode == "dies":
    print("the last line", flush=True)
    sys.exit(3)
if mode == "parent":
    sleeper = [sys.executable, "-c", "import signal; signal.pause()"]
    print(subprocess.Popen(sleeper).pid, flush=True)
listener = adopt_listener()
while True:
    channel = Channel(listener.accept()[0])
    if mode == "silent":
        time.sleep(60)
    channel.send(
        messages.Hello(
            protocol=0 if mode == "old" else messages.PROTOCOL_VERSION,
            pid=1 if mode == "liar" else os.getpid(),
            started=start_ticks(1 if mode == "liar" else None),
            worker=messages.WorkerState(),
        )
    )
    try:
        while True:
            received = channel.recv()
            if isinstance(received.message, messages.Exit):
                if mode == "deaf":
                    continue
                sys.exit(0)
            if mode == "rude":
                channel.close()
                time.sleep(60)
            channel.send(messages.Ok(), seq=received.seq)
    except ChannelClosed:
        channel.close()
