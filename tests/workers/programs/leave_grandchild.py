"""Starts a process of its own, writes down its number, and dies when it gets a task."""

import os
import subprocess
import sys

from tests.workers.programs.child_end import send, sock

grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
with open(sys.argv[1], "w", encoding="ascii") as file:
    file.write(str(grandchild.pid))
send(kind="ready")
sock.recv(65536)
os._exit(1)
