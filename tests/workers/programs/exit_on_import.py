"""Dies of a missing library before it can say anything."""

import importlib

importlib.import_module("a_library_that_nobody_has")
