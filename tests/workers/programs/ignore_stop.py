"""Is ready and listens to nobody."""

import time

from tests.workers.programs.child_end import send

send(kind="ready")
time.sleep(3600)
