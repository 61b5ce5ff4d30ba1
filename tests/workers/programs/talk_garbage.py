"""Is ready, and answers its first task with something that is no message."""

from tests.workers.programs.child_end import send, sock

send(kind="ready")
sock.recv(65536)
sock.sendall(b'{"kind": "unheard of"}\n')
sock.recv(65536)
