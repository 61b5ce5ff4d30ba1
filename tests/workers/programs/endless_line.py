"""Is ready, and then sends a line without an end."""

from tests.workers.programs.child_end import send, sock

send(kind="ready")
sock.recv(65536)
while True:
    sock.sendall(b"x" * 65536)
