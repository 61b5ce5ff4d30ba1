"""Says why it is not fit, and then takes its time to end."""

import time

from tests.workers.programs.child_end import send

send(kind="start_failed", reason="the GPU fell off the bus")
time.sleep(3600)
