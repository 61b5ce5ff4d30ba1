"""A decoding helper that dies of every picture."""

import os
import signal

from tests.workers.programs.child_end import sock

sock.recv(8)
os.kill(os.getpid(), signal.SIGSEGV)
