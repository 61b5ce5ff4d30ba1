"""Writes its environment to a file, is ready, and ends when it is told anything."""

import json
import os
import sys

from tests.workers.programs.child_end import send, sock

with open(sys.argv[1], "w", encoding="utf-8") as file:
    json.dump(dict(os.environ), file)
send(kind="ready")
sock.recv(65536)
