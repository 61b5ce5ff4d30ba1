"""Is ready, closes its pipe when it gets a task, and lives on."""

import time

from tests.workers.programs.child_end import send, sock

send(kind="ready")
sock.recv(65536)
sock.close()
time.sleep(3600)
